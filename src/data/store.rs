//! Bytes of rows, read anywhere: files where they lie, and what cannot be read twice in a spool.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::files;
use crate::{Error, Result};

/// Where a row lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// First byte, counted over all parts of the store.
    pub start: u64,
    /// Bytes.
    pub len: u32,
    /// Its first line in its file, from 1.
    pub line: u32,
}

/// A row as it stands in its file.
#[derive(Clone, Copy)]
pub(crate) struct Raw<'a> {
    pub bytes: &'a [u8],
    pub file: &'a Arc<Path>,
    pub line: usize,
    /// Whether it is a paragraph of plain text and no row of JSON.
    pub plain_text: bool,
}

impl Raw<'_> {
    /// The text without byte order mark and line end.
    pub fn text(&self) -> Result<&str> {
        let text = std::str::from_utf8(self.bytes).map_err(|_| changed(self.file))?;
        let text = text.strip_prefix('\u{feff}').filter(|_| self.line == 1).unwrap_or(text);
        let text = text.strip_suffix('\n').unwrap_or(text);
        Ok(text.strip_suffix('\r').unwrap_or(text))
    }

    /// `file:line`.
    pub fn place(&self) -> String {
        format!("{}:{}", self.file.display(), self.line)
    }
}

/// The bytes of one or several files.
#[derive(Debug, Default)]
pub(super) struct Store {
    parts: Vec<Part>,
    len: u64,
}

#[derive(Debug)]
struct Part {
    path: Arc<Path>,
    base: u64,
    bytes: Bytes,
    plain_text: bool,
}

/// Bytes that can be read anywhere.
#[derive(Debug)]
pub(super) enum Bytes {
    Memory(Vec<u8>),
    /// A file, and when it was changed last, if it is somebody's who may change it.
    File(Mutex<File>, Option<SystemTime>),
}

impl Bytes {
    /// Those of a file without a name.
    fn unnamed(file: File) -> Self {
        Self::File(Mutex::new(file), None)
    }

    /// Those of a file that was read to its end after `len` bytes: rows that are read again must be those that were
    /// looked at.
    ///
    /// # Errors
    /// When it has another length by now.
    pub fn file(file: File, len: u64, path: &Path) -> Result<Self> {
        let now = file.metadata().map_err(|error| Error::io("read", path, &error))?;
        if now.len() != len {
            return Err(changed(path));
        }
        let modified = now.modified().map_err(|error| Error::io("read", path, &error))?;
        Ok(Self::File(Mutex::new(file), Some(modified)))
    }
}

impl Store {
    /// The first byte of the part that is added next.
    pub fn end(&self) -> u64 {
        self.len
    }

    /// How many files it has.
    pub fn files(&self) -> usize {
        self.parts.len()
    }

    /// Adds `len` bytes; `path` is for messages.
    pub fn add(&mut self, path: Arc<Path>, bytes: Bytes, len: u64, plain_text: bool) {
        self.parts.push(Part { path, base: self.len, bytes, plain_text });
        self.len += len;
    }

    /// Reads what lies at `place`.
    ///
    /// # Errors
    /// When the file cannot be read, or was changed since its rows were looked at.
    pub fn read<T>(&self, place: Place, parse: impl FnOnce(Raw) -> Result<T>) -> Result<T> {
        let at = self.parts.partition_point(|part| part.base <= place.start).saturating_sub(1);
        let Some(part) = self.parts.get(at) else { return Err(Error::machine("a row of no file")) };
        let (start, len) = (place.start - part.base, place.len as usize);
        let (file, line, plain_text) = (&part.path, place.line as usize, part.plain_text);
        let raw = |bytes: &[u8]| parse(Raw { bytes, file, line, plain_text });
        match &part.bytes {
            Bytes::Memory(all) => {
                let start = start as usize;
                raw(all.get(start..start + len).ok_or_else(|| changed(&part.path))?)
            }
            Bytes::File(file, modified) => {
                let mut bytes = vec![0; len];
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                if modified.is_some_and(|then| file.metadata().and_then(|now| now.modified()).ok() != Some(then)) {
                    return Err(changed(&part.path));
                }
                let read = file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut bytes));
                drop(file);
                read.map_err(|error| match error.raw_os_error() {
                    Some(_) => Error::io("read", &part.path, &error),
                    None => changed(&part.path),
                })?;
                raw(&bytes)
            }
        }
    }
}

fn changed(path: &Path) -> Error {
    Error::user(format!("{} was changed while it was in use: start again", path.display()))
}

/// Bytes that are written once and then read anywhere: in memory while they are few, else in a file without a name.
#[derive(Debug)]
pub(super) struct Spool {
    memory: Vec<u8>,
    file: Option<File>,
    len: u64,
}

impl Spool {
    /// Bytes held before they go to the file.
    const HELD: usize = 1 << 18;

    pub fn new() -> Self {
        Self { memory: Vec::new(), file: None, len: 0 }
    }

    /// Bytes written.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.memory.len() + bytes.len() > Self::HELD {
            self.spill()?;
        }
        self.memory.extend_from_slice(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn spill(&mut self) -> Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => files::unnamed()?,
        };
        let file = self.file.insert(file);
        file.write_all(&self.memory).map_err(|error| Error::io("write", &std::env::temp_dir(), &error))?;
        self.memory.clear();
        Ok(())
    }

    /// What was written.
    pub fn finish(mut self) -> Result<(Bytes, u64)> {
        if self.file.is_some() {
            self.spill()?;
        }
        let len = self.len;
        let bytes = match self.file.take() {
            Some(file) => Bytes::unnamed(file),
            None => Bytes::Memory(self.memory),
        };
        Ok((bytes, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spooled_reads_back_anywhere() {
        for n in [3u32, 60_000] {
            let mut store = Store::default();
            let mut places = Vec::new();
            for part in 0..2 {
                let mut spool = Spool::new();
                for i in 0..n {
                    let text = format!("{part} {i}\n");
                    places.push(Place { start: store.end() + spool.len(), len: text.len() as u32, line: i + 1 });
                    spool.write(text.as_bytes()).unwrap();
                }
                let (bytes, len) = spool.finish().unwrap();
                assert_eq!(matches!(bytes, Bytes::File(..)), n > 1000);
                store.add(Path::new(&format!("part {part}")).into(), bytes, len, false);
            }
            for at in (0..places.len()).rev().step_by(n as usize / 3) {
                let (part, i) = (at / n as usize, at % n as usize);
                let found = store.read(places[at], |raw| Ok((raw.text()?.to_owned(), raw.place()))).unwrap();
                assert_eq!(found, (format!("{part} {i}"), format!("part {part}:{}", i + 1)));
            }
        }
    }
}
