use super::Cuda;
use super::abi::*;
use super::device::Device;
use super::{at, size, vec8};
use crate::error::{Error, Result};
use crate::ops::{RmsnormBackward, RmsnormForward, Run};
use crate::tensor::Tensor;

/// Threads of a block that holds a row of `columns` in registers, `each` columns to a thread: whole warps.
fn threads(columns: usize, each: u32) -> Result<u32> {
    let threads = columns.div_ceil(each as usize).next_multiple_of(32);
    match u32::try_from(threads) {
        Ok(threads) if threads <= RMSNORM_MAX_THREADS => Ok(threads),
        _ => Err(Error::user(format!(
            "rows of {columns} are too long for the norm's kernels: they take {} at most, {} where it is no multiple \
             of 8; use --device cpu",
            RMSNORM_MAX_THREADS * RMSNORM_VEC8_COLUMNS,
            RMSNORM_MAX_THREADS * RMSNORM_ANY_COLUMNS
        ))),
    }
}

/// Refuses rows that no block holds.
pub fn check(columns: usize) -> Result<()> {
    let each = if columns.is_multiple_of(8) { RMSNORM_VEC8_COLUMNS } else { RMSNORM_ANY_COLUMNS };
    threads(columns, each).map(|_| ())
}

/// Bytes of the partial sums of the backward pass.
pub fn scratch(rows: usize, columns: usize) -> usize {
    rows.div_ceil(RMSNORM_BACKWARD_ROWS as usize) * columns * size_of::<f32>()
}

pub fn forward(device: &Device, y: &Tensor, rstd: &Tensor, x: &Tensor, weight: &Tensor, eps: f32) -> Result<()> {
    let (rows, columns) = (x.rows(), x.cols());
    let (kernel, each) = match vec8(columns, &[y, x, weight]) {
        true => ("rmsnorm_forward_vec8", RMSNORM_VEC8_COLUMNS),
        false => ("rmsnorm_forward_any", RMSNORM_ANY_COLUMNS),
    };
    let params = RmsnormParams {
        y: at(y),
        rstd: at(rstd),
        x: at(x),
        branch: 0,
        sum: 0,
        weight: at(weight),
        rows: size(rows)?,
        columns: size(columns)?,
        eps,
    };
    // SAFETY: the operands were checked to have these shapes.
    unsafe { device.launch(kernel, [rows, 1], threads(columns, each)?, 0, &params) }
}

pub fn backward(
    device: &Device,
    dx: &Tensor,
    dweight: &Tensor,
    dy: &Tensor,
    x: &Tensor,
    rstd: &Tensor,
    weight: &Tensor,
) -> Result<()> {
    let (rows, columns) = (x.rows(), x.cols());
    let (kernel, each) = match vec8(columns, &[dx, dy, x, weight]) {
        true => ("rmsnorm_backward_vec8", RMSNORM_VEC8_COLUMNS),
        false => ("rmsnorm_backward_any", RMSNORM_ANY_COLUMNS),
    };
    let params = RmsnormBackwardParams {
        dx: at(dx),
        dweight: at(dweight),
        partials: device.scratch(scratch(rows, columns))?,
        dy: at(dy),
        x: at(x),
        rstd: at(rstd),
        weight: at(weight),
        rows: size(rows)?,
        columns: size(columns)?,
    };
    let blocks = rows.div_ceil(RMSNORM_BACKWARD_ROWS as usize);
    // SAFETY: the operands were checked to have these shapes, and the scratch memory has room for the partial sums.
    unsafe {
        device.launch(kernel, [blocks, 1], threads(columns, each)?, 0, &params)?;
        let bands = columns.div_ceil(32);
        device.launch("rmsnorm_backward_weight", [bands, 1], RMSNORM_BACKWARD_WEIGHT_THREADS, 0, &params)
    }
}

impl Run<RmsnormForward<'_>> for Cuda {
    fn run(&self, op: &RmsnormForward) -> Result<()> {
        forward(&self.device, op.y, op.rstd, op.x, op.weight, op.eps as f32)
    }
}

impl Run<RmsnormBackward<'_>> for Cuda {
    fn run(&self, op: &RmsnormBackward) -> Result<()> {
        backward(&self.device, op.dx, op.dweight, op.dy, op.x, op.rstd, op.weight)
    }
}
