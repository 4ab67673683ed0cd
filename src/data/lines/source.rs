//! Where lines come from: a file as it is, packed with zstd or gzip, or of Parquet, which is known by its first bytes.
//! What a packed one unpacks to is bounded by its own size.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

use super::parquet;
use crate::{Error, Result};

/// First bytes of a zstd frame.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
/// Of a zstd frame that holds no data, behind a first byte of 0x50 to 0x5F: parallel packers begin with one.
const SKIPPABLE_MAGIC: [u8; 3] = [0x2A, 0x4D, 0x18];
/// First bytes of a gzip member.
const GZIP_MAGIC: [u8; 2] = [0x1F, 0x8B];
/// First bytes of a Parquet file.
const PARQUET_MAGIC: [u8; 4] = *b"PAR1";
const BUFFER: usize = 1 << 17;

/// Bytes that a packed file may hold whatever its size.
pub(super) const FREE: u64 = 64 << 20;
/// Bytes that it may hold beyond that for each byte of its own: what gzip reaches at most, and forty times what text does.
pub(super) const MOST_RATIO: u64 = 1000;

/// How a file holds its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Zstd,
    Gzip,
    Parquet,
}

impl Packing {
    fn of(head: &[u8]) -> Self {
        match head {
            _ if head == ZSTD_MAGIC => Self::Zstd,
            [0x50..=0x5F, rest @ ..] if rest == SKIPPABLE_MAGIC => Self::Zstd,
            _ if head.starts_with(&GZIP_MAGIC) => Self::Gzip,
            _ if head == PARQUET_MAGIC => Self::Parquet,
            _ => Self::Plain,
        }
    }

    /// What the operating system did not report comes from whoever unpacks.
    pub fn unread(self, path: &Path, place: &str, error: &io::Error) -> Error {
        if error.raw_os_error().is_some() {
            return Error::io("read", path, error);
        }
        let (what, unpack) = match self {
            Self::Plain => return Error::io("read", path, error),
            Self::Zstd => ("zstd", "zstd -d"),
            Self::Gzip => ("gzip", "gzip -d"),
            Self::Parquet => ("Parquet", "pandas.read_parquet(FILE).to_json(OUT, orient=\"records\", lines=True)"),
        };
        let text = error.to_string();
        if let Some(bomb) = error.get_ref().and_then(|inner| inner.downcast_ref::<TooMuch>()) {
            return Error::user(format!(
                "{place}: {bomb}; unpack it with `{unpack}` if that is right, and give what comes out"
            ));
        }
        if text.contains("too much memory") {
            return Error::user(format!(
                "{place}: it was packed with a window of more than 128 MiB, which is the most that is read; unpack it \
                 with `{unpack} --long=31`, and give what comes out"
            ));
        }
        Error::user(format!("{place}: the {what} data is damaged or cut short here ({text}); get the file again"))
    }
}

/// Lines still to be split.
pub(super) struct Source {
    pub reader: Box<dyn BufRead + Send>,
    pub packing: Packing,
    /// Bytes of the file itself that were read, packed ones where it is packed.
    pub taken: Arc<AtomicU64>,
}

impl Source {
    /// A file that can be read anywhere.
    pub fn of_file(path: &Path, mut file: File) -> Result<Self> {
        let unread = |error: io::Error| Error::io("read", path, &error);
        let head = first(&mut file).map_err(unread)?;
        file.rewind().map_err(unread)?;
        if Packing::of(&head) != Packing::Parquet {
            return Self::new(path, file);
        }
        let taken = Arc::new(AtomicU64::new(file.metadata().map_err(unread)?.len()));
        let rows = Bounded { inner: parquet::rows(path, file)?, given: 0, taken: taken.clone() };
        Ok(Self { reader: Box::new(BufReader::with_capacity(BUFFER, rows)), packing: Packing::Parquet, taken })
    }

