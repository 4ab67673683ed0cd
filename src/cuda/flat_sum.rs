//! Sums over a flat buffer: of squares, and of what is not finite.

use super::abi::{FLAT_SUM_CHUNK, FlatSumParams};
use super::at;
use super::device::Device;
use super::kernel::{Kernel, Launch};
use crate::error::Result;
use crate::tensor::Tensor;

/// Bytes of the partial sums.
pub(super) fn scratch(elements: usize) -> usize {
    elements.div_ceil(FLAT_SUM_CHUNK as usize) * size_of::<f32>()
}

/// A launch that makes a sum a chunk, and one that adds all of these.
pub(super) fn plan([partial, finish]: [Kernel<FlatSumParams>; 2], elements: usize) -> [Launch<FlatSumParams>; 2] {
    [partial.on([elements.div_ceil(FLAT_SUM_CHUNK as usize), 1]), finish.on([1, 1])]
}

/// `sum[1]` is the sum over `x`, f32, that the launches make.
pub(super) fn flat_sum(device: &Device, launches: &[Launch<FlatSumParams>; 2], sum: &Tensor, x: &Tensor) -> Result<()> {
    let partials = device.scratch(scratch(x.len()))?;
    let params = FlatSumParams { sum: at(sum), x: at(x), partials, count: x.len() as u64 };
    // SAFETY: the operands were checked to have these shapes, and the scratch memory has room for a sum a chunk.
    unsafe { launches.iter().try_for_each(|launch| device.launch(launch, &params)) }
}
