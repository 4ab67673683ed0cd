//! Selected rows: data movement forward; backward one addition, which is rounded once and so is exact here as well.

use polar_raw::backend::Operations;

use super::Row;
use crate::case::{Allowed, Case, Spec, index, input, result, updated};
use crate::draw::Class;

/// The operations of this file.
pub const ROWS: &[Row] =
    &[Row { operation: "gather_forward", cases: forward }, Row { operation: "gather_backward", cases: backward }];

/// Selected rows of all rows of a width: the last, all, few, more than a tile.
const SHAPES: [(usize, usize, usize); 8] =
    [(1, 1, 1), (0, 4, 3), (3, 5, 7), (5, 5, 65), (64, 129, 63), (65, 200, 64), (2, 3000, 128), (331, 1021, 257)];

pub fn forward() -> Vec<Spec> {
    let spec = |(selected, all, hidden): (usize, usize, usize)| {
        Spec::new(format!("{selected} of {all}x{hidden}"), super::small(all * hidden), move |draw| {
            let operands = vec![
                result(&[selected, hidden], Allowed::Exact),
                input(&[all, hidden], draw.values(Class::Float, all * hidden)),
                index(&[selected], &draw.distinct(selected, all)),
            ];
            Case::exact(operands, |backend, x| backend.gather_forward(&x[0], &x[1], &x[2]))
        })
    };
    SHAPES.into_iter().map(spec).collect()
}

pub fn backward() -> Vec<Spec> {
    let spec = |(selected, all, hidden): (usize, usize, usize)| {
        Spec::new(format!("{selected} of {all}x{hidden}"), super::small(all * hidden), move |draw| {
            let dx = draw.values(Class::Float, all * hidden);
            let operands = vec![
                updated(&[all, hidden], dx, Allowed::Exact),
                input(&[selected, hidden], draw.values(Class::Float, selected * hidden)),
                index(&[selected], &draw.distinct(selected, all)),
            ];
            Case::exact(operands, |backend, x| backend.gather_backward(&x[0], &x[1], &x[2]))
        })
    };
    SHAPES.into_iter().map(spec).collect()
}
