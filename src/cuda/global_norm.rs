use super::Cuda;
use super::abi::{GLOBAL_NORM_CHUNK, GLOBAL_NORM_THREADS, GlobalNormParams};
use super::at;
use super::device::Device;
use crate::error::Result;
use crate::ops::{GlobalNorm, Run};
use crate::tensor::Tensor;

/// Bytes of the partial sums.
pub fn scratch(elements: usize) -> usize {
    elements.div_ceil(GLOBAL_NORM_CHUNK as usize) * size_of::<f32>()
}

pub fn global_norm(device: &Device, norm: &Tensor, x: &Tensor) -> Result<()> {
    let partials = device.scratch(scratch(x.len()))?;
    let params = GlobalNormParams { norm: at(norm), x: at(x), partials, count: x.len() as u64 };
    let chunks = x.len().div_ceil(GLOBAL_NORM_CHUNK as usize);
    // SAFETY: the operands were checked to have these shapes, and the scratch memory has room for a sum a chunk.
    unsafe {
        device.launch("global_norm_partial", [chunks, 1], GLOBAL_NORM_THREADS, 0, &params)?;
        device.launch("global_norm_finish", [1, 1], GLOBAL_NORM_THREADS, 0, &params)
    }
}

impl Run<GlobalNorm<'_>> for Cuda {
    fn run(&self, op: &GlobalNorm) -> Result<()> {
        global_norm(&self.device, op.norm, op.x)
    }
}
