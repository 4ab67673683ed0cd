//! Setting all elements to one value.

use super::{ElementKind, Op, Operands, ReadIndices, Work};
use crate::error::Result;
use crate::tensor::Tensor;

/// `x = value` everywhere.
#[derive(Clone, Copy)]
pub struct Fill<'a> {
    /// Of any shape.
    pub x: &'a Tensor,
    /// Rounded to the dtype of `x`.
    pub value: f64,
}

impl Op for Fill<'_> {
    fn operands(&self) -> Operands<'_> {
        Operands::new().write("x", ElementKind::FloatOrSum, self.x, self.x.dims())
    }

    fn work(&self, _: &ReadIndices) -> Result<Work> {
        Ok(self.operands().moves())
    }
}
