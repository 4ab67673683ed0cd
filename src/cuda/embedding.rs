//! Rows of the table, and the sums of their gradients.

use super::Cuda;
use super::abi::{EmbeddingBackwardParams, RowsParams};
use super::device::Device;
use super::kernel::Launch;
use super::kernels;
use super::{at, size, vec8};
use crate::error::Result;
use crate::ops::{EmbeddingBackward, EmbeddingForward, Run};
use crate::tensor::Tensor;

/// The launch that looks up `ids` rows; `aligned`: they begin and end at multiples of 16 bytes.
pub fn plan_forward(ids: usize, aligned: bool) -> Launch<RowsParams> {
    let kernel = if aligned { kernels::EMBEDDING_FORWARD_VEC8 } else { kernels::EMBEDDING_FORWARD_ANY };
    kernel.on([ids, 1])
}

/// The launch that adds the gradients of `ids` rows; `aligned`: their columns are a multiple of 4, and the table's
/// gradient begins at a multiple of 16 bytes and theirs at one of 8.
pub fn plan_backward(ids: usize, columns: usize, aligned: bool) -> Launch<EmbeddingBackwardParams> {
    let (kernel, each) = match aligned {
        true => (kernels::EMBEDDING_BACKWARD_VEC4, 4),
        false => (kernels::EMBEDDING_BACKWARD_ANY, 1),
    };
    kernel.on([ids, columns.div_ceil(kernel.threads as usize * each)])
}

pub(super) fn forward(device: &Device, y: &Tensor, ids: &Tensor, table: &Tensor) -> Result<()> {
    let (rows, columns) = (ids.len(), table.cols());
    let params = RowsParams { out: at(y), from: at(table), ids: at(ids), columns: size(columns)? };
    // SAFETY: the operands were checked to have these shapes; ids are below the vocabulary's size, by `Pack::new`.
    unsafe { device.launch(&plan_forward(rows, vec8(columns, &[y, table])), &params) }
}

pub(super) fn backward(device: &Device, dtable: &Tensor, ids: &Tensor, dy: &Tensor) -> Result<()> {
    let (rows, columns) = (ids.len(), dtable.cols());
    let aligned = columns.is_multiple_of(4) && at(dy).is_multiple_of(8) && at(dtable).is_multiple_of(16);
    let params = EmbeddingBackwardParams {
        dtable: at(dtable),
        ids: at(ids),
        dy: at(dy),
        rows: size(rows)?,
        columns: size(columns)?,
    };
    // SAFETY: as in `forward`.
    unsafe { device.launch(&plan_backward(rows, columns, aligned), &params) }
}

impl Run<EmbeddingForward<'_>> for Cuda {
    fn run(&self, op: &EmbeddingForward) -> Result<()> {
        forward(&self.device, op.y, op.ids, op.table)
    }
}

impl Run<EmbeddingBackward<'_>> for Cuda {
    fn run(&self, op: &EmbeddingBackward) -> Result<()> {
        backward(&self.device, op.dtable, op.ids, op.dy)
    }
}
