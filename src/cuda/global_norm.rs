//! The norm of a flat buffer.

use super::Cuda;
use super::abi::{GLOBAL_NORM_CHUNK, GlobalNormParams};
use super::at;
use super::device::Device;
use super::kernel::Launch;
use super::kernels;
use crate::error::Result;
use crate::ops::{GlobalNorm, Run};
use crate::tensor::Tensor;

/// Bytes of the partial sums.
pub(super) fn scratch(elements: usize) -> usize {
    elements.div_ceil(GLOBAL_NORM_CHUNK as usize) * size_of::<f32>()
}

/// The launches over `elements`: a sum of squares a chunk, then the root of all.
pub fn plan(elements: usize) -> [Launch<GlobalNormParams>; 2] {
    let chunks = elements.div_ceil(GLOBAL_NORM_CHUNK as usize);
    [kernels::GLOBAL_NORM_PARTIAL.on([chunks, 1]), kernels::GLOBAL_NORM_FINISH.on([1, 1])]
}

pub(super) fn global_norm(device: &Device, norm: &Tensor, x: &Tensor) -> Result<()> {
    let partials = device.scratch(scratch(x.len()))?;
    let params = GlobalNormParams { norm: at(norm), x: at(x), partials, count: x.len() as u64 };
    let [partial, finish] = plan(x.len());
    // SAFETY: the operands were checked to have these shapes, and the scratch memory has room for a sum a chunk.
    unsafe {
        device.launch(&partial, &params)?;
        device.launch(&finish, &params)
    }
}

impl Run<GlobalNorm<'_>> for Cuda {
    fn run(&self, op: &GlobalNorm) -> Result<()> {
        global_norm(&self.device, op.norm, op.x)
    }
}
