//! RMSNorm of each head's queries or keys: half a warp, or a warp, has a vector.

use super::abi::*;
use super::kernel::Launch;
use super::{Cuda, at, kernels, size, vec8};
use crate::error::{Error, Result};
use crate::ops::{HeadRmsnormBackward, HeadRmsnormForward, Run};

/// The launch over `vectors` of `dim`; `aligned`: all begin and end at multiples of 16 bytes.
///
/// # Errors
/// The user's when heads are too long.
pub fn plan_forward(vectors: usize, dim: usize, aligned: bool) -> Result<Launch<HeadRmsnormParams>> {
    check(dim)?;
    let (kernel, lanes) = match aligned {
        true => (kernels::HEAD_RMSNORM_FORWARD_VEC8, HEAD_RMSNORM_VEC8_LANES),
        false => (kernels::HEAD_RMSNORM_FORWARD_ANY, 32),
    };
    Ok(kernel.on([vectors.div_ceil((HEAD_RMSNORM_THREADS / lanes) as usize), 1]))
}

/// The launches backward: the vectors, with a partial sum of the weight's gradient a block, then those sums.
///
/// # Errors
/// As [`plan_forward`].
pub fn plan_backward(vectors: usize, dim: usize, aligned: bool) -> Result<[Launch<HeadRmsnormBackwardParams>; 2]> {
    check(dim)?;
    let kernel = match aligned {
        true => kernels::HEAD_RMSNORM_BACKWARD_VEC8,
        false => kernels::HEAD_RMSNORM_BACKWARD_ANY,
    };
    let of_weight = kernels::HEAD_RMSNORM_BACKWARD_WEIGHT.on([dim.div_ceil(32), 1]);
    Ok([kernel.on([blocks(vectors), 1]), of_weight])
}

/// Blocks of the backward pass, each of which leaves a row of partial sums.
fn blocks(vectors: usize) -> usize {
    vectors.div_ceil(HEAD_RMSNORM_BACKWARD_VECTORS as usize)
}

/// Bytes that the backward pass leaves between its kernels.
pub(super) fn scratch(vectors: usize, dim: usize) -> usize {
    blocks(vectors) * dim * size_of::<f32>()
}

/// Refuses heads that no kernel takes.
pub(super) fn check(dim: usize) -> Result<()> {
    if dim <= HEAD_RMSNORM_MAX_DIM as usize {
        return Ok(());
    }
    Err(Error::user(format!(
        "heads of {dim} are too long for the norm's kernels, which take {HEAD_RMSNORM_MAX_DIM} at most; use --device cpu"
    )))
}

impl Run<HeadRmsnormForward<'_>> for Cuda {
    fn run(&self, op: &HeadRmsnormForward) -> Result<()> {
        let HeadRmsnormForward { y, rstd, x, weight, eps } = *op;
        let (vectors, dim) = (rstd.len(), weight.len());
        let launch = plan_forward(vectors, dim, vec8(dim, &[y, x, weight]))?;
        let params = HeadRmsnormParams {
            y: at(y),
            rstd: at(rstd),
            x: at(x),
            weight: at(weight),
            vectors: size(vectors)?,
            dim: size(dim)?,
            eps: eps as f32,
        };
        // SAFETY: the operands were checked to have these shapes.
        unsafe { self.device.launch(&launch, &params) }
    }
}

impl Run<HeadRmsnormBackward<'_>> for Cuda {
    fn run(&self, op: &HeadRmsnormBackward) -> Result<()> {
        let HeadRmsnormBackward { dx, dweight, dy, x, rstd, weight } = *op;
        let (vectors, dim) = (rstd.len(), weight.len());
        let [of_vectors, of_weight] = plan_backward(vectors, dim, vec8(dim, &[dx, dy, x, weight]))?;
        let params = HeadRmsnormBackwardParams {
            dx: at(dx),
            dweight: at(dweight),
            partials: self.device.scratch(scratch(vectors, dim))?,
            dy: at(dy),
            x: at(x),
            rstd: at(rstd),
            weight: at(weight),
            vectors: size(vectors)?,
            dim: size(dim)?,
        };
        // SAFETY: the operands were checked to have these shapes, and the scratch memory has room for the partial sums.
        unsafe {
            self.device.launch(&of_vectors, &params)?;
            self.device.launch(&of_weight, &params)
        }
    }
}
