//! Resumable state: `checkpoints/step-00000123/` with raw buffers, `state.json` and a manifest with checksums.
//!
//! A buffer is as long as the flat parameters, and each file has a range of it: `m-0.bin` from element 0 on. Who owns
//! a range writes it, and whatever ranges were written, any can be read. Buffers stream: no more than `PIECE` elements
//! are in the host's memory at one time.
//!
//! A checkpoint is written into a temporary folder beside its place, flushed file by file, and renamed; its manifest
//! `COMPLETE` is the last file written. So at any moment the newest folder that verifies is whole, and a crash leaves
//! at most a temporary folder, which the next [`Checkpoints::open`] removes.

mod lock;

use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::files;
use crate::run::manifest::{FileRecord, Hashing, Manifest};
use crate::run::{CHECKPOINTS, COMPLETE, STATE};

pub use lock::RunLock;

/// Bytes of a state, at most.
const MAX_STATE_BYTES: u64 = 64 << 20;
/// What the names of unfinished folders begin with.
const TEMPORARY: &str = ".tmp-";
/// What the name of a folder begins with while a new one takes its place.
const REPLACED: &str = ".replaced-";
/// Elements that are read and written at one time: 256 KiB.
const PIECE: usize = 1 << 16;

/// A range of a buffer that is to be saved.
pub struct SavedRange<'a> {
    /// The buffer.
    pub name: &'a str,
    /// Its elements.
    pub range: Range<usize>,
    /// Reads as many elements as there is room for, from the given one of the buffer on.
    pub read: &'a mut dyn FnMut(usize, &mut [f32]) -> Result<()>,
}

