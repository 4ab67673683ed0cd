//! The sum of the squares of a flat buffer: the norm that gradients are clipped by, before its root (Pascanu et al.,
//! arXiv 1211.5063, section 3.2). Sums of several ranges of one gradient can be added; roots cannot.

use super::{ElementKind, Op, Operands, ReadIndices, Work};
use crate::error::Result;
use crate::tensor::Tensor;

/// `sum = sum(x^2)`, in an order that does not depend on the number of threads.
#[derive(Clone, Copy)]
pub struct SumOfSquares<'a> {
    /// `[1]`.
    pub sum: &'a Tensor,
    /// `[N]`.
    pub x: &'a Tensor,
}

impl Op for SumOfSquares<'_> {
    fn operands(&self) -> Operands<'_> {
        Operands::new().write("sum", ElementKind::Sum, self.sum, &[1]).read(
            "x",
            ElementKind::Sum,
            self.x,
            &[self.x.len()],
        )
    }

    fn work(&self, _: &ReadIndices) -> Result<Work> {
        Ok(self.operands().moves() + Work::elementwise(self.x.len(), 2))
    }
}
