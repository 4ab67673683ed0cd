//! A bias added to every row, and the sums of its gradient.

use super::Cuda;
use super::abi::*;
use super::device::Device;
use super::kernel::{Kernel, Launch};
use super::kernels;
use super::{at, size, vec8};
use crate::error::Result;
use crate::ops::{BiasBackward, BiasForward, Run};
use crate::tensor::Tensor;

/// Bytes of the partial sums of the backward pass.
pub(super) fn scratch(rows: usize, columns: usize) -> usize {
    rows.div_ceil(BIAS_ROWS as usize) * columns * size_of::<f32>()
}

/// The launch over `rows` of `columns`; `aligned`: rows of both operands, and the parts of the bias, begin and end at
/// multiples of 16 bytes.
pub fn plan_forward(rows: usize, columns: usize, aligned: bool) -> Launch<BiasParams> {
    plan([kernels::BIAS_FORWARD_VEC8, kernels::BIAS_FORWARD_ANY], rows, columns, aligned)
}

/// The launches that sum columns: first of each block's rows, then those sums.
pub fn plan_backward(rows: usize, columns: usize, aligned: bool) -> [Launch<BiasParams>; 2] {
    let partial = plan([kernels::BIAS_BACKWARD_VEC8, kernels::BIAS_BACKWARD_ANY], rows, columns, aligned);
    [partial, kernels::BIAS_BACKWARD_SUM.on([columns.div_ceil(32), 1])]
}

fn plan([vec8, any]: [Kernel<BiasParams>; 2], rows: usize, columns: usize, aligned: bool) -> Launch<BiasParams> {
    let (kernel, each) = if aligned { (vec8, 8) } else { (any, 1) };
    kernel.on([rows.div_ceil(BIAS_ROWS as usize), columns.div_ceil(kernel.threads as usize * each)])
}

pub(super) fn forward(device: &Device, y: &Tensor, bias: &Tensor) -> Result<()> {
    let aligned = bias.cols().is_multiple_of(8) && bias.row_stride().is_multiple_of(8) && vec8(y.cols(), &[y, bias]);
    let params = BiasParams { bias: at(bias), ..params(y, bias)? };
    // SAFETY: the operands were checked to have these shapes.
    unsafe { device.launch(&plan_forward(y.rows(), y.cols(), aligned), &params) }
}

pub(super) fn backward(device: &Device, dbias: &Tensor, dy: &Tensor) -> Result<()> {
    let [partial, sum] = plan_backward(dy.rows(), dy.cols(), vec8(dy.cols(), &[dy]));
    let partials = device.scratch(scratch(dy.rows(), dy.cols()))?;
    let params = BiasParams { dbias: at(dbias), partials, ..params(dy, dbias)? };
    // SAFETY: the operands were checked to have these shapes, and the scratch memory has room for the partial sums.
    unsafe {
        device.launch(&partial, &params)?;
        device.launch(&sum, &params)
    }
}

fn params(y: &Tensor, bias: &Tensor) -> Result<BiasParams> {
    Ok(BiasParams {
        y: at(y),
        rows: size(y.rows())?,
        columns: size(y.cols())?,
        part: size(bias.cols())?,
        ldbias: size(bias.row_stride())?,
        ..BiasParams::default()
    })
}

impl Run<BiasForward<'_>> for Cuda {
    fn run(&self, op: &BiasForward) -> Result<()> {
        forward(&self.device, op.y, op.bias)
    }
}

impl Run<BiasBackward<'_>> for Cuda {
    fn run(&self, op: &BiasBackward) -> Result<()> {
        backward(&self.device, op.dbias, op.dy)
    }
}
