//! Sums over a flat buffer: of squares, and of what is not finite.

use super::abi::{FLAT_SUM_CHUNK, FlatSumParams};
use super::device::Device;
use super::kernel::{Kernel, Launch};
use super::{Cuda, at, kernels};
use crate::error::Result;
use crate::ops::{CountNonFinite, Run, SumOfSquares};
use crate::tensor::Tensor;

/// Bytes of the partial sums.
pub(super) fn scratch(elements: usize) -> usize {
    elements.div_ceil(FLAT_SUM_CHUNK as usize) * size_of::<f32>()
}

/// The launches that sum the squares of `elements`: a sum a chunk, then all of these.
pub fn plan_sum_of_squares(elements: usize) -> [Launch<FlatSumParams>; 2] {
    plan([kernels::SUM_OF_SQUARES_PARTIAL, kernels::SUM_OF_SQUARES_FINISH], elements)
}

/// The same that count what is not finite.
pub fn plan_count_non_finite(elements: usize) -> [Launch<FlatSumParams>; 2] {
    plan([kernels::COUNT_NON_FINITE_PARTIAL, kernels::COUNT_NON_FINITE_FINISH], elements)
}

fn plan([partial, finish]: [Kernel<FlatSumParams>; 2], elements: usize) -> [Launch<FlatSumParams>; 2] {
    [partial.on([elements.div_ceil(FLAT_SUM_CHUNK as usize), 1]), finish.on([1, 1])]
}

/// `sum[1]` is the sum over `x`, f32, that the launches make.
fn flat_sum(device: &Device, launches: &[Launch<FlatSumParams>; 2], sum: &Tensor, x: &Tensor) -> Result<()> {
    let partials = device.scratch(scratch(x.len()))?;
    let params = FlatSumParams { sum: at(sum), x: at(x), partials, count: x.len() as u64 };
    // SAFETY: the operands were checked to have these shapes, and the scratch memory has room for a sum a chunk.
    unsafe { launches.iter().try_for_each(|launch| device.launch(launch, &params)) }
}

impl Run<SumOfSquares<'_>> for Cuda {
    fn run(&self, op: &SumOfSquares) -> Result<()> {
        flat_sum(&self.device, &plan_sum_of_squares(op.x.len()), op.sum, op.x)
    }
}

impl Run<CountNonFinite<'_>> for Cuda {
    fn run(&self, op: &CountNonFinite) -> Result<()> {
        flat_sum(&self.device, &plan_count_non_finite(op.x.len()), op.count, op.x)
    }
}
