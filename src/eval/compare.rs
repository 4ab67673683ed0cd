//! Two models on the same judgements: is the difference real?

use std::collections::BTreeMap;

use rand::RngExt;
use serde::Serialize;

use super::Accuracy;
use super::outcome::{Judged, Part, accuracy};
use crate::rng;

/// Resamplings of the bootstrap.
pub const RESAMPLES: usize = 2000;

/// Two models on one part of a set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The part.
    pub name: String,
    /// The first model.
    pub a: Accuracy,
    /// The second model.
    pub b: Accuracy,
    /// Judgements that only the first has right.
    pub only_a: usize,
    /// Judgements that only the second has right.
    pub only_b: usize,
    /// Accuracy of the second minus that of the first.
    pub difference: f64,
    /// 95 % interval of the difference by a paired bootstrap over groups: judgements of one row stay together.
    pub interval: (f64, f64),
    /// Exact two-sided McNemar test of `only_a` against `only_b`, which takes judgements as independent.
    pub mcnemar_p: f64,
    /// Exact two-sided sign test over rows: how many speak for either model.
    pub rows_p: f64,
    /// [`Self::rows_p`] after [`adjust`].
    pub adjusted_p: f64,
}

impl Difference {
    /// Whether the interval leaves out zero and the rows agree: resampling a few rows that happen to agree never gives
    /// zero, and of many parts one in twenty differs by chance.
    pub fn is_real(&self) -> bool {
        (self.interval.0 > 0.0 || self.interval.1 < 0.0) && self.adjusted_p < 0.05
    }
}

/// Compares `a` and `b`, judgement by judgement, on each part; on those that are asked of both.
pub fn compare(parts: &[Part], a: &[Judged], b: &[Judged], seed: u64) -> Vec<Difference> {
    let asked = |at: &usize| !a[*at].identical && !b[*at].identical;
    let difference = |part: &Part| {
        let part = &Part { name: part.name.clone(), places: part.places.iter().copied().filter(asked).collect() };
        let of = |judged: &[Judged]| accuracy(part.places.iter().map(|&at| &judged[at]));
        let (first, second) = (of(a), of(b));
        let only =
            |x: &[Judged], y: &[Judged]| part.places.iter().filter(|&&at| x[at].right() && !y[at].right()).count();
        let (only_a, only_b) = (only(a, b), only(b, a));
        // Per group: judgements, and how many more of them the second has right.
        let mut groups: BTreeMap<usize, (i64, i64)> = BTreeMap::new();
        for &at in &part.places {
            let group = groups.entry(a[at].group).or_default();
            group.0 += 1;
            group.1 += i64::from(b[at].right()) - i64::from(a[at].right());
        }
        let groups: Vec<(i64, i64)> = groups.into_values().collect();
        let rows = |sign: i64| groups.iter().filter(|group| group.1.signum() == sign).count();
        let rows_p = mcnemar(rows(1), rows(-1));
        Difference {
            name: part.name.clone(),
            a: first,
            b: second,
            only_a,
            only_b,
            difference: second.value() - first.value(),
            interval: bootstrap(&groups, seed, &part.name),
            mcnemar_p: mcnemar(only_a, only_b),
            rows_p,
            adjusted_p: rows_p,
        }
    };
    parts.iter().map(difference).collect()
}

/// Adjusts the p-values of a family of tests for their number, so that the chance of any false difference in it stays 5 %
/// (Holm, Scandinavian Journal of Statistics 6, 1979): the k-th smallest of n times n - k + 1, and not below the one before.
pub fn adjust(mut family: Vec<&mut Difference>) {
    family.sort_by(|a, b| a.rows_p.total_cmp(&b.rows_p));
    let (mut least, mut left) = (0.0_f64, family.len());
    for difference in family {
        least = least.max((difference.rows_p * left as f64).min(1.0));
        difference.adjusted_p = least;
        left -= 1;
    }
}

/// The 2.5th and the 97.5th of a hundred of the mean difference, over resampled groups `(judgements, difference)`.
fn bootstrap(groups: &[(i64, i64)], seed: u64, part: &str) -> (f64, f64) {
    if groups.is_empty() {
        return (-1.0, 1.0);
    }
    let mut rng = rng::stream(seed, &format!("bootstrap {part}"), 0);
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let drawn = (0..groups.len()).map(|_| groups[rng.random_range(0..groups.len())]);
            let (n, sum) = drawn.fold((0, 0), |(n, sum), (judgements, more)| (n + judgements, sum + more));
            sum as f64 / n as f64
        })
        .collect();
    means.sort_unstable_by(f64::total_cmp);
    let tail = RESAMPLES / 40;
    (means[tail], means[RESAMPLES - 1 - tail])
}

