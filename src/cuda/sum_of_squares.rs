//! The sum of the squares of a flat buffer.

use super::abi::FlatSumParams;
use super::kernel::Launch;
use super::{Cuda, flat_sum, kernels};
use crate::error::Result;
use crate::ops::{Run, SumOfSquares};

/// The launches over `elements`: a sum a chunk, then all of these.
pub fn plan(elements: usize) -> [Launch<FlatSumParams>; 2] {
    flat_sum::plan([kernels::SUM_OF_SQUARES_PARTIAL, kernels::SUM_OF_SQUARES_FINISH], elements)
}

impl Run<SumOfSquares<'_>> for Cuda {
    fn run(&self, op: &SumOfSquares) -> Result<()> {
        flat_sum::flat_sum(&self.device, &plan(op.x.len()), op.sum, op.x)
    }
}
