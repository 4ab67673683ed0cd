//! RMSNorm: a block holds a row in registers.

use super::Cuda;
use super::abi::*;
use super::device::Device;
use super::kernel::{Kernel, Launch};
use super::kernels;
use super::{at, size, vec8};
use crate::error::{Error, Result};
use crate::ops::{RmsnormBackward, RmsnormForward, Run};
use crate::tensor::Tensor;

/// A kernel, and the columns that one of its threads holds.
type Variant<P> = (Kernel<P>, u32);

/// The launch over `rows` of `columns`; `aligned`: all rows begin and end at multiples of 16 bytes.
///
/// # Errors
/// The user's when no block holds so long a row.
pub fn plan_forward(rows: usize, columns: usize, aligned: bool) -> Result<Launch<RmsnormParams>> {
    let (kernel, each): Variant<_> = match aligned {
        true => (kernels::RMSNORM_FORWARD_VEC8, RMSNORM_VEC8_COLUMNS),
        false => (kernels::RMSNORM_FORWARD_ANY, RMSNORM_ANY_COLUMNS),
    };
    Ok(kernel.on([rows, 1]).with_threads(threads(columns, each)?))
}

/// The launches backward: the rows, with a partial sum of the weight's gradient a block, then those sums.
///
/// # Errors
/// As [`plan_forward`].
pub fn plan_backward(rows: usize, columns: usize, aligned: bool) -> Result<[Launch<RmsnormBackwardParams>; 2]> {
    let (kernel, each): Variant<_> = match aligned {
        true => (kernels::RMSNORM_BACKWARD_VEC8, RMSNORM_VEC8_COLUMNS),
        false => (kernels::RMSNORM_BACKWARD_ANY, RMSNORM_ANY_COLUMNS),
    };
    let blocks = rows.div_ceil(RMSNORM_BACKWARD_ROWS as usize);
    let of_rows = kernel.on([blocks, 1]).with_threads(threads(columns, each)?);
    Ok([of_rows, kernels::RMSNORM_BACKWARD_WEIGHT.on([columns.div_ceil(32), 1])])
}

/// Threads of a block that holds a row of `columns` in registers, `each` columns to a thread: whole warps.
fn threads(columns: usize, each: u32) -> Result<u32> {
    let threads = columns.div_ceil(each as usize).next_multiple_of(32);
    match u32::try_from(threads) {
        Ok(threads) if threads <= RMSNORM_MAX_THREADS => Ok(threads),
        _ => Err(Error::user(format!(
            "rows of {columns} are too long for the norm's kernels: they take {} at most, {} where it is not a multiple \
             of 8; use --device cpu",
            RMSNORM_MAX_THREADS * RMSNORM_VEC8_COLUMNS,
            RMSNORM_MAX_THREADS * RMSNORM_ANY_COLUMNS
        ))),
    }
}

/// Refuses rows that no block holds.
pub(super) fn check(columns: usize) -> Result<()> {
    let each = if columns.is_multiple_of(8) { RMSNORM_VEC8_COLUMNS } else { RMSNORM_ANY_COLUMNS };
    threads(columns, each).map(|_| ())
}

/// Bytes of the partial sums of the backward pass.
pub(super) fn scratch(rows: usize, columns: usize) -> usize {
    rows.div_ceil(RMSNORM_BACKWARD_ROWS as usize) * columns * size_of::<f32>()
}

pub(super) fn forward(device: &Device, y: &Tensor, rstd: &Tensor, x: &Tensor, weight: &Tensor, eps: f32) -> Result<()> {
    let (rows, columns) = (x.rows(), x.cols());
    let launch = plan_forward(rows, columns, vec8(columns, &[y, x, weight]))?;
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
    unsafe { device.launch(&launch, &params) }
}

pub(super) fn backward(
    device: &Device,
    dx: &Tensor,
    dweight: &Tensor,
    dy: &Tensor,
    x: &Tensor,
    rstd: &Tensor,
    weight: &Tensor,
) -> Result<()> {
    let (rows, columns) = (x.rows(), x.cols());
    let [of_rows, of_weight] = plan_backward(rows, columns, vec8(columns, &[dx, dy, x, weight]))?;
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
    // SAFETY: the operands were checked to have these shapes, and the scratch memory has room for the partial sums.
    unsafe {
        device.launch(&of_rows, &params)?;
        device.launch(&of_weight, &params)
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
