//! Rows of a table by token id.

use super::{ElementKind, Op, Operands, ReadIndices, Work};
use crate::error::Result;
use crate::tensor::Tensor;

/// How many different rows of the table the ids name: a token that comes again moves no row again.
fn distinct(ids: &Tensor, indices: &ReadIndices) -> Result<usize> {
    let mut ids = indices(ids)?;
    ids.sort_unstable();
    ids.dedup();
    Ok(ids.len())
}

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

impl EmbeddingForward<'_> {
    /// The operands, of whose table that many rows are moved.
    fn moving(&self, rows: usize) -> Operands<'_> {
        let (t, v, hidden) = (self.ids.len(), self.table.rows(), self.table.cols());
        Operands::new()
            .write("y", ElementKind::Float, self.y, &[t, hidden])
            .read("ids", ElementKind::Index, self.ids, &[t])
            .below(v)
            .read("table", ElementKind::Float, self.table, &[v, hidden])
            .moving(rows * hidden)
    }
}

impl Op for EmbeddingForward<'_> {
    fn operands(&self) -> Operands<'_> {
        self.moving(self.ids.len())
    }

    fn work(&self, indices: &ReadIndices) -> Result<Work> {
        Ok(self.moving(distinct(self.ids, indices)?).moves())
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

impl EmbeddingBackward<'_> {
    /// The operands, of whose table that many rows are moved.
    fn moving(&self, rows: usize) -> Operands<'_> {
        let (t, v, hidden) = (self.ids.len(), self.dtable.rows(), self.dtable.cols());
        Operands::new()
            .add("dtable", ElementKind::Sum, self.dtable, &[v, hidden])
            .moving(rows * hidden)
            .read("ids", ElementKind::Index, self.ids, &[t])
            .below(v)
            .read("dy", ElementKind::Float, self.dy, &[t, hidden])
    }
}

impl Op for EmbeddingBackward<'_> {
    fn operands(&self) -> Operands<'_> {
        self.moving(self.ids.len())
    }

    fn work(&self, indices: &ReadIndices) -> Result<Work> {
        Ok(self.moving(distinct(self.ids, indices)?).moves() + Work::elementwise(self.dy.len(), 1))
    }
}
