//! Output that a killed process does not take along: `FILE.partial` holds what is done, `FILE.progress` says what that
//! is. Both are written at the end of each window, in this order, and are gone once `FILE` is there.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Totals;
use crate::data::ScoreRows;
use crate::error::{Error, Result};
use crate::files;

/// Bytes of the file of progress, at most.
const MAX_BYTES: u64 = 1 << 20;

/// What `FILE.progress` says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Progress {
    /// What the scores depend on besides the rows: model and options. They must be the same to go on.
    settings: Map<String, Value>,
    /// Rows and blank lines of the input that are done.
    lines: usize,
    /// BLAKE3 of these lines. What follows them may change: it is read when its turn comes.
    read: String,
    /// Bytes of `FILE.partial` that are valid.
    bytes: u64,
    /// BLAKE3 of these bytes.
    written: String,
    totals: Totals,
}

/// A file that grows in steps which outlive the process.
pub struct Partial {
    target: PathBuf,
    settings: Map<String, Value>,
    /// Opened at the first step: a run that fails before leaves nothing.
    file: Option<File>,
    bytes: u64,
    written: blake3::Hasher,
}

fn beside(target: &Path, ending: &str) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_os_string();
    name.push(ending);
    target.with_file_name(name)
}

/// The files that writing `target`, or what that is a link to, takes.
pub fn files(target: &Path) -> [PathBuf; 3] {
    let target = fs::canonicalize(target).unwrap_or_else(|_| target.to_path_buf());
    [beside(&target, ".partial"), beside(&target, ".progress"), target]
}

impl Partial {
    /// Begins `target`, or what that is a link to, without touching anything yet.
    ///
    /// # Errors
    /// The user's: a target that cannot be written, or the work of a run that was interrupted, which is not thrown away.
    pub fn create(target: &Path, settings: Map<String, Value>) -> Result<Self> {
        let partial = Self::new(target, settings)?;
        let (work, progress) = (partial.work(), partial.progress());
        if work.exists() && progress.exists() {
            return Err(Error::user(format!(
                "{} holds the scores of a run that was interrupted: go on with --resume, or remove it and {}",
                work.display(),
                progress.display()
            )));
        }
        Ok(partial)
    }

    /// Goes on with `target` where an earlier run stopped, and moves `rows` there; begins where there is none.
    ///
    /// # Errors
    /// As [`Self::create`], and the user's where model, options or the rows that are done are not the same.
    pub fn resume(target: &Path, settings: Map<String, Value>, rows: &mut ScoreRows) -> Result<(Self, Totals)> {
        let mut partial = Self::new(target, settings)?;
        let (work, progress) = (partial.work(), partial.progress());
        if !work.exists() || !progress.exists() {
            return Ok((partial, Totals::default()));
        }
        let text = files::read_text(&progress, MAX_BYTES)?;
        let found: Progress =
            serde_json::from_str(&text).map_err(|e| Error::user(format!("{}: {e}", progress.display())))?;
        let again = format!("or remove {} and {} to begin again", work.display(), progress.display());
        let keys = partial.settings.keys().chain(found.settings.keys());
        if let Some(key) = keys.into_iter().find(|key| partial.settings.get(*key) != found.settings.get(*key)) {
            let show = |settings: &Map<String, Value>| settings.get(key).map_or("nothing".into(), Value::to_string);
            return Err(Error::user(format!(
                "cannot go on with {}: {key} was {} and is {}; give what was given then, {again}",
                work.display(),
                show(&found.settings),
                show(&partial.settings)
            )));
        }
        rows.skip(found.lines)?;
        let (lines, read) = rows.so_far();
        if lines != found.lines || read.to_hex().as_str() != found.read {
            return Err(Error::user(format!(
                "cannot go on with {}: the first {} lines of the input are not those that were scored; give the same \
                 input, {again}",
                work.display(),
                found.lines
            )));
        }
        let mut file = partial.open(OpenOptions::new().read(true).write(true))?;
        let failed = |e| Error::io("write", &work, &e);
        let length = file.metadata().map_err(failed)?.len();
        if length < found.bytes {
            return Err(Error::user(format!(
                "cannot go on with {}: it has {length} bytes, {} of them were written; put it back, {again}",
                work.display(),
                found.bytes
            )));
        }
        let (place, mut valid) = (&work, Read::by_ref(&mut file).take(found.bytes));
        partial.written.update_reader(&mut valid).map_err(|e| Error::io("read", place, &e))?;
        if partial.written.finalize().to_hex().as_str() != found.written {
            return Err(Error::user(format!(
                "cannot go on with {}: its scores are not those that were written; put it back, {again}",
                work.display()
            )));
        }
        // What was written after the last step is not told of, and comes again.
        file.set_len(found.bytes).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        (partial.file, partial.bytes) = (Some(file), found.bytes);
        Ok((partial, found.totals))
    }

