//! Files that are either whole or absent: written beside their place, flushed to the disk, then renamed.

use std::fs::{self, File};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// What stands between a file's name and the process's number in the name of a file that is not whole.
const TEMPORARY: &str = ".tmp-";

/// Raises the number of files that may be open to what the system allows: data of many files keeps each open, and shells
/// often begin with 256 or 1,024. It is the program's to decide, not a library's. Where it cannot be raised it stays.
pub fn allow_many_open() {
    #[cfg(unix)]
    // SAFETY: reads and sets a limit of this process through a structure of its own.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

/// A file without a name, to be written and read back: the system removes it with the process.
///
/// # Errors
/// When the folder for temporary files (`TMPDIR`) cannot be written.
pub fn unnamed() -> Result<File> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let folder = std::env::temp_dir();
    let failed = |e: std::io::Error| Error::io("write", &folder, &e);
    loop {
        let name = format!("polar-raw-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = folder.join(name);
        match File::options().read(true).write(true).create_new(true).open(&path) {
            Ok(file) => {
                fs::remove_file(&path).map_err(failed)?;
                return Ok(file);
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(failed(e)),
        }
    }
}

/// A file being written under a temporary name in its own folder. Dropped without [`Staged::commit`], it vanishes.
pub struct Staged {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
}

impl Staged {
    /// Starts the file that will be `target`, or what that is a link to; what stands there now stays until
    /// [`Staged::commit`].
    ///
    /// # Errors
    /// When the folder cannot be written, or what stands there is not a regular file: a device must not be replaced.
    pub fn create(target: &Path) -> Result<Self> {
        let target = &fs::canonicalize(target).unwrap_or_else(|_| target.to_path_buf());
        if fs::metadata(target).is_ok_and(|found| !found.is_file()) {
            return Err(Error::user(format!(
                "cannot write {}: it is not a regular file; give the name of a file",
                target.display()
            )));
        }
        let name = target.file_name().ok_or_else(|| Error::user(format!("{} is not a file", target.display())))?;
        let temporary = target.with_file_name(format!(".{}{TEMPORARY}{}", name.to_string_lossy(), std::process::id()));
        let file = File::create(&temporary).map_err(|e| Error::io("write", target, &e))?;
        Ok(Self { file, temporary, target: target.to_path_buf() })
    }

    /// Appends `bytes`; unbuffered, so give it large pieces.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io("write", &self.target, &e))
    }

    /// Waits until the bytes are on the disk.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| Error::io("write", &self.target, &e))
    }

    /// Puts the whole file in its place in one step.
    ///
    /// # Errors
    /// When the disk is full or fails; the old file then still stands.
    pub fn commit(self) -> Result<()> {
        self.sync()?;
        fs::rename(&self.temporary, &self.target).map_err(|e| Error::io("write", &self.target, &e))?;
        sync_folder(parent(&self.target))
    }
}

impl Write for Staged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Staged {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.file.seek(to)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a commit there is nothing of that name; after a failure there is nothing better to do.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// A folder being filled under a temporary name beside its place. Dropped without [`StagedFolder::commit`], it vanishes.
pub struct StagedFolder {
    temporary: PathBuf,
    target: PathBuf,
}

impl StagedFolder {
    /// Starts the folder that will be `target`.
    ///
    /// # Errors
    /// When something stands there already, or its parent cannot be written.
    pub fn create(target: &Path) -> Result<Self> {
        if target.exists() {
            return Err(Error::user(format!("{} exists already: give the name of a new folder", target.display())));
        }
        let name = target.file_name().ok_or_else(|| Error::user(format!("{} is not a folder", target.display())))?;
        let temporary = target.with_file_name(format!(".{}{TEMPORARY}{}", name.to_string_lossy(), std::process::id()));
        fs::create_dir_all(&temporary).map_err(|e| Error::io("create", target, &e))?;
        Ok(Self { temporary, target: target.to_path_buf() })
    }

    /// Where to write for now.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Puts the folder in its place in one step.
    ///
    /// # Errors
    /// When the disk fails, or something stands there by now.
    pub fn commit(self) -> Result<()> {
        sync_folder(&self.temporary)?;
        fs::rename(&self.temporary, &self.target).map_err(|e| Error::io("write", &self.target, &e))?;
        sync_folder(parent(&self.target))
    }
}

impl Drop for StagedFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.temporary);
    }
}

/// Removes what processes that were killed while they wrote a file in `folder` have left there. Nobody else may be
/// writing in it.
///
/// # Errors
/// When the folder cannot be read or written.
pub fn remove_leftovers(folder: &Path) -> Result<()> {
    let failed = |e| Error::io("read", folder, &e);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') && name.contains(TEMPORARY) && entry.path().is_file() {
            fs::remove_file(entry.path()).map_err(|e| Error::io("remove", &entry.path(), &e))?;
        }
    }
    Ok(())
}

/// Replaces the file at `path` by `bytes` in one step.
///
/// # Errors
/// When the folder cannot be written or the disk is full; the old file then still stands.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut staged = Staged::create(path)?;
    staged.append(bytes)?;
    staged.commit()
}

/// Makes the names in `folder` (new, renamed, removed) outlive a power failure.
///
/// # Errors
/// When the folder cannot be opened or the disk fails.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| Error::io("flush", folder, &e))
}

/// Reads a text file of at most `limit` bytes.
///
/// # Errors
/// When it cannot be read, is longer, or is not UTF-8; the message names the file, and the line for the last.
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    let length = fs::metadata(path).map_err(|e| Error::io("read", path, &e))?.len();
    if length > limit {
        return Err(Error::user(format!("{} has {length} bytes, more than the {limit} allowed", path.display())));
    }
    let bytes = fs::read(path).map_err(|e| Error::io("read", path, &e))?;
    String::from_utf8(bytes).map_err(|e| {
        let line = line_of(e.as_bytes(), e.utf8_error().valid_up_to());
        Error::user(format!("{}:{line}: the file is not valid UTF-8", path.display()))
    })
}

/// The line, from 1, of byte `offset`.
pub fn line_of(text: &[u8], offset: usize) -> usize {
    1 + text.iter().take(offset).filter(|&&b| b == b'\n').count()
}

/// The folder that holds `path`.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
