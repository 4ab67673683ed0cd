//! `COMPLETE`: which files a checkpoint has, how long they are and what they hash to.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{COMPLETE, STATE};
use crate::error::{Error, Result};
use crate::files;

/// The layout that this program writes. In the one before, 1, which it reads as well, each buffer is one file `NAME.bin`.
const FORMAT: u32 = 2;
/// Bytes of a manifest, at most.
const MAX_BYTES: u64 = 1 << 20;

/// The content of `COMPLETE`, in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: u32,
    /// Finished optimiser steps.
    pub step: u64,
    /// Every other file of the folder.
    pub files: Vec<FileRecord>,
}

/// One file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Its name in the folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its BLAKE3 hash, in hexadecimal.
    pub blake3: String,
}

impl Manifest {
    pub(crate) fn new(step: u64) -> Self {
        Self { format: FORMAT, step, files: Vec::new() }
    }

    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = files::read_text(path, MAX_BYTES).map_err(|e| e.to_string())?;
        Self::parse(&text).map_err(|why| format!("{}: {why}", path.display()))
    }

    /// Reads the text of a manifest.
    ///
    /// # Errors
    /// The reason for which it is refused: malformed, of another format, or naming files outside of its folder.
    pub fn parse(text: &str) -> Result<Self, String> {
        let manifest: Self = serde_json::from_str(text).map_err(|e| e.to_string())?;
        if !(1..=FORMAT).contains(&manifest.format) {
            return Err(format!("format {} is not one of 1 to {FORMAT}", manifest.format));
        }
        let plain = |name: &str| name == STATE || buffer(name).is_some();
        if let Some(file) = manifest.files.iter().find(|f| !plain(&f.name)) {
            return Err(format!("{:?} is not a file of a checkpoint", file.name));
        }
        if !manifest.files.iter().any(|f| f.name == STATE) {
            return Err(format!("{STATE} is not listed"));
        }
        Ok(manifest)
    }

    /// The files of the buffer `name` of the checkpoint in `folder`, as `files_of` gives them, their content verified.
    ///
    /// # Errors
    /// What is missing or damaged.
    pub fn verified(folder: &Path, name: &str) -> Result<Vec<(u64, FileRecord)>, String> {
        let manifest = Self::read(&folder.join(COMPLETE))?;
        let files: Vec<_> = manifest.files_of(name).into_iter().map(|(start, file)| (start, file.clone())).collect();
        files.iter().try_for_each(|(_, file)| file.verify(folder))?;
        Ok(files)
    }

    /// The files of the buffer `name` in the order of their ranges, each with its first element.
    pub(crate) fn files_of(&self, name: &str) -> Vec<(u64, &FileRecord)> {
        let start = |file: &FileRecord| buffer(&file.name).filter(|(of, _)| *of == name).map(|(_, start)| start);
        let mut files: Vec<_> = self.files.iter().filter_map(|file| Some((start(file)?, file))).collect();
        files.sort_by_key(|(start, _)| *start);
        files
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        format!("{:#}\n", serde_json::json!(self)).into_bytes()
    }
}

/// The buffer that the file `name` is of, and its first element: `m-4096.bin`, or `m.bin` from the beginning on.
fn buffer(name: &str) -> Option<(&str, u64)> {
    let stem = name.strip_suffix(".bin")?;
    let (buffer, start) = match stem.split_once('-') {
        Some((buffer, start)) if start.bytes().all(|b| b.is_ascii_digit()) => (buffer, start.parse().ok()?),
        Some(_) => return None,
        None => (stem, 0),
    };
    is_word(buffer).then_some((buffer, start))
}

/// Letters, digits and underscores only: no path.
fn is_word(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl FileRecord {
    /// Compares the file of that name in `folder` with this record.
    pub(crate) fn verify(&self, folder: &Path) -> Result<(), String> {
        let check = || -> Result<Option<String>> {
            let path = folder.join(&self.name);
            let file = files::open(&path)?;
            let unread = |e| Error::io("read", &path, &e);
            let length = file.metadata().map_err(unread)?.len();
            if length != self.bytes {
                return Ok(Some(format!("has {length} bytes instead of {}", self.bytes)));
            }
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(file).map_err(unread)?;
            let same = hasher.finalize().to_hex().as_str() == self.blake3;
            Ok((!same).then(|| "does not have its checksum".to_string()))
        };
        match check() {
            Ok(None) => Ok(()),
            Ok(Some(damage)) => Err(format!("{} {damage}", self.name)),
            Err(e) => Err(format!("{}: {e}", self.name)),
        }
    }
}

/// A file that hashes what is written to it.
pub(crate) struct Hashing {
    file: BufWriter<File>,
    hasher: blake3::Hasher,
}

impl Hashing {
    pub(crate) fn new(file: BufWriter<File>) -> Self {
        Self { file, hasher: blake3::Hasher::new() }
    }

    /// The flushed file, and its record under `name`.
    pub(crate) fn finish(self, name: &str) -> io::Result<(File, FileRecord)> {
        let (bytes, blake3) = (self.hasher.count(), self.hasher.finalize().to_hex().to_string());
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok((file, FileRecord { name: name.to_string(), bytes, blake3 }))
    }
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
