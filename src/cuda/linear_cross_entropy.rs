use super::Cuda;
use super::abi::*;
use super::device::Device;
use super::{at, gemm, size, vec8};
use crate::backend::Gemm;
use crate::error::Result;
use crate::ops::{LinearCrossEntropy, Run};
use crate::tensor::Tensor;

/// As many rows at a time as `logits` has: their logits, softmax and loss, then both gradients.
pub fn run(
    device: &Device,
    loss: &Tensor,
    grads: Option<(&Tensor, &Tensor)>,
    x: &Tensor,
    table: &Tensor,
    targets: &Tensor,
    weights: &Tensor,
    logits: &Tensor,
) -> Result<()> {
    let (vocab, hidden) = (table.rows(), table.cols());
    let losses = device.scratch(logits.rows() * size_of::<f32>())?;
    let kernel = match vec8(vocab, &[logits]) {
        true => "linear_cross_entropy_softmax_vec8",
        false => "linear_cross_entropy_softmax_any",
    };
    for first in (0..x.rows()).step_by(logits.rows()) {
        let rows = logits.rows().min(x.rows() - first);
        let range = first..first + rows;
        let (chunk, logits) = (x.slice_rows(range.clone()), logits.slice_rows(0..rows));
        gemm::gemm(device, Gemm::Nt, (rows, vocab, hidden), &logits, &chunk, table, None)?;
        let params = CrossEntropyParams {
            logits: at(&logits),
            targets: at(&targets.slice_rows(range.clone())),
            weights: at(&weights.slice_rows(range.clone())),
            losses,
            loss: at(loss),
            rows: size(rows)?,
            columns: size(vocab)?,
            gradient: u32::from(grads.is_some()),
        };
        // SAFETY: the operands were checked to have these shapes; targets are below the vocabulary's size by the data's
        // checks.
        unsafe {
            device.launch(kernel, [rows, 1], LINEAR_CROSS_ENTROPY_THREADS, 0, &params)?;
            let threads = LINEAR_CROSS_ENTROPY_SUM_THREADS;
            device.launch("linear_cross_entropy_sum", [1, 1], threads, 0, &params)?;
        }
        if let Some((dx, dtable)) = grads {
            let dx = dx.slice_rows(range);
            gemm::gemm(device, Gemm::Nn, (rows, hidden, vocab), &dx, &logits, table, None)?;
            gemm::gemm(device, Gemm::Tn, (vocab, hidden, rows), dtable, &logits, &chunk, Some(dtable))?;
        }
    }
    Ok(())
}

impl Run<LinearCrossEntropy<'_>> for Cuda {
    fn run(&self, op: &LinearCrossEntropy) -> Result<()> {
        let LinearCrossEntropy { loss, grads, x, table, targets, weights, scratch } = *op;
        run(&self.device, loss, grads, x, table, targets, weights, scratch)
    }
}
