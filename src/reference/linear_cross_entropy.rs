//! The language model's head and its loss: cross-entropy of `softmax(table x)`, one row of logits at a time.

use super::{Reference, rows, rows_mut, values, values_mut};
use crate::error::Result;
use crate::ops::{LinearCrossEntropy, Run};

/// Fills `logits = table x` and gives the logarithm of the sum of their exponentials.
fn log_sum_exp(logits: &mut [f64], x: &[f64], table: &[&[f64]]) -> f64 {
    for v in 0..table.len() {
        logits[v] = table[v].iter().zip(x).map(|(w, x)| w * x).sum();
    }
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + logits.iter().map(|l| (l - max).exp()).sum::<f64>().ln()
}

/// `sum_s weights[s] (lse_s - logits_s[targets[s]])`.
pub fn forward(x: &[&[f64]], table: &[&[f64]], targets: &[u32], weights: &[f64], logits: &mut [f64]) -> f64 {
    let mut loss = 0.0;
    for s in 0..x.len() {
        let lse = log_sum_exp(logits, x[s], table);
        loss += weights[s] * (lse - logits[targets[s] as usize]);
    }
    loss
}

/// `dlogits = weights[s] (softmax(logits) - onehot(target))`; `dx = table^T dlogits`, `dtable += dlogits x^T`.
pub fn backward(
    dx: &mut [&mut [f64]],
    dtable: &mut [&mut [f64]],
    x: &[&[f64]],
    table: &[&[f64]],
    targets: &[u32],
    weights: &[f64],
    logits: &mut [f64],
) {
    for s in 0..x.len() {
        let lse = log_sum_exp(logits, x[s], table);
        dx[s].fill(0.0);
        for v in 0..table.len() {
            let onehot = if v == targets[s] as usize { 1.0 } else { 0.0 };
            let dlogit = weights[s] * ((logits[v] - lse).exp() - onehot);
            for j in 0..x[s].len() {
                dx[s][j] += dlogit * table[v][j];
                dtable[v][j] += dlogit * x[s][j];
            }
        }
    }
}

impl Run<LinearCrossEntropy<'_>> for Reference {
    fn run(&self, op: &LinearCrossEntropy) -> Result<()> {
        let logits = &mut rows_mut(op.scratch)[0];
        let (x, table, targets, weights) = (&rows(op.x), &rows(op.table), values(op.targets), values(op.weights));
        if let Some((dx, dtable)) = op.grads {
            let (dx, dtable) = (&mut rows_mut(dx), &mut rows_mut(dtable));
            backward(dx, dtable, x, table, targets, weights, logits);
        }
        values_mut::<f64>(op.loss)[0] += forward(x, table, targets, weights, logits);
        Ok(())
    }
}
