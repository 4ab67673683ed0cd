//! Lines of a text file, plain or zstd, each with its number and of bounded length.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::store::Raw;
use crate::{Error, Result};

/// The longest line that is read. A row of training data is some kilobytes.
pub(super) const MAX_LINE: usize = 64 << 20;
/// First bytes of a zstd frame.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
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
        Ok(Self { path, reader, max_line, number: 0, line, start: 0, compressed, again: None })
    }

    /// The next line without its line end; `None` at the end of the file.
    pub(crate) fn next(&mut self) -> Result<Option<&str>> {
        self.number += 1;
        if !self.fill()? {
            self.number -= 1;
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

    /// Reads a line with its end into `self.line`; false at the end of the file.
    fn fill(&mut self) -> Result<bool> {
        self.start += self.line.len() as u64;
        self.line.clear();
        let limit = self.max_line as u64 + 1;
        let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut self.line);
        read.map_err(|error| self.unread(&error))?;
        if self.line.len() > self.max_line {
            return Err(Error::user(format!(
                "{}: the line is longer than {} bytes; is it JSON Lines, one row a line?",
                self.place(),
                self.max_line
            )));
        }
        Ok(!self.line.is_empty())
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

    #[test]
    fn zstd_is_known_by_its_first_bytes() {
        let packed = zstd::encode_all(&b"a\nb\n"[..], 3).unwrap();
        assert_eq!(lines(&packed, 10).unwrap(), ["a", "b"]);
        assert_eq!(lines(&[&packed[..], &packed[..]].concat(), 10).unwrap(), ["a", "b", "a", "b"]);
    }
}
