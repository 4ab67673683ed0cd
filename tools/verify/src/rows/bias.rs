//! Biases: one addition forward, which is rounded once and so is exact here as well; backward a sum over the rows.

use polar_raw::backend::Operations;

use super::Row;
use crate::arithmetic::Arithmetic;
use crate::case::{Allowed, Case, Given, Spec, input, sum_error, updated};
use crate::draw::Class;

/// The operations of this file.
pub const ROWS: &[Row] =
    &[Row { operation: "bias_forward", cases: forward }, Row { operation: "bias_backward", cases: backward }];

/// Rows, parts of the bias, columns of each; and whether the parts lie in a wider matrix.
const SHAPES: [(usize, usize, usize, bool); 14] = [
    (1, 1, 1, false),
    (0, 2, 3, false),
    (7, 1, 13, false),
    (64, 1, 64, false),
    (63, 1, 127, false),
    (65, 3, 8, false),
    (129, 5, 7, true),
    (3, 2, 16, true),
    (66, 4, 32, true),
    (2, 1, 4099, false),
    (1021, 1, 3, false),
    (1500, 2, 48, true),
    (331, 1, 517, false),
    (40, 2, 1100, false),
];

/// The bias, or its gradient, as a matrix of its parts.
fn parts(bias: Given, banded: bool) -> Given {
    // Columns before and after that keep what is aligned so.
    if banded { bias.beside(8, 16) } else { bias }
}

fn label((rows, parts, columns, banded): (usize, usize, usize, bool)) -> String {
    format!("{rows}x{parts}x{columns}{}", if banded { " bands" } else { "" })
}

pub fn forward() -> Vec<Spec> {
    let spec = |shape: (usize, usize, usize, bool)| {
        let (rows, n, columns, banded) = shape;
        Spec::new(label(shape), super::small(rows * n * columns), move |draw| {
            let (y, bias) = (draw.values(Class::Float, rows * n * columns), draw.values(Class::Float, n * columns));
            let operands =
                vec![updated(&[rows, n * columns], y, Allowed::Exact), parts(input(&[n, columns], bias), banded)];
            Case::exact(operands, |backend, x| backend.bias_forward(&x[0], &x[1]))
        })
    };
    SHAPES.into_iter().map(spec).collect()
}

pub fn backward() -> Vec<Spec> {
    let spec = |shape: (usize, usize, usize, bool)| {
        let (rows, n, columns, banded) = shape;
        Spec::new(label(shape), super::small(rows * n * columns), move |draw| {
            let width = n * columns;
            let (dbias, dy) = (draw.values(Class::Sum, width), draw.values(Class::Float, rows * width));
            let size = |j: usize| dbias[j].abs() + (0..rows).map(|t| dy[t * width + j].abs()).sum::<f64>();
            let error = sum_error(rows + 1, draw.sum_eps());
            let allowed = Allowed::Each((0..width).map(|j| error * size(j)).collect());
            let operands =
                vec![parts(updated(&[n, columns], dbias, allowed).in_units_of(1), banded), input(&[rows, width], dy)];
            Case::modelled(
                operands,
                |backend, x| backend.bias_backward(&x[0], &x[1]),
                move |a, x| {
                    let sum = |a: &mut Arithmetic, j: usize| {
                        let sum = a.add(x[0][j], x[1].chunks(width).map(|dy| dy[j]));
                        a.single(sum)
                    };
                    vec![(0..width).map(|j| sum(a, j)).collect()]
                },
            )
        })
    };
    SHAPES.into_iter().map(spec).collect()
}
