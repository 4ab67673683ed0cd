//! Files that are either whole or absent: written beside their place, flushed to the disk, then renamed.

use std::ffi::CString;
use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// What stands between a file's name and a random number in the name of a file that is not whole.
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

/// Opens a regular file to read it. Every file that a user names is opened here: a device has no end, and a pipe or a
/// socket waits for whoever writes into it.
///
/// # Errors
/// The user's: what cannot be read, and at once what is not a regular file, with what it is and what to do.
pub fn open(path: &Path) -> Result<File> {
    let unread = |e: io::Error| Error::io("read", path, &e);
    // Asked before it is opened, which alone may wait, or move a tape.
    regular(path, &fs::metadata(path).map_err(unread)?)?;
    // What has taken its place meanwhile does not wait either.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(unread)?;
    regular(path, &file.metadata().map_err(unread)?)?;
    Ok(file)
}

/// Refuses what is not a regular file.
fn regular(path: &Path, found: &fs::Metadata) -> Result<()> {
    let kind = found.file_type();
    let (what, instead) = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => ("a folder", "give a file"),
        () if kind.is_fifo() => ("a pipe", "save what comes out of it as a file"),
        () if kind.is_socket() => ("a socket", "give a file"),
        () => ("a device", "give a file"),
    };
    Err(Error::user(format!("cannot read {}: it is {what} and not a regular file; {instead}", path.display())))
}

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
/// As [`open`], and the user's when it is longer.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = open(path)?;
    let length = file.metadata().map_err(|e| Error::io("read", path, &e))?.len();
    let mut bytes = Vec::new();
    // Not more than was allowed, though it grow meanwhile, or be of a system that gives no lengths.
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| Error::io("read", path, &e))?;
    match bytes.len() as u64 > limit {
        true => Err(Error::user(format!("{} has {length} bytes, more than the {limit} allowed", path.display()))),
        false => Ok(bytes),
    }
}

/// Sixteen digits that nobody can guess: the keys of the hash come from the system's source of random numbers.
fn random_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{:016x}", RandomState::new().hash_one(COUNT.fetch_add(1, Ordering::Relaxed)))
}

/// A file without a name, to be written and read back: the system removes it with the process.
///
/// # Errors
/// When the folder for temporary files (`TMPDIR`) cannot be written.
pub fn unnamed() -> Result<File> {
    let folder = std::env::temp_dir();
    let failed = |e: io::Error| Error::io("write", &folder, &e);
    let path = folder.join(format!("polar-raw-{}", random_name()));
    let file = File::options().read(true).write(true).create_new(true).open(&path).map_err(failed)?;
    fs::remove_file(&path).map_err(failed)?;
    Ok(file)
}

/// A new place beside `target`, in which `make` makes what is not whole yet. The process holds it locked, so that others
/// can tell what a killed one has left; what such have left for this target is removed.
fn temporary(target: &Path, make: impl Fn(&Path) -> io::Result<File>) -> Result<(PathBuf, File)> {
    let name = target.file_name().ok_or_else(|| Error::user(format!("{} is not a file", target.display())))?;
    let prefix = format!(".{}{TEMPORARY}", name.to_string_lossy());
    // Whether the folder can be read is no matter of what is to be written.
    let _ = remove_abandoned(parent(target), |name| name.starts_with(&prefix));
    loop {
        let path = target.with_file_name(format!("{prefix}{}", random_name()));
        let file = make(&path).map_err(|e| Error::io("write", target, &e))?;
        // Before the lock is taken it may look abandoned, and be gone. Where a file system has no locks nothing is
        // taken for abandoned.
        let taken = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
        if !taken && path.exists() {
            return Ok((path, file));
        }
    }
}

