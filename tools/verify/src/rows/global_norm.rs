//! The global norm: a sum of squares without cancellation, and its root halves the relative error.

use polar_raw::backend::Operations;

use super::Row;
use crate::case::{Allowed, Case, Spec, overwritten, read, sum_error};
use crate::draw::Class;

/// The operation of this file.
pub const ROWS: &[Row] = &[Row { operation: "global_norm", cases }];

/// Lengths of flat buffers.
pub const LENGTHS: [usize; 10] = [1, 7, 63, 64, 65, 1000, 4097, 65_537, 262_144, 1_000_003];

pub fn cases() -> Vec<Spec> {
    let spec = |length: usize| {
        Spec::new(format!("{length}"), length < 100_000, move |draw| {
            let operands = vec![
                overwritten("norm", Class::Sum, &[1], Allowed::Relative(sum_error(length, draw.sum_eps()) / 2.0)),
                read("x", Class::Sum, &[length], draw.values(Class::Sum, length)),
            ];
            Case::modelled(
                operands,
                |backend, x| backend.global_norm(&x[0], &x[1]),
                |a, x| {
                    let squares = a.tree(x[1].iter().map(|x| x * x));
                    let norm = a.function(squares.sqrt());
                    vec![vec![a.single(norm)]]
                },
            )
        })
    };
    LENGTHS.into_iter().map(spec).collect()
}
