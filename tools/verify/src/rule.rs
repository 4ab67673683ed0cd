//! The second rule: how far a whole result is from the exact one, against what rounding explains.
//!
//! Bounds an element are products of worst cases, which do not come together: a wrong result may hide far inside them.
//! So the errors of a result are summed up, over the tensor and over each band of its rows, and their root mean square
//! is held to [`FACTOR`] times that of the operation's formula with every value rounded where a kernel stores it
//! ([`crate::arithmetic`]).
//!
//! Of few errors the root mean square varies. [`factor`] is [`FACTOR`] where there are so many independent ones that
//! chance does not exceed it once in 10^8 bands, and what chance does not exceed where there are fewer: 6 for one.

use std::ops::Range;

use crate::arithmetic::Arithmetic;
use crate::case::{Allowed, Case, Given};
use crate::draw::Dtypes;
use crate::operand::Operand;

/// How many times as far off as rounding explains a result may be.
pub const FACTOR: f64 = 1.5;

/// Independent errors that a band should have: with so many, chance leaves [`FACTOR`] alone.
const BAND: usize = 128;

/// What rounding makes of one result.
pub struct Rounding {
    /// The mean square of the error of each element.
    variance: Vec<f64>,
    /// Evaluations that it is the mean of.
    evaluations: usize,
}

/// How far off rounding makes each result of a case; none where all results are exact. `exact` are the values of the
/// operands as the operation sees them, after an exact call.
pub fn rounding(
    case: &Case,
    operands: &[Operand],
    dtypes: Dtypes,
    exact: &[Vec<f64>],
    seed: u64,
) -> Vec<Option<Rounding>> {
    let Some(model) = &case.model else { return operands.iter().map(|_| None).collect() };
    let inputs: Vec<Vec<f64>> = operands.iter().map(|o| o.given.seen(&o.given.values)).collect();
    let results: Vec<usize> = (0..operands.len()).filter(|&i| operands[i].allowed().is_some()).collect();
    let units = |i: &usize| exact[*i].len().div_ceil(operands[*i].given.unit());
    let fewest = results.iter().map(units).filter(|&n| n > 0).min().unwrap_or(1);
    // As many as it takes for a good estimate of the mean square.
    let evaluations = (256 / fewest).clamp(4, 64);
    let mut squares: Vec<Vec<f64>> = results.iter().map(|&i| vec![0.0; exact[i].len()]).collect();
    for evaluation in 0..evaluations as u64 {
        let mut arithmetic = Arithmetic::disturbed(dtypes, seed.wrapping_add(evaluation).wrapping_mul(0x5851_f42d));
        for ((&i, squares), values) in results.iter().zip(&mut squares).zip(model(&mut arithmetic, &inputs)) {
            assert_eq!(squares.len(), values.len(), "the model's {}", operands[i].name);
            for ((square, value), exact) in squares.iter_mut().zip(&values).zip(&exact[i]) {
                *square += (value - exact).powi(2);
            }
        }
    }
    let mut all: Vec<Option<Rounding>> = operands.iter().map(|_| None).collect();
    for (&i, squares) in results.iter().zip(squares) {
        if !matches!(operands[i].allowed(), Some(Allowed::Exact)) {
            let variance = squares.into_iter().map(|s| s / evaluations as f64).collect();
            all[i] = Some(Rounding { variance, evaluations });
        }
    }
    all
}

/// What the root mean square of `errors` independent errors may be, in units of what is expected: [`FACTOR`], or the
/// quantile of its distribution that is exceeded once in 10^8 times (Wilson and Hilferty's approximation of chi-squared,
/// *PNAS* 17, 1931).
pub fn factor(errors: f64) -> f64 {
    const QUANTILE: f64 = 5.6;
    let spread = 2.0 / (9.0 * errors);
    (1.0 - spread + QUANTILE * spread.sqrt()).powf(1.5).max(FACTOR)
}

