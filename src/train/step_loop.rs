//! The loop of training: from step to step to the end, or until told to stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::error::{Error, Result};
use crate::model::ModelConfig;
use crate::objective::ScoreStats;
use crate::train::feed::Batch;
use crate::train::finish::{self, Outcome};
use crate::train::metrics::StepMetrics;
use crate::train::progress::Progress;
use crate::train::rate::{Ceiling, Share};
use crate::train::run_folder::{Records, RunFolder};
use crate::train::setup::Setup;
use crate::train::totals::Totals;
use crate::train::{Step, Trainer, schedule};

/// A run in progress.
pub struct StepLoop<'a> {
    folder: RunFolder,
    records: Records,
    stop: &'a AtomicBool,
    setup: Setup,
    trainer: Trainer,
    progress: Progress,
    totals: Totals,
    /// Steps done.
    step: u64,
    /// What the rate of steps is compared with.
    ceiling: Ceiling,
}

impl<'a> StepLoop<'a> {
    /// Goes on where the folder's newest checkpoint is, or begins.
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub fn open(folder: RunFolder, setup: Setup, mut trainer: Trainer, stop: &'a AtomicBool) -> Result<Self> {
        let (step, totals, warnings) = folder.restore(&mut trainer)?;
        let backend = trainer.model().backend().clone();
        let ceiling = Ceiling::of(&*backend)?;
        let what = format!("{} on {}", describe(&setup), backend.name());
        let progress = Progress::new(setup.steps, step, &what, ceiling);
        warnings.iter().for_each(|warning| progress.note(&format!("warning: {warning}")));
        if step > 0 {
            progress.note(&format!("going on after step {step}"));
        }
        folder.changes_after(step).iter().for_each(|change| progress.note(&format!("changed: {change}")));
        let records = folder.records(step)?;
        Ok(Self { folder, records, stop, setup, trainer, progress, totals, step, ceiling })
    }

    /// Shows a line beside the progress.
    pub fn note(&self, text: &str) {
        self.progress.note(text);
    }

    /// Trains to the end, or until told to stop; says whether it reached the end. The state is saved either way.
    ///
    /// # Errors
    /// What a step or a checkpoint reports.
    pub fn train(&mut self) -> Result<bool> {
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
                self.folder.path().display()
            ));
        }
        Ok(ended)
    }

    fn one_step(&mut self, batch: &Batch, scores: &mut Vec<f32>) -> Result<()> {
        let config = &self.setup.config;
        let started = Instant::now();
        self.totals.over_long += batch.over_long as u64;
        self.totals.cut += batch.cut as u64;
        self.totals.identical.add_all(batch.identical);
        let lr = schedule::lr(&config.schedule, config.optimizer.lr, self.step as usize, self.setup.steps as usize);
        self.step += 1;
        // Every example of the step was too long for a pack, or had no difference: there is nothing to learn from.
        if batch.packs.is_empty() {
            return Ok(());
        }
        let place = |e: Error| e.context(format!("{}: at step {}", self.folder.path().display(), self.step));
        let step = self.trainer.step(&batch.packs, lr, scores).map_err(place)?;
        let seconds = started.elapsed().as_secs_f64();
        self.totals.updates = self.trainer.updates();
        self.totals.tokens += batch.tokens() as u64;
        self.totals.tokens_saved += batch.tokens_saved() as u64;
        self.totals.seconds += seconds;
        let flops: f64 = batch.packs.iter().map(|pack| self.trainer.model().training_flops(pack)).sum();
        let share = self.ceiling.share(flops, seconds);
        let stats = self.trainer.score_stats(&batch.packs, scores);
        let changed = self.folder.changes_after(self.step - 1);
        let metrics = StepMetrics { changed, ..step_metrics(self.step, &step, batch, stats, lr, seconds, share) };
        self.records.append(&metrics)?;
        self.progress.step(&metrics);
        Ok(())
    }

    fn save(&self) -> Result<()> {
        self.folder.save(self.step, &self.trainer, &self.totals)
    }

    /// Saves, evaluates and reports the model; `None` if it was told to stop before the report was written.
    ///
    /// # Errors
    /// What the evaluation or the disk reports.
    pub fn finish(self) -> Result<Option<Outcome>> {
        let Self { folder, stop, setup, trainer, totals, ceiling, progress, .. } = self;
        let run = folder.path();
        let outcome = finish::finish(run, setup, trainer, &totals, ceiling, stop)?;
        if outcome.is_none() {
            progress
                .note(&format!("stopped before the report was written: go on with --run {} --resume", run.display()));
        }
        Ok(outcome)
    }
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
    scores: Option<ScoreStats>,
    lr: f64,
    seconds: f64,
    share: Share,
) -> StepMetrics {
    let tokens = batch.tokens() as u64;
    StepMetrics {
        step: number,
        loss: step.loss,
        scores,
        lm_loss: step.lm_loss,
        grad_norm: step.grad_norm,
        lr,
        tokens,
        tokens_saved: batch.tokens_saved() as u64,
        pairs: batch.pairs() as u64,
        seconds,
        tokens_per_s: tokens as f64 / seconds,
        changed: Vec::new(),
        share,
    }
}
