//! `to = from`: exact, and the shapes need not agree.

use polar_raw::backend::Operations;

use super::Row;
use crate::case::{Allowed, Case, Spec, input, result};
use crate::draw::Class;

/// The operation of this file.
pub const ROWS: &[Row] = &[Row { operation: "copy", cases }];

pub fn cases() -> Vec<Spec> {
    let spec = |(rows, cols): (usize, usize)| {
        Spec::new(format!("{rows}x{cols}"), super::small(rows * cols), move |draw| {
            let operands = vec![
                result(&[rows * cols], Allowed::Exact).of_class(Class::Float),
                input(&[rows, cols], draw.values(Class::Float, rows * cols)).of_class(Class::Float),
            ];
            Case::exact(operands, |backend, x| backend.copy(&x[0], &x[1]))
        })
    };
    super::MATRICES.into_iter().map(spec).collect()
}
