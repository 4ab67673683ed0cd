use super::Cuda;
use super::abi::{EMBEDDING_BACKWARD_THREADS, EmbeddingBackwardParams, ROWS_THREADS, RowsParams};
use super::device::Device;
use super::{at, size, vec8};
use crate::error::Result;
use crate::ops::{EmbeddingBackward, EmbeddingForward, Run};
use crate::tensor::Tensor;

pub fn forward(device: &Device, y: &Tensor, ids: &Tensor, table: &Tensor) -> Result<()> {
    let (rows, columns) = (ids.len(), table.cols());
    let kernel = if vec8(columns, &[y, table]) { "embedding_forward_vec8" } else { "embedding_forward_any" };
    let params = RowsParams { out: at(y), from: at(table), ids: at(ids), rows: size(rows)?, columns: size(columns)? };
    // SAFETY: the operands were checked to have these shapes; ids are below the vocabulary's size by the data's checks.
    unsafe { device.launch(kernel, [rows, 1], ROWS_THREADS, 0, &params) }
}

pub fn backward(device: &Device, dtable: &Tensor, ids: &Tensor, dy: &Tensor) -> Result<()> {
    let (rows, columns) = (ids.len(), dtable.cols());
    let aligned = columns.is_multiple_of(4) && at(dy).is_multiple_of(8) && at(dtable).is_multiple_of(16);
    let (kernel, each) = if aligned { ("embedding_backward_vec4", 4) } else { ("embedding_backward_any", 1) };
    let params = EmbeddingBackwardParams {
        dtable: at(dtable),
        ids: at(ids),
        dy: at(dy),
        rows: size(rows)?,
        columns: size(columns)?,
    };
    let bands = columns.div_ceil(EMBEDDING_BACKWARD_THREADS as usize * each);
    // SAFETY: as in `forward`.
    unsafe { device.launch(kernel, [rows, bands], EMBEDDING_BACKWARD_THREADS, 0, &params) }
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
