//! The Euclidean norm of a flat buffer.

use super::{Kind, Op, Operands, ReadIndices, Work};
use crate::error::Result;
use crate::tensor::Tensor;

/// `norm = sqrt(sum(x^2))`, in an order that does not depend on the number of threads.
#[derive(Clone, Copy)]
pub struct GlobalNorm<'a> {
    /// `[1]`.
    pub norm: &'a Tensor,
    /// `[N]`.
    pub x: &'a Tensor,
}

impl Op for GlobalNorm<'_> {
    fn operands(&self) -> Operands<'_> {
        Operands::new().write("norm", Kind::Sum, self.norm, &[1]).read("x", Kind::Sum, self.x, &[self.x.len()])
    }

    fn work(&self, _: &ReadIndices) -> Result<Work> {
        Ok(self.operands().moves() + Work::elementwise(self.x.len(), 2))
    }
}
