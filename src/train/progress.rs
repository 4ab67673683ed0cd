//! How a run is going: a bar on a terminal, a line now and then where the output is piped.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use super::metrics::{EvalMetrics, StepMetrics};
use super::rate::{Ceiling, Share};
use crate::log;
use crate::objective::ScoreStats;

/// Steps that shown figures are means over.
const WINDOW: usize = 20;
/// Lines that a whole run prints, about.
const LINES: u64 = 20;
/// The columns of [`Figures::line`], with a place for the name of the share.
const COLUMNS: &str =
    "    step |    loss | next tok |   acc |  margin | grad norm |      lr |      ms | {share:>10} |   tok/s |    left";

/// Shows the steps of a run on the standard error.
pub struct Progress {
    steps: u64,
    from_step: u64,
    started: Instant,
    recent: VecDeque<StepMetrics>,
    /// What the last evaluation found.
    evaluation: Option<EvalMetrics>,
    display: Display,
}

enum Display {
    Bar(ProgressBar),
    Lines { every: u64, header_printed: bool },
}

impl Progress {
    /// For a run of `steps` steps, of which `from_step` are done; `batch_note` says what a step is, `ceiling` what rates
    /// are compared with. A bar if the standard error is a terminal, lines otherwise.
    pub fn new(steps: u64, from_step: u64, batch_note: &str, ceiling: Ceiling) -> Self {
        let display = if log::draws_progress() {
            Display::Bar(bar(steps, from_step))
        } else {
            Display::Lines { every: steps.div_ceil(LINES).max(1), header_printed: false }
        };
        let recent = VecDeque::new();
        let progress = Self { steps, from_step, started: Instant::now(), recent, evaluation: None, display };
        progress.note(&format!("{steps} steps of {batch_note}"));
        let (name, of) = match ceiling {
            Ceiling::Published(_) => ("mfu", "the card's published dense peak"),
            Ceiling::Measured(_) => ("rate share", "the highest rate measured on this machine"),
        };
        progress.note(&format!("means over the last {WINDOW} steps; {name}: FLOP/s over {of}"));
        progress
    }

    /// Goes on showing what the last evaluation found before the run was interrupted.
    pub fn evaluated_before(&mut self, evaluation: &EvalMetrics) {
        self.evaluation = Some(*evaluation);
    }

    /// Shows a finished step.
    pub fn step(&mut self, metrics: &StepMetrics) {
        // One without examples has no figures.
        if !metrics.empty {
            if self.recent.len() == WINDOW {
                self.recent.pop_front();
            }
            self.recent.push_back(metrics.clone());
        }
        self.evaluation = metrics.evaluation.or(self.evaluation);
        let figures = Figures::of(&self.recent, self.left(metrics.step));
        match &mut self.display {
            Display::Bar(bar) => {
                bar.set_position(metrics.step);
                bar.set_prefix(prefix(self.evaluation.as_ref(), &figures.left()));
                bar.set_message(figures.message());
            }
            Display::Lines { every, header_printed } => {
                let first_or_last = metrics.step == self.from_step + 1 || metrics.step == self.steps;
                if !metrics.empty && (first_or_last || metrics.step.is_multiple_of(*every)) {
                    if !std::mem::replace(header_printed, true) {
                        tracing::info!("{}", figures.columns());
                    }
                    let Figures { step, loss, grad_norm, lr, tokens_per_s, .. } = figures;
                    let accuracy = figures.scores.as_ref().map(|scores| scores.accuracy);
                    tracing::info!(step, loss, accuracy, grad_norm, lr, tokens_per_s, "{}", figures.line());
                }
                if let Some(evaluation) = &metrics.evaluation {
                    let (step, held_out_loss, held_out_accuracy) = (metrics.step, evaluation.loss, evaluation.accuracy);
                    tracing::info!(step, held_out_loss, held_out_accuracy, "{}", said(step, evaluation));
                }
            }
        }
    }

    /// Shows a line above the bar, or among the lines; below the bar once that is finished.
    pub fn note(&self, text: &str) {
        match &self.display {
            Display::Bar(bar) if !bar.is_finished() => bar.suspend(|| tracing::info!("{text}")),
            Display::Bar(_) | Display::Lines { .. } => tracing::info!("{text}"),
        }
    }

    /// Warns above the bar, or among the lines.
    pub fn warn(&self, text: &str) {
        match &self.display {
            Display::Bar(bar) if !bar.is_finished() => bar.suspend(|| tracing::warn!("{text}")),
            Display::Bar(_) | Display::Lines { .. } => tracing::warn!("{text}"),
        }
    }

    /// Leaves the bar as it is.
    pub fn finish(&self) {
        if let Display::Bar(bar) = &self.display {
            bar.abandon();
        }
    }

