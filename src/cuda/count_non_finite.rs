//! The count of what is not finite in a flat buffer.

use super::abi::FlatSumParams;
use super::kernel::Launch;
use super::{Cuda, flat_sum, kernels};
use crate::error::Result;
use crate::ops::{CountNonFinite, Run};

/// The launches over `elements`: a sum a chunk, then all of these.
pub fn plan(elements: usize) -> [Launch<FlatSumParams>; 2] {
    flat_sum::plan([kernels::COUNT_NON_FINITE_PARTIAL, kernels::COUNT_NON_FINITE_FINISH], elements)
}

impl Run<CountNonFinite<'_>> for Cuda {
    fn run(&self, op: &CountNonFinite) -> Result<()> {
        flat_sum::flat_sum(&self.device, &plan(op.x.len()), op.count, op.x)
    }
}
