//! How many elements of a flat buffer are NaN or infinite: what has to be none before state is saved.

use super::{ElementKind, Op, Operands, ReadIndices, Work};
use crate::error::Result;
use crate::tensor::Tensor;

/// `count =` the number of elements of `x` that are not finite; exact up to 2^24, and never 0 above.
#[derive(Clone, Copy)]
pub struct CountNonFinite<'a> {
    /// `[1]`.
    pub count: &'a Tensor,
    /// `[N]`.
    pub x: &'a Tensor,
}

impl Op for CountNonFinite<'_> {
    fn operands(&self) -> Operands<'_> {
        Operands::new().write("count", ElementKind::Sum, self.count, &[1]).read(
            "x",
            ElementKind::Sum,
            self.x,
            &[self.x.len()],
        )
    }

    fn work(&self, _: &ReadIndices) -> Result<Work> {
        Ok(self.operands().moves() + Work::elementwise(self.x.len(), 1))
    }
}
