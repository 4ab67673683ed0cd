//! Copying one tensor to another.

use super::{ElementKind, Op, Operands, ReadIndices, Work};
use crate::error::Result;
use crate::tensor::Tensor;

/// `to = from`.
#[derive(Clone, Copy)]
pub struct CopyOp<'a> {
    /// Of any shape; overwritten.
    pub to: &'a Tensor,
    /// Of the same dtype and number of elements.
    pub from: &'a Tensor,
}

impl Op for CopyOp<'_> {
    fn operands(&self) -> Operands<'_> {
        let Self { to, from } = *self;
        Operands::new().write("to", ElementKind::Any, to, to.dims()).read("from", ElementKind::Any, from, from.dims())
    }

    fn check(&self) -> Result<(), String> {
        if self.to.len() != self.from.len() || self.to.dtype() != self.from.dtype() {
            return Err(format!("{:?} = {:?} does not fit", self.to, self.from));
        }
        Ok(())
    }

    fn work(&self, _: &ReadIndices) -> Result<Work> {
        Ok(self.operands().moves())
    }
}
