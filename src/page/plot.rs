//! Axes and lines of the page's drawings, in SVG that takes its colours from the style sheet.

use std::fmt::Write;

use maud::{Markup, html};

/// Width of a drawing in pixels: two stand side by side on a desk, one fills a telephone.
pub const WIDTH: f64 = 340.0;
/// Height of a drawing in pixels.
pub const HEIGHT: f64 = 190.0;
const LEFT: f64 = 44.0;
const RIGHT: f64 = WIDTH - 12.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = HEIGHT - 24.0;

/// A plane with finite, non-empty ranges.
pub struct Plane {
    x: (f64, f64),
    y: (f64, f64),
    /// Whether there is nothing between the whole numbers of x.
    whole: bool,
}

impl Plane {
    /// The ranges; an empty one is widened, one that is not finite replaced by 0 to 1.
    pub fn new(x: (f64, f64), y: (f64, f64)) -> Self {
        Self { x: widened(x), y: widened(y), whole: false }
    }

    /// A plane over the steps from `first` to `last`.
    pub fn over_steps(first: f64, last: f64, y: (f64, f64)) -> Self {
        Self { whole: true, ..Self::new((first - 1.0, last), y) }
    }

    /// Points as a path. Ends are round, so that a single point is a dot.
    pub fn path(&self, points: &[(f64, f64)]) -> String {
        let mut path = String::new();
        for &(x, y) in points.iter().filter(|(x, y)| x.is_finite() && y.is_finite()) {
            let command = if path.is_empty() { 'M' } else { 'L' };
            // Writing to a string cannot fail.
            let _ = write!(path, "{command}{:.1} {:.1}", self.across(x), self.up(y));
        }
        if !path.is_empty() && !path.contains('L') {
            path.push_str("h0");
        }
        path
    }

    /// A horizontal line through the plane at `y`, with its meaning.
    pub fn level(&self, y: f64, name: &str) -> Markup {
        let at = format!("{:.1}", self.up(y));
        html! {
            @if (self.y.0..=self.y.1).contains(&y) {
                line.level x1=(LEFT) x2=(RIGHT) y1=(at) y2=(at) {}
                text.level x=(RIGHT) y=(at) dy="-4" text-anchor="end" { (name) }
            }
        }
    }

    /// The drawing: axes around `content`, of which what lies outside the plane is cut off.
    pub fn draw(&self, description: &str, x_name: &str, content: &Markup) -> Markup {
        let (mut x_ticks, y_ticks) = (ticks(self.x.0, self.x.1, 4), ticks(self.y.0, self.y.1, 4));
        if self.whole {
            x_ticks.retain(|x| (x - x.round()).abs() < 1e-6);
        }
        let (x_step, y_step) = (spacing(&x_ticks), spacing(&y_ticks));
        html! {
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(description) {
                @for y in y_ticks {
                    @let at = format!("{:.1}", self.up(y));
                    line.grid x1=(LEFT) x2=(RIGHT) y1=(at) y2=(at) {}
                    text x=(LEFT - 6.0) y=(at) dy="3.5" text-anchor="end" { (label(y, y_step)) }
                }
                svg x=(LEFT - 4.0) y="0" width=(RIGHT - LEFT + 8.0) height=(BOTTOM)
                    viewBox=(format!("{} 0 {} {BOTTOM}", LEFT - 4.0, RIGHT - LEFT + 8.0)) { (content) }
                line.base x1=(LEFT) x2=(RIGHT) y1=(BOTTOM) y2=(BOTTOM) {}
                @for x in x_ticks {
                    text x=(format!("{:.1}", self.across(x))) y=(BOTTOM + 15.0) text-anchor="middle" { (label(x, x_step)) }
                }
                text x=(LEFT - 12.0) y=(BOTTOM + 15.0) text-anchor="end" { (x_name) }
            }
        }
    }

    fn across(&self, x: f64) -> f64 {
        LEFT + (x - self.x.0) / (self.x.1 - self.x.0) * (RIGHT - LEFT)
    }

    fn up(&self, y: f64) -> f64 {
        BOTTOM - (y - self.y.0) / (self.y.1 - self.y.0) * (BOTTOM - TOP)
    }
}

fn widened((low, high): (f64, f64)) -> (f64, f64) {
    if !(high - low).is_finite() {
        (0.0, 1.0)
    } else if high - low > 1e-9 * low.abs().max(high.abs()) && high > low {
        (low, high)
    } else {
        let around = if low == 0.0 { 1.0 } else { 0.1 * low.abs() };
        (low - around, low + around)
    }
}

/// Round numbers from `low` to `high`, about `wanted` of them: multiples of 1, 2 or 5 times a power of ten.
pub fn ticks(low: f64, high: f64, wanted: usize) -> Vec<f64> {
    let rough = (high - low) / wanted.max(1) as f64;
    if !rough.is_finite() || rough <= 0.0 {
        return Vec::new();
    }
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0].into_iter().map(|m| m * power).find(|&s| s >= 0.7 * rough).unwrap_or(10.0 * power);
    let (first, last) = ((low / step - 1e-6).ceil(), (high / step + 1e-6).floor());
    // Ranges far from zero for their width have no such numbers in floating point.
    let count = (last - first).clamp(-1.0, 20.0) as i64;
    (0..=count).map(|i| (first + i as f64) * step).collect()
}

fn spacing(ticks: &[f64]) -> f64 {
    ticks.windows(2).next().map_or(1.0, |pair| pair[1] - pair[0])
}

/// A tick's number with the digits that ticks `step` apart need.
pub fn label(value: f64, step: f64) -> String {
    let decimals = |step: f64| (-(step.log10() + 1e-6).floor()).clamp(0.0, 9.0) as usize;
    let largest = value.abs();
    if largest < step / 2.0 {
        "0".into()
    } else if largest >= 1e7 {
        format!("{:.1$}M", value / 1e6, decimals(step / 1e6))
    } else if largest >= 1e4 {
        format!("{:.1$}k", value / 1e3, decimals(step / 1e3))
    } else if step < 1e-3 {
        let text = format!("{value:.1e}");
        text.replace(".0e", "e").replace('-', "−")
    } else {
        // A true minus sign is as wide as a digit.
        format!("{value:.0$}", decimals(step)).replace('-', "−")
    }
}