/// The checkpoints of one run, which [`RunLock`] keeps other processes away from.
#[derive(Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    keep: usize,
    /// The step of one that is kept whatever its age.
    best: Option<u64>,
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
        let folder = lock.run().join(CHECKPOINTS);
        fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, &e))?;
        let checkpoints = Self { folder, keep: keep.max(1), best: None };
        checkpoints.clean_up()?;
        Ok(checkpoints)
    }

    /// Keeps the checkpoint after `step` steps beside the last ones, and no other one.
    pub fn keep_best(&mut self, step: Option<u64>) {
        self.best = step;
    }

    /// Whether there is a checkpoint after `step` steps, be it whole or not.
    pub fn has(&self, step: u64) -> bool {
        self.place(step).join(COMPLETE).exists()
    }

    /// The checkpoint after `step` steps, verified.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn at(&self, step: u64) -> Result<Checkpoint, String> {
        Checkpoint::open(self.place(step), step).map_err(|damage| format!("{}: {damage}", self.place(step).display()))
    }

    /// Saves `parts` of buffers (files `NAME-START.bin`, little-endian f32) and `state` as the checkpoint after `step`
    /// steps, then deletes those that are no longer kept: all but the last `keep` up to `step` and the best one, and any
    /// beyond `step`, which a resumed run has left behind.
    ///
    /// # Errors
    /// When the disk is full or fails, or a part cannot be read; the earlier checkpoints then still stand.
    pub fn save(&self, step: u64, parts: &mut [SavedRange], state: &impl Serialize) -> Result<()> {
        let started = Instant::now();
        let target = self.place(step);
        let temporary = self.folder.join(format!("{TEMPORARY}{step:08}"));
        let written = write_folder(&temporary, step, parts, state).and_then(|()| self.put(&temporary, &target));
        if written.is_err() {
            // Gives a full disk its room back; the error at hand matters more than one from here.
            let _ = fs::remove_dir_all(&temporary);
        }
        written.map_err(|e| e.context(format!("checkpoint of step {step} not saved")))?;
        let ms = started.elapsed().as_millis() as u64;
        tracing::debug!(step, ms, "saved {} in {ms} ms", target.display());
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

    /// The steps that were done at the newest checkpoint, be it whole or not; 0 without one.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn newest_step(&self) -> Result<u64> {
        Ok(self.steps()?.last().copied().unwrap_or(0))
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
        let old = old.iter().filter(|&&step| Some(step) != self.best);
        old.chain(&beyond).try_for_each(|&step| remove_folder(&self.place(step)))
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
    /// Reads `range` of the buffer `name`, which has `elements` in all, and hands it to `sink` in pieces: the first
    /// element of each, and its values.
    ///
    /// # Errors
    /// When there is no such buffer or it has another length; and what `sink` reports.
    pub fn read(
        &self,
        name: &str,
        elements: usize,
        range: Range<usize>,
        sink: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let files = self.manifest.files_of(name);
        let mut end = 0;
        let mut gap = false;
        for (start, file) in &files {
            gap |= *start != end;
            end = start + file.bytes / 4;
        }
        if gap || end != elements as u64 {
            return Err(Error::user(format!(
                "{} of {} holds {end} values, but this run has {elements}: it belongs to another model",
                name,
                self.folder.display()
            )));
        }
        let mut bytes = Vec::new();
        let mut values = Vec::new();
        for (start, file) in files {
            let start = start as usize;
            let of_file = start..start + file.bytes as usize / 4;
            let wanted = range.start.max(of_file.start)..range.end.min(of_file.end);
            if wanted.is_empty() {
                continue;
            }
            let path = self.folder.join(&file.name);
            let failed = |e| Error::io("read", &path, &e);
            let mut input = files::open(&path)?;
            input.seek(SeekFrom::Start(4 * (wanted.start - start) as u64)).map_err(failed)?;
            for piece in pieces(wanted) {
                bytes.resize(4 * piece.len(), 0);
                input.read_exact(&mut bytes).map_err(failed)?;
                values.clear();
                values.extend(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
                sink(piece.start, &values)?;
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

/// The folder of the checkpoint after `step` steps of the run in the folder `run`.
pub fn folder_of(run: &Path, step: u64) -> PathBuf {
    run.join(CHECKPOINTS).join(folder_name(step))
}

/// The name of the folder of the checkpoint after `step` steps.
fn folder_name(step: u64) -> String {
    format!("step-{step:08}")
}

/// `range` in pieces of at most `PIECE` elements.
pub(super) fn pieces(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(PIECE).map(move |start| start..(start + PIECE).min(end))
}

/// Writes all files of a checkpoint into the new folder `folder`, the manifest last, and flushes them.
fn write_folder(folder: &Path, step: u64, parts: &mut [SavedRange], state: &impl Serialize) -> Result<()> {
    if folder.exists() {
        remove_folder(folder)?;
    }
    fs::create_dir(folder).map_err(|e| Error::io("create", folder, &e))?;
    let mut manifest = Manifest::new(step);
    for part in parts {
        let name = format!("{}-{}.bin", part.name, part.range.start);
        manifest.files.push(write_file(folder, &name, &mut |out| write_part(out, part))?);
    }
    let state = serde_json::to_vec_pretty(state).map_err(|e| Error::machine(format!("{STATE}: {e}")))?;
    manifest.files.push(write_file(folder, STATE, &mut |out| out.write(&state))?);
    // The manifest must not reach the disk before what it vouches for.
    files::sync_folder(folder)?;
    write_file(folder, COMPLETE, &mut |out| out.write(&manifest.to_json()))?;
    files::sync_folder(folder)
}

/// A file in writing.
struct Out<'a> {
    file: Hashing,
    path: &'a Path,
}

impl Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io("write", self.path, &e))
    }
}

/// Writes one file through to the disk.
fn write_file(folder: &Path, name: &str, content: &mut dyn FnMut(&mut Out) -> Result<()>) -> Result<FileRecord> {
    let path = folder.join(name);
    let failed = |e| Error::io("write", &path, &e);
    let file = BufWriter::with_capacity(1 << 16, File::create_new(&path).map_err(failed)?);
    let mut out = Out { file: Hashing::new(file), path: &path };
    content(&mut out)?;
    let (file, record) = out.file.finish(name).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    Ok(record)
}

fn write_part(out: &mut Out, part: &mut SavedRange) -> Result<()> {
    let (mut values, mut bytes) = (Vec::new(), Vec::new());
    for piece in pieces(part.range.clone()) {
        values.resize(piece.len(), 0.0);
        (part.read)(piece.start, &mut values)?;
        bytes.clear();
        bytes.extend(values.iter().flat_map(|v: &f32| v.to_le_bytes()));
        out.write(&bytes)?;
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
