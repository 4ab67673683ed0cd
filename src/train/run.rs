//! A run from its first step to its report, in a folder that can be picked up again at any moment.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::backend::{Backend, BackendExt};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::files;
use crate::model::config::StorageDtype;
use crate::model::{Keep, Model, ModelConfig, TensorSpec};
use crate::store::weights;
use crate::store::weights::Target;
use crate::tensor::Tensor;
use crate::train::checkpoint::{Checkpoint, Checkpoints, RunLock};
use crate::train::feed::Batch;
use crate::train::finish::{self, Outcome};
use crate::train::metrics::{MetricsLog, ScoreStats, StepMetrics};
use crate::train::plan::MemoryPlan;
use crate::train::progress::Progress;
use crate::train::setup::{Setup, Start};
use crate::train::tensorboard::EventFile;
use crate::train::{Step, Trainer, schedule};

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

/// What is to be run, where.
pub struct Request {
    /// The resolved configuration.
    pub config: Config,
    /// The run's folder.
    pub run: PathBuf,
    /// Whether to go on with what stands there.
    pub resume: bool,
    /// The device.
    pub backend: Rc<dyn Backend>,
    /// Set from outside to save and stop after the current step.
    pub stop: Arc<AtomicBool>,
}

/// What a checkpoint says besides its buffers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Optimiser steps done; steps whose every pair was too long make no update.
    pub updates: u64,
    /// Tokens computed.
    pub tokens: u64,
    /// Tokens that shared prefixes saved.
    pub tokens_saved: u64,
    /// Pairs or documents left out because they do not fit a pack.
    pub over_long: u64,
    /// Pairs of which something was cut.
    pub cut: u64,
    /// Seconds spent in steps.
    pub seconds: f64,
}

/// Trains, evaluates and reports. `None` if it was stopped before the end, its state saved.
pub fn run(request: Request) -> Result<Option<Outcome>> {
    // What cannot be saved is refused before anything is written.
    let config = request.config.to_toml()?;
    let begun = is_begun(&request.run);
    refuse_foreign(&request, begun)?;
    let start_folder = request.run.join(START);
    let data = fingerprints(&request.config)?;
    if begun {
        refuse_changed_data(&start_folder, &data)?;
    }
    let setup = Setup::new(&request.config, start(&request.config, &request.run))?;
    // A run that goes on may have no checkpoint yet: then it begins with the weights that it was given or draws them again.
    let init = match begun {
        true => Some(start_folder.as_path()).filter(|folder| folder.join(weights::SINGLE).exists()),
        false => request.config.train.init.as_deref(),
    };
    let keep = plan(&setup, request.backend.as_ref())?.keep;
    let (model, notes) = setup.initial_model(request.backend.clone(), init)?;
    let lock = RunLock::acquire(&request.run)?;
    files::remove_leftovers(&request.run)?;
    if !begun && is_begun(&request.run) {
        let run = request.run.display();
        return Err(Error::user(format!("another process began a run in {run} meanwhile: give another --run")));
    }
    if !begun {
        begin(&request, &setup, &model, &data, &config)?;
    }
    let mut session = Session::open(&request, setup, model, keep, &lock)?;
    for note in session.setup.notes.iter().chain(&notes).cloned().collect::<Vec<_>>() {
        session.progress.note(&note);
    }
    if session.train()? { session.finish() } else { Ok(None) }
}

/// What the run takes of the device's memory, before it takes any.
fn plan(setup: &Setup, backend: &dyn Backend) -> Result<MemoryPlan> {
    setup.sizes().choose(&backend.footprint(), setup.config.train.keep, backend.free_memory()?)
}

/// Where tokenizer and architecture of a run come from: from its folder, once it has begun.
pub fn start(config: &Config, run: &Path) -> Start {
    match (is_begun(run), &config.train.init) {
        (true, _) => Start::From(run.join(START)),
        (false, Some(init)) => Start::From(init.clone()),
        (false, None) => Start::Fresh,
    }
}

