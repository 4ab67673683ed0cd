//! Resumable state: `checkpoints/step-00000123/` with the raw buffers, `state.json` and a manifest with checksums.
//!
//! A checkpoint is written into a temporary folder beside its place, flushed file by file, and renamed; its manifest
//! `COMPLETE` is the last file written. So at any moment the newest folder that verifies is whole, and a crash leaves
//! at most a temporary folder, which the next [`Checkpoints::open`] removes.

mod lock;
mod manifest;

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::files;

pub use lock::RunLock;
pub use manifest::{FileRecord, Manifest};

/// The folder of checkpoints in a run's folder.
pub const FOLDER: &str = "checkpoints";
/// The manifest, written last.
pub const COMPLETE: &str = "COMPLETE";
/// The file of counters and seeds.
pub const STATE: &str = "state.json";
/// Bytes of a state, at most.
const MAX_STATE_BYTES: u64 = 64 << 20;
/// What the names of unfinished folders begin with.
const TEMPORARY: &str = ".tmp-";
/// What the name of a folder begins with while a new one takes its place.
const REPLACED: &str = ".replaced-";
/// Elements converted at once: 256 KiB.
const CHUNK: usize = 1 << 16;

/// The checkpoints of one run, which [`RunLock`] keeps other processes away from.
#[derive(Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    keep: usize,
}

/// A whole, verified checkpoint.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Finished optimiser steps.
    pub step: u64,
    /// What was given as state.
    pub state: Value,
    folder: PathBuf,
    manifest: Manifest,
}

/// What [`Checkpoints::latest`] found.
#[derive(Debug, Default)]
pub struct Latest {
    /// The newest whole checkpoint.
    pub checkpoint: Option<Checkpoint>,
    /// One line for each newer one that is damaged: which, and what is wrong with it.
    pub warnings: Vec<String>,
}

impl Checkpoints {
    /// The checkpoints in the folder of the run that `lock` holds, of which the last `keep` (at least one) are kept.
    /// Removes what an interrupted save left behind.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn open(lock: &RunLock, keep: usize) -> Result<Self> {
        let folder = lock.run().join(FOLDER);
        fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, &e))?;
        let checkpoints = Self { folder, keep: keep.max(1) };
        checkpoints.clean_up()?;
        Ok(checkpoints)
    }

    /// Saves the named `buffers` (files `NAME.bin`, little-endian f32) and `state` as the checkpoint after `step`
    /// steps, then deletes those that are no longer kept: all but the last `keep` up to `step`, and any beyond
    /// `step`, which a resumed run has left behind.
    ///
    /// # Errors
    /// When the disk is full or fails; the earlier checkpoints then still stand.
    pub fn save(&self, step: u64, buffers: &[(&str, &[f32])], state: &impl Serialize) -> Result<()> {
        let target = self.place(step);
        let temporary = self.folder.join(format!("{TEMPORARY}{step:08}"));
        let written = write_folder(&temporary, step, buffers, state).and_then(|()| self.put(&temporary, &target));
        if written.is_err() {
            // Gives a full disk its room back; the error at hand matters more than one from here.
            let _ = fs::remove_dir_all(&temporary);
        }
        written.map_err(|e| e.context(format!("checkpoint of step {step} not saved")))?;
        self.retain(step)
    }

    /// The newest checkpoint whose checksums hold.
    ///
    /// # Errors
    /// When the folder cannot be read. Damage is no error but a warning.
    pub fn latest(&self) -> Result<Latest> {
        let mut latest = Latest::default();
        for step in self.steps()?.into_iter().rev() {
            match Checkpoint::open(self.place(step), step) {
                Ok(checkpoint) => {
                    latest.checkpoint = Some(checkpoint);
                    break;
                }
                Err(damage) => {
                    latest.warnings.push(format!("{} is damaged: {damage}", self.place(step).display()));
                }
            }
        }
        Ok(latest)
    }

    /// Steps of the folders that carry a checkpoint's name, ascending.
    fn steps(&self) -> Result<Vec<u64>> {
        let step = |name: &String| {
            let step = name.strip_prefix("step-")?.parse().ok()?;
            (*name == folder_name(step)).then_some(step)
        };
        let mut steps: Vec<u64> = self.names()?.iter().filter_map(step).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    fn names(&self) -> Result<Vec<String>> {
        let failed = |e| Error::io("read", &self.folder, &e);
        let entries = fs::read_dir(&self.folder).map_err(failed)?;
        entries.map(|e| e.map(|e| e.file_name().to_string_lossy().into_owned()).map_err(failed)).collect()
    }

    fn place(&self, step: u64) -> PathBuf {
        self.folder.join(folder_name(step))
    }

    /// Renames the finished folder. One of the same step is moved aside first, since a folder that is not empty cannot
    /// be renamed over; [`Checkpoints::clean_up`] moves it back if the process ends in between.
    fn put(&self, temporary: &Path, target: &Path) -> Result<()> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let aside = self.folder.join(format!("{REPLACED}{name}"));
        let replaces = target.exists();
        if replaces {
            fs::rename(target, &aside).map_err(|e| Error::io("replace", target, &e))?;
        }
        fs::rename(temporary, target).map_err(|e| Error::io("write", target, &e))?;
        files::sync_folder(&self.folder)?;
        if replaces { remove_folder(&aside) } else { Ok(()) }
    }

    fn retain(&self, step: u64) -> Result<()> {
        let (kept, beyond): (Vec<u64>, Vec<u64>) = self.steps()?.into_iter().partition(|&s| s <= step);
        let old = &kept[..kept.len().saturating_sub(self.keep)];
        old.iter().chain(&beyond).try_for_each(|&step| remove_folder(&self.place(step)))
    }

    fn clean_up(&self) -> Result<()> {
        for name in self.names()? {
            let path = self.folder.join(&name);
            if let Some(original) = name.strip_prefix(REPLACED) {
                let original = self.folder.join(original);
                if !original.exists() {
                    fs::rename(&path, &original).map_err(|e| Error::io("restore", &original, &e))?;
                    continue;
                }
            }
            if name.starts_with(TEMPORARY) || name.starts_with(REPLACED) {
                remove_folder(&path)?;
            }
        }
        Ok(())
    }
}

