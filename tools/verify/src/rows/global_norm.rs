//! The global norm: a sum of squares without cancellation, and its root halves the relative error.

use polar_raw::backend::Operations;

use crate::case::{Allowed, Case, Spec, overwritten, read, sum_error};
use crate::draw::Class;

/// Lengths of flat buffers.
pub const LENGTHS: [usize; 10] = [1, 7, 63, 64, 65, 1000, 4097, 65_537, 262_144, 1_000_003];

pub fn cases() -> Vec<Spec> {
    let spec = |length: usize| {
        Spec::new(format!("{length}"), length < 100_000, move |draw| {
            let operands = vec![
                overwritten("norm", Class::Sum, &[1], Allowed::Relative(sum_error(length, draw.sum_eps()) / 2.0)),
                read("x", Class::Sum, &[length], draw.values(Class::Sum, length)),
            ];
            Case::new(operands, |backend, x| backend.global_norm(&x[0], &x[1]))
        })
    };
    LENGTHS.into_iter().map(spec).collect()
}
