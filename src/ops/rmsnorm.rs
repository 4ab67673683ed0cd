//! Root mean square layer normalisation: Zhang and Sennrich, arXiv 1910.07467, equation 4.

use super::{ElementKind, Op, Operands, ReadIndices, Work};
use crate::error::Result;
use crate::tensor::Tensor;

/// `y = x rstd weight` with `rstd = 1 / sqrt(mean(x^2) + eps)` of each row.
#[derive(Clone, Copy)]
pub struct RmsnormForward<'a> {
    /// `[T, hidden]`.
    pub y: &'a Tensor,
    /// `[T]`.
    pub rstd: &'a Tensor,
    /// `[T, hidden]`.
    pub x: &'a Tensor,
    /// `[hidden]`.
    pub weight: &'a Tensor,
    /// Added to the mean of squares.
    pub eps: f64,
}

impl Op for RmsnormForward<'_> {
    fn operands(&self) -> Operands<'_> {
        let (t, hidden) = (self.x.rows(), self.x.cols());
        Operands::new()
            .write("y", ElementKind::Float, self.y, &[t, hidden])
            .write("rstd", ElementKind::Sum, self.rstd, &[t])
            .read("x", ElementKind::Float, self.x, &[t, hidden])
            .read("weight", ElementKind::Float, self.weight, &[hidden])
    }

    fn work(&self, _: &ReadIndices) -> Result<Work> {
        // Square and add, then two multiplications.
        Ok(self.operands().moves() + Work::elementwise(self.x.len(), 4))
    }
}

/// `dx += d/dx`, `dweight += d/dweight`.
#[derive(Clone, Copy)]
pub struct RmsnormBackward<'a> {
    /// `[T, hidden]`, added to.
    pub dx: &'a Tensor,
    /// `[hidden]`, added to.
    pub dweight: &'a Tensor,
    /// `[T, hidden]`.
    pub dy: &'a Tensor,
    /// `[T, hidden]`.
    pub x: &'a Tensor,
    /// `[T]`, from the forward pass.
    pub rstd: &'a Tensor,
    /// `[hidden]`.
    pub weight: &'a Tensor,
}

impl Op for RmsnormBackward<'_> {
    fn operands(&self) -> Operands<'_> {
        let (t, hidden) = (self.x.rows(), self.x.cols());
        Operands::new()
            .add("dx", ElementKind::Float, self.dx, &[t, hidden])
            .add("dweight", ElementKind::Sum, self.dweight, &[hidden])
            .read("dy", ElementKind::Float, self.dy, &[t, hidden])
            .read("x", ElementKind::Float, self.x, &[t, hidden])
            .read("rstd", ElementKind::Sum, self.rstd, &[t])
            .read("weight", ElementKind::Float, self.weight, &[hidden])
    }

    fn work(&self, _: &ReadIndices) -> Result<Work> {
        // n = x rstd, w dy, their product and sum; four for dx and its addition, two for dweight.
        Ok(self.operands().moves() + Work::elementwise(self.x.len(), 10))
    }
}
