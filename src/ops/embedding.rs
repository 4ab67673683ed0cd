//! Rows of a table by token id.

use super::{Kind, Op, Operands, ReadIndices, Work};
use crate::error::Result;
use crate::tensor::Tensor;

/// `y = table[ids]`.
#[derive(Clone, Copy)]
pub struct EmbeddingForward<'a> {
    /// `[T, hidden]`.
    pub y: &'a Tensor,
    /// `[T]`, below `V`.
    pub ids: &'a Tensor,
    /// `[V, hidden]`.
    pub table: &'a Tensor,
}

impl Op for EmbeddingForward<'_> {
    fn operands(&self) -> Operands<'_> {
        let (t, v, hidden) = (self.ids.len(), self.table.rows(), self.table.cols());
        Operands::new()
            .write("y", Kind::Float, self.y, &[t, hidden])
            .read("ids", Kind::Index, self.ids, &[t])
            .below(v)
            .read("table", Kind::Float, self.table, &[v, hidden])
            .moving(t * hidden)
    }

    fn work(&self, _: &ReadIndices) -> Result<Work> {
        Ok(self.operands().moves())
    }
}

/// `dtable[ids] += dy`, in the order of the tokens.
#[derive(Clone, Copy)]
pub struct EmbeddingBackward<'a> {
    /// `[V, hidden]`, added to.
    pub dtable: &'a Tensor,
    /// `[T]`, below `V`.
    pub ids: &'a Tensor,
    /// `[T, hidden]`.
    pub dy: &'a Tensor,
}

impl Op for EmbeddingBackward<'_> {
    fn operands(&self) -> Operands<'_> {
        let (t, v, hidden) = (self.ids.len(), self.dtable.rows(), self.dtable.cols());
        Operands::new()
            .update("dtable", Kind::Sum, self.dtable, &[v, hidden])
            .moving(t * hidden)
            .read("ids", Kind::Index, self.ids, &[t])
            .below(v)
            .read("dy", Kind::Float, self.dy, &[t, hidden])
    }

    fn work(&self, _: &ReadIndices) -> Result<Work> {
        Ok(self.operands().moves() + Work::elementwise(self.dy.len(), 1))
    }
}
