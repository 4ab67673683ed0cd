//! The evaluation table: each judge of each set of pairs with its accuracy, drawn as a dot on its interval.

use maud::{Markup, html};

use super::{bounds, figure};
use crate::eval::{Accuracy, Table, TableRow};
use crate::page::plot::{label, ticks};

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
    fn of(rows: &[TableRow]) -> Self {
        let lowest = rows.iter().flat_map(|row| &row.accuracies).filter(|a| a.pairs > 0).map(|a| a.interval().0);
        let chances = rows.iter().map(|row| row.chance - 0.05);
        let lowest = lowest.chain(chances).fold(0.45, f64::min);
        Self { low: (lowest * 10.0 - 1e-9).floor().max(0.0) / 10.0 }
    }

    /// Where `value` lies, from left to right.
    fn percent(&self, value: f64) -> String {
        format!("{:.2}%", 100.0 * (value - self.low) / (1.0 - self.low))
    }
}

/// The section; nothing where nothing was evaluated.
pub fn section(table: &Table) -> Markup {
    titled("Evaluation", table)
}

/// The section under another heading.
pub fn titled(heading: &str, table: &Table) -> Markup {
    let scale = Scale::of(&table.rows);
    let known = MEANINGS.into_iter().filter(|(name, _)| table.columns.iter().any(|column| column == name));
    html! {
        @if !table.rows.is_empty() {
            section {
                h2 { (heading) }
                p { "The share of judgements in which the better answers score strictly above the others. A tie is wrong." }
                table.judges {
                    (head("judge", &scale))
                    @for row in &table.rows { (set(table, row, &scale)) }
                }
                p.caption {
                    "Bars are Wilson’s 95 % intervals, the dotted line is chance."
                    @for (name, meaning) in known { " " b { (name) } ": " (meaning) "." }
                }
            }
        }
    }
}

/// Parts of a set, each with the accuracies of `names`: one line a part, or one for each name under the part's.
pub fn parts(heading: &str, names: &[String], rows: &[TableRow]) -> Markup {
    let scale = Scale::of(rows);
    html! {
        section {
            h2 { (heading) }
            table.judges {
                (head("part", &scale))
                @if names.len() == 1 {
                    tbody {
                        @for row in rows {
                            @for accuracy in &row.accuracies {
                                (line(html! { (row.name) " " small { (row.pairs()) } }, "model", accuracy, row, &scale))
                            }
                        }
                    }
                } @else {
                    @for row in rows {
                        tbody {
                            (caption(row))
                            @for (name, accuracy) in names.iter().zip(&row.accuracies) {
                                (line(html! { (name) }, "model", accuracy, row, &scale))
                            }
                        }
                    }
                }
            }
            p.caption { "Bars are Wilson’s 95 % intervals, the dotted line is chance." }
        }
    }
}

fn head(what: &str, scale: &Scale) -> Markup {
    html! {
        thead {
            tr {
                th scope="col" { (what) }
                td.drawing { (axis(scale)) }
                th scope="col" { "accuracy " span.bounds { "[95 % interval]" } }
            }
        }
    }
}

fn caption(row: &TableRow) -> Markup {
    html! { tr.set { th colspan="3" scope="rowgroup" { (row.name) " " span { (row.pairs()) " pairs" } } } }
}

fn line(name: Markup, kind: &str, accuracy: &Accuracy, row: &TableRow, scale: &Scale) -> Markup {
    html! {
        tr class=(kind) {
            th scope="row" { (name) }
            // What was not run has no accuracy.
            @if accuracy.pairs > 0 {
                td.drawing { (dot(accuracy, row.chance, scale)) }
                td { span.figure { (figure(Some(accuracy))) } " " (bounds(Some(accuracy))) }
            } @else {
                td.drawing {}
                td { "-" }
            }
        }
    }
}

fn set(table: &Table, row: &TableRow, scale: &Scale) -> Markup {
    let best = table.best_baseline(row);
    html! {
        tbody {
            (caption(row))
            @for (column, (name, accuracy)) in table.columns.iter().zip(&row.accuracies).enumerate() {
                @let kind = if column == 0 { "model" } else if Some(column) == table.control() { "control" } else { "baseline" };
                @let name = html! { (name) @if Some(column) == best { " " small { "best baseline" } } };
                (line(name, kind, accuracy, row, scale))
            }
        }
    }
}

/// Lengths in percent of the width, so that the drawing stretches while the dot stays round.
fn dot(accuracy: &Accuracy, chance: f64, scale: &Scale) -> Markup {
    let (low, high) = accuracy.interval();
    html! {
        svg width="100%" height="20" aria-hidden="true" {
            line.chance x1=(scale.percent(chance)) x2=(scale.percent(chance)) y1="0" y2="20" {}
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_that_was_not_run_has_no_dot() {
        let accuracies = vec![Accuracy::of(90, 100), Accuracy::default()];
        let row = TableRow { name: "set".into(), accuracies, chance: 0.5, chosen: Vec::new(), rejected: Vec::new() };
        assert_eq!(Scale::of(std::slice::from_ref(&row)).low, 0.4);
        let table = Table { columns: ["model", "shuffled reference"].map(String::from).into(), rows: vec![row] };
        let page = section(&table).into_string();
        assert_eq!(page.matches("<circle").count(), 1, "{page}");
        assert!(page.contains("<td>-</td>") && !page.contains("0.000"), "{page}");
    }
}
