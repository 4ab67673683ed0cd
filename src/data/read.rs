//! Files of rows: JSON Lines or one JSON array, plain or zstd, whose kind is known by their keys, and plain text. They are read
//! once from beginning to end, so that every mistake in them is found, and what is kept of a row is its place.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::formats::{Reader, reader_of};
use super::lines::{Lines, MAX_LINE};
use super::records::Records;
use super::row::{Row, RowKind};
use super::rows::Rows;
use super::store::{Bytes, Place, Raw, Spool, Store};
use crate::{Error, Result};

/// Reads one file.
///
/// # Errors
/// The user's, with file, line and key: what cannot be read, is not JSON, lacks a key, has a wrong type, or mixes
/// kinds of rows; and a file without rows.
pub fn read(path: &Path) -> Result<Records> {
    read_lines(Lines::open(path)?, is_plain_text(path))
}

/// Reads JSON Lines from anything; `path` is for messages.
///
/// # Errors
/// As [`read`].
pub fn read_from(path: &Path, source: impl std::io::Read + Send + 'static) -> Result<Records> {
    read_lines(Lines::new(path, source, MAX_LINE)?, is_plain_text(path))
}

/// Reads files of one kind, in order.
///
/// # Errors
/// As [`read`], and the user's when the files are of different kinds.
pub fn read_all(paths: &[PathBuf]) -> Result<Records> {
    let first = paths.first().ok_or_else(|| Error::user("no file of data is given; use --data FILE"))?;
    let mut index = Index::default();
    for path in paths {
        let before = index.found;
        let found = index.add(&mut Lines::open(path)?, is_plain_text(path))?;
        if let Some(before) = before.filter(|before| before.group().name() != found.group().name()) {
            let (path, first) = (path.display(), first.display());
            let (this, that) = (found.group().name(), before.group().name());
            return Err(Error::user(format!("{path} holds {this} and {first} {that}; give files of one kind")));
        }
    }
    index.finish()
}

/// `.txt`, also compressed: the only kind of file that has no keys to be known by.
fn is_plain_text(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.strip_suffix(".zst").unwrap_or(&name).ends_with(".txt")
}

pub(super) fn read_lines(mut lines: Lines, plain_text: bool) -> Result<Records> {
    let mut index = Index::default();
    index.add(&mut lines, plain_text)?;
    index.finish()
}

/// Rows of one file in a format that its reader knows.
pub(crate) struct RowFile {
    lines: Lines,
    plain_text: bool,
}

impl RowFile {
    /// Opens a file.
    ///
    /// # Errors
    /// The user's: a file that cannot be read.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut lines = Lines::open(path)?;
        lines.hash();
        lines.expect_rows();
        Ok(Self { lines, plain_text: is_plain_text(path) })
    }

    /// What `see` makes of the first row, which is then still to be read; `None` where there is no row.
    ///
    /// # Errors
    /// The user's: what cannot be read or is not UTF-8.
    pub(crate) fn first<T>(&mut self, see: impl FnOnce(&str) -> T) -> Result<Option<T>> {
        while let Some(line) = self.lines.next()? {
            if !line.trim().is_empty() {
                let seen = see(line);
                self.lines.hold();
                return Ok(Some(seen));
            }
        }
        Ok(None)
    }

    /// Reads it as data to train on, and its BLAKE3, unpacked.
    ///
    /// # Errors
    /// As [`read`].
    pub(crate) fn records(mut self) -> Result<(Records, String)> {
        let mut index = Index::default();
        index.add(&mut self.lines, self.plain_text)?;
        Ok((index.finish()?, self.hash()))
    }

    /// Reads it with `parse`, which is to name the place in its errors; each row is shown to `each` and then forgotten.
    ///
    /// # Errors
    /// Those of `parse`, and a file without rows.
    pub(crate) fn rows<T: Clone>(
        mut self,
        parse: fn(Raw) -> Result<T>,
        mut each: impl FnMut(T) -> Result<()>,
    ) -> Result<(Rows<T>, String)> {
        let mut index = Index::default();
        index.walk(&mut self.lines, false, |raw| each(parse(raw)?))?;
        if index.places.is_empty() {
            return Err(self.lines.empty());
        }
        Ok((Rows::stored(Arc::new(index.store), index.places, parse), self.hash()))
    }

    fn hash(&self) -> String {
        self.lines.hashed().map(|hash| hash.to_hex().to_string()).unwrap_or_default()
    }
}

