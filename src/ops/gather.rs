//! Some rows of a matrix.

use super::{ElementKind, Op, Operands, ReadIndices, Work};
use crate::error::Result;
use crate::tensor::Tensor;

/// `y = x[rows]`.
#[derive(Clone, Copy)]
pub struct GatherForward<'a> {
    /// `[S, hidden]`.
    pub y: &'a Tensor,
    /// `[T, hidden]`.
    pub x: &'a Tensor,
    /// `[S]`, below `T`.
    pub rows: &'a Tensor,
}

impl Op for GatherForward<'_> {
    fn operands(&self) -> Operands<'_> {
        let (s, t, hidden) = (self.rows.len(), self.x.rows(), self.x.cols());
        Operands::new()
            .write("y", ElementKind::Float, self.y, &[s, hidden])
            .read("x", ElementKind::Float, self.x, &[t, hidden])
            .moving(s * hidden)
            .read("rows", ElementKind::Index, self.rows, &[s])
            .below(t)
    }

    fn work(&self, _: &ReadIndices) -> Result<Work> {
        Ok(self.operands().moves())
    }
}

/// `dx[rows] += dy`; no row occurs twice.
#[derive(Clone, Copy)]
pub struct GatherBackward<'a> {
    /// `[T, hidden]`, added to.
    pub dx: &'a Tensor,
    /// `[S, hidden]`.
    pub dy: &'a Tensor,
    /// `[S]`, below `T`.
    pub rows: &'a Tensor,
}

impl Op for GatherBackward<'_> {
    fn operands(&self) -> Operands<'_> {
        let (s, t, hidden) = (self.rows.len(), self.dx.rows(), self.dx.cols());
        Operands::new()
            .add("dx", ElementKind::Float, self.dx, &[t, hidden])
            .moving(s * hidden)
            .read("dy", ElementKind::Float, self.dy, &[s, hidden])
            .read("rows", ElementKind::Index, self.rows, &[s])
            .below(t)
    }

    fn work(&self, _: &ReadIndices) -> Result<Work> {
        Ok(self.operands().moves() + Work::elementwise(self.dy.len(), 1))
    }
}