/// A hash of every file of data, by name: a run goes on with the data that it began with.
fn fingerprints(config: &Config) -> Result<BTreeMap<String, String>> {
    let hash = |path: &PathBuf| {
        // A pipe could be read but once, and a run that goes on reads again.
        if path.metadata().is_ok_and(|found| !found.is_file()) {
            return Err(Error::user(format!("cannot read {}: it is no regular file; save it as one", path.display())));
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

/// Whether the folder holds a run: the configuration is written when all else that a beginning takes stands there.
pub fn is_begun(run: &Path) -> bool {
    run.join(CONFIG).is_file()
}

fn refuse_foreign(request: &Request, begun: bool) -> Result<()> {
    let run = request.run.display();
    if begun && !request.resume {
        return Err(Error::user(format!(
            "{run} already holds a run: add --resume to go on with it, or give another --run"
        )));
    }
    if begun {
        let path = request.run.join(CONFIG);
        let differences = request.config.differences(&Config::load(&path)?)?;
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
    if let Ok(entries) = std::fs::read_dir(&request.run) {
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

/// Writes what a resumed run reads: tokenizer, architecture, hashes of the data and weights that cannot be drawn again,
/// then, last, the configuration.
fn begin(request: &Request, setup: &Setup, model: &Model, data: &BTreeMap<String, String>, config: &str) -> Result<()> {
    let folder = request.run.join(START);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(|e| Error::io("remove", &folder, &e))?;
    }
    std::fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, &e))?;
    if let Some(tokenizer) = &setup.feeder.tokenizer {
        tokenizer.save(&folder)?;
    }
    setup.model_config.write(&folder)?;
    let data = serde_json::to_vec_pretty(data).map_err(|e| Error::machine(e.to_string()))?;
    files::write_atomic(&folder.join(DATA), &data)?;
    if request.config.train.init.is_some() {
        let mut source = |spec: &TensorSpec| model.get(model.master(), spec);
        let target = Target::safetensors(StorageDtype::F32, usize::MAX);
        weights::write(&folder, model.config(), model.outputs(), target, &mut source)?;
    }
    files::write_atomic(&request.run.join(CONFIG), config.as_bytes())
}

/// A run in progress.
struct Session<'a> {
    run: &'a Path,
    stop: &'a AtomicBool,
    setup: Setup,
    trainer: Trainer,
    checkpoints: Checkpoints,
    metrics: MetricsLog,
    events: EventFile,
    progress: Progress,
    totals: Totals,
    /// Steps done.
    step: u64,
    /// FLOP/s that matrix products reach on this machine.
    peak: f64,
}

impl<'a> Session<'a> {
    fn open(request: &'a Request, setup: Setup, model: Model, keep: Keep, lock: &RunLock) -> Result<Self> {
        let config = &request.config;
        let mut trainer = Trainer::new(
            Rc::new(model),
            &config.objective,
            &config.optimizer,
            setup.feeder.capacity,
            2 * config.train.batch_size,
            keep,
        )?;
        let checkpoints = Checkpoints::open(lock, config.train.keep_checkpoints)?;
        let latest = checkpoints.latest()?;
        let (step, totals) = match &latest.checkpoint {
            Some(checkpoint) => (checkpoint.step, restore(checkpoint, &mut trainer)?),
            None => (0, Totals::default()),
        };
        let peak = request.backend.measure_peak()?;
        let progress = Progress::new(setup.steps, step, &format!("{} on {}", describe(&setup), request.backend.name()));
        latest.warnings.iter().for_each(|warning| progress.note(&format!("warning: {warning}")));
        if step > 0 {
            progress.note(&format!("going on after step {step}"));
        }
        Ok(Self {
            run: &request.run,
            stop: &request.stop,
            metrics: MetricsLog::open(&request.run, step)?,
            events: EventFile::create(&request.run.join(TENSORBOARD), step)?,
            setup,
            trainer,
            checkpoints,
            progress,
            totals,
            step,
            peak,
        })
    }

    /// Trains to the end, or until told to stop; says whether it reached the end. The state is saved either way.
    fn train(&mut self) -> Result<bool> {
        let every = self.setup.config.train.checkpoint_every as u64;
        let mut feed = self.setup.feeder.clone().spawn(self.step, self.setup.steps)?;
        let mut scores = Vec::new();
        let mut saved = self.step;
        while self.step < self.setup.steps && !self.stop.load(Ordering::Relaxed) {
            let batch = feed.next_batch()?;
            self.one_step(&batch, &mut scores)?;
            if every > 0 && self.step.is_multiple_of(every) {
                self.save()?;
                saved = self.step;
            }
        }
        if saved != self.step {
            self.save()?;
        }
        let ended = self.step >= self.setup.steps;
        self.progress.finish();
        if !ended {
            self.progress.note(&format!(
                "stopped and saved after step {} of {}: go on with --run {} --resume",
                self.step,
                self.setup.steps,
                self.run.display()
            ));
        }
        Ok(ended)
    }

    fn one_step(&mut self, batch: &Batch, scores: &mut Vec<f32>) -> Result<()> {
        let config = &self.setup.config;
        let started = Instant::now();
        self.totals.over_long += batch.over_long as u64;
        self.totals.cut += batch.cut as u64;
        let lr = schedule::lr(&config.schedule, config.optimizer.lr, self.step as usize, self.setup.steps as usize);
        self.step += 1;
        // Every example of the step was too long for a pack: there is nothing to learn from.
        if batch.packs.is_empty() {
            return Ok(());
        }
        let place = |e: Error| e.context(format!("{}: at step {}", self.run.display(), self.step));
        let step = self.trainer.step(&batch.packs, lr, scores).map_err(place)?;
        let seconds = started.elapsed().as_secs_f64();
        self.totals.updates = self.trainer.updates();
        self.totals.tokens += batch.tokens() as u64;
        self.totals.tokens_saved += batch.tokens_saved() as u64;
        self.totals.seconds += seconds;
        let flops: f64 = batch.packs.iter().map(|pack| self.trainer.model().training_flops(pack)).sum();
        let metrics = step_metrics(self.step, &step, batch, scores, lr, seconds, flops / self.peak);
        self.metrics.append(&metrics)?;
        self.events.append(&metrics)?;
        self.progress.step(&metrics);
        Ok(())
    }

    fn save(&self) -> Result<()> {
        self.trainer.check_state().map_err(|e| e.context(self.run.display()))?;
        let backend = self.trainer.model().backend();
        let [m, v] = self.trainer.moments();
        let read = |t: &Tensor| backend.read_f32(t);
        let (params, m, v) = (read(self.trainer.model().master())?, read(m)?, read(v)?);
        self.checkpoints.save(self.step, &[("params", &params), ("m", &m), ("v", &v)], &self.totals)
    }

    fn finish(self) -> Result<Option<Outcome>> {
        let Self { run, stop, setup, trainer, totals, peak, progress, .. } = self;
        let outcome = finish::finish(run, setup, trainer, &totals, peak, stop)?;
        if outcome.is_none() {
            progress
                .note(&format!("stopped before the report was written: go on with --run {} --resume", run.display()));
        }
        Ok(outcome)
    }
}

fn restore(checkpoint: &Checkpoint, trainer: &mut Trainer) -> Result<Totals> {
    let backend = trainer.model().backend().clone();
    let mut values = vec![0.0f32; trainer.model().params().len()];
    checkpoint.read("params", &mut values)?;
    trainer.model().set_all(&values)?;
    let [m, v] = trainer.moments();
    for (name, tensor) in [("m", m), ("v", v)] {
        checkpoint.read(name, &mut values)?;
        backend.write_f32(tensor, &values)?;
    }
    let totals: Totals = serde_json::from_value(checkpoint.state.clone())
        .map_err(|e| Error::machine(format!("the state of the checkpoint at step {}: {e}", checkpoint.step)))?;
    trainer.resume_at(totals.updates);
    Ok(totals)
}

/// What a step is, and of what.
fn describe(setup: &Setup) -> String {
    let config: &ModelConfig = &setup.model_config;
    format!(
        "{} examples: {:.2}M parameters ({} layers of {}, {} ids)",
        setup.config.train.batch_size,
        config.parameters(setup.outputs) as f64 / 1e6,
        config.num_hidden_layers,
        config.hidden_size,
        config.vocab_size,
    )
}

fn step_metrics(
    number: u64,
    step: &Step,
    batch: &Batch,
    scores: &[f32],
    lr: f64,
    seconds: f64,
    seconds_at_peak: f64,
) -> StepMetrics {
    let tokens = batch.tokens() as u64;
    StepMetrics {
        step: number,
        loss: step.loss,
        scores: (!scores.is_empty()).then(|| score_stats(batch, scores)),
        lm_loss: step.lm_loss,
        grad_norm: step.grad_norm,
        lr,
        tokens,
        tokens_saved: batch.tokens_saved() as u64,
        pairs: batch.pairs() as u64,
        seconds,
        tokens_per_s: tokens as f64 / seconds,
        peak_share: seconds_at_peak / seconds,
    }
}

/// Statistics of the scores of a step, whose packs' candidates follow each other.
fn score_stats(batch: &Batch, scores: &[f32]) -> ScoreStats {
    let mut first = 0;
    let mut stats = ScoreStats { min_reward: f64::INFINITY, max_reward: f64::NEG_INFINITY, ..ScoreStats::default() };
    for pack in &batch.packs {
        for &[chosen, rejected] in &pack.pairs {
            let margin = f64::from(scores[first + chosen as usize]) - f64::from(scores[first + rejected as usize]);
            stats.accuracy += f64::from(u8::from(margin > 0.0));
            stats.margin += margin;
        }
        first += pack.candidates();
    }
    for &score in scores {
        let score = f64::from(score);
        stats.mean_reward += score;
        stats.min_reward = stats.min_reward.min(score);
        stats.max_reward = stats.max_reward.max(score);
    }
    let pairs = batch.pairs().max(1) as f64;
    stats.accuracy /= pairs;
    stats.margin /= pairs;
    stats.mean_reward /= scores.len().max(1) as f64;
    stats
}
