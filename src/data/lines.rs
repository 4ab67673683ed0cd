//! Lines of a text file, plain or zstd, each with its number and of bounded length; of rows also those in a JSON array.

mod array;

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::store::Raw;
use crate::{Error, Result};
use array::Array;

/// The longest line that is read. A row of training data is some kilobytes.
pub(super) const MAX_LINE: usize = 64 << 20;
/// First bytes of a zstd frame.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
const BUFFER: usize = 1 << 17;

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
    compressed: bool,
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
    /// Of all bytes so far but a byte order mark.
    hasher: Option<Box<blake3::Hasher>>,
}

impl Lines {
    /// Opens a file; zstd is known by its first bytes.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let unread = |error: std::io::Error| Error::io("read", path, &error);
        let file = File::open(path).map_err(unread)?;
        let found = file.metadata().map_err(unread)?;
        let again = found.is_file().then(|| File::open(path)).transpose().map_err(unread)?;
        let mut lines = Self::new(path, file, MAX_LINE)?;
        lines.again = again.filter(|_| !lines.compressed).map(|file| (file, found.len()));
        Ok(lines)
    }

    /// Reads from anything; `path` is for messages.
    pub(super) fn new(path: &Path, mut source: impl Read + Send + 'static, max_line: usize) -> Result<Self> {
        let unread = |error: std::io::Error| Error::io("read", path, &error);
        let mut head = Vec::new();
        source.by_ref().take(ZSTD_MAGIC.len() as u64).read_to_end(&mut head).map_err(unread)?;
        let compressed = head == ZSTD_MAGIC;
        let whole = BufReader::with_capacity(BUFFER, Cursor::new(head).chain(source));
        let reader: Box<dyn BufRead + Send> = if compressed {
            Box::new(BufReader::with_capacity(BUFFER, zstd::Decoder::with_buffer(whole).map_err(unread)?))
        } else {
            Box::new(whole)
        };
        let (path, line) = (path.to_owned(), Vec::new());
        Ok(Self {
            path,
            reader,
            max_line,
            number: 0,
            line,
            start: 0,
            compressed,
            again: None,
            of_rows: false,
            array: None,
            at: 0,
            newlines: 0,
            held: false,
            hasher: None,
        })
    }

    /// The file has rows: one a line, or the elements of one JSON array.
    pub(super) fn expect_rows(&mut self) {
        self.of_rows = self.number == 0 && self.array.is_none();
    }

    /// Keeps a hash of what is read from here on.
    pub(super) fn hash(&mut self) {
        self.hasher = Some(Box::default());
    }

    /// BLAKE3 of what was read since [`Self::hash`], unpacked.
    pub(super) fn hashed(&self) -> Option<blake3::Hash> {
        self.hasher.as_ref().map(|hasher| hasher.finalize())
    }

    /// The next call of [`Self::next`] gives the same line again.
    pub(super) fn hold(&mut self) {
        self.held = self.number > 0;
    }

    /// The next line without its line end; `None` at the end of the file.
    pub(crate) fn next(&mut self) -> Result<Option<&str>> {
        if !std::mem::take(&mut self.held) && !self.advance()? {
            return Ok(None);
        }
        let place = self.place();
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = std::str::from_utf8(line).map_err(|error| {
            let byte = error.valid_up_to() + 1;
            Error::user(format!("{place}: byte {byte} of the line is not UTF-8; convert the file to UTF-8"))
        })?;
        Ok(Some(if self.number == 1 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text }))
    }

    /// Number of the line that was read last, from 1; 0 before the first.
    pub(super) fn number(&self) -> usize {
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

    /// What the operating system did not report comes from the zstd decoder.
    fn unread(&self, error: &std::io::Error) -> Error {
        if error.raw_os_error().is_some() {
            return Error::io("read", &self.path, error);
        }
        Error::user(format!(
            "{}: the zstd data is damaged or cut short here ({error}); get the file again",
            self.place()
        ))
    }
}

#[cfg(test)]
mod tests {
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
        lines.hash();
        let mut all = Vec::new();
        while let Some(row) = lines.next()? {
            let row = row.to_owned();
            all.push((row, lines.number(), lines.start()));
        }
        let marked = text.strip_prefix('\u{feff}').unwrap_or(text);
        assert_eq!(lines.hashed(), Some(blake3::hash(marked.as_bytes())), "{text:?}");
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

    #[test]
    fn zstd_is_known_by_its_first_bytes() {
        let packed = zstd::encode_all(&b"a\nb\n"[..], 3).unwrap();
        assert_eq!(lines(&packed, 10).unwrap(), ["a", "b"]);
        assert_eq!(lines(&[&packed[..], &packed[..]].concat(), 10).unwrap(), ["a", "b", "a", "b"]);
    }
}
