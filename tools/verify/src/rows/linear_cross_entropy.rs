//! The fused cross-entropy. A logit may be off by [`sum_error`] of `|x| |table|`, the lengths of the vectors; a loss by
//! twice that, a probability relatively as much; what they are multiplied with and summed to, by its own sum's error.

use polar_raw::backend::Operations;

use crate::case::{Allowed, Case, Spec, index, longest, overwritten, read, scratch, sum_error, updated};
use crate::draw::{Class, Draw};

/// Rows, hidden size, vocabulary, rows of scratch.
const SHAPES: [(usize, usize, usize, usize); 10] = [
    (1, 1, 1, 1),
    (1, 7, 2, 3),
    (5, 16, 259, 2),
    (63, 65, 64, 64),
    (64, 31, 65, 64),
    (65, 64, 63, 64),
    (130, 8, 1000, 7),
    (3, 1025, 33, 1),
    (257, 96, 513, 128),
    (9, 64, 20_011, 4),
];

fn draw_case(
    draw: &mut Draw,
    (rows, hidden, vocabulary, scratch_rows): (usize, usize, usize, usize),
    backward: bool,
) -> Case {
    let eps = draw.sum_eps();
    let (x, table) = (draw.within(Class::Float, rows * hidden, 2.0), draw.values(Class::Float, vocabulary * hidden));
    // As in training, where some tokens have no successor: every fourth row counts for nothing.
    let weights = draw.values(Class::Sum, rows);
    let weights: Vec<f64> = (0..rows).map(|s| if s % 4 == 3 { 0.0 } else { weights[s].abs() }).collect();
    let loss = draw.values(Class::Sum, 1);
    let weight: f64 = weights.iter().sum();
    let (longest_x, longest_row) = (longest(&x, hidden), longest(&table, hidden));
    // Logits, and later their gradients, are rounded to floats.
    let logit_error = (sum_error(hidden, eps) + draw.eps()) * longest_x * longest_row;
    let loss_error = 2.0 * logit_error + sum_error(vocabulary, eps) + 8.0 * eps * (1.0 + longest_x * longest_row);
    let loss_allowed = Allowed::All(weight * (loss_error + sum_error(rows, eps) * longest_x * longest_row));
    let p_error = 2.0 * logit_error + sum_error(vocabulary, eps) + 8.0 * eps + draw.eps();
    let mut operands = vec![
        updated("loss", Class::Sum, &[1], loss, loss_allowed),
        read("x", Class::Float, &[rows, hidden], x),
        read("table", Class::Float, &[vocabulary, hidden], table),
        index("targets", &[rows], &draw.below(rows, vocabulary)),
        read("weights", Class::Sum, &[rows], weights.clone()),
        scratch("scratch", Class::Float, &[scratch_rows, vocabulary]),
    ];
    if !backward {
        return Case::new(operands, |backend, x| {
            backend.linear_cross_entropy(&x[0], None, &x[1], &x[2], &x[3], &x[4], &x[5])
        });
    }
    // The magnitudes of a row's gradients by its logits sum to at most twice its weight.
    let dx: Vec<f64> = weights
        .iter()
        .flat_map(|w| vec![2.0 * w * longest_row * (p_error + sum_error(vocabulary, eps)); hidden])
        .collect();
    let dtable = draw.values(Class::Sum, vocabulary * hidden);
    let dtable_allowed = (p_error + sum_error(rows + 1, eps)) * (weight * longest_x + 1.0);
    operands.push(overwritten("dx", Class::Float, &[rows, hidden], Allowed::Each(dx)));
    operands.push(updated("dtable", Class::Sum, &[vocabulary, hidden], dtable, Allowed::All(dtable_allowed)));
    Case::new(operands, |backend, x| {
        backend.linear_cross_entropy(&x[0], Some((&x[6], &x[7])), &x[1], &x[2], &x[3], &x[4], &x[5])
    })
}

pub fn cases() -> Vec<Spec> {
    let spec = |shape: (usize, usize, usize, usize), backward: bool| {
        let (rows, hidden, vocabulary, scratch_rows) = shape;
        let pass = if backward { "backward" } else { "forward" };
        let label = format!("{rows}x{hidden} of {vocabulary} by {scratch_rows} {pass}");
        let quick = super::small(rows * vocabulary);
        Spec::new(label, quick, move |draw| draw_case(draw, shape, backward))
    };
    SHAPES.into_iter().flat_map(|shape| [spec(shape, false), spec(shape, true)]).collect()
}
