//! Next-token head and its loss in one: the logits of a few rows exist at a time.

use super::{ElementKind, Op, Operands, ReadIndices, Work};
use crate::error::Result;
use crate::tensor::Tensor;

/// `loss += sum(weights * -log softmax(x table^T)[targets])`, and its gradients if they are wanted.
#[derive(Clone, Copy)]
pub struct LinearCrossEntropy<'a> {
    /// `[1]`, added to.
    pub loss: &'a Tensor,
    /// `dx[S, hidden]`, overwritten, and `dtable[V, hidden]`, added to.
    pub grads: Option<(&'a Tensor, &'a Tensor)>,
    /// `[S, hidden]`.
    pub x: &'a Tensor,
    /// `[V, hidden]`.
    pub table: &'a Tensor,
    /// `[S]`, below `V`.
    pub targets: &'a Tensor,
    /// `[S]`.
    pub weights: &'a Tensor,
    /// `[R, V]`: at most `R` rows have logits at one time.
    pub scratch: &'a Tensor,
}

impl Op for LinearCrossEntropy<'_> {
    fn operands(&self) -> Operands<'_> {
        let (s, hidden, v) = (self.x.rows(), self.x.cols(), self.table.rows());
        let mut operands = Operands::new().add("loss", ElementKind::Sum, self.loss, &[1]);
        if let Some((dx, dtable)) = self.grads {
            operands = operands.write("dx", ElementKind::Float, dx, &[s, hidden]);
            operands = operands.add("dtable", ElementKind::Sum, dtable, &[v, hidden]);
        }
        operands
            .scratch("scratch", ElementKind::Float, self.scratch, &[self.scratch.rows(), v])
            .read("x", ElementKind::Float, self.x, &[s, hidden])
            .read("table", ElementKind::Float, self.table, &[v, hidden])
            .read("targets", ElementKind::Index, self.targets, &[s])
            .below(v)
            .read("weights", ElementKind::Sum, self.weights, &[s])
    }

    fn check(&self) -> Result<(), String> {
        if self.scratch.rows() == 0 { Err("scratch has no row".into()) } else { Ok(()) }
    }

    fn work(&self, _: &ReadIndices) -> Result<Work> {
        let (s, hidden, v) = (self.x.rows(), self.x.cols(), self.table.rows());
        let products = if self.grads.is_some() { 3 } else { 1 };
        // Maximum, subtraction, exponential, sum; one more for the gradient.
        let softmax = if self.grads.is_some() { 5 } else { 4 };
        Ok(self.operands().moves() + Work::product(products * s, v, hidden) + Work::elementwise(s * v, softmax))
    }
}
