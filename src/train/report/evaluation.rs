//! The evaluation table: each judge of each set of pairs with its accuracy, drawn as a dot on its interval.

use maud::{Markup, html};

use super::headline::{bounds, figure};
use super::plot::{label, ticks};
use crate::eval::{Accuracy, Row, Table};

/// What the judges with known names are.
const MEANINGS: [(&str, &str); 4] = [
    ("hand", "logistic regression on hand-made features of layout and surface"),
    ("bag", "the same with the count of every byte"),
    ("ngram", "cosine of byte n-gram counts"),
    ("shuffled reference", "a control: the model with the reference of another prompt"),
];

/// The range of the drawings: always with chance and certainty in it.
struct Scale {
    low: f64,
}

impl Scale {
    fn of(table: &Table) -> Self {
        let lowest = table.rows.iter().flat_map(|row| &row.accuracies).map(|a| a.interval().0).fold(0.45, f64::min);
        Self { low: (lowest * 10.0 - 1e-9).floor().max(0.0) / 10.0 }
    }

    /// Where `value` lies, from left to right.
    fn percent(&self, value: f64) -> String {
        format!("{:.2}%", 100.0 * (value - self.low) / (1.0 - self.low))
    }
}

/// The section; nothing where nothing was evaluated.
pub fn section(table: &Table) -> Markup {
    let scale = Scale::of(table);
    let known = MEANINGS.into_iter().filter(|(name, _)| table.columns.iter().any(|column| column == name));
    html! {
        @if !table.rows.is_empty() {
            section {
                h2 { "Evaluation" }
                p { "The share of pairs in which the chosen answer scores strictly above the rejected one. A tie is wrong." }
                table.judges {
                    thead {
                        tr {
                            th scope="col" { "judge" }
                            td.drawing { (axis(&scale)) }
                            th scope="col" { "accuracy " span.bounds { "[95 % interval]" } }
                        }
                    }
                    @for row in &table.rows { (set(table, row, &scale)) }
                }
                p.caption {
                    "Bars are Wilson’s 95 % intervals, the line at 0.5 is chance."
                    @for (name, meaning) in known { " " b { (name) } ": " (meaning) "." }
                }
            }
        }
    }
}

fn set(table: &Table, row: &Row, scale: &Scale) -> Markup {
    let best = table.best_baseline(row);
    html! {
        tbody {
            tr.set { th colspan="3" scope="rowgroup" { (row.name) " " span { (row.pairs()) " pairs" } } }
            @for (column, (name, accuracy)) in table.columns.iter().zip(&row.accuracies).enumerate() {
                @let kind = if column == 0 { "model" } else if Some(column) == table.control() { "control" } else { "baseline" };
                tr class=(kind) {
                    th scope="row" { (name) @if Some(column) == best { " " small { "best baseline" } } }
                    td.drawing { (dot(accuracy, scale)) }
                    td { span.figure { (figure(Some(accuracy))) } " " (bounds(Some(accuracy))) }
                }
            }
        }
    }
}

/// Lengths in percent of the width, so that the drawing stretches while the dot stays round.
fn dot(accuracy: &Accuracy, scale: &Scale) -> Markup {
    let (low, high) = accuracy.interval();
    html! {
        svg width="100%" height="20" aria-hidden="true" {
            line.chance x1=(scale.percent(0.5)) x2=(scale.percent(0.5)) y1="0" y2="20" {}
            line.interval x1=(scale.percent(low)) x2=(scale.percent(high)) y1="10" y2="10" {}
            circle cx=(scale.percent(accuracy.value())) cy="10" r="4" {}
        }
    }
}

fn axis(scale: &Scale) -> Markup {
    html! {
        svg.axis width="100%" height="18" aria-hidden="true" {
            @for tick in ticks(scale.low, 1.0, 4) {
                text x=(scale.percent(tick)) y="13" text-anchor="middle" { (label(tick, 0.1)) }
            }
        }
    }
}