    fn new(target: &Path, settings: Map<String, Value>) -> Result<Self> {
        let target = fs::canonicalize(target).unwrap_or_else(|_| target.to_path_buf());
        // Refuses what cannot be written before anything is computed.
        drop(files::Staged::create(&target)?);
        Ok(Self { target, settings, file: None, bytes: 0, written: blake3::Hasher::new() })
    }

    fn work(&self) -> PathBuf {
        beside(&self.target, ".partial")
    }

    fn progress(&self) -> PathBuf {
        beside(&self.target, ".progress")
    }

    /// Opens the work, which no other process may have open.
    fn open(&self, options: &mut OpenOptions) -> Result<File> {
        let work = self.work();
        let failed = |e| Error::io("write", &work, &e);
        // What a link leads to is somebody's, and a pipe waits for whoever reads it.
        let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&work).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(Error::user(format!("cannot write {}: it is not a regular file; remove it", work.display())));
        }
        file.try_lock().map_err(|e| match e {
            fs::TryLockError::WouldBlock => {
                Error::user(format!("{}: another process is writing it; wait for that", work.display()))
            }
            fs::TryLockError::Error(e) => Error::io("lock", &work, &e),
        })?;
        Ok(file)
    }

    /// Appends the answers to the rows up to where `rows` is now.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn step(&mut self, answers: &[u8], rows: &ScoreRows, totals: &Totals) -> Result<()> {
        let work = self.work();
        let failed = |e| Error::io("write", &work, &e);
        if self.file.is_none() {
            // Progress without work is none, so that a crash between the two begins again.
            match fs::remove_file(self.progress()) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
                _ => {}
            }
            let file = self.open(OpenOptions::new().write(true).create(true))?;
            file.set_len(0).map_err(failed)?;
            self.file = Some(file);
        }
        if let Some(file) = &mut self.file {
            file.write_all(answers).and_then(|()| file.sync_data()).map_err(failed)?;
        }
        self.bytes += answers.len() as u64;
        self.written.update(answers);
        let (lines, read) = rows.so_far();
        let progress = Progress {
            settings: self.settings.clone(),
            lines,
            read: read.to_hex().to_string(),
            bytes: self.bytes,
            written: self.written.finalize().to_hex().to_string(),
            totals: *totals,
        };
        let text = serde_json::to_vec_pretty(&progress).map_err(|e| Error::machine(e.to_string()))?;
        files::write_atomic(&self.progress(), &text)
    }

    /// Puts the whole file in its place.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn commit(self) -> Result<()> {
        fs::rename(self.work(), &self.target).map_err(|e| Error::io("write", &self.target, &e))?;
        files::sync_folder(files::parent(&self.target))?;
        let progress = self.progress();
        fs::remove_file(&progress).map_err(|e| Error::io("remove", &progress, &e))
    }
}

/// A hash of the files that a model consists of.
pub(super) fn fingerprint(model: &Path) -> Result<String> {
    const ENDINGS: [&str; 6] = ["json", "jinja", "model", "safetensors", "bin", "gguf"];
    let failed = |path: &Path, e| Error::io("read", path, &e);
    let mut files = vec![model.to_path_buf()];
    if model.is_dir() {
        let entries = model.read_dir().and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        files = entries.map_err(|e| failed(model, e))?.into_iter().map(|entry| entry.path()).collect();
        files.retain(|path| path.is_file() && ENDINGS.iter().any(|ending| path.extension() == Some(ending.as_ref())));
        files.sort();
    }
    let mut all = blake3::Hasher::new();
    for path in files {
        let mut file = blake3::Hasher::new();
        file.update_reader(files::open(&path)?).map_err(|e| failed(&path, e))?;
        all.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        all.update(b"/").update(file.finalize().as_bytes());
    }
    Ok(all.finalize().to_hex().to_string())
}