/// The places of rows, file after file.
#[derive(Default)]
struct Index {
    store: Store,
    places: Vec<Place>,
    found: Option<RowKind>,
}

impl Index {
    /// Adds the rows of a file of training data.
    fn add(&mut self, lines: &mut Lines, plain_text: bool) -> Result<RowKind> {
        if !plain_text {
            lines.expect_rows();
        }
        let mut first: Option<(RowKind, Reader, usize)> = None;
        self.walk(lines, plain_text, |raw| {
            let (kind, reader) = match plain_text {
                true => (RowKind::Document, reader_of(RowKind::Document)?),
                false => check(raw, first).map_err(|error| error.context(raw.place()))?,
            };
            first.get_or_insert((kind, reader, raw.line));
            Ok(())
        })?;
        let Some((kind, ..)) = first else { return Err(lines.empty()) };
        self.found.get_or_insert(kind);
        Ok(kind)
    }

    /// Adds the places of a file's rows, each of which is shown to `see` and forgotten. A file that can be read anywhere
    /// stays where it is; what comes compressed or out of a pipe is kept in a spool.
    fn walk(&mut self, lines: &mut Lines, plain_text: bool, mut see: impl FnMut(Raw) -> Result<()>) -> Result<()> {
        let file: Arc<Path> = lines.path().into();
        let base = self.store.end();
        let again = lines.file_to_read_again();
        let mut spool = Spool::new();
        let mut inside = false;
        while let Some(line) = lines.next()? {
            let blank = line.trim().is_empty();
            let goes_on = std::mem::replace(&mut inside, plain_text && !blank);
            if blank {
                continue;
            }
            let raw = lines.raw(&file, plain_text);
            let start = base + if again.is_some() { lines.start() } else { spool.len() };
            if again.is_none() {
                spool.write(raw.bytes)?;
            }
            let end = start + raw.bytes.len() as u64;
            match self.places.last_mut().filter(|_| goes_on) {
                // The next line of a paragraph.
                Some(place) => place.len = length(end - place.start).map_err(|error| error.context(raw.place()))?,
                None => {
                    let line =
                        u32::try_from(raw.line).map_err(|_| Error::user("more than 2^32 lines: split the file"))?;
                    self.places.push(Place { start, len: length(end - start)?, line });
                }
            }
            see(raw)?;
        }
        let (bytes, len) = match again {
            Some((file, len)) => (Bytes::file(file, len, lines.path())?, len),
            None => spool.finish()?,
        };
        self.store.add(file, bytes, len, plain_text);
        Ok(())
    }

    fn finish(self) -> Result<Records> {
        let kind = self.found.ok_or_else(|| Error::machine("rows of no file"))?;
        Ok((reader_of(kind)?.records)(Arc::new(self.store), self.places))
    }
}

fn length(bytes: u64) -> Result<u32> {
    u32::try_from(bytes).map_err(|_| Error::user("a paragraph of more than 4 GiB; put blank lines between documents"))
}

/// What a row is; refuses one that cannot be read, or is of another kind than the first of its file.
fn check(raw: Raw, first: Option<(RowKind, Reader, usize)>) -> Result<(RowKind, Reader)> {
    let row = Row::parse(raw.text()?)?;
    let kind = row.kind()?;
    row.check(kind)?;
    let reader = match first {
        Some((_, reader, _)) => reader,
        None => reader_of(kind)?,
    };
    if let Some((first_kind, _, line)) = first.filter(|first| first.0 != kind) {
        let (this, that) = (kind.name(), first_kind.name());
        let complaint = format!("this row is of the kind {this}, line {line} of the kind {that}");
        // A key that was forgotten makes a row look like another kind.
        let missing = row.check(first_kind).err().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(Error::user(format!("{complaint}{missing}; a file holds rows of one kind")));
    }
    (reader.check)(row, raw)?;
    Ok((kind, reader))
}