    /// The time that the remaining steps take at the pace so far, checkpoints and waiting included.
    fn left(&self, step: u64) -> Duration {
        let done = step.saturating_sub(self.from_step).max(1);
        self.started.elapsed().div_f64(done as f64).mul_f64(self.steps.saturating_sub(step) as f64)
    }
}

/// What is shown of the last steps.
struct Figures {
    step: u64,
    loss: f64,
    lm_loss: Option<f64>,
    scores: Option<ScoreStats>,
    grad_norm: f64,
    /// Of the last step.
    lr: f64,
    seconds: f64,
    share: Share,
    tokens_per_s: f64,
    left: Duration,
}

impl Figures {
    /// Means over `recent`, in which the last step comes last.
    fn of(recent: &VecDeque<StepMetrics>, left: Duration) -> Self {
        let n = recent.len().max(1) as f64;
        let mean = |figure: fn(&StepMetrics) -> f64| recent.iter().map(figure).sum::<f64>() / n;
        let scored: Vec<&ScoreStats> = recent.iter().filter_map(|m| m.scores.as_ref()).collect();
        let of_scores =
            |figure: fn(&ScoreStats) -> f64| scored.iter().map(|s| figure(s)).sum::<f64>() / scored.len() as f64;
        let last = recent.back().cloned().unwrap_or_default();
        Self {
            step: last.step,
            loss: mean(|m| m.loss),
            lm_loss: last.lm_loss.map(|_| mean(|m| m.lm_loss.unwrap_or(0.0))),
            scores: last.scores.map(|scores| ScoreStats {
                accuracy: of_scores(|s| s.accuracy),
                margin: of_scores(|s| s.margin),
                ..scores
            }),
            grad_norm: mean(|m| m.grad_norm),
            lr: last.lr,
            seconds: mean(|m| m.seconds),
            share: match last.share {
                Share::Mfu(_) => Share::Mfu(mean(|m| m.share.value())),
                Share::RateShare(_) => Share::RateShare(mean(|m| m.share.value())),
            },
            tokens_per_s: mean(|m| m.tokens_per_s),
            left,
        }
    }

    /// The names above [`Figures::line`].
    fn columns(&self) -> String {
        COLUMNS.replace("{share:>10}", &format!("{:>10}", self.share_name()))
    }

    /// The figures under [`Figures::columns`].
    fn line(&self) -> String {
        let (accuracy, margin) = match &self.scores {
            Some(scores) => (format!("{:.3}", scores.accuracy), format!("{:+.3}", scores.margin)),
            None => ("-".into(), "-".into()),
        };
        let next = self.lm_loss.map_or("-".into(), |loss| format!("{loss:.4}"));
        format!(
            "{:>8} | {:>7.4} | {next:>8} | {accuracy:>5} | {margin:>7} | {:>9.3} | {:>7.1e} | {:>7.0} | {:>8.1} % | {:>7.0} | {:>7}",
            self.step,
            self.loss,
            self.grad_norm,
            self.lr,
            1e3 * self.seconds,
            100.0 * self.share.value(),
            self.tokens_per_s,
            self.left(),
        )
    }

    /// The figures under the bar.
    fn message(&self) -> String {
        let scores = self.scores.as_ref().map_or(String::new(), |s| format!("  acc {:.3}", s.accuracy));
        let next = self.lm_loss.map_or(String::new(), |loss| format!(" (next token {loss:.4})"));
        format!(
            "loss {:.4}{next}{scores}  grad norm {:.3}  lr {:.1e}  {:.0} tok/s  {} {:.0} %",
            self.loss,
            self.grad_norm,
            self.lr,
            self.tokens_per_s,
            self.share_name(),
            100.0 * self.share.value(),
        )
    }

    /// What the share is of, as a column's name.
    fn share_name(&self) -> &'static str {
        match self.share {
            Share::Mfu(_) => "mfu",
            Share::RateShare(_) => "rate share",
        }
    }

    /// The time left: `1:04:09` or `4:09`.
    fn left(&self) -> String {
        let seconds = self.left.as_secs_f64().round() as u64;
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
    }
}

/// What stands between the bar and the word `left`.
fn prefix(evaluation: Option<&EvalMetrics>, left: &str) -> String {
    let Some(found) = evaluation else { return left.to_string() };
    let accuracy = found.accuracy.map_or(String::new(), |accuracy| format!(" acc {accuracy:.3}"));
    format!("held out {:.4}{accuracy}  {left}", found.loss)
}

/// A line of its own on what an evaluation found.
fn said(step: u64, found: &EvalMetrics) -> String {
    let accuracy = found.accuracy.map_or(String::new(), |accuracy| format!(", accuracy {accuracy:.3}"));
    let best = if found.best { ", the lowest so far" } else { "" };
    format!("{step:>8} | held out: loss {:.4}{best}{accuracy}; {:.1} s", found.loss, found.seconds)
}