/// The share of what is allowed that the result's errors are, in the band where it is largest; the error says which.
/// `got` and `exact` are the elements that the operation sees.
pub fn check(name: &str, given: &Given, rounding: &Rounding, exact: &[f64], got: &[f64]) -> Result<f64, String> {
    let mut largest: f64 = 0.0;
    for band in bands(given, exact.len()) {
        let off: f64 = band.clone().map(|i| (got[i] - exact[i]).powi(2)).sum();
        let (explained, errors) = rounding.of(&band, given.unit());
        let (off, explained) = ((off / band.len() as f64).sqrt(), (explained / band.len() as f64).sqrt());
        let share = off / (explained * factor(errors));
        if share.is_nan() || share > 1.0 {
            return Err(format!(
                "{name} in elements {} to {}: the root mean square of the errors is {off:.3e}, {:.2} times what rounding \
                 explains; {:.2} times is allowed",
                band.start,
                band.end,
                off / explained,
                factor(errors)
            ));
        }
        largest = largest.max(share);
    }
    Ok(largest)
}

impl Rounding {
    /// The sum of the mean squares of a band's errors, and how many independent ones of equal size would vary as much
    /// (Satterthwaite, *Biometrics Bulletin* 2, 1946), those of the estimate included.
    fn of(&self, band: &Range<usize>, unit: usize) -> (f64, f64) {
        // Below the normal numbers devices may give 0.
        let smallest = f64::from(f32::MIN_POSITIVE);
        let (mut sum, mut squares) = (0.0, 0.0);
        for unit in self.variance[band.clone()].chunks(unit) {
            let unit = unit.iter().map(|v| v + smallest * smallest).sum::<f64>();
            sum += unit;
            squares += unit * unit;
        }
        let errors = if squares > 0.0 { sum * sum / squares } else { (band.len() / unit).max(1) as f64 };
        let evaluations = self.evaluations as f64;
        (sum, errors * evaluations / (evaluations + 1.0))
    }
}

/// The whole result, and bands of its rows with enough independent errors each.
fn bands(given: &Given, len: usize) -> Vec<Range<usize>> {
    if len == 0 {
        return Vec::new();
    }
    let unit = given.unit();
    let dims = given.seen_dims();
    let row = if dims.len() > 1 { dims[dims.len() - 1] } else { 1 };
    let whole_rows = (BAND * unit).div_ceil(row.max(1)) * row.max(1);
    let count = (len / whole_rows).max(1);
    let mut bands: Vec<Range<usize>> = (0..count).map(|i| i * whole_rows..(i + 1) * whole_rows).collect();
    // The last one has what is left over as well.
    bands[count - 1].end = len;
    if count > 1 {
        bands.push(0..len);
    }
    bands
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;
    use crate::case::result;

    #[test]
    fn few_errors_vary_and_many_do_not() {
        assert_abs_diff_eq!(factor(1.0), 6.3, epsilon = 0.1);
        assert!(factor(64.0) < 1.56);
        assert_eq!(factor(80.0), FACTOR);
        assert_eq!(factor(1e9), FACTOR);
    }

    #[test]
    fn an_error_in_one_band_is_not_lost_among_the_others() {
        let given = result(&[1000, 8], Allowed::All(1.0)).in_units_of(1);
        let rounding = Rounding { variance: vec![1e-6; 8000], evaluations: 64 };
        let exact = vec![0.5; 8000];
        let mut got: Vec<f64> = (0..8000).map(|i| 0.5 + if i % 2 == 0 { 1e-3 } else { -1e-3 }).collect();
        assert!(check("y", &given, &rounding, &exact, &got).is_ok());
        got[4096..4224].iter_mut().for_each(|x| *x = 0.502);
        assert!(check("y", &given, &rounding, &exact, &got).is_err());
        got[4100] = f64::NAN;
        assert!(check("y", &given, &rounding, &exact, &got).is_err());
    }

    #[test]
    fn bands_cover_everything_once_and_then_all_at_once() {
        let given = result(&[301, 5], Allowed::All(1.0));
        let bands = bands(&given, 1505);
        assert_eq!(bands, [0..640, 640..1505, 0..1505]);
    }
}