    /// Anything that can be read once.
    pub fn new(path: &Path, source: impl Read + Send + 'static) -> Result<Self> {
        let place = path.display().to_string();
        let taken = Arc::new(AtomicU64::new(0));
        let mut source = Counted { inner: source, taken: taken.clone() };
        let head = first(&mut source).map_err(|error| Error::io("read", path, &error))?;
        if let Some((name, unpack)) = other_packing(&head) {
            return Err(Error::user(format!(
                "{place}: {name} is not read: unpack it with `{unpack}`, and give what comes out"
            )));
        }
        let packing = Packing::of(&head);
        let whole = BufReader::with_capacity(BUFFER, Cursor::new(head).chain(source));
        let bounded = |inner: Box<dyn Read + Send>| Bounded { inner, given: 0, taken: taken.clone() };
        let unread = |error: io::Error| packing.unread(path, &format!("{place}:1"), &error);
        let mut text: Box<dyn Read + Send> = match packing {
            Packing::Plain => Box::new(whole),
            Packing::Zstd => Box::new(bounded(Box::new(zstd::Decoder::with_buffer(whole).map_err(unread)?))),
            Packing::Gzip => Box::new(bounded(Box::new(MultiGzDecoder::new(whole)))),
            Packing::Parquet => {
                return Err(Error::user(format!(
                    "{place}: Parquet is read from a file, since it is not read from its beginning to its end: save it as \
                     one"
                )));
            }
        };
        let head = first(&mut text).map_err(unread)?;
        if let Some(encoding) = other_encoding(&head) {
            return Err(Error::user(format!(
                "{place}: the text is {encoding}, and UTF-8 is read: convert it with `iconv -f {encoding} -t UTF-8`"
            )));
        }
        let reader = Box::new(Cursor::new(head).chain(BufReader::with_capacity(BUFFER, text)));
        Ok(Self { reader, packing, taken })
    }
}

/// The first four bytes, or as many as there are.
fn first(source: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    source.take(4).read_to_end(&mut head).map(|_| head)
}

/// What a file that begins with these bytes is packed with, if that is not read, and what unpacks it.
fn other_packing(head: &[u8]) -> Option<(&'static str, &'static str)> {
    match head {
        [0xFD, b'7', b'z', b'X'] => Some(("xz", "xz -d")),
        [b'B', b'Z', b'h', b'1'..=b'9'] => Some(("bzip2", "bzip2 -d")),
        [b'P', b'K', 3, 4] => Some(("zip", "unzip")),
        _ => None,
    }
}

/// The encoding of a text that begins with these bytes and is not UTF-8: by its mark, or since ASCII has zeros in it.
fn other_encoding(head: &[u8]) -> Option<&'static str> {
    match *head {
        [0xFF, 0xFE, 0, 0] | [0, 0, 0xFE, 0xFF] => Some("UTF-32"),
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => Some("UTF-16"),
        [1..0x80, 0, 0, 0] => Some("UTF-32LE"),
        [0, 0, 0, 1..0x80] => Some("UTF-32BE"),
        [1..0x80, 0, ..] => Some("UTF-16LE"),
        [0, 1..0x80, ..] => Some("UTF-16BE"),
        _ => None,
    }
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    taken: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.taken.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Gives no more than the packed bytes that were taken may hold.
struct Bounded {
    inner: Box<dyn Read + Send>,
    given: u64,
    taken: Arc<AtomicU64>,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.given += read as u64;
        let taken = self.taken.load(Ordering::Relaxed);
        match self.given > FREE + taken.saturating_mul(MOST_RATIO) {
            true => Err(io::Error::other(TooMuch { taken })),
            false => Ok(read),
        }
    }
}

/// A packed file that unpacks to more than data do.
#[derive(Debug)]
struct TooMuch {
    taken: u64,
}

impl fmt::Display for TooMuch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (taken, free) = (self.taken, FREE >> 20);
        write!(f, "{taken} packed bytes hold more than {free} MiB and {MOST_RATIO} times as many, which no data do")
    }
}

impl std::error::Error for TooMuch {}
