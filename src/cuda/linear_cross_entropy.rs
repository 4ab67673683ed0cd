//! The language model's loss, a chunk of rows at a time.

use super::Cuda;
use super::abi::CrossEntropyParams;
use super::device::Device;
use super::kernel::Launch;
use super::kernels;
use super::{at, gemm, size, vec8};
use crate::backend::Gemm;
use crate::error::Result;
use crate::ops::{LinearCrossEntropy, Run};
use crate::tensor::Tensor;

/// The launches over a chunk of `rows` of logits, whose products are [`gemm`]'s: the softmax of each, then the sum of their
/// losses. `aligned`: rows begin and end at multiples of 16 bytes.
pub fn plan(rows: usize, aligned: bool) -> [Launch<CrossEntropyParams>; 2] {
    let softmax = match aligned {
        true => kernels::LINEAR_CROSS_ENTROPY_SOFTMAX_VEC8,
        false => kernels::LINEAR_CROSS_ENTROPY_SOFTMAX_ANY,
    };
    [softmax.on([rows, 1]), kernels::LINEAR_CROSS_ENTROPY_SUM.on([1, 1])]
}

/// As many rows at a time as `logits` has: their logits, softmax and loss, then both gradients.
pub(super) fn run(
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
    let aligned = vec8(vocab, &[logits]);
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
        let [softmax, sum] = plan(rows, aligned);
        // SAFETY: the operands were checked to have these shapes; targets are below the vocabulary's size, by
        // `Pack::new`.
        unsafe {
            device.launch(&softmax, &params)?;
            device.launch(&sum, &params)?;
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
