use super::gemm::product;
use super::math::{exp, max, sum2, vectorised};
use super::parallel::{self, Shared};
use super::{Cpu, values, values_mut};
use crate::backend::Gemm;
use crate::error::Result;
use crate::ops::{LinearCrossEntropy, Run};
use crate::tensor::Tensor;
use crate::tensor::host::slice_mut;

/// As many rows at a time as `scratch` has: logits, their softmax, and from it at once the gradients. Returns the loss.
pub fn run(
    grads: Option<(&Tensor, &Tensor)>,
    x: &Tensor,
    table: &Tensor,
    targets: &[u32],
    weights: &[f32],
    scratch: &Tensor,
) -> f32 {
    let (hidden, vocab) = (x.cols(), table.rows());
    let gradient = grads.is_some();
    let mut total = 0.0f64;
    for start in (0..targets.len()).step_by(scratch.rows()) {
        let end = targets.len().min(start + scratch.rows());
        let (targets, weights) = (&targets[start..end], &weights[start..end]);
        let rows = targets.len();
        let x = x.slice_rows(start..start + rows);
        let logits = scratch.slice_rows(0..rows);
        product(Gemm::Nt, (rows, vocab, hidden), &logits, &x, table, None);
        // SAFETY: scratch is a dense host tensor that overlaps nothing.
        let values = unsafe { slice_mut::<f32>(&logits) };
        let mut losses = [0.0f32; ROWS];
        let chunks = targets.chunks(ROWS).zip(weights.chunks(ROWS)).zip(values.chunks_mut(ROWS * vocab));
        for ((targets, weights), values) in chunks {
            let shared = Shared::new(&mut losses);
            parallel::chunks_mut(values, vocab, |r, row| {
                // SAFETY: one task a row.
                let loss = unsafe { shared.slice(r, 1) };
                loss[0] = softmax_row(row, targets[r] as usize, weights[r], gradient);
            });
            total += losses[..targets.len()].iter().map(|&loss| f64::from(loss)).sum::<f64>();
        }
        if let Some((dx, dtable)) = grads {
            product(Gemm::Nn, (rows, hidden, vocab), &dx.slice_rows(start..start + rows), &logits, table, None);
            product(Gemm::Tn, (vocab, hidden, rows), dtable, &logits, &x, Some(dtable));
        }
    }
    total as f32
}

/// Rows whose losses are held at a time.
const ROWS: usize = 64;

/// `-weight log softmax(row)[target]`; the row becomes `weight (softmax - onehot)` if its gradient is wanted.
fn softmax_row(row: &mut [f32], target: usize, weight: f32, gradient: bool) -> f32 {
    vectorised(
        #[inline(always)]
        || {
            let top = max(row);
            let at_target = row[target] - top;
            for v in row.iter_mut() {
                *v = exp(*v - top);
            }
            let sum = sum2(row, row, |a, _| a);
            if gradient {
                let factor = weight / sum;
                row.iter_mut().for_each(|v| *v *= factor);
                row[target] -= weight;
            }
            weight * (sum.ln() - at_target)
        },
    )
}

impl Run<LinearCrossEntropy<'_>> for Cpu {
    fn run(&self, op: &LinearCrossEntropy) -> Result<()> {
        let (targets, weights) = (values(op.targets), values(op.weights));
        values_mut::<f32>(op.loss)[0] += run(op.grads, op.x, op.table, targets, weights, op.scratch);
        Ok(())
    }
}
