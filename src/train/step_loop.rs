//! The loop of training: from step to step to the end, or until told to stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::error::{Error, Result};
use crate::eval::Example;
use crate::model::ModelConfig;
use crate::objective::ScoreStats;
use crate::train::evaluation::{HeldOut, is_due};
use crate::train::feed::Batch;
use crate::train::finish::{self, Outcome, Trained};
use crate::train::metrics::{EvalMetrics, StepMetrics};
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
        let (step, mut totals, warnings) = folder.restore(&mut trainer)?;
        let backend = trainer.model().backend().clone();
        let ceiling = Ceiling::of(&*backend)?;
        let what = format!("{} on {}", describe(&setup), backend.name());
        let mut progress = Progress::new(setup.steps, step, &what, ceiling);
        warnings.iter().for_each(|warning| progress.warn(warning));
        if step > 0 {
            progress.note(&format!("going on after step {step}"));
        }
        folder.changes_after(step).iter().for_each(|change| progress.note(&format!("changed: {change}")));
        if let Some(held_out) = &setup.held_out {
            // Without `train.keep_best` it takes no checkpoint to be the best one.
            let is_there = |best| !setup.config.train.keep_best || folder.has_checkpoint(best);
            let forgotten = totals.standing.go_on_with(held_out, is_there);
            forgotten.iter().for_each(|what| progress.note(what));
        }
        if let Some(last) = &totals.standing.last {
            progress.evaluated_before(last);
        }
        let with_examples = setup.held_out.as_ref().is_some_and(HeldOut::has_examples);
        let records = folder.records(step, with_examples)?;
        Ok(Self { folder, records, stop, setup, trainer, progress, totals, step, ceiling })
    }

    /// Shows a line beside the progress.
    pub fn note(&self, text: &str) {
        self.progress.note(text);
    }

    /// Warns beside the progress.
    pub fn warn(&self, text: &str) {
        self.progress.warn(text);
    }

    /// Trains to the end, be it the last step or that of `train.patience`, or until told to stop; says whether it reached
    /// the end. The state is saved either way.
    ///
    /// # Errors
    /// What a step or a checkpoint reports.
    pub fn train(&mut self) -> Result<bool> {
        let every = self.setup.config.train.checkpoint_every as u64;
        let mut feed = self.setup.feeder.clone().spawn(self.step, self.setup.steps)?;
        let mut scores = Vec::new();
        let mut saved = self.step;
        while !self.has_ended() && !self.stop.load(Ordering::Relaxed) {
            let batch = feed.next_batch()?;
            self.one_step(&batch, &mut scores)?;
            let best = self.best().is_some_and(|best| best == self.step);
            if best || every > 0 && self.step.is_multiple_of(every) {
                self.save()?;
                saved = self.step;
            }
        }
        if saved != self.step {
            self.save()?;
        }
        let ended = self.has_ended();
        self.progress.finish();
        if let Some(why) = self.ended_early() {
            self.progress.note(&format!(
                "ended after step {} of {}: {why}. To go on all the same: --run {} --resume --set train.patience=N",
                self.step,
                self.setup.steps,
                self.folder.path().display()
            ));
        }
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

    fn has_ended(&self) -> bool {
        self.step >= self.setup.steps || self.out_of_patience().is_some()
    }

    /// Why the run ends here, if `train.patience` says so.
    fn out_of_patience(&self) -> Option<String> {
        self.totals.standing.ends(self.setup.config.train.patience)
    }

    /// Why the run ends here, before its last step.
    fn ended_early(&self) -> Option<String> {
        self.out_of_patience().filter(|_| self.step < self.setup.steps)
    }

    /// The step of the best evaluation, if its weights are what the run ends with.
    fn best(&self) -> Option<u64> {
        self.totals.standing.best.filter(|_| self.setup.config.train.keep_best).map(|best| best.step)
    }

    /// Evaluates the model after the step at hand, if that is due: what was found, and scored examples.
    fn evaluate(&mut self) -> Result<Option<(EvalMetrics, Vec<Example>)>> {
        let due = is_due(self.setup.config.eval.every, self.step, self.setup.steps);
        let Some(held_out) = self.setup.held_out.as_ref().filter(|_| due) else { return Ok(None) };
        let (found, examples) = held_out.evaluate(&mut self.trainer)?;
        Ok(Some((self.totals.standing.count(self.step, &found), examples)))
    }

    fn one_step(&mut self, batch: &Batch, scores: &mut Vec<f32>) -> Result<()> {
        let config = &self.setup.config;
        let started = Instant::now();
        self.totals.over_long += batch.over_long as u64;
        self.totals.cut += batch.cut as u64;
        self.totals.identical.add_all(batch.identical);
        let lr = schedule::lr(&config.schedule, config.optimizer.lr, self.step as usize, self.setup.steps as usize);
        self.step += 1;
        let changed = self.folder.changes_after(self.step - 1);
        // Every example of the step was too long for a pack, or had no difference: there is nothing to learn from.
        if batch.packs.is_empty() {
            let metrics = StepMetrics { step: self.step, lr, empty: true, changed, ..StepMetrics::default() };
            return self.record(metrics);
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
        let metrics = step_metrics(self.step, &step, batch, stats, lr, seconds, share);
        self.record(StepMetrics { changed, ..metrics })
    }

    /// Evaluates, if that is due, and writes the line of the step: when all is known that belongs to it; a checkpoint comes
    /// after that. A step without examples has a line only where there is something else to say.
    fn record(&mut self, mut metrics: StepMetrics) -> Result<()> {
        let (evaluation, examples) = self.evaluate()?.unzip();
        metrics.evaluation = evaluation;
        metrics.ended = self.ended_early();
        if metrics.empty && metrics.changed.is_empty() && metrics.evaluation.is_none() {
            return Ok(());
        }
        self.records.append(&metrics, examples.unwrap_or_default())?;
        self.progress.step(&metrics);
        Ok(())
    }

    fn save(&mut self) -> Result<()> {
        self.folder.save(self.step, &self.trainer, &self.totals, self.setup.config.train.keep_best)
    }

    /// Saves, evaluates and reports the model; `None` if it was told to stop before the report was written.
    ///
    /// # Errors
    /// What the evaluation or the disk reports.
    pub fn finish(self) -> Result<Option<Outcome>> {
        let exported = self.best().unwrap_or(self.step);
        let ended = self.ended_early();
        let Self { folder, stop, setup, trainer, totals, step, ceiling, progress, .. } = self;
        if exported != step {
            folder.restore_best(&trainer, exported)?;
        }
        let run = folder.path();
        let trained = Trained { totals: &totals, step, exported, ended };
        let outcome = finish::finish(run, setup, trainer, &trained, ceiling, stop)?;
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
        share,
        ..StepMetrics::default()
    }
}
