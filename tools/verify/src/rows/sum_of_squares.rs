//! The sum of squares of a flat buffer: no term cancels another.

use polar_raw::backend::Operations;

use super::Row;
use crate::case::{Allowed, Case, Spec, input, result, sum_error};
use crate::draw::Class;

/// The operation of this file.
pub const ROWS: &[Row] = &[Row { operation: "sum_of_squares", cases }];

/// Lengths of flat buffers.
pub const LENGTHS: [usize; 10] = [1, 7, 63, 64, 65, 1000, 4097, 65_537, 262_144, 1_000_003];

pub fn cases() -> Vec<Spec> {
    let spec = |length: usize| {
        Spec::new(format!("{length}"), length < 100_000, move |draw| {
            let operands = vec![
                result(&[1], Allowed::Relative(sum_error(length, draw.sum_eps()))),
                input(&[length], draw.values(Class::Sum, length)),
            ];
            Case::modelled(
                operands,
                |backend, x| backend.sum_of_squares(&x[0], &x[1]),
                |a, x| {
                    let squares = a.tree(x[1].iter().map(|x| x * x));
                    vec![vec![a.single(squares)]]
                },
            )
        })
    };
    LENGTHS.into_iter().map(spec).collect()
}
