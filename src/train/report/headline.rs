//! What the run reached, in words.

use maud::{Markup, PreEscaped, html};

use super::{Report, curves};
use crate::eval::sections::{bounds, figure};
use crate::eval::{Accuracy, Table, TableRow};
use crate::objective;

/// How the model stands to the best baseline, or to chance where there is none. The intervals decide: they belong to
/// the same pairs, so intervals that do not touch are more than the difference needs to be.
#[derive(Clone, Copy, PartialEq)]
enum Standing {
    Ahead,
    Level,
    Behind,
}

fn standing(table: &Table, row: &TableRow) -> Standing {
    let (low, high) = interval(row.accuracies.first());
    let (rival_low, rival_high) = match table.best_baseline(row) {
        Some(column) => interval(row.accuracies.get(column)),
        None => (0.5, 0.5),
    };
    if low > rival_high {
        Standing::Ahead
    } else if high < rival_low {
        Standing::Behind
    } else {
        Standing::Level
    }
}

fn interval(accuracy: Option<&Accuracy>) -> (f64, f64) {
    accuracy.copied().unwrap_or_default().interval()
}

fn measured(table: &Table) -> impl Iterator<Item = &TableRow> {
    table.rows.iter().filter(|row| row.pairs() > 0)
}

/// The page's first sentence.
pub fn sentence(report: &Report) -> Markup {
    let table = report.table;
    let against = |standing| match (standing, table.baselines().is_empty()) {
        (Standing::Ahead, false) => "beats every baseline",
        (Standing::Level, false) => "is level with the best baseline",
        (Standing::Behind, false) => "loses to the best baseline",
        (Standing::Ahead, true) => "is above chance",
        (Standing::Level, true) => "is at chance",
        (Standing::Behind, true) => "is below chance",
    };
    let parts = [Standing::Ahead, Standing::Level, Standing::Behind].into_iter().filter_map(|wanted| {
        let names: Vec<String> = measured(table)
            .filter(|row| standing(table, row) == wanted)
            .map(|row| html! { span { (row.name) } }.into_string())
            .collect();
        (!names.is_empty()).then(|| format!("{} on {}", against(wanted), list(&names)))
    });
    let parts: Vec<String> = parts.collect();
    if parts.is_empty() {
        return html! { (without_evaluation(report)) };
    }
    // The names, the only foreign text, were escaped above.
    PreEscaped(format!("The model {}.", list(&parts)))
}

fn without_evaluation(report: &Report) -> String {
    let (loss, unit) = objective::new(&report.config.objective).loss_name();
    let losses: Vec<f64> = report.steps.iter().filter(|m| !m.empty).map(|m| m.loss).collect();
    let smooth = curves::smoothed(&losses);
    match (smooth.first(), smooth.last()) {
        (Some(first), Some(last)) if smooth.len() > 1 => {
            format!("The {loss} went from {first:.3} to {last:.3}{unit} in {} steps.", smooth.len())
        }
        (Some(only), _) => format!("The {loss} is {only:.3}{unit} after one step."),
        _ => "No step was made.".into(),
    }
}

/// A paragraph for each set of pairs: the figures behind the sentence, and the control.
pub fn readings(table: &Table) -> Markup {
    html! { @for row in measured(table) { (reading(table, row)) } }
}

fn reading(table: &Table, row: &TableRow) -> Markup {
    let of = |column: Option<usize>| {
        let column = column?;
        Some((table.columns.get(column)?, row.accuracies.get(column).filter(|a| a.pairs > 0)?))
    };
    html! {
        p {
            "On " b { (row.name) } " the model ranks " (row.pairs()) " pairs with an accuracy of "
            b { (figure(row.accuracies.first())) } " " (bounds(row.accuracies.first())) ". "
            @if let Some((name, accuracy)) = of(table.best_baseline(row)) {
                "The best baseline, " (name) ", has " (figure(Some(accuracy))) " " (bounds(Some(accuracy))) ": the model is "
                (match standing(table, row) {
                    Standing::Ahead => "ahead by more than the intervals. ",
                    Standing::Behind => "behind by more than the intervals. ",
                    Standing::Level if row.accuracies.first().map(|a| a.right) > Some(accuracy.right) => {
                        "ahead, but the intervals overlap. "
                    }
                    Standing::Level => "not ahead, and the intervals overlap. ",
                })
            }
            @if let Some((_, accuracy)) = of(table.control()) {
                "With references of other prompts it has " (figure(Some(accuracy))) " " (bounds(Some(accuracy)))
                (match (accuracy.interval(), interval(row.accuracies.first())) {
                    ((low, _), _) if low > 0.5 => {
                        ", above chance: part of its judgement does not need the right reference."
                    }
                    ((_, high), _) if high < 0.5 => ", below chance.",
                    ((_, high), (low, _)) if low > high => ", which is chance: its judgement needs the right reference.",
                    (_, (low, _)) if low > 0.5 => {
                        ", which is chance, but the intervals overlap: whether its judgement needs the right reference is \
                         not shown."
                    }
                    _ => ", which is chance.",
                })
            }
        }
    }
}

/// `a`, `a and b`, `a, b and c`.
fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
