use super::Cuda;
use super::abi::*;
use super::device::Device;
use super::{at, size, vec8};
use crate::error::Result;
use crate::ops::{BiasBackward, BiasForward, Run};
use crate::tensor::Tensor;

/// Bytes of the partial sums of the backward pass.
pub fn scratch(rows: usize, columns: usize) -> usize {
    rows.div_ceil(BIAS_ROWS as usize) * columns * size_of::<f32>()
}

pub fn forward(device: &Device, y: &Tensor, bias: &Tensor) -> Result<()> {
    let whole = bias.cols().is_multiple_of(8) && bias.row_stride().is_multiple_of(8) && vec8(y.cols(), &[y, bias]);
    let kernel = if whole { "bias_forward_vec8" } else { "bias_forward_any" };
    let params = BiasParams { bias: at(bias), ..params(y, bias)? };
    // SAFETY: the operands were checked to have these shapes.
    unsafe { device.launch(kernel, grid(y, if whole { 8 } else { 1 }), BIAS_THREADS, 0, &params) }
}

pub fn backward(device: &Device, dbias: &Tensor, dy: &Tensor) -> Result<()> {
    let whole = vec8(dy.cols(), &[dy]);
    let kernel = if whole { "bias_backward_vec8" } else { "bias_backward_any" };
    let partials = device.scratch(scratch(dy.rows(), dy.cols()))?;
    let params = BiasParams { dbias: at(dbias), partials, ..params(dy, dbias)? };
    // SAFETY: the operands were checked to have these shapes, and the scratch memory has room for the partial sums.
    unsafe {
        device.launch(kernel, grid(dy, if whole { 8 } else { 1 }), BIAS_THREADS, 0, &params)?;
        let bands = dy.cols().div_ceil(32);
        device.launch("bias_backward_sum", [bands, 1], BIAS_BACKWARD_SUM_THREADS, 0, &params)
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

fn grid(y: &Tensor, each: usize) -> [usize; 2] {
    [y.rows().div_ceil(BIAS_ROWS as usize), y.cols().div_ceil(BIAS_THREADS as usize * each)]
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