/// Two lines: the bar, and the figures as far as they fit the terminal.
fn bar(steps: u64, from_step: u64) -> ProgressBar {
    let bar = ProgressBar::new(steps).with_position(from_step).with_finish(ProgressFinish::Abandon);
    match ProgressStyle::with_template("{wide_bar} {pos}/{len}  {prefix} left\n{wide_msg}") {
        Ok(style) => bar.with_style(style).with_prefix("?"),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;

    fn metrics(step: u64, scored: bool) -> StepMetrics {
        let scores = ScoreStats { accuracy: step as f64 / 100.0, margin: -0.25, ..Default::default() };
        StepMetrics {
            step,
            loss: step as f64,
            scores: scored.then_some(scores),
            lm_loss: scored.then_some(0.5 * step as f64),
            grad_norm: 1.5,
            lr: 2e-3,
            seconds: 0.125,
            tokens_per_s: 12_345.6,
            share: Share::RateShare(0.614),
            ..Default::default()
        }
    }

    fn progress(steps: u64) -> Progress {
        let display = Display::Lines { every: 1, header_printed: true };
        Progress { steps, from_step: 0, started: Instant::now(), recent: VecDeque::new(), evaluation: None, display }
    }

    fn bars(line: &str) -> Vec<usize> {
        line.match_indices('|').map(|(at, _)| at).collect()
    }

    #[test]
    fn lines_stand_under_their_columns() {
        let left = Duration::from_secs(3849);
        for scored in [true, false] {
            for share in [Share::Mfu(0.32), Share::RateShare(0.614)] {
                let figures = Figures::of(&VecDeque::from([StepMetrics { share, ..metrics(7, scored) }]), left);
                let (columns, line) = (figures.columns(), figures.line());
                assert_eq!(bars(&line), bars(&columns), "\n{columns}\n{line}");
                assert_eq!(columns.contains(" mfu |"), matches!(share, Share::Mfu(_)), "{columns}");
            }
            let line = Figures::of(&VecDeque::from([metrics(7, scored)]), left).line();
            assert!(line.ends_with("1:04:09"), "{line}");
        }
        let line = Figures::of(&VecDeque::from([metrics(7, true)]), Duration::from_secs(249)).line();
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        assert_eq!(
            cells,
            ["7", "7.0000", "3.5000", "0.070", "-0.250", "1.500", "2.0e-3", "125", "61.4 %", "12346", "4:09"],
            "{line}"
        );
    }

    #[test]
    fn figures_are_means_over_the_last_steps() {
        let mut progress = progress(100);
        (1..=30).for_each(|step| progress.step(&metrics(step, true)));
        let figures = Figures::of(&progress.recent, Duration::ZERO);
        assert_eq!((figures.step, figures.loss), (30, 20.5));
        assert_abs_diff_eq!(figures.scores.unwrap().accuracy, 0.205, epsilon = 1e-12);
    }

    #[test]
    fn language_modelling_shows_the_loss_alone() {
        let message = Figures::of(&VecDeque::from([metrics(1, false)]), Duration::ZERO).message();
        assert!(message.starts_with("loss 1.0000  grad norm"), "{message}");
    }

    /// The bar itself takes what is left of the line, and the line below is cut by the terminal's width.
    #[test]
    fn the_last_evaluation_leaves_room_for_the_bar_in_80_columns() {
        let found =
            EvalMetrics { loss: 10.123_45, accuracy: Some(0.8125), best: true, seconds: 12.34, ..Default::default() };
        let line = format!(" 1000000/1000000  {} left", prefix(Some(&found), "123:04:09"));
        assert!(line.contains("held out 10.1235 acc 0.812") && line.len() <= 66, "{} in {line}", line.len());
        assert_eq!(prefix(None, "4:09"), "4:09");
        let lm = EvalMetrics { accuracy: None, ..found };
        assert_eq!(prefix(Some(&lm), "4:09"), "held out 10.1235  4:09");
        let line = said(200, &found);
        assert_eq!(line, "     200 | held out: loss 10.1235, the lowest so far, accuracy 0.812; 12.3 s");
        assert!(line.len() <= 80);
    }

    #[test]
    fn the_bar_takes_steps_and_notes() {
        let mut progress = progress(3);
        let hidden = bar(3, 0);
        hidden.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        progress.display = Display::Bar(hidden.clone());
        let evaluation = Some(EvalMetrics { loss: 0.5, ..Default::default() });
        progress.step(&StepMetrics { evaluation, ..metrics(2, true) });
        progress.step(&metrics(2, true));
        progress.finish();
        assert_eq!(hidden.position(), 2);
        assert!(hidden.prefix().starts_with("held out 0.5000  "), "{}", hidden.prefix());
        assert!(hidden.is_finished() && hidden.message().contains("acc 0.020"), "{}", hidden.message());
        assert_eq!(progress.left(3), Duration::ZERO);
    }
}
