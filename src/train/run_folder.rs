//! A run's folder: what stands in it, whose it is, how it begins, and what each step and checkpoint leaves there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::files;
use crate::model::TensorSpec;
use crate::store::weights;
use crate::store::weights::WriteOptions;
use crate::tensor::Dtype;
use crate::train::Trainer;
use crate::train::checkpoint::{Checkpoints, Latest, RunLock};
use crate::train::finish::{MODEL, REPORT};
use crate::train::metrics::{MetricsLog, StepMetrics};
use crate::train::setup::{Initial, Setup, Start};
use crate::train::tensorboard::EventFile;
use crate::train::totals::Totals;

/// The resolved configuration in a run's folder.
pub const CONFIG: &str = "config.toml";
/// What the run began with: tokenizer, architecture, and the weights of `--init`.
pub const START: &str = "start";
/// Hashes of the data files, in [`START`].
const DATA: &str = "data.json";
/// Bytes of [`DATA`], at most.
const MAX_DATA_BYTES: u64 = 1 << 24;
/// Event files for TensorBoard.
pub const TENSORBOARD: &str = "tensorboard";

/// Whether the folder holds a run: the configuration is written when all else that a beginning takes stands there.
pub fn is_begun(run: &Path) -> bool {
    run.join(CONFIG).is_file()
}

/// Where tokenizer and architecture of a run come from: from its folder, once it has begun.
pub fn start(config: &Config, run: &Path) -> Start {
    match (is_begun(run), &config.train.init) {
        (true, _) => Start::From(run.join(START)),
        (false, Some(init)) => Start::From(init.clone()),
        (false, None) => Start::Fresh,
    }
}

/// A folder as it is found: nothing is written yet, and what cannot go on is refused.
pub struct Found {
    run: PathBuf,
    begun: bool,
    /// The configuration as it will be saved.
    config: String,
    /// A hash of each file of data.
    data: BTreeMap<String, String>,
}

impl Found {
    /// Looks at the folder `run`, in which a run of `config` is to begin or, with `resume`, to go on.
    ///
    /// # Errors
    /// The user's, when the folder is not for this run, its data have changed, or the configuration cannot be saved.
    pub fn look(run: &Path, config: &Config, resume: bool) -> Result<Self> {
        let text = config.to_toml()?;
        let begun = is_begun(run);
        refuse_foreign(run, config, resume, begun)?;
        let data = fingerprints(config)?;
        if begun {
            refuse_changed_data(&run.join(START), &data)?;
        }
        Ok(Self { run: run.to_path_buf(), begun, config: text, data })
    }

    /// The model and the report of a run that has come to its end: the report is written last.
    pub fn finished(&self) -> Option<[PathBuf; 2]> {
        let files = [MODEL, REPORT].map(|name| self.run.join(name));
        (self.begun && files.iter().all(|file| file.exists())).then_some(files)
    }

    /// The folder of the weights that the run begins with, if they are not drawn. A run that goes on may have no
    /// checkpoint yet, and then needs them again.
    pub fn initial_weights(&self, config: &Config) -> Option<PathBuf> {
        match self.begun {
            true => Some(self.run.join(START)).filter(|folder| folder.join(weights::SINGLE).exists()),
            false => config.train.init.clone(),
        }
    }

    /// Takes the folder for this process, and writes what a run begins with if it has not begun.
    ///
    /// # Errors
    /// When another process has the folder, or it cannot be written.
    pub fn take(self, setup: &Setup, initial: &Initial) -> Result<RunFolder> {
        let lock = RunLock::acquire(&self.run)?;
        files::remove_leftovers(&self.run)?;
        if !self.begun {
            if is_begun(&self.run) {
                let run = self.run.display();
                return Err(Error::user(format!("another process began a run in {run} meanwhile: give another --run")));
            }
            self.begin(setup, initial)?;
        }
        let checkpoints = Checkpoints::open(&lock, setup.config.train.keep_checkpoints)?;
        Ok(RunFolder { path: self.run, checkpoints, _lock: lock })
    }

    /// Writes what a resumed run reads: tokenizer, architecture, hashes of the data and weights that cannot be drawn
    /// again, then, last, the configuration.
    fn begin(&self, setup: &Setup, initial: &Initial) -> Result<()> {
        let folder = self.run.join(START);
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(|e| Error::io("remove", &folder, &e))?;
        }
        fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, &e))?;
        if let Some(tokenizer) = &setup.feeder.tokenizer {
            tokenizer.save(&folder)?;
        }
        setup.model_config.write(&folder)?;
        let data = serde_json::to_vec_pretty(&self.data).map_err(|e| Error::machine(e.to_string()))?;
        files::write_atomic(&folder.join(DATA), &data)?;
        if setup.config.train.init.is_some() {
            let Initial { model, state, .. } = initial;
            let mut source = |spec: &TensorSpec| state.get(model, spec);
            let target = WriteOptions::safetensors(Dtype::F32, usize::MAX);
            weights::write(&folder, model.config(), model.outputs(), target, &mut source)?;
        }
        files::write_atomic(&self.run.join(CONFIG), self.config.as_bytes())
    }
}

