//! What evaluations while training found, and how the scores of a few pairs went.

use maud::{Markup, html};

use super::Report;
use super::examples::{signed, text};
use crate::eval::Example;
use crate::train::evaluation::ScoredExamples;
use crate::train::metrics::StepMetrics;

/// Evaluations whose scores are shown of an example, at most: the first, the last, and some between.
const SHOWN: usize = 8;

/// The section; nothing where there was no evaluation.
pub fn section(report: &Report) -> Markup {
    let steps = since_they_compare(report.steps);
    let from = steps.first().map_or(0, |m| m.step);
    let watched = &report.watched[report.watched.partition_point(|line| line.step < from)..];
    let evaluations = || steps.iter().filter_map(|m| Some((m.step, m.evaluation?)));
    let best = evaluations().rfind(|(_, found)| found.best);
    let Some(((last_step, last), (best_step, best))) = evaluations().next_back().zip(best) else { return html! {} };
    let seconds: f64 = evaluations().map(|(_, found)| found.seconds).sum();
    html! {
        section {
            h2 { "Evaluation while training" }
            p {
                (evaluations().count()) " evaluations took " (format!("{seconds:.1}")) " s, the last one on " (last.pairs)
                " held-out pairs or documents. The lowest loss was " b { (format!("{:.4}", best.loss)) } " at step "
                (best_step) ", the last one " b { (format!("{:.4}", last.loss)) } " at step " (last_step) "."
                @if let Some(why) = report.ended { " The run ended early: " (why) "." }
            }
            @if let Some(now) = watched.last() {
                p { "The same pairs at every evaluation, with their scores; long texts are cut." }
                @for example in &now.examples { (article(example, watched)) }
            }
        }
    }
}

/// The steps from the first evaluation on that compares with the last one.
fn since_they_compare(steps: &[StepMetrics]) -> &[StepMetrics] {
    let first = steps.iter().rposition(|m| m.evaluation.is_some_and(|found| found.first));
    &steps[first.unwrap_or(0)..]
}

fn article(example: &Example, watched: &[ScoredExamples]) -> Markup {
    // Scores of other texts are none of this one, wherever they stand.
    let same = |other: &&Example| Example { scores: example.scores, ..(*other).clone() } == *example;
    let scores = watched.iter().filter_map(|line| Some((line.step, line.examples.iter().find(same)?.scores)));
    let scores: Vec<_> = scores.collect();
    let stride = scores.len().saturating_sub(1).div_ceil(SHOWN - 1).max(1);
    // Counted from the last one backwards, so that it is among them.
    let mut shown: Vec<_> = scores.iter().rev().step_by(stride).collect();
    shown.reverse();
    html! {
        article {
            h3 { (example.row) }
            (text("prompt", None, &example.prompt))
            (text("reference", None, &example.reference))
            div.pair {
                (text("chosen", Some(example.scores[0]), &example.chosen))
                (text("rejected", Some(example.scores[1]), &example.rejected))
            }
            p.caption {
                "Chosen and rejected by step: "
                @for (i, (step, [chosen, rejected])) in shown.iter().enumerate() {
                    @if i > 0 { "; " }
                    (step) ": " (signed(*chosen)) " and " (signed(*rejected))
                }
                "."
            }
        }
    }
}
