//! Figures against steps: each step pale, a running mean over it.

use maud::{Markup, html};

use super::Report;
use crate::objective;
use crate::page::plot::Plane;
use crate::train::metrics::StepMetrics;

/// A running mean covers this share of the run.
const SMOOTHING: usize = 25;
/// Places across a drawing at which a curve is drawn.
const PLACES: usize = 320;

#[derive(Clone, Copy)]
struct Curve {
    name: &'static str,
    figure: fn(&StepMetrics) -> Option<f64>,
    /// A value with a meaning.
    level: Option<(f64, &'static str)>,
    /// Whether the axis begins at zero.
    from_zero: bool,
    /// What is set and not measured has no mean.
    exact: bool,
}

/// The section; nothing where there is no step.
pub fn section(report: &Report) -> Markup {
    let steps = report.steps;
    html! {
        @if !steps.is_empty() {
            section {
                h2 { "Training" }
                div.figures {
                    @for curve in &curves(report) { (draw(curve, steps)) }
                }
                p.caption {
                    "Pale: every step. Strong: mean over " (window(steps.len())) " steps around. "
                    "Beside each name, its last mean. The gradient’s norm is taken before clipping."
                }
            }
        }
    }
}

fn curves(report: &Report) -> [Curve; 9] {
    let chance = objective::new(&report.config.objective).loss_without_opinion();
    let loss =
        Curve { name: "loss", figure: |m| (!m.empty).then_some(m.loss), level: chance, from_zero: false, exact: false };
    let norm = Curve {
        name: "gradient norm",
        figure: |m| (!m.empty).then_some(m.grad_norm),
        level: None,
        from_zero: true,
        exact: false,
    };
    [
        loss,
        Curve { name: "accuracy", figure: |m| Some(m.scores.as_ref()?.accuracy), level: Some((0.5, "chance")), ..loss },
        Curve { name: "margin", figure: |m| Some(m.scores.as_ref()?.margin), level: None, ..loss },
        // Without scores it is the loss itself.
        Curve { name: "next-token loss", figure: |m| m.scores.as_ref().and(m.lm_loss), level: None, ..loss },
        Curve { name: "held-out loss", figure: |m| Some(m.evaluation?.loss), exact: true, ..loss },
        Curve {
            name: "held-out accuracy",
            figure: |m| m.evaluation?.accuracy,
            level: Some((0.5, "chance")),
            exact: true,
            ..loss
        },
        norm,
        Curve { name: "learning rate", figure: |m| Some(m.lr), exact: true, ..norm },
        Curve { name: "tokens/s", figure: |m| (!m.empty).then_some(m.tokens_per_s), ..norm },
    ]
}

/// The drawing; nothing where the run has no such figure.
fn draw(curve: &Curve, steps: &[StepMetrics]) -> Markup {
    let known = steps.iter().filter_map(|m| Some((m.step as f64, (curve.figure)(m)?)));
    let (x, raw): (Vec<f64>, Vec<f64>) = known.filter(|(_, y)| y.is_finite()).unzip();
    let (Some(first), Some(last)) = (x.first(), x.last()) else { return html! {} };
    let mean = if curve.exact { raw.clone() } else { smoothed(&raw) };
    let plane = Plane::over_steps(*first, *last, range(&raw, &mean, curve));
    let points = |y: &[f64]| x.iter().copied().zip(y.iter().copied()).collect::<Vec<_>>();
    let reached = mean.last().map_or(String::new(), |&value| significant(value));
    html! {
        figure {
            figcaption { b { (curve.name) } span.figure { (reached) } }
            (plane.draw(&format!("{} over {} steps, at the end {reached}", curve.name, x.len()), "step", &html! {
                @if !curve.exact { path.raw d=(plane.path(&extremes(&points(&raw)))) {} }
                @if let Some((value, name)) = curve.level { (plane.level(value, name)) }
                path.mean d=(plane.path(&sampled(&points(&mean)))) {}
            }))
        }
    }
}

/// From the lowest to the highest value, but for the wildest hundredth of the single steps.
fn range(raw: &[f64], mean: &[f64], curve: &Curve) -> (f64, f64) {
    let mut sorted = raw.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let wild = sorted.len() / 200;
    let core = &sorted[wild..sorted.len() - wild];
    let all = || core.iter().chain(mean).copied().chain(curve.from_zero.then_some(0.0));
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    let air = 0.04 * (high - low);
    (if curve.from_zero { low } else { low - air }, high + air)
}

fn window(steps: usize) -> usize {
    (steps / SMOOTHING).max(1) | 1
}

/// Centred running means, over fewer values at the ends.
pub fn smoothed(values: &[f64]) -> Vec<f64> {
    let reach = window(values.len()) / 2;
    let around = |i: usize| &values[i.saturating_sub(reach)..(i + reach + 1).min(values.len())];
    (0..values.len()).map(|i| around(i).iter().sum::<f64>() / around(i).len() as f64).collect()
}

/// The lowest and the highest point at every place, in their order: all that can be seen of a long curve.
fn extremes(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= 2 * PLACES {
        return points.to_vec();
    }
    let ends = |chunk: &[(f64, f64)]| {
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let (low, high) = (chunk.iter().min_by(by_value), chunk.iter().max_by(by_value));
        let mut ends: Vec<_> = low.into_iter().chain(high).copied().collect();
        ends.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        ends
    };
    points.chunks(points.len().div_ceil(PLACES)).flat_map(ends).collect()
}

/// A point at every place, the last one included.
fn sampled(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let stride = points.len().div_ceil(PLACES).max(1);
    let mut sampled: Vec<_> = points.iter().step_by(stride).copied().collect();
    if !points.len().saturating_sub(1).is_multiple_of(stride) {
        sampled.extend(points.last());
    }
    sampled
}

/// Two or three significant digits.
fn significant(value: f64) -> String {
    match value.abs() {
        v if v >= 1e4 => format!("{:.1}k", value / 1e3),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        v if v >= 1e-3 || v == 0.0 => format!("{value:.3}"),
        _ => format!("{value:.1e}"),
    }
    .replace('-', "−")
}
