//! The fused cross-entropy. A logit may be off by [`sum_error`] of `|x| |table|`, the lengths of the vectors; a loss by
//! twice that, a probability relatively as much; what they are multiplied with and summed to, by its own sum's error.

use polar_raw::backend::{Gemm, Operations};

use super::Row;
use crate::arithmetic::Arithmetic;
use crate::case::{Allowed, Case, Spec, index, input, longest, result, scratch, sum_error, updated};
use crate::draw::{Class, Draw};
use crate::rows::gemm;

/// The operation of this file.
pub const ROWS: &[Row] = &[Row { operation: "linear_cross_entropy", cases }];

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
    // Logits of about 1: where floats are bf16, larger ones are off by more than anything else is.
    let size = 3.0 / (hidden as f64).sqrt();
    let (x, table) = (draw.within(Class::Float, rows * hidden, size), draw.values(Class::Float, vocabulary * hidden));
    // As in training, where some tokens have no successor: every fourth row counts for nothing.
    let weights = draw.values(Class::Sum, rows);
    let weights: Vec<f64> = (0..rows).map(|s| if s % 4 == 3 { 0.0 } else { weights[s].abs() }).collect();
    // A loss is positive, and so is the one that it is added to.
    let loss = vec![draw.values(Class::Sum, 1)[0].abs()];
    let weight: f64 = weights.iter().sum();
    let (longest_x, longest_row) = (longest(&x, hidden), longest(&table, hidden));
    // Logits, and later their gradients, are rounded to floats.
    let logit_error = (sum_error(hidden, eps) + draw.eps()) * longest_x * longest_row;
    let loss_error = 2.0 * logit_error + sum_error(vocabulary, eps) + 8.0 * eps * (1.0 + longest_x * longest_row);
    let loss_allowed = Allowed::All(weight * (loss_error + sum_error(rows, eps) * longest_x * longest_row));
    let p_error = 2.0 * logit_error + sum_error(vocabulary, eps) + 8.0 * eps + draw.eps();
    let mut operands = vec![
        updated(&[1], loss, loss_allowed),
        input(&[rows, hidden], x),
        input(&[vocabulary, hidden], table),
        index(&[rows], &draw.below(rows, vocabulary)),
        input(&[rows], weights.clone()),
        scratch(&[scratch_rows, vocabulary]),
    ];
    if !backward {
        return Case::modelled(
            operands,
            |backend, x| backend.linear_cross_entropy(&x[0], None, &x[1], &x[2], &x[3], &x[4], &x[5]),
            move |a, x| vec![vec![softmax(a, x, hidden).0]],
        );
    }
    // The magnitudes of a row's gradients by its logits sum to at most twice its weight.
    let dx: Vec<f64> = weights
        .iter()
        .flat_map(|w| vec![2.0 * w * longest_row * (p_error + sum_error(vocabulary, eps)); hidden])
        .collect();
    let dtable = draw.values(Class::Sum, vocabulary * hidden);
    let dtable_allowed = (p_error + sum_error(rows + 1, eps)) * (weight * longest_x + 1.0);
    operands.push(result(&[rows, hidden], Allowed::Each(dx)));
    operands.push(updated(&[vocabulary, hidden], dtable, Allowed::All(dtable_allowed)));
    Case::modelled(
        operands,
        |backend, x| backend.linear_cross_entropy(&x[0], Some((&x[6], &x[7])), &x[1], &x[2], &x[3], &x[4], &x[5]),
        move |a, x| {
            let (loss, dlogits) = softmax(a, x, hidden);
            let (dx_shape, dtable_shape) = ((rows, hidden, vocabulary), (vocabulary, hidden, rows));
            let dx = gemm::product_model(a, Gemm::Nn, dx_shape, [&dlogits, &x[2]], Class::Float, None);
            let dtable = gemm::product_model(a, Gemm::Tn, dtable_shape, [&dlogits, &x[1]], Class::Sum, Some(&x[7]));
            vec![vec![loss], dx, dtable]
        },
    )
}

/// The model of the loss and of the gradient of the logits, which are rounded to floats both times that they are stored.
fn softmax(a: &mut Arithmetic, x: &[Vec<f64>], hidden: usize) -> (f64, Vec<f64>) {
    let (before, x, table, targets, weights) = (x[0][0], &x[1], &x[2], &x[3], &x[4]);
    let (mut losses, mut dlogits) = (Vec::new(), Vec::new());
    for (s, x) in x.chunks(hidden).enumerate() {
        let mut logits = Vec::with_capacity(table.len() / hidden);
        for row in table.chunks(hidden) {
            let sum = a.chain(row.iter().zip(x).map(|(w, x)| w * x));
            logits.push(a.float(sum));
        }
        let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = logits
            .iter()
            .map(|l| {
                let below = a.single(l - top);
                a.function(below.exp())
            })
            .collect();
        let sum = a.tree(powers.iter().copied());
        let (target, weight) = (targets[s] as usize, weights[s]);
        let log = a.function(sum.ln());
        let loss = a.chain([top, log, -logits[target]]);
        losses.push(weight * loss);
        let factor = a.function(weight / sum);
        for (v, power) in powers.iter().enumerate() {
            let onehot = if v == target { weight } else { 0.0 };
            let gradient = a.chain([factor * power, -onehot]);
            dlogits.push(a.float(gradient));
        }
    }
    let loss = a.add(before, losses);
    (a.single(loss), dlogits)
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