impl Checkpoint {
    /// Reads the buffer `name` into `values`.
    ///
    /// # Errors
    /// When there is no such buffer or it has another length.
    pub fn read(&self, name: &str, values: &mut [f32]) -> Result<()> {
        let path = self.folder.join(format!("{name}.bin"));
        let bytes = self.manifest.files.iter().find(|f| f.name == format!("{name}.bin")).map(|f| f.bytes);
        if bytes != Some(4 * values.len() as u64) {
            let (found, wanted) = (bytes.unwrap_or(0) / 4, values.len());
            return Err(Error::user(format!(
                "{} holds {found} values, but this run has {wanted}: it belongs to another model",
                path.display()
            )));
        }
        let failed = |e| Error::io("read", &path, &e);
        let mut file = File::open(&path).map_err(failed)?;
        let mut bytes = vec![0; 4 * CHUNK.min(values.len())];
        for chunk in values.chunks_mut(CHUNK) {
            let bytes = &mut bytes[..4 * chunk.len()];
            file.read_exact(bytes).map_err(failed)?;
            for (value, bytes) in chunk.iter_mut().zip(bytes.as_chunks().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        }
        Ok(())
    }

    /// Verifies every file against the manifest.
    fn open(folder: PathBuf, step: u64) -> Result<Self, String> {
        let manifest = Manifest::read(&folder.join(COMPLETE))?;
        if manifest.step != step {
            return Err(format!("{COMPLETE} is of step {}", manifest.step));
        }
        for file in &manifest.files {
            file.verify(&folder)?;
        }
        let text = files::read_text(&folder.join(STATE), MAX_STATE_BYTES).map_err(|e| e.to_string())?;
        let state = serde_json::from_str(&text).map_err(|e| format!("{STATE}: {e}"))?;
        Ok(Self { step, state, folder, manifest })
    }
}

/// The folder of the checkpoint after `step` steps.
fn folder_name(step: u64) -> String {
    format!("step-{step:08}")
}

/// Writes all files of a checkpoint into the new folder `folder`, the manifest last, and flushes them.
fn write_folder(folder: &Path, step: u64, buffers: &[(&str, &[f32])], state: &impl Serialize) -> Result<()> {
    if folder.exists() {
        remove_folder(folder)?;
    }
    fs::create_dir(folder).map_err(|e| Error::io("create", folder, &e))?;
    let mut manifest = Manifest::new(step);
    for (name, values) in buffers {
        manifest.files.push(write_file(folder, &format!("{name}.bin"), |out| write_floats(out, values))?);
    }
    let state = serde_json::to_vec_pretty(state).map_err(|e| Error::machine(format!("{STATE}: {e}")))?;
    manifest.files.push(write_file(folder, STATE, |out| out.write_all(&state))?);
    // The manifest must not reach the disk before what it vouches for.
    files::sync_folder(folder)?;
    write_file(folder, COMPLETE, |out| out.write_all(&manifest.to_json()))?;
    files::sync_folder(folder)
}

/// Writes one file through to the disk.
fn write_file(
    folder: &Path,
    name: &str,
    content: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<FileRecord> {
    let path = folder.join(name);
    let write = || {
        let mut out = manifest::Hashing::new(BufWriter::with_capacity(4 * CHUNK, File::create_new(&path)?));
        content(&mut out)?;
        let (file, record) = out.finish(name)?;
        file.sync_all()?;
        Ok(record)
    };
    write().map_err(|e| Error::io("write", &path, &e))
}

fn write_floats(out: &mut dyn Write, values: &[f32]) -> std::io::Result<()> {
    let mut bytes = Vec::with_capacity(4 * CHUNK.min(values.len()));
    for chunk in values.chunks(CHUNK) {
        bytes.clear();
        bytes.extend(chunk.iter().flat_map(|v| v.to_le_bytes()));
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// Removes a folder such that, interrupted, it is never taken for a whole one: the manifest goes first.
fn remove_folder(folder: &Path) -> Result<()> {
    let complete = folder.join(COMPLETE);
    if complete.exists() {
        fs::remove_file(&complete).map_err(|e| Error::io("remove", &complete, &e))?;
    }
    fs::remove_dir_all(folder).map_err(|e| Error::io("remove", folder, &e))
}

#[cfg(test)]
mod tests;