/// Exact two-sided McNemar test (McNemar, Psychometrika 12, 1947): of `a + b` judgements on which the models differ,
/// each falls to either with one half.
pub fn mcnemar(a: usize, b: usize) -> f64 {
    let n = a + b;
    let ln_choose = |k: usize| (1..=k).map(|i| ((n - k + i) as f64 / i as f64).ln()).sum::<f64>();
    let less = a.min(b);
    // Terms of the tail from its largest, which is the last, down.
    let mut term = (ln_choose(less) - n as f64 * std::f64::consts::LN_2).exp();
    let mut tail = 0.0;
    for k in (0..=less).rev() {
        tail += term;
        term *= k as f64 / (n - k + 1).max(1) as f64;
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;

    fn judged(right: &[bool], per_group: usize) -> Vec<Judged> {
        let one = |(i, &right): (usize, &bool)| Judged {
            group: i / per_group,
            subset: 0,
            better: f32::from(u8::from(right)),
            worse: 0.0,
            chance: 0.5,
            level: None,
            identical: false,
        };
        right.iter().enumerate().map(one).collect()
    }

    fn all(n: usize) -> Vec<Part> {
        vec![Part { name: "all".into(), places: (0..n).collect() }]
    }

    #[test]
    fn mcnemar_of_known_cases() {
        assert_eq!((mcnemar(0, 0), mcnemar(3, 3)), (1.0, 1.0));
        assert_abs_diff_eq!(mcnemar(0, 5), 2.0 / 32.0, epsilon = 1e-12);
        // 2 of 12: 2 (1 + 12 + 66) / 4096.
        assert_abs_diff_eq!(mcnemar(2, 10), 158.0 / 4096.0, epsilon = 1e-12);
        assert_eq!(mcnemar(2, 10), mcnemar(10, 2));
        assert!(mcnemar(3000, 5000) < 1e-50 && mcnemar(3990, 4010) > 0.5);
    }

    #[test]
    fn a_model_does_not_differ_from_itself() {
        let a = judged(&[true, false, true, true], 1);
        let d = &compare(&all(4), &a, &a, 1)[0];
        assert_eq!((d.difference, d.interval, d.only_a, d.only_b), (0.0, (0.0, 0.0), 0, 0));
        assert!(!d.is_real());
    }

    #[test]
    fn a_real_difference_is_seen_and_an_accident_is_not() {
        let n = 400;
        let a: Vec<bool> = (0..n).map(|i| i % 2 == 0).collect();
        let b: Vec<bool> = (0..n).map(|i| i % 2 == 0 || i % 5 == 1).collect();
        let d = &compare(&all(n), &judged(&a, 1), &judged(&b, 1), 7)[0];
        assert_eq!((d.only_a, d.only_b, d.a.right, d.b.right), (0, 40, 200, 240));
        assert_abs_diff_eq!(d.difference, 0.1, epsilon = 1e-12);
        assert!(d.is_real() && d.interval.0 > 0.06 && d.interval.1 < 0.14, "{d:?}");
        assert_eq!(d, &compare(&all(n), &judged(&a, 1), &judged(&b, 1), 7)[0], "the seed decides");
        let c: Vec<bool> = (0..n).map(|i| if i < 20 { i % 2 == 1 } else { a[i] } || i == 100 || i == 101).collect();
        assert!(!compare(&all(n), &judged(&a, 1), &judged(&c, 1), 7)[0].is_real());
    }

    #[test]
    fn a_few_rows_that_agree_are_no_difference() {
        let of = |n: usize| {
            let (a, b) = (judged(&vec![false; n], 1), judged(&vec![true; n], 1));
            compare(&all(n), &a, &b, 1).remove(0)
        };
        assert_eq!((of(3).interval, of(3).is_real()), ((1.0, 1.0), false));
        assert_abs_diff_eq!(of(3).rows_p, 0.25, epsilon = 1e-12);
        assert!(of(6).is_real(), "{:?}", of(6));
        // Of one row, any number of judgements are one voice.
        let (a, b) = (judged(&[false; 9], 9), judged(&[true; 9], 9));
        let d = &compare(&all(9), &a, &b, 1)[0];
        assert!(d.mcnemar_p < 0.01 && d.rows_p == 1.0 && !d.is_real(), "{d:?}");
    }

    #[test]
    fn the_number_of_tests_counts() {
        let d = compare(&all(1), &judged(&[true], 1), &judged(&[true], 1), 1).remove(0);
        let mut family = [0.04, 0.01, 0.03, 0.9].map(|rows_p| Difference { rows_p, interval: (0.1, 0.2), ..d.clone() });
        adjust(family.iter_mut().collect());
        // As R's p.adjust(c(0.04, 0.01, 0.03, 0.9), "holm").
        for (difference, p) in family.iter().zip([0.09, 0.04, 0.09, 0.9]) {
            assert_abs_diff_eq!(difference.adjusted_p, p, epsilon = 1e-12);
            assert_eq!(difference.is_real(), p < 0.05);
        }
    }

    /// Nine judgements of a row that go the same way are little more than one.
    #[test]
    fn judgements_of_a_row_stay_together() {
        let flip = |i: usize| (i / 9).is_multiple_of(10);
        let (a, b): (Vec<bool>, Vec<bool>) = (0..900).map(|i| (flip(i), flip(i + 9))).unzip();
        let width = |per_group| {
            let d = &compare(&all(900), &judged(&a, per_group), &judged(&b, per_group), 3)[0];
            d.interval.1 - d.interval.0
        };
        let ratio = width(9) / width(1);
        assert!((2.5..3.5).contains(&ratio), "{ratio}: the square root of nine");
    }
}
