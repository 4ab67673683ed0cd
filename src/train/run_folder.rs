//! A run's folder: what stands in it, whose it is, how it begins, and what each step and checkpoint leaves there.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::config::{Config, Difference};
use crate::error::{Error, Result};
use crate::eval::Example;
use crate::files::{self, StagedFolder};
use crate::model::TensorSpec;
use crate::run::START;
use crate::run::config::{CONFIG, Change, Machine, RunConfig};
use crate::store::weights;
use crate::store::weights::WriteOptions;
use crate::tensor::Dtype;
use crate::train::Trainer;
use crate::train::checkpoint::{Checkpoints, Latest, RunLock};
use crate::train::evaluation::ScoredExamples;
use crate::train::finish::{MODEL, REPORT};
use crate::train::metrics::StepMetrics;
use crate::train::origin::{DataHashes, Origin};
use crate::train::setup::{Initial, Setup, Start};
use crate::train::step_log::{self, StepLine, StepLog};
use crate::train::tensorboard::EventFile;
use crate::train::totals::Totals;

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
    /// The configuration as it will be saved.
    config: Config,
    /// With what a run that has begun was computed.
    before: Option<RunConfig>,
    /// In what it goes on otherwise.
    differences: Vec<Difference>,
    data: DataHashes,
}

impl Found {
    /// Looks at the folder `run`, in which a run of `config` is to begin or, with `resume`, to go on.
    ///
    /// # Errors
    /// The user's, when the folder is not for this run, what it began with has changed, or the configuration cannot be
    /// saved.
    pub fn look(run: &Path, config: &Config, resume: bool) -> Result<Self> {
        config.to_toml()?;
        let begun = is_begun(run);
        if begun && !resume {
            return Err(Error::user(format!(
                "{} already holds a run: add --resume to go on with it, or give another --run",
                run.display()
            )));
        }
        let mut found = Self {
            run: run.to_path_buf(),
            config: config.clone(),
            before: None,
            differences: Vec::new(),
            data: hash_data(config, begun)?,
        };
        if begun {
            let before = RunConfig::read(run)?;
            found.differences = changes(run, config, &before.config)?;
            found.before = Some(before);
            Origin::read(&run.join(START))?.check_data(config, &found.data)?;
        } else {
            refuse_foreign(run)?;
        }
        Ok(found)
    }

    /// The model and the report of a run that has come to its end, and is to stay as it is: the report is written last.
    pub fn finished(&self) -> Option<[PathBuf; 2]> {
        let files = [MODEL, REPORT].map(|name| self.run.join(name));
        let ended = self.before.is_some() && files.iter().all(|file| file.exists());
        (ended && self.differences.is_empty()).then_some(files)
    }

    /// Checks that a run that goes on gets the bits that it would have had; with `accept` it may get others.
    ///
    /// # Errors
    /// The user's, with what differs, and what to do.
    pub fn check_machine(&mut self, now: &Machine, accept: bool) -> Result<()> {
        let Some(before) = &self.before else { return Ok(()) };
        let differences = now.differences(&before.machine);
        let Some(Difference { key, here, there }) = differences.first().filter(|_| !accept) else {
            self.differences.extend(differences);
            return Ok(());
        };
        let back = match key.as_str() {
            "threads" => format!("set RAYON_NUM_THREADS={there}"),
            "instructions" => "go on on a machine that has them".into(),
            _ => "go on there with --device".into(),
        };
        Err(Error::user(format!(
            "{}: {key} was {there} and is {here}, and the weights would get other bits: {back}, or add \
             --accept-other-bits",
            self.run.display()
        )))
    }

    /// The folder of the weights that the run begins with, if they are not drawn. A run that goes on may have no
    /// checkpoint yet, and then needs them again.
    pub fn initial_weights(&self, config: &Config) -> Option<PathBuf> {
        match self.before {
            Some(_) => Some(self.run.join(START)).filter(|folder| folder.join(weights::SINGLE).exists()),
            None => config.train.init.clone(),
        }
    }

