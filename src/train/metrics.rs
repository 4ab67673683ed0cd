//! What is known of each step, and `metrics.jsonl`, its record.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::objective::ScoreStats;
use crate::train::rate::Share;
use crate::train::step_log::StepLine;

/// One optimiser step, as it stands in `metrics.jsonl`, in TensorBoard, on the terminal and in the report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Finished steps, this one included: the first has 1.
    pub step: u64,
    /// Whether no example of the step could be learnt from: figures of training are zero then and mean nothing, and there is
    /// a line only for an evaluation or a change.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty: bool,
    /// What was minimised, averaged over the step.
    pub loss: f64,
    /// Statistics of the scores; none when the objective is language modelling alone.
    #[serde(flatten)]
    pub scores: Option<ScoreStats>,
    /// The next-token loss in nats a token, where it is part of the objective.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lm_loss: Option<f64>,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// Tokens computed.
    pub tokens: u64,
    /// Tokens that sharing prefixes saved.
    pub tokens_saved: u64,
    /// Pairs compared.
    pub pairs: u64,
    /// Duration of the step.
    pub seconds: f64,
    /// Tokens computed a second.
    pub tokens_per_s: f64,
    /// What `--resume --set` changed before this step, each `section.key = value, was value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
    /// Floating-point operations a second as a share of what the device can reach.
    #[serde(flatten)]
    pub share: Share,
    /// What an evaluation after the step found, where there was one.
    #[serde(flatten)]
    pub evaluation: Option<EvalMetrics>,
    /// Why the run ends with this step before its last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
}

/// What an evaluation while training found on its part of the held-out data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EvalMetrics {
    /// The mean of `-log sigmoid(chosen - rejected)` over the pairs; for language modelling the mean next-token loss, in
    /// nats a token.
    #[serde(rename = "eval_loss")]
    pub loss: f64,
    /// Share of the pairs with the chosen one strictly above the rejected one; none for language modelling.
    #[serde(rename = "eval_accuracy", default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Mean of chosen minus rejected score.
    #[serde(rename = "eval_margin", default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// Pairs, or documents.
    #[serde(rename = "eval_pairs")]
    pub pairs: u64,
    /// Its duration.
    #[serde(rename = "eval_seconds")]
    pub seconds: f64,
    /// Whether no evaluation before had as low a loss.
    #[serde(rename = "eval_best")]
    pub best: bool,
    /// Whether none before compares with it.
    #[serde(rename = "eval_first", default, skip_serializing_if = "std::ops::Not::not")]
    pub first: bool,
}

impl StepMetrics {
    /// The curves of this step under the tags of torchtitan (training) and TRL (scores).
    pub fn scalars(&self) -> Vec<(&'static str, f64)> {
        let mut scalars = Vec::new();
        if !self.empty {
            scalars.extend(self.training_scalars());
        }
        if let Some(evaluation) = &self.evaluation {
            scalars.push(("eval/loss", evaluation.loss));
            scalars.extend(evaluation.accuracy.map(|accuracy| ("eval/accuracy", accuracy)));
            scalars.extend(evaluation.margin.map(|margin| ("eval/margin", margin)));
        }
        scalars
    }

    fn training_scalars(&self) -> Vec<(&'static str, f64)> {
        let mut scalars = vec![
            ("loss_metrics/global_avg_loss", self.loss),
            ("grad_norm", self.grad_norm),
            ("lr", self.lr),
            ("throughput(tps)", self.tokens_per_s),
            (self.share.tag(), 100.0 * self.share.value()),
            ("time_metrics/end_to_end(s)", self.seconds),
        ];
        if let Some(scores) = &self.scores {
            scalars.extend([
                ("accuracy", scores.accuracy),
                ("margin", scores.margin),
                ("mean_reward", scores.mean_reward),
                ("min_reward", scores.min_reward),
                ("max_reward", scores.max_reward),
            ]);
        }
        scalars.extend(self.lm_loss.map(|loss| ("lm_loss", loss)));
        scalars
    }
}

impl StepLine for StepMetrics {
    const FILE: &str = "metrics.jsonl";

    fn step(&self) -> u64 {
        self.step
    }

