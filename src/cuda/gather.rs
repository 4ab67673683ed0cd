//! Rows picked out, and added back.

use super::Cuda;
use super::abi::RowsParams;
use super::device::Device;
use super::kernel::Launch;
use super::kernels;
use super::{at, size, vec8};
use crate::error::Result;
use crate::ops::{GatherBackward, GatherForward, Run};
use crate::tensor::Tensor;

/// The launch that picks out `rows` rows; `aligned`: they begin and end at multiples of 16 bytes.
pub fn plan_forward(rows: usize, aligned: bool) -> Launch<RowsParams> {
    let kernel = if aligned { kernels::GATHER_FORWARD_VEC8 } else { kernels::GATHER_FORWARD_ANY };
    kernel.on([rows, 1])
}

/// The launch that adds `rows` rows to where they are from.
pub fn plan_backward(rows: usize, aligned: bool) -> Launch<RowsParams> {
    let kernel = if aligned { kernels::GATHER_BACKWARD_VEC8 } else { kernels::GATHER_BACKWARD_ANY };
    kernel.on([rows, 1])
}

pub(super) fn forward(device: &Device, y: &Tensor, x: &Tensor, rows: &Tensor) -> Result<()> {
    let launch = plan_forward(rows.len(), vec8(x.cols(), &[y, x]));
    // SAFETY: the operands were checked to have these shapes; a pack's rows lie within it.
    unsafe { device.launch(&launch, &params(y, x, rows)?) }
}

pub(super) fn backward(device: &Device, dx: &Tensor, dy: &Tensor, rows: &Tensor) -> Result<()> {
    let launch = plan_backward(rows.len(), vec8(dx.cols(), &[dx, dy]));
    // SAFETY: as in `forward`; no row comes twice.
    unsafe { device.launch(&launch, &params(dx, dy, rows)?) }
}

fn params(out: &Tensor, from: &Tensor, ids: &Tensor) -> Result<RowsParams> {
    let (rows, columns) = (size(ids.len())?, size(out.cols())?);
    Ok(RowsParams { out: at(out), from: at(from), ids: at(ids), rows, columns })
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
