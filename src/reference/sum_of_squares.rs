//! The sum under the root of the norm that gradients are clipped by: Pascanu et al., arXiv 1211.5063, section 3.2.

use super::{Reference, values, values_mut};
use crate::error::Result;
use crate::ops::{Run, SumOfSquares};

impl Run<SumOfSquares<'_>> for Reference {
    fn run(&self, op: &SumOfSquares) -> Result<()> {
        values_mut(op.sum)[0] = values(op.x).iter().map(|x: &f64| x * x).sum::<f64>();
        Ok(())
    }
}