/// Removes the files and folders in `folder` whose names `is_temporary` knows, and which no process holds.
fn remove_abandoned(folder: &Path, is_temporary: impl Fn(&str) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // What is neither (a link, a pipe) is not ours, and opening it may wait for ever.
        let kind = entry.file_type()?;
        if !is_temporary(&entry.file_name().to_string_lossy()) || !(kind.is_file() || kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        let held = File::open(&path).is_ok_and(|file| file.try_lock().is_err());
        let removed = match kind.is_dir() {
            _ if held => Ok(()),
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        // Another process may be removing it as well.
        removed.or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
    }
    Ok(())
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
        let target = fs::canonicalize(target).unwrap_or_else(|_| target.to_path_buf());
        if fs::metadata(&target).is_ok_and(|found| !found.is_file()) {
            return Err(Error::user(format!(
                "cannot write {}: it is not a regular file; give the name of a file",
                target.display()
            )));
        }
        let (temporary, file) = temporary(&target, |path| File::options().write(true).create_new(true).open(path))?;
        Ok(Self { file, temporary, target })
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
    /// Holds the lock.
    _opened: File,
}

impl StagedFolder {
    /// Starts the folder that will be `target`.
    ///
    /// # Errors
    /// When something stands there already, or its parent cannot be written.
    pub fn create(target: &Path) -> Result<Self> {
        match target.exists() {
            true => Err(Error::user(format!("{} exists already: give the name of a new folder", target.display()))),
            false => Self::replacing(target),
        }
    }

    /// Starts the folder that will be `target`; one that stands there now stays until [`StagedFolder::commit`].
    ///
    /// # Errors
    /// When the parent cannot be written.
    pub fn replacing(target: &Path) -> Result<Self> {
        fs::create_dir_all(parent(target)).map_err(|e| Error::io("create", target, &e))?;
        let make = |path: &Path| fs::create_dir(path).and_then(|()| File::open(path));
        let (temporary, opened) = temporary(target, make)?;
        Ok(Self { temporary, target: target.to_path_buf(), _opened: opened })
    }

    /// Where to write for now.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Puts the folder in its place, in one step where the system can exchange two names; elsewhere a folder that is
    /// replaced is absent for a moment.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn commit(self) -> Result<()> {
        sync_folder(&self.temporary)?;
        let replaces = self.target.exists();
        if !replaces || exchange(&self.temporary, &self.target).is_err() {
            // Of a name that is cleaned up if the process is killed here.
            let former = self.temporary.with_added_extension("former");
            if replaces {
                fs::rename(&self.target, &former).map_err(|e| Error::io("replace", &self.target, &e))?;
            }
            fs::rename(&self.temporary, &self.target).map_err(|e| Error::io("write", &self.target, &e))?;
            if replaces {
                fs::remove_dir_all(&former).map_err(|e| Error::io("remove", &former, &e))?;
            }
        }
        // What was exchanged goes with the temporary name.
        sync_folder(parent(&self.target))
    }
}

impl Drop for StagedFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.temporary);
    }
}

/// Exchanges what two names stand for in one step.
#[cfg(target_os = "linux")]
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    let [one, other] = [CString::new(one.as_os_str().as_bytes())?, CString::new(other.as_os_str().as_bytes())?];
    // SAFETY: both are strings that end with a zero byte and outlive the call.
    let status = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            one.as_ptr(),
            libc::AT_FDCWD,
            other.as_ptr(),
            libc::RENAME_EXCHANGE,
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// Removes the files and folders that processes which were killed while they wrote have left in `folder`.
///
/// # Errors
/// When the folder cannot be read or written.
pub fn remove_leftovers(folder: &Path) -> Result<()> {
    let is_temporary = |name: &str| name.starts_with('.') && name.contains(TEMPORARY);
    remove_abandoned(folder, is_temporary).map_err(|e| Error::io("clean up", folder, &e))
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

/// The BLAKE3 hash of a file, in hexadecimal.
///
/// # Errors
/// When it cannot be read.
pub fn hash(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(open(path)?).map_err(|e| Error::io("read", path, &e))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Reads a text file of at most `limit` bytes.
///
/// # Errors
/// When it cannot be read, is longer, or is not UTF-8; the message names the file, and the line for the last.
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    String::from_utf8(read(path, limit)?).map_err(|e| {
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_killed_processes_left_is_removed_and_what_is_being_written_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path(".out.tmp-1"), "half").unwrap();
        fs::create_dir(path(".out.tmp-2")).unwrap();
        fs::write(path(".out.tmp-2/weights"), "half").unwrap();
        fs::write(path(".other.tmp-1"), "of another target").unwrap();
        symlink(path(".other.tmp-1"), path(".out.tmp-3")).unwrap();
        let mut first = Staged::create(&path("out")).unwrap();
        let second = Staged::create(&path("out")).unwrap();
        assert!(first.temporary.exists() && second.temporary.exists() && first.temporary != second.temporary);
        let found = names(folder.path());
        assert!(!found.contains(&".out.tmp-1".into()) && !found.contains(&".out.tmp-2".into()), "{found:?}");
        remove_leftovers(folder.path()).unwrap();
        assert!(!path(".other.tmp-1").exists());
        first.append(b"whole").unwrap();
        first.commit().unwrap();
        drop(second);
        assert_eq!(names(folder.path()), [".out.tmp-3", "out"]);
        assert_eq!(fs::read(path("out")).unwrap(), b"whole");
    }

    /// A reader never finds the folder absent, whatever the moment.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_folder_is_replaced_in_one_step() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("model");
        let replace = |content: &str| {
            let staged = StagedFolder::replacing(&target).unwrap();
            fs::write(staged.path().join("weights"), content).unwrap();
            staged.commit().unwrap();
        };
        replace("0");
        assert!(StagedFolder::create(&target).is_err());
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!(target.join("weights").exists());
                }
            });
            (1..=200).for_each(|i| replace(&i.to_string()));
            done.store(true, Ordering::Relaxed);
            reader.join().unwrap();
        });
        assert_eq!(fs::read(target.join("weights")).unwrap(), b"200");
        assert_eq!(names(folder.path()), ["model"]);
    }
}
