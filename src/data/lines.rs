//! Lines of a text file, plain or packed, each with its number and of bounded length; of rows also those in a JSON array
//! or a Parquet file.

mod array;
mod parquet;
mod source;

use std::fs::File;
use std::io::{self, BufRead, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::inputs::STDIN;
use super::store::Raw;
use crate::files;
use crate::{Error, Result};
use array::Array;
use source::{Packing, Source};

/// The longest line that is read. A row of training data is some kilobytes.
pub(super) const MAX_LINE: usize = 64 << 20;
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// A reader of lines that knows where it is.
pub(crate) struct Lines {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    max_line: usize,
    /// Number of the line that was read last, from 1.
    number: usize,
    line: Vec<u8>,
    /// First byte of that line.
    start: u64,
    packing: Packing,
    /// Bytes of the file itself that were read.
    taken: Arc<AtomicU64>,
    /// The file itself, if it can be read anywhere.
    again: Option<(File, u64)>,
    /// Whether what comes is rows, which may be the elements of an array.
    of_rows: bool,
    array: Option<Array>,
    /// Bytes and line ends before what is read next; counted only up to the first row, and in an array.
    at: u64,
    newlines: usize,
    /// Whether the line that was read last is to be read again.
    held: bool,
    /// Whether the last error was of one line, behind which others can be read.
    of_line: bool,
    /// Of all bytes so far but a byte order mark.
    hasher: Option<Box<blake3::Hasher>>,
}

impl Lines {
    /// Opens a file, or standard input by the name `-`. How it is packed is known by its first bytes.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if path == Path::new(STDIN) {
            return Self::new(Path::new("standard input"), io::stdin(), MAX_LINE);
        }
        let file = files::open(path)?;
        let length = file.metadata().map_err(|error| Error::io("read", path, &error))?.len();
        let mut lines = Self::of(path, Source::of_file(path, file)?, MAX_LINE);
        if lines.packing == Packing::Plain {
            lines.again = Some((files::open(path)?, length));
        }
        Ok(lines)
    }

    /// Reads from anything; `path` is for messages.
    pub(super) fn new(path: &Path, source: impl Read + Send + 'static, max_line: usize) -> Result<Self> {
        Ok(Self::of(path, Source::new(path, source)?, max_line))
    }

    fn of(path: &Path, source: Source, max_line: usize) -> Self {
        let Source { reader, packing, taken } = source;
        Self {
            path: path.to_owned(),
            reader,
            max_line,
            number: 0,
            line: Vec::new(),
            start: 0,
            packing,
            taken,
            again: None,
            of_rows: false,
            array: None,
            at: 0,
            newlines: 0,
            held: false,
            of_line: false,
            hasher: None,
        }
    }

    /// Bytes of the file itself that were read so far, packed ones where it is packed.
    pub(super) fn taken(&self) -> &Arc<AtomicU64> {
        &self.taken
    }

    /// The file has rows: one a line, or the elements of one JSON array.
    pub(super) fn expect_rows(&mut self) {
        self.of_rows = self.number == 0 && self.array.is_none();
    }

    /// Adds what is read from here on, unpacked, to a hash.
    pub(super) fn hash_into(&mut self, hasher: Box<blake3::Hasher>) {
        self.hasher = Some(hasher);
    }

    /// The hash of [`Self::hash_into`] with what was read since.
    pub(super) fn hashed(&mut self) -> Box<blake3::Hasher> {
        self.hasher.take().unwrap_or_default()
    }

    /// Whether the error of the last call of [`Self::next`] is of its line alone, and the next call goes on behind it.
    pub(crate) fn can_go_on(&self) -> bool {
        self.of_line
    }

    /// The next call of [`Self::next`] gives the same line again.
    pub(super) fn hold(&mut self) {
        self.held = self.number > 0;
    }

    /// The next line without its line end; `None` at the end of the file.
    pub(crate) fn next(&mut self) -> Result<Option<&str>> {
        self.of_line = false;
        if !std::mem::take(&mut self.held) && !self.advance()? {
            return Ok(None);
        }
        self.of_line = true;
        let place = self.place();
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = std::str::from_utf8(line).map_err(|error| {
            let byte = error.valid_up_to() + 1;
            Error::user(format!("{place}: byte {byte} of the line is not UTF-8; convert the file to UTF-8"))
        })?;
        self.of_line = false;
        Ok(Some(if self.number == 1 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text }))
    }

    /// As [`Self::next`]; whether the line is blank.
    pub(super) fn next_is_blank(&mut self) -> Result<Option<bool>> {
        Ok(self.next()?.map(|line| line.trim().is_empty()))
    }

    /// Number of the line that was read last, from 1; 0 before the first.
    #[cfg(test)]
    fn number(&self) -> usize {
        self.number
    }

    /// The file, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// `file:line` of the line that was read last.
    pub(crate) fn place(&self) -> String {
        format!("{}:{}", self.path.display(), self.number)
    }

    /// The error of a file without a row.
    pub(super) fn empty(&self) -> Error {
        Error::user(format!("{}: there is nothing in it; give a file with at least one row", self.path.display()))
    }

    /// The line that was read last as it stands in the file, its end with it.
    pub(super) fn raw<'a>(&'a self, file: &'a Arc<Path>, plain_text: bool) -> Raw<'a> {
        Raw { bytes: &self.line, file, line: self.number, plain_text }
    }

    /// Where in the file that line begins.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// The file once more and its length, once, if it can be read anywhere and is not compressed.
    pub(super) fn file_to_read_again(&mut self) -> Option<(File, u64)> {
        self.again.take()
    }

    fn advance(&mut self) -> Result<bool> {
        if std::mem::take(&mut self.of_rows) {
            self.find_array()?;
        }
        if let Some(array) = self.array {
            return self.fill_element(array);
        }
        self.number += 1;
        let more = self.fill()?;
        self.number -= usize::from(!more);
        Ok(more)
    }

    /// Reads a line with its end into `self.line`; false at the end of the file.
    fn fill(&mut self) -> Result<bool> {
        self.start += self.line.len() as u64;
        self.line.clear();
        let limit = self.max_line as u64 + 1;
        let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut self.line);
        read.map_err(|error| self.unread(&error))?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(if self.number == 1 {
                self.line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&self.line)
            } else {
                &self.line
            });
        }
        self.check_length("line", "is it JSON Lines, one row a line?")?;
        Ok(!self.line.is_empty())
    }

    fn check_length(&self, what: &str, question: &str) -> Result<()> {
        if self.line.len() <= self.max_line {
            return Ok(());
        }
        let (place, most) = (self.place(), self.max_line);
        Err(Error::user(format!("{place}: the {what} is longer than {most} bytes; {question}")))
    }

    /// Passes over bytes, or takes them into `self.line`, for as long as they are `wanted` and the line is not too long.
    /// The byte behind them; `None` at the end of the file.
    fn take_while(&mut self, keep: bool, mut wanted: impl FnMut(u8) -> bool) -> Result<Option<u8>> {
        loop {
            let bytes = match self.reader.fill_buf() {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.number = self.newlines + 1;
                    return Err(self.unread(&error));
                }
            };
            let taken = bytes.iter().position(|&byte| !wanted(byte)).unwrap_or(bytes.len());
            let (bytes, next, ended) = (&bytes[..taken], bytes.get(taken).copied(), bytes.is_empty());
            if let Some(hasher) = &mut self.hasher {
                hasher.update(if self.at == 0 { bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes) } else { bytes });
            }
            if keep {
                self.line.extend_from_slice(bytes);
            }
            self.newlines += bytes.iter().filter(|&&byte| byte == b'\n').count();
            self.at += taken as u64;
            self.reader.consume(taken);
            if next.is_some() || ended || self.line.len() > self.max_line {
                return Ok(next);
            }
        }
    }

    fn take_one(&mut self) -> Result<()> {
        let mut first = true;
        self.take_while(false, |_| std::mem::take(&mut first)).map(drop)
    }

    fn unread(&self, error: &std::io::Error) -> Error {
        self.packing.unread(&self.path, &self.place(), error)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use super::*;

    fn lines(bytes: &[u8], max_line: usize) -> Result<Vec<String>> {
        let mut lines = Lines::new(Path::new("some.jsonl"), Cursor::new(bytes.to_vec()), max_line)?;
        let mut all = Vec::new();
        while let Some(line) = lines.next()? {
            all.push(line.to_owned());
        }
        Ok(all)
    }

    #[test]
    fn line_ends_and_byte_order_mark_are_taken_off() {
        assert_eq!(lines("\u{feff}a\r\n\nb\n".as_bytes(), 10).unwrap(), ["a", "", "b"]);
        assert_eq!(lines(b"a\nb", 10).unwrap(), ["a", "b"]);
        assert!(lines(b"", 10).unwrap().is_empty());
    }

    #[test]
    fn a_line_is_bounded() {
        assert_eq!(lines(b"123456789\n", 10).unwrap(), ["123456789"]);
        let error = lines(b"1\n1234567890\n", 10).unwrap_err();
        assert!(error.to_string().contains("some.jsonl:2: the line is longer than 10 bytes"), "{error}");
    }

    /// Text, place and first line of every row.
    fn rows(text: &str) -> Result<Vec<(String, usize, u64)>> {
        let mut lines = Lines::new(Path::new("some.json"), Cursor::new(text.to_owned().into_bytes()), 40)?;
        lines.expect_rows();
        lines.hash_into(Box::default());
        let mut all = Vec::new();
        while let Some(row) = lines.next()? {
            let row = row.to_owned();
            all.push((row, lines.number(), lines.start()));
        }
        let marked = text.strip_prefix('\u{feff}').unwrap_or(text);
        assert_eq!(lines.hashed().finalize(), blake3::hash(marked.as_bytes()), "{text:?}");
        Ok(all)
    }

    #[test]
    fn rows_of_an_array_know_their_places() {
        for text in [
            "{\"a\": \"]}\\\"\"}\n{}\n",
            "[{\"a\": \"]}\\\"\"}\n,{}]",
            "\u{feff}\n [\n{\"a\": \"]}\\\"\"} ,\n\n{}\n]\n",
        ] {
            let found = rows(text).unwrap();
            assert_eq!(found.len(), 2, "{text}");
            for ((row, line, start), expected) in found.into_iter().zip([r#"{"a": "]}\""}"#, "{}"]) {
                let before = &text[..start as usize];
                assert_eq!((row.as_str(), line), (expected, 1 + before.matches('\n').count()), "{text}");
                assert!(text[start as usize..].starts_with(expected), "{text}");
            }
        }
        let mut lines = Lines::new(Path::new("x"), Cursor::new(b"[1, [2], \"3\"]".to_vec()), 40).unwrap();
        lines.expect_rows();
        for expected in ["1", "[2]", "\"3\""] {
            assert_eq!(lines.next().unwrap(), Some(expected));
            lines.hold();
            assert_eq!(lines.next().unwrap(), Some(expected), "held");
        }
        assert_eq!(lines.next().unwrap(), None);
        assert_eq!(lines.next().unwrap(), None, "and again");
        let long = rows(&format!("[{}]", "1".repeat(41))).unwrap_err().to_string();
        assert!(long.contains("some.json:1: the row is longer than 40 bytes"), "{long}");
        let end = rows("[1]\n\n2").unwrap_err().to_string();
        assert!(end.contains("some.json:3: text after the array"), "{end}");
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn packed_files_are_known_by_their_first_bytes() {
        let zstd = zstd::encode_all(&b"a\nb\n"[..], 3).unwrap();
        // A frame without data of three bytes, such as parallel packers begin with.
        let skippable = [&[0x5A, 0x2A, 0x4D, 0x18, 3, 0, 0, 0][..], b"\xff\xfe\n"].concat();
        for packed in [&gzip(b"a\nb\n"), &zstd, &[&skippable[..], &zstd, &skippable].concat()] {
            assert_eq!(lines(packed, 10).unwrap(), ["a", "b"]);
            assert_eq!(lines(&[&packed[..], &packed[..]].concat(), 10).unwrap(), ["a", "b", "a", "b"]);
            let error = lines(&packed[..packed.len() - 1], 10).unwrap_err().to_string();
            assert!(error.contains("data is damaged or cut short here"), "{error}");
        }
        assert!(lines(&skippable, 10).unwrap().is_empty());
    }

    /// A few kilobytes that unpack to gigabytes of blank lines are read no further than they may hold. Gzip packs no
    /// better than that.
    #[test]
    fn what_a_packed_file_unpacks_to_is_bounded_by_its_size() {
        let blank = [vec![b' '; (1 << 16) - 1], vec![b'\n']].concat().repeat(16);
        let packed = zstd::encode_all(&blank[..], 3).unwrap().repeat(500);
        assert!(packed.len() < 1 << 16, "{}", packed.len());
        let mut all = Lines::new(Path::new("some.jsonl"), Cursor::new(packed.clone()), MAX_LINE).unwrap();
        let error = loop {
            match all.next() {
                Ok(line) => assert!(line.is_some(), "all of it was read"),
                Err(error) => break error.to_string(),
            }
        };
        let read = (all.number() as u64 - 1) << 16;
        assert!(error.contains("hold more than 64 MiB and 1000 times as many") && error.contains("zstd -d"), "{error}");
        let most = source::FREE + source::MOST_RATIO * packed.len() as u64;
        assert!(read > source::FREE && read <= most, "{read} of {most}");
        // Answers of some words to one prompt of a hundred kilobytes are data.
        let prompt = "a long prompt that every row has ".repeat(3000);
        let answer = |i: usize| [2 * i, 2 * i + 1].map(|i| blake3::hash(&i.to_le_bytes()).to_string()).concat();
        let rows: Vec<String> = (0..1000).map(|i| format!("{prompt}{}\n", answer(i))).collect();
        let packed = zstd::encode_all(rows.concat().as_bytes(), 3).unwrap();
        assert!(packed.len() < 1 << 18, "{}", packed.len());
        assert_eq!(lines(&packed, 1 << 20).unwrap().len(), 1000);
    }

    #[test]
    fn another_encoding_is_named() {
        let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        let swapped = |bytes: &[u8]| bytes.chunks(2).flat_map(|pair| [pair[1], pair[0]]).collect::<Vec<u8>>();
        let marked = wide("\u{feff}{}\n");
        for (bytes, encoding) in [
            (&marked, "UTF-16"),
            (&swapped(&marked), "UTF-16"),
            (&wide("{}\n"), "UTF-16LE"),
            (&swapped(&wide("{}\n")), "UTF-16BE"),
            (&gzip(&marked), "UTF-16"),
            (&b"\xff\xfe\0\0{\0\0\0".to_vec(), "UTF-32"),
            (&b"{\0\0\0".to_vec(), "UTF-32LE"),
        ] {
            let error = lines(bytes, 10).unwrap_err().to_string();
            let wanted =
                format!("some.jsonl: the text is {encoding}, and UTF-8 is read: convert it with `iconv -f {encoding}");
            assert!(error.contains(&wanted), "{error}");
        }
    }
}
