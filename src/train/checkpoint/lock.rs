//! One trainer a run folder.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

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
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
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
        file.set_len(0).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { run: run.to_path_buf(), _file: file })
    }

    /// The folder that is held.
    pub fn run(&self) -> &Path {
        &self.run
    }
}