    /// Takes the folder for this process, and writes what a run begins with if it has not begun, and else what is changed.
    ///
    /// # Errors
    /// When another process has the folder, or it cannot be written; the user's, when the run is beyond its steps.
    pub fn take(self, setup: &Setup, initial: &Initial, machine: Machine) -> Result<RunFolder> {
        let lock = RunLock::acquire(&self.run)?;
        files::remove_leftovers(&self.run)?;
        let mut now = RunConfig { config: self.config.clone(), machine, changes: Vec::new() };
        match &self.before {
            None if is_begun(&self.run) => {
                let run = self.run.display();
                return Err(Error::user(format!("another process began a run in {run} meanwhile: give another --run")));
            }
            None => self.begin(setup, initial, &now)?,
            Some(_) => {}
        }
        let checkpoints = Checkpoints::open(&lock, setup.config.train.keep_checkpoints)?;
        if let Some(before) = &self.before {
            let done = checkpoints.newest_step()?;
            if setup.steps < done {
                return Err(Error::user(format!(
                    "train.steps = {}: {} has done {done} steps; give at least as many",
                    setup.steps,
                    self.run.display()
                )));
            }
            let left_out = setup.left_out(&before.config, done)?;
            if left_out > 0 {
                let (run, train) = (self.run.display(), &setup.config.train);
                let key = match train.steps {
                    0 => format!("train.epochs = {}", train.epochs),
                    steps => format!("train.steps = {steps}"),
                };
                return Err(Error::user(format!(
                    "{key}: the last of the {done} steps of {run} had what was left of its epochs, less than \
                     train.batch_size = {}, and going on would leave out {left_out} rows. Leave the length as it was, and \
                     begin another run with its model: --init {run}/{MODEL}",
                    train.batch_size
                )));
            }
            // Nothing is changed where the run could not come to its report.
            step_log::check::<StepMetrics>(&self.run, done)?;
            step_log::check::<ScoredExamples>(&self.run, done)?;
            now.changes = before.changes.clone();
            now.changes.extend(self.differences.iter().map(|difference| Change::new(done, difference)));
            self.amend(before, &now)?;
        }
        Ok(RunFolder { path: self.run, checkpoints, changes: now.changes, _lock: lock })
    }

    /// Writes what a resumed run reads: tokenizer, architecture, hashes of the data and weights that cannot be drawn
    /// again, then, last, the configuration.
    fn begin(&self, setup: &Setup, initial: &Initial, config: &RunConfig) -> Result<()> {
        let folder = self.run.join(START);
        refuse_foreign(&self.run)?;
        let staged = StagedFolder::replacing(&folder)?;
        if let Some(tokenizer) = &setup.feeder.tokenizer {
            tokenizer.save(staged.path())?;
        }
        setup.model_config.write(staged.path())?;
        if setup.config.train.init.is_some() {
            let Initial { model, state, .. } = initial;
            let mut source = |spec: &TensorSpec| state.get(model, spec);
            let target = WriteOptions::safetensors(Dtype::F32, usize::MAX);
            weights::write(staged.path(), &model.config().merged(), model.outputs(), target, &mut source)?;
        }
        Origin::write(staged.path(), self.data.clone())?;
        staged.commit()?;
        config.write(&self.run)
    }

    /// Writes the configuration of a run that goes on, if it is another one.
    fn amend(&self, before: &RunConfig, now: &RunConfig) -> Result<()> {
        if before == now {
            return Ok(());
        }
        // With its report the run would count as finished.
        let report = self.run.join(REPORT);
        if now.changes != before.changes && report.exists() {
            fs::remove_file(&report).map_err(|e| Error::io("remove", &report, &e))?;
        }
        now.write(&self.run)
    }
}

/// A run's folder, held by this process.
pub struct RunFolder {
    path: PathBuf,
    checkpoints: Checkpoints,
    changes: Vec<Change>,
    _lock: RunLock,
}

