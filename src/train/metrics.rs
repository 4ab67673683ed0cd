//! What is known of each step, and `metrics.jsonl`, its record.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;
use crate::objective::ScoreStats;
use crate::train::rate::Share;

/// The file in a run's folder.
pub const FILE: &str = "metrics.jsonl";

/// One optimiser step, as it stands in `metrics.jsonl`, in TensorBoard, on the terminal and in the report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Finished steps, this one included: the first has 1.
    pub step: u64,
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
    /// Floating-point operations a second as a share of what the device can reach.
    #[serde(flatten)]
    pub share: Share,
}

impl StepMetrics {
    /// The curves of this step under the tags of torchtitan (training) and TRL (scores).
    pub fn scalars(&self) -> Vec<(&'static str, f64)> {
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

/// Appends to `metrics.jsonl`, one line a step.
#[derive(Debug)]
pub struct MetricsLog {
    file: fs::File,
    path: PathBuf,
}

impl MetricsLog {
    /// Opens the log in the folder `run` for the step after `step`: what an earlier process wrote beyond `step`, and a
    /// line that it left unfinished, are dropped.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(run: &Path, step: u64) -> Result<Self> {
        let path = run.join(FILE);
        let before = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(Error::io("read", &path, &e)),
        };
        let kept = up_to(&before, step);
        if kept != before {
            files::write_atomic(&path, &kept)?;
        }
        let file =
            OpenOptions::new().append(true).create(true).open(&path).map_err(|e| Error::io("write", &path, &e))?;
        Ok(Self { file, path })
    }

    /// Appends a step. The line is in the file when this returns.
    ///
    /// # Errors
    /// When a figure is not a finite number, which JSON cannot hold, or the disk is full.
    pub fn append(&mut self, metrics: &StepMetrics) -> Result<()> {
        if let Some((tag, value)) = metrics.scalars().into_iter().find(|(_, value)| !value.is_finite()) {
            return Err(Error::machine(format!("step {}: {tag} is {value}", metrics.step)));
        }
        let mut line = serde_json::to_vec(metrics).map_err(|e| Error::machine(e.to_string()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(|e| Error::io("write", &self.path, &e))
    }
}

/// Reads the `metrics.jsonl` at `path`.
///
/// # Errors
/// Names the line that is malformed.
pub fn read(path: &Path) -> Result<Vec<StepMetrics>> {
    let text = files::read_text(path, u64::MAX)?;
    let parse = |(index, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| Error::user(format!("{}:{}: {e}", path.display(), index + 1)))
    };
    text.lines().enumerate().map(parse).collect()
}

/// The lines of `log` that are whole, in order and not beyond `step`.
fn up_to(log: &[u8], step: u64) -> Vec<u8> {
    #[derive(Deserialize)]
    struct Line {
        step: u64,
    }
    let mut kept = Vec::with_capacity(log.len());
    let mut last = 0;
    for line in log.split(|&b| b == b'\n') {
        if let Ok(Line { step: of_line }) = serde_json::from_slice(line)
            && (last + 1..=step).contains(&of_line)
        {
            last = of_line;
            kept.extend_from_slice(line);
            kept.push(b'\n');
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(step: u64) -> StepMetrics {
        let scores = ScoreStats { accuracy: 0.5, margin: 0.1, mean_reward: -1.0, min_reward: -2.0, max_reward: 3.0 };
        StepMetrics {
            step,
            loss: 0.7,
            scores: step.is_multiple_of(2).then_some(scores),
            seconds: 0.25,
            ..Default::default()
        }
    }

    fn steps(run: &Path) -> Vec<u64> {
        read(&run.join(FILE)).unwrap().iter().map(|m| m.step).collect()
    }

    #[test]
    fn what_is_written_reads_back() {
        let run = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::open(run.path(), 0).unwrap();
        let all: Vec<_> = (1..=4).map(metrics).collect();
        all.iter().for_each(|m| log.append(m).unwrap());
        assert_eq!(read(&run.path().join(FILE)).unwrap(), all);
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
    fn figures_that_are_no_numbers_are_refused() {
        let run = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::open(run.path(), 0).unwrap();
        let error = log.append(&StepMetrics { grad_norm: f64::NAN, ..metrics(1) }).unwrap_err();
        assert_eq!(error.to_string(), "step 1: grad_norm is NaN");
        assert!(steps(run.path()).is_empty());
    }
}
