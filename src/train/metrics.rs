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
    /// What `--resume --set` changed before this step, each `section.key = value, was value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
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
    /// When the file cannot be read or written; the user's, when a line up to `step` is malformed.
    pub fn open(run: &Path, step: u64) -> Result<Self> {
        let path = run.join(FILE);
        let (before, kept) = read_up_to(&path, step)?;
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

/// Checks that the log in the folder `run` can be read up to `step`, as its report will.
///
/// # Errors
/// As [`MetricsLog::open`].
pub fn check(run: &Path, step: u64) -> Result<()> {
    read_up_to(&run.join(FILE), step).map(drop)
}

/// The log at `path` as it is, and as it is to be for the step after `step`.
fn read_up_to(path: &Path, step: u64) -> Result<(Vec<u8>, Vec<u8>)> {
    let log = match path.symlink_metadata() {
        Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
        _ => files::read(path, u64::MAX)?,
    };
    let kept = up_to(&log, step).map_err(|e| e.context(path.display()))?;
    Ok((log, kept))
}

/// The lines of `log` that are in order and not beyond `step`. One without an end may be torn, and is dropped; what else
/// cannot be read would end the run at its report, and is refused.
fn up_to(log: &[u8], step: u64) -> Result<Vec<u8>> {
    let mut kept = Vec::with_capacity(log.len());
    let mut last = 0;
    for (index, line) in log.split_inclusive(|&b| b == b'\n').enumerate() {
        match serde_json::from_slice::<StepMetrics>(line) {
            Ok(metrics) if (last + 1..=step).contains(&metrics.step) => {
                last = metrics.step;
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
