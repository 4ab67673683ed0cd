use super::Cuda;
use super::abi::{ROWS_THREADS, RowsParams};
use super::device::Device;
use super::{at, size, vec8};
use crate::error::Result;
use crate::ops::{GatherBackward, GatherForward, Run};
use crate::tensor::Tensor;

pub fn forward(device: &Device, y: &Tensor, x: &Tensor, rows: &Tensor) -> Result<()> {
    let kernel = if vec8(x.cols(), &[y, x]) { "gather_forward_vec8" } else { "gather_forward_any" };
    launch(device, kernel, y, x, rows)
}

pub fn backward(device: &Device, dx: &Tensor, dy: &Tensor, rows: &Tensor) -> Result<()> {
    let kernel = if vec8(dx.cols(), &[dx, dy]) { "gather_backward_vec8" } else { "gather_backward_any" };
    launch(device, kernel, dx, dy, rows)
}

fn launch(device: &Device, kernel: &'static str, out: &Tensor, from: &Tensor, ids: &Tensor) -> Result<()> {
    let (rows, columns) = (size(ids.len())?, size(out.cols())?);
    let params = RowsParams { out: at(out), from: at(from), ids: at(ids), rows, columns };
    // SAFETY: the operands were checked to have these shapes; a pack's rows lie within it.
    unsafe { device.launch(kernel, [ids.len(), 1], ROWS_THREADS, 0, &params) }
}

impl Run<GatherForward<'_>> for Cuda {
    fn run(&self, op: &GatherForward) -> Result<()> {
        forward(&self.device, op.y, op.x, op.rows)
    }
}

impl Run<GatherBackward<'_>> for Cuda {
    fn run(&self, op: &GatherBackward) -> Result<()> {
        backward(&self.device, op.dx, op.dy, op.rows)
    }
}
