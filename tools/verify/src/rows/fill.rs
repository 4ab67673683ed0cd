//! `x = value`: exact.

use polar_raw::backend::Operations;

use super::Row;
use crate::case::{Allowed, Case, Spec, result};
use crate::draw::Class;

/// The operation of this file.
pub const ROWS: &[Row] = &[Row { operation: "fill", cases }];

pub fn cases() -> Vec<Spec> {
    let spec = |(rows, cols): (usize, usize), value: f64, class: Class| {
        Spec::new(format!("{rows}x{cols} {class:?} {value}"), super::small(rows * cols), move |_| {
            let operands = vec![result(&[rows, cols], Allowed::Exact).of_class(class)];
            Case::exact(operands, move |backend, x| backend.fill(&x[0], value))
        })
    };
    let both = |shape| [spec(shape, 0.0, Class::Sum), spec(shape, -1.5, Class::Float)];
    super::MATRICES.into_iter().flat_map(both).collect()
}