    fn check(&self) -> Result<()> {
        match self.scalars().into_iter().find(|(_, value)| !value.is_finite()) {
            Some((tag, value)) => Err(Error::machine(format!("step {}: {tag} is {value}", self.step))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::train::step_log::{StepLog, read};

    const FILE: &str = StepMetrics::FILE;
    type MetricsLog = StepLog<StepMetrics>;

    fn metrics(step: u64) -> StepMetrics {
        let scores = ScoreStats { accuracy: 0.5, margin: 0.1, mean_reward: -1.0, min_reward: -2.0, max_reward: 3.0 };
        let evaluation = EvalMetrics { loss: 0.1 + 0.2, accuracy: (step > 3).then_some(0.75), ..Default::default() };
        StepMetrics {
            step,
            loss: 0.7,
            scores: step.is_multiple_of(2).then_some(scores),
            evaluation: step.is_multiple_of(3).then_some(evaluation),
            seconds: 0.25,
            ..Default::default()
        }
    }

    fn steps(run: &Path) -> Vec<u64> {
        read::<StepMetrics>(run).unwrap().iter().map(|m| m.step).collect()
    }

    #[test]
    fn what_is_written_reads_back() {
        let run = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::open(run.path(), 0).unwrap();
        let all: Vec<_> = (1..=6).map(metrics).collect();
        all.iter().for_each(|m| log.append(m).unwrap());
        assert_eq!(read::<StepMetrics>(run.path()).unwrap(), all);
        let text = fs::read_to_string(run.path().join(FILE)).unwrap();
        assert!(text.lines().nth(1).unwrap().starts_with(r#"{"step":2,"loss":0.7,"accuracy":0.5,"#), "{text}");
    }

    #[test]
    fn resuming_drops_what_lies_beyond_and_what_is_torn() {
        let run = tempfile::tempdir().unwrap();
        let path = run.path().join(FILE);
        let mut log = MetricsLog::open(run.path(), 0).unwrap();
        (1..=5).for_each(|step| log.append(&metrics(step)).unwrap());
        drop(log);
        let whole = fs::read(&path).unwrap();
        for cut in (0..=whole.len()).step_by(11) {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut log = MetricsLog::open(run.path(), 3).unwrap();
            let kept = steps(run.path());
            assert!(kept.len() <= 3 && kept.iter().copied().eq(1..=kept.len() as u64), "{kept:?}");
            log.append(&metrics(4)).unwrap();
            assert_eq!(steps(run.path()).last(), Some(&4));
            assert_eq!(steps(run.path()).len(), kept.len() + 1);
        }
        fs::write(&path, whole).unwrap();
        MetricsLog::open(run.path(), 3).unwrap();
        assert_eq!(steps(run.path()), [1, 2, 3]);
        MetricsLog::open(run.path(), 0).unwrap();
        assert!(steps(run.path()).is_empty());
    }

    #[test]
    fn a_damaged_line_is_refused_before_the_first_step() {
        let run = tempfile::tempdir().unwrap();
        let path = run.path().join(FILE);
        let mut log = MetricsLog::open(run.path(), 0).unwrap();
        (1..=5).for_each(|step| log.append(&metrics(step)).unwrap());
        let text = fs::read_to_string(&path).unwrap();
        // The number of the step can still be read, and the report would not.
        fs::write(&path, text.replacen("{\"step\":3,\"loss\":0.7", "{\"step\":3,\"loss\":\"x\"", 1)).unwrap();
        let damaged = fs::read(&path).unwrap();
        let error = MetricsLog::open(run.path(), 4).unwrap_err().to_string();
        assert!(error.contains("metrics.jsonl: line 3: ") && error.contains("remove it"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), damaged);
        // Beyond the step it is dropped with what follows.
        MetricsLog::open(run.path(), 2).unwrap();
        assert_eq!(steps(run.path()), [1, 2]);
    }

    #[test]
    fn figures_that_are_no_numbers_are_refused() {
        let run = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::open(run.path(), 0).unwrap();
        let error = log.append(&StepMetrics { grad_norm: f64::NAN, ..metrics(1) }).unwrap_err();
        assert_eq!(error.to_string(), "step 1: grad_norm is NaN");
        assert!(steps(run.path()).is_empty());
    }
}
