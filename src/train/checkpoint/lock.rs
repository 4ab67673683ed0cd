//! One trainer a run folder.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The refusal of a file that no trainer made: it is not written over.
fn foreign(path: &Path) -> Error {
    Error::user(format!("{} is not the lock of a run: remove it, or choose another --run folder", path.display()))
}

/// Holds a run's folder for this process until dropped.
#[derive(Debug)]
pub struct RunLock {
    run: PathBuf,
    _file: File,
}

impl RunLock {
    /// The file in a run's folder that its trainer holds locked. It stays; the operating system drops the lock with the
    /// process, however that ends.
    pub const FILE: &str = "run.lock";

    /// Takes the folder `run`, creating it where it is missing.
    ///
    /// # Errors
    /// When another process holds it, or it cannot be written.
    pub fn acquire(run: &Path) -> Result<Self> {
        fs::create_dir_all(run).map_err(|e| Error::io("create", run, &e))?;
        let path = run.join(Self::FILE);
        let failed = |e| Error::io("lock", &path, &e);
        let mut options = OpenOptions::new();
        // What a link leads to is somebody's.
        options.read(true).write(true).create(true).truncate(false).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let mut file = match options.open(&path) {
            Err(e) if e.raw_os_error() == Some(libc::ELOOP) => return Err(foreign(&path)),
            opened => opened.map_err(failed)?,
        };
        let about = file.metadata().map_err(failed)?;
        if !about.is_file() || about.nlink() > 1 {
            return Err(foreign(&path));
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(e)) => return Err(failed(e)),
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only to help finding it: the holder may not have written its number yet.
                let _ = file.take(20).read_to_string(&mut holder);
                return Err(Error::user(format!(
                    "{} is in use by another trainer (process {}): wait for it, stop it, or choose another --run folder",
                    run.display(),
                    holder.trim()
                )));
            }
        }
        let mut holder = Vec::new();
        (&mut file).take(64).read_to_end(&mut holder).map_err(failed)?;
        // After a power failure it may be zeros.
        if !holder.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_whitespace() || *byte == 0) {
            return Err(foreign(&path));
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { run: run.to_path_buf(), _file: file })
    }

    /// The folder that is held.
    pub fn run(&self) -> &Path {
        &self.run
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nobody_elses_file_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let (run, mine) = (folder.path().join("run"), folder.path().join("mine"));
        fs::create_dir(&run).unwrap();
        fs::write(&mine, "12 thesis").unwrap();
        let lock = run.join(RunLock::FILE);
        let makes: [fn(&Path, &Path); 3] = [
            |mine, lock| symlink(mine, lock).unwrap(),
            |mine, lock| fs::hard_link(mine, lock).unwrap(),
            |mine, lock| fs::write(lock, fs::read(mine).unwrap()).unwrap(),
        ];
        for make in makes {
            make(&mine, &lock);
            let error = RunLock::acquire(&run).unwrap_err().to_string();
            assert!(error.contains("run.lock is not the lock of a run"), "{error}");
            assert_eq!(fs::read(&mine).unwrap(), b"12 thesis");
            assert_eq!(fs::read(&lock).unwrap(), b"12 thesis");
            fs::remove_file(&lock).unwrap();
        }
        fs::write(&lock, "123456\n").unwrap();
        let held = RunLock::acquire(&run).unwrap();
        assert_eq!(fs::read_to_string(&lock).unwrap(), format!("{}\n", std::process::id()));
        drop(held);
    }
}
