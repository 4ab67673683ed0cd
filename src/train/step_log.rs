//! Files of a run with a line of JSON for a step: appended to, and cut back where a run goes on from an earlier step.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::files;

/// What a line says.
pub trait StepLine: Serialize + DeserializeOwned {
    /// The file in a run's folder.
    const FILE: &str;

    /// Finished steps, the one that it is of included: each line has more than the one before.
    fn step(&self) -> u64;

    /// Refuses what JSON cannot hold.
    ///
    /// # Errors
    /// Names the step and the figure that is not a finite number.
    fn check(&self) -> Result<()>;
}

/// Appends lines.
#[derive(Debug)]
pub struct StepLog<L> {
    file: fs::File,
    path: PathBuf,
    lines: PhantomData<L>,
}

impl<L: StepLine> StepLog<L> {
    /// Opens the log in the folder `run` for the step after `step`: what an earlier process wrote beyond `step`, and a
    /// line that it left unfinished, are dropped.
    ///
    /// # Errors
    /// When the file cannot be read or written; the user's, when a line up to `step` is malformed.
    pub fn open(run: &Path, step: u64) -> Result<Self> {
        let path = run.join(L::FILE);
        let (before, kept) = read_up_to::<L>(&path, step)?;
        if kept != before {
            files::write_atomic(&path, &kept)?;
        }
        let file =
            OpenOptions::new().append(true).create(true).open(&path).map_err(|e| Error::io("write", &path, &e))?;
        Ok(Self { file, path, lines: PhantomData })
    }

    /// Appends a line. It is in the file when this returns.
    ///
    /// # Errors
    /// When a figure is not a finite number, which JSON cannot hold, or the disk is full.
    pub fn append(&mut self, line: &L) -> Result<()> {
        line.check()?;
        let mut bytes = serde_json::to_vec(line).map_err(|e| Error::machine(e.to_string()))?;
        bytes.push(b'\n');
        self.file.write_all(&bytes).map_err(|e| Error::io("write", &self.path, &e))
    }
}

/// Reads all lines in the folder `run`; none if there is no such file.
///
/// # Errors
/// Names the line that is malformed.
pub fn read<L: StepLine>(run: &Path) -> Result<Vec<L>> {
    let path = run.join(L::FILE);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = files::read_text(&path, u64::MAX)?;
    let parse = |(index, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| Error::user(format!("{}:{}: {e}", path.display(), index + 1)))
    };
    text.lines().enumerate().map(parse).collect()
}

/// Checks that the log in the folder `run` can be read up to `step`, as its report will.
///
/// # Errors
/// As [`StepLog::open`].
pub fn check<L: StepLine>(run: &Path, step: u64) -> Result<()> {
    read_up_to::<L>(&run.join(L::FILE), step).map(drop)
}

/// The log at `path` as it is, and as it is to be for the step after `step`.
fn read_up_to<L: StepLine>(path: &Path, step: u64) -> Result<(Vec<u8>, Vec<u8>)> {
    let log = match path.symlink_metadata() {
        Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
        _ => files::read(path, u64::MAX)?,
    };
    let kept = up_to::<L>(&log, step).map_err(|e| e.context(path.display()))?;
    Ok((log, kept))
}

/// The lines of `log` that are in order and not beyond `step`. One without an end may be torn, and is dropped; what else
/// cannot be read would end the run at its report, and is refused.
fn up_to<L: StepLine>(log: &[u8], step: u64) -> Result<Vec<u8>> {
    let mut kept = Vec::with_capacity(log.len());
    let mut last = 0;
    for (index, line) in log.split_inclusive(|&b| b == b'\n').enumerate() {
        match serde_json::from_slice::<L>(line) {
            Ok(parsed) if (last + 1..=step).contains(&parsed.step()) => {
                last = parsed.step();
                kept.extend_from_slice(line.trim_ascii_end());
                kept.push(b'\n');
            }
            Err(e) if line.ends_with(b"\n") && last < step => {
                return Err(Error::user(format!("line {}: {e}; mend the line, or remove it", index + 1)));
            }
            _ => {}
        }
    }
    Ok(kept)
}
