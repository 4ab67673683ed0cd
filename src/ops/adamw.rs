//! AdamW: Loshchilov and Hutter, arXiv 1711.05101, as PyTorch computes it.

use super::{ElementKind, Op, Operands, ReadIndices, Work};
use crate::error::Result;
use crate::tensor::Tensor;

/// One update's hyperparameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients are scaled by `min(1, max_norm / (norm + 1e-6))`; 0 leaves them alone.
    pub max_norm: f64,
    /// 1 for the first update.
    pub step: u64,
}

/// One update of the flat parameters and both moments.
#[derive(Clone, Copy)]
pub struct AdamwOp<'a> {
    /// `[N]` floats: becomes a copy of `master`, and is the same tensor where floats are sums.
    pub params: &'a Tensor,
    /// `[N]`: the parameters, updated.
    pub master: &'a Tensor,
    /// `[N]`: the first moment.
    pub m: &'a Tensor,
    /// `[N]`: the second moment.
    pub v: &'a Tensor,
    /// `[N]`.
    pub grads: &'a Tensor,
    /// `[1]`: the sum of the squares of the whole gradient.
    pub squares: &'a Tensor,
    /// `[L]`: what has to be finite beside the norm for there to be an update.
    pub losses: &'a Tensor,
    /// Learning rate and the rest.
    pub update: &'a AdamW,
}

impl Op for AdamwOp<'_> {
    fn operands(&self) -> Operands<'_> {
        let n = self.master.len();
        Operands::new()
            .write("params", ElementKind::Float, self.params, &[n])
            .or_same_as("master")
            .add("master", ElementKind::Sum, self.master, &[n])
            .update("m", ElementKind::Sum, self.m, &[n])
            .update("v", ElementKind::Sum, self.v, &[n])
            .read("grads", ElementKind::Sum, self.grads, &[n])
            .read("squares", ElementKind::Sum, self.squares, &[1])
            .read("losses", ElementKind::Sum, self.losses, &[self.losses.len()])
    }

    fn check(&self) -> Result<(), String> {
        if self.update.step == 0 { Err("the first update has step 1".into()) } else { Ok(()) }
    }

    fn work(&self, _: &ReadIndices) -> Result<Work> {
        // Clip; three for m, four for v; decay, rate, root, its scale, eps, quotient, difference.
        Ok(self.operands().moves() + Work::elementwise(self.master.len(), 15))
    }
}