/// A run's folder, held by this process.
pub struct RunFolder {
    path: PathBuf,
    checkpoints: Checkpoints,
    _lock: RunLock,
}

impl RunFolder {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Restores `trainer` from the newest whole checkpoint: the steps that were done, what was counted, and a warning for
    /// each newer one that is damaged.
    ///
    /// # Errors
    /// When the checkpoint is of another model, or cannot be read.
    pub fn restore(&self, trainer: &mut Trainer) -> Result<(u64, Totals, Vec<String>)> {
        let Latest { checkpoint, warnings } = self.checkpoints.latest()?;
        let Some(checkpoint) = checkpoint else { return Ok((0, Totals::default(), warnings)) };
        trainer.state().restore(trainer.model(), &checkpoint)?;
        let totals: Totals = serde_json::from_value(checkpoint.state.clone())
            .map_err(|e| Error::machine(format!("the state of the checkpoint at step {}: {e}", checkpoint.step)))?;
        trainer.resume_at(totals.updates);
        Ok((checkpoint.step, totals, warnings))
    }

    /// Saves the state after `step` steps as a checkpoint, a piece at a time. What is not finite is never saved.
    ///
    /// # Errors
    /// When a weight or moment is not finite, or the disk fails; earlier checkpoints then still stand.
    pub fn save(&self, step: u64, trainer: &Trainer, totals: &Totals) -> Result<()> {
        let (model, state) = (trainer.model(), trainer.state());
        state.check(model, trainer.updates()).map_err(|e| e.context(self.path.display()))?;
        state.save(model, &self.checkpoints, step, totals)
    }

    /// Opens the records of the steps, cut back to `step` steps.
    ///
    /// # Errors
    /// When they cannot be read or written.
    pub fn records(&self, step: u64) -> Result<Records> {
        let metrics = MetricsLog::open(&self.path, step)?;
        Ok(Records { metrics, events: EventFile::create(&self.path.join(TENSORBOARD), step)? })
    }
}

/// What each step leaves: a line of `metrics.jsonl`, and events for TensorBoard.
pub struct Records {
    metrics: MetricsLog,
    events: EventFile,
}

impl Records {
    /// Adds a step.
    ///
    /// # Errors
    /// When a number of it is not finite, or the disk is full.
    pub fn append(&mut self, metrics: &StepMetrics) -> Result<()> {
        self.metrics.append(metrics)?;
        self.events.append(metrics)
    }
}

/// A hash of every file of data, by name: a run goes on with the data that it began with.
fn fingerprints(config: &Config) -> Result<BTreeMap<String, String>> {
    let hash = |path: &PathBuf| {
        // A pipe could be read but once, and a run that goes on reads again.
        if path.metadata().is_ok_and(|found| !found.is_file()) {
            return Err(Error::user(format!(
                "cannot read {}: it is not a regular file; save it as one",
                path.display()
            )));
        }
        let mut hasher = blake3::Hasher::new();
        let file = File::open(path).and_then(|file| hasher.update_reader(file).map(|_| ()));
        file.map_err(|e| Error::io("read", path, &e))?;
        Ok((path.display().to_string(), hasher.finalize().to_hex().to_string()))
    };
    config.data.train.iter().chain(&config.data.eval).map(hash).collect()
}

fn refuse_changed_data(start: &Path, now: &BTreeMap<String, String>) -> Result<()> {
    let path = start.join(DATA);
    let text = files::read_text(&path, MAX_DATA_BYTES)?;
    let then: BTreeMap<String, String> =
        serde_json::from_str(&text).map_err(|e| Error::user(format!("{}: {e}", path.display())))?;
    match now.iter().find(|(name, hash)| then.get(*name) != Some(hash)) {
        Some((name, _)) => Err(Error::user(format!(
            "{name} is not what it was when the run began: put it back, or begin another run with another --run"
        ))),
        None => Ok(()),
    }
}

fn refuse_foreign(folder: &Path, config: &Config, resume: bool, begun: bool) -> Result<()> {
    let run = folder.display();
    if begun && !resume {
        return Err(Error::user(format!(
            "{run} already holds a run: add --resume to go on with it, or give another --run"
        )));
    }
    if begun {
        let path = folder.join(CONFIG);
        let differences = config.differences(&Config::load(&path)?)?;
        if !differences.is_empty() {
            return Err(Error::user(format!(
                "{run} belongs to another configuration: {}. Resume it with its own (--run {run} --resume and nothing \
                 else), or give another --run",
                differences.join("; ")
            )));
        }
        return Ok(());
    }
    // An interrupted beginning leaves only what comes before the configuration; anything else is somebody's.
    if let Ok(entries) = fs::read_dir(folder) {
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let unfinished = format!(".{CONFIG}.tmp-");
            if ![START, RunLock::FILE].contains(&name.as_str()) && !name.starts_with(&unfinished) {
                return Err(Error::user(format!(
                    "{run} holds {name} and no run: give an empty or new folder as --run"
                )));
            }
        }
    }
    Ok(())
}
