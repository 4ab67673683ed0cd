//! How the model's scores of chosen and rejected candidates lie.

use maud::{Markup, html};

use crate::eval::{Table, TableRow};
use crate::page::plot::Plane;

/// The section; nothing where nothing was scored.
pub fn section(table: &Table) -> Markup {
    let scored =
        || table.rows.iter().filter(|row| !finite(&row.chosen).is_empty() || !finite(&row.rejected).is_empty());
    html! {
        @if scored().next().is_some() {
            section {
                h2 { "Rewards" }
                p {
                    "Scores of the " b.chosen { "chosen" } " and the " b.rejected { "rejected" } " answers. Only "
                    "differences within a prompt mean something: the two hills may overlap while every pair is ranked rightly."
                }
                div.figures { @for row in scored() { (draw(row)) } }
            }
        }
    }
}

fn draw(row: &TableRow) -> Markup {
    let (chosen, rejected) = (finite(&row.chosen), finite(&row.rejected));
    let margins: Vec<f64> = row
        .chosen
        .iter()
        .zip(&row.rejected)
        .map(|(&c, &r)| f64::from(c) - f64::from(r))
        .filter(|margin| margin.is_finite())
        .collect();
    let without = row.chosen.len().saturating_sub(margins.len());
    let both = || chosen.iter().chain(&rejected).copied();
    let (low, high) = (both().fold(f64::INFINITY, f64::min), both().fold(f64::NEG_INFINITY, f64::max));
    let bins = Bins { low, width: (high - low).max(1e-6), count: (chosen.len() / 25).clamp(6, 40) };
    let counts = [bins.count(&chosen), bins.count(&rejected)];
    let highest = counts.iter().flatten().copied().fold(1.0, f64::max);
    let plane = Plane::new((low, low + bins.width), (0.0, 1.05 * highest));
    let [chosen_outline, rejected_outline] = counts.map(|counts| plane.path(&bins.outline(&counts)));
    let figures = format!("mean {:.2} against {:.2}, margin {:.2}", mean(&chosen), mean(&rejected), mean(&margins));
    html! {
        figure {
            figcaption { b { (row.name) } span.figure { (figures.replace('-', "−")) } }
            @if without > 0 { p.caption { (without) " pairs have a score that is not finite; they count as wrong." } }
            (plane.draw(&format!("scores on {}: {figures}", row.name), "score", &html! {
                path.rejected d=(rejected_outline) {}
                path.chosen d=(chosen_outline) {}
            }))
        }
    }
}

/// Intervals of equal width.
struct Bins {
    low: f64,
    /// Of all together.
    width: f64,
    count: usize,
}

impl Bins {
    fn count(&self, values: &[f64]) -> Vec<f64> {
        let mut counts = vec![0.0; self.count];
        for value in values {
            let bin = ((value - self.low) / self.width * self.count as f64) as usize;
            counts[bin.min(self.count - 1)] += 1.0;
        }
        counts
    }

    /// The histogram's outline, from the base and back to it.
    fn outline(&self, counts: &[f64]) -> Vec<(f64, f64)> {
        let edge = |i: usize| self.low + self.width * i as f64 / self.count as f64;
        let tops = counts.iter().enumerate().flat_map(|(i, &count)| [(edge(i), count), (edge(i + 1), count)]);
        let base = |i| std::iter::once((edge(i), 0.0));
        base(0).chain(tops).chain(base(self.count)).collect()
    }
}

fn finite(scores: &[f32]) -> Vec<f64> {
    scores.iter().map(|&s| f64::from(s)).filter(|s| s.is_finite()).collect()
}

/// NaN of nothing.
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