impl RunFolder {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was changed when `step` steps were done.
    pub fn changes_after(&self, step: u64) -> Vec<String> {
        self.changes.iter().filter(|change| change.after_step == step).map(Change::to_string).collect()
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

    /// Whether there is a checkpoint after `step` steps.
    pub fn has_checkpoint(&self, step: u64) -> bool {
        self.checkpoints.has(step)
    }

    /// Restores `trainer` from the checkpoint after `step` steps, for the model that the run ends with.
    ///
    /// # Errors
    /// When it is damaged, or cannot be read.
    pub fn restore_best(&self, trainer: &Trainer, step: u64) -> Result<()> {
        let checkpoint = self.checkpoints.at(step).map_err(|damage| {
            Error::user(format!(
                "the best checkpoint is damaged: {damage}. To end with the weights of the last step: --run {} --resume \
                 --set train.keep_best=false",
                self.path.display()
            ))
        })?;
        trainer.state().restore(trainer.model(), &checkpoint)
    }

    /// Saves the state after `step` steps as a checkpoint, a piece at a time; with `keep_best` the one of the best
    /// evaluation stays. What is not finite is never saved.
    ///
    /// # Errors
    /// When a weight or moment is not finite, or the disk fails; earlier checkpoints then still stand.
    pub fn save(&mut self, step: u64, trainer: &Trainer, totals: &Totals, keep_best: bool) -> Result<()> {
        self.checkpoints.keep_best(totals.standing.best.map(|best| best.step).filter(|_| keep_best));
        let (model, state) = (trainer.model(), trainer.state());
        state.check(model, trainer.updates()).map_err(|e| e.context(self.path.display()))?;
        state.save(model, &self.checkpoints, step, totals)
    }

    /// Opens the records of the steps, cut back to `step` steps; those of scored examples where there are or will be some.
    ///
    /// # Errors
    /// When they cannot be read or written.
    pub fn records(&self, step: u64, with_examples: bool) -> Result<Records> {
        let metrics = StepLog::open(&self.path, step)?;
        let with_examples = with_examples || self.path.join(ScoredExamples::FILE).exists();
        let examples = with_examples.then(|| StepLog::open(&self.path, step)).transpose()?;
        Ok(Records { metrics, examples, events: EventFile::create(&self.path.join(TENSORBOARD), step)? })
    }
}

/// What each step leaves: a line of `metrics.jsonl`, events for TensorBoard and, of an evaluation, scored examples.
pub struct Records {
    metrics: StepLog<StepMetrics>,
    examples: Option<StepLog<ScoredExamples>>,
    events: EventFile,
}

impl Records {
    /// Adds a step, with the examples that were scored after it.
    ///
    /// # Errors
    /// When a number of it is not finite, or the disk is full.
    pub fn append(&mut self, metrics: &StepMetrics, examples: Vec<Example>) -> Result<()> {
        self.metrics.append(metrics)?;
        if let Some(log) = self.examples.as_mut().filter(|_| !examples.is_empty()) {
            log.append(&ScoredExamples { step: metrics.step, examples })?;
        }
        self.events.append(metrics)
    }
}

/// Hashes the data. Of a run that has begun they may have been moved.
fn hash_data(config: &Config, begun: bool) -> Result<DataHashes> {
    DataHashes::of(config).map_err(|error| match begun {
        true => Error::user(format!("{error}. If the data were moved, say where to: --resume --data FILE")),
        false => error,
    })
}

/// The values of `config` that a run of `before` goes on with instead of its own.
fn changes(run: &Path, config: &Config, before: &Config) -> Result<Vec<Difference>> {
    // Data are known by their hashes.
    let is_place = |d: &Difference| ["data.train", "data.eval", "data.references"].contains(&d.key.as_str());
    let differences = config.differences(before)?.into_iter().filter(|d| !is_place(d));
    let (changes, fixed): (Vec<_>, Vec<_>) = differences.partition(Difference::may_change);
    if fixed.is_empty() {
        return Ok(changes);
    }
    let fixed: Vec<_> = fixed.iter().map(Difference::to_string).collect();
    Err(Error::user(format!(
        "{} belongs to another configuration: {}. Leave that as it was, or give another --run; what may change is \
         train.steps, train.epochs, train.checkpoint_every, train.keep_best, train.patience, optimizer.lr, schedule.* \
         and eval.*",
        run.display(),
        fixed.join("; ")
    )))
}

/// Refuses a folder that holds what is not of a run. An interrupted beginning leaves only what comes before the
/// configuration; anything else is somebody's.
fn refuse_foreign(run: &Path) -> Result<()> {
    let entries = match fs::read_dir(run) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("read", run, &e)),
    };
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("read", run, &e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let unfinished = || [CONFIG, START].iter().any(|whole| name.starts_with(&format!(".{whole}.tmp-")));
        // Our own holds the hashes of all that is in it.
        let ours = || name == START && Origin::read(&entry.path()).is_ok();
        if name != RunLock::FILE && !unfinished() && !ours() {
            return Err(Error::user(format!(
                "{} holds {name} and no run: give an empty or new folder as --run",
                run.display()
            )));
        }
    }
    Ok(())
}
