//! The count of what is not finite: exact.

use polar_raw::backend::Operations;

use super::Row;
use super::sum_of_squares::LENGTHS;
use crate::case::{Allowed, Case, Spec, input, result};
use crate::draw::Class;

/// The operation of this file.
pub const ROWS: &[Row] = &[Row { operation: "count_non_finite", cases }];

pub fn cases() -> Vec<Spec> {
    let spec = |(i, length): (usize, usize)| {
        Spec::new(format!("{length}"), length < 100_000, move |draw| {
            let mut values = draw.values(Class::Sum, length);
            // None in every third case; otherwise the first, the last, and every 7th one.
            let wrong = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
            for at in (0..length).filter(|at| i % 3 > 0 && (*at % 7 == 0 || *at + 1 == length)) {
                values[at] = wrong[at % 3];
            }
            let operands = vec![result(&[1], Allowed::Exact), input(&[length], values)];
            Case::exact(operands, |backend, x| backend.count_non_finite(&x[0], &x[1]))
        })
    };
    LENGTHS.into_iter().enumerate().map(spec).collect()
}
