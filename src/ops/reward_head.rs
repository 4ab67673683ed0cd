//! Final norm, scalar head, and the ranking loss of its scores (xtuner's `reward_model.py`).

use serde::{Deserialize, Serialize};

use super::{ElementKind, Op, Operands, ReadIndices, Work};
use crate::error::Result;
use crate::tensor::Tensor;

/// The ranking losses of xtuner's `reward.py`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LossKind {
    /// Bradley-Terry: `-log sigmoid(d)`.
    Ranking,
    /// `(1 - p)^2 * -log sigmoid(d)` with `p = 2 relu(sigmoid(d) - 0.5)`.
    Focal,
}

/// The score penalties of xtuner's `reward.py`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PenaltyKind {
    /// No penalty.
    None,
    /// `-log(5 - s) - log(s + 5)`, with `s` clamped to 1e-3 within the bounds.
    LogBarrier,
    /// `s^2`.
    L2,
}

/// The ranking loss of one pack.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairLoss {
    /// Bradley-Terry or focal.
    pub kind: LossKind,
    /// Penalty on the scores.
    pub penalty: PenaltyKind,
    /// Weight of the penalty.
    pub penalty_weight: f64,
    /// Multiplies everything: one over the pairs of the whole optimiser step.
    pub scale: f64,
}

/// Where the gradients of the reward head go.
#[derive(Clone, Copy)]
pub struct RewardHeadGrads<'a> {
    /// `[S, hidden]`, overwritten.
    pub dx: &'a Tensor,
    /// `[hidden]`, accumulated.
    pub dnorm: &'a Tensor,
    /// `[1, hidden]`, accumulated.
    pub dhead: &'a Tensor,
}

/// `scores = head . rmsnorm(x)`.
#[derive(Clone, Copy)]
pub struct RewardHeadForward<'a> {
    /// `[S]`.
    pub scores: &'a Tensor,
    /// `[S, hidden]`.
    pub x: &'a Tensor,
    /// `[hidden]`.
    pub norm: &'a Tensor,
    /// `[1, hidden]`.
    pub head: &'a Tensor,
    /// Of the norm.
    pub eps: f64,
}

impl Op for RewardHeadForward<'_> {
    fn operands(&self) -> Operands<'_> {
        let (s, hidden) = (self.x.rows(), self.x.cols());
        Operands::new()
            .write("scores", ElementKind::Sum, self.scores, &[s])
            .read("x", ElementKind::Float, self.x, &[s, hidden])
            .read("norm", ElementKind::Float, self.norm, &[hidden])
            .read("head", ElementKind::Float, self.head, &[1, hidden])
    }

    fn work(&self, _: &ReadIndices) -> Result<Work> {
        // Square and add; two multiplications and an addition.
        Ok(self.operands().moves() + Work::elementwise(self.x.len(), 5))
    }
}

/// Final norm, head, pair loss and all their gradients.
#[derive(Clone, Copy)]
pub struct RewardHeadLoss<'a> {
    /// `[S]`.
    pub scores: &'a Tensor,
    /// `[1]`, added to.
    pub loss: &'a Tensor,
    /// Gradients of the loss.
    pub grads: RewardHeadGrads<'a>,
    /// `[S, hidden]`.
    pub x: &'a Tensor,
    /// `[hidden]`.
    pub norm: &'a Tensor,
    /// `[1, hidden]`.
    pub head: &'a Tensor,
    /// `[P, 2]`: the rows of chosen and rejected, below `S`.
    pub pairs: &'a Tensor,
    /// Kind and scale.
    pub pair_loss: &'a PairLoss,
    /// Of the norm.
    pub eps: f64,
}

impl Op for RewardHeadLoss<'_> {
    fn operands(&self) -> Operands<'_> {
        let (s, hidden) = (self.x.rows(), self.x.cols());
        Operands::new()
            .write("scores", ElementKind::Sum, self.scores, &[s])
            .add("loss", ElementKind::Sum, self.loss, &[1])
            .write("dx", ElementKind::Float, self.grads.dx, &[s, hidden])
            .add("dnorm", ElementKind::Sum, self.grads.dnorm, &[hidden])
            .add("dhead", ElementKind::Sum, self.grads.dhead, &[1, hidden])
            .read("x", ElementKind::Float, self.x, &[s, hidden])
            .read("norm", ElementKind::Float, self.norm, &[hidden])
            .read("head", ElementKind::Float, self.head, &[1, hidden])
            .read("pairs", ElementKind::Index, self.pairs, &[self.pairs.rows(), 2])
            .below(s)
    }

    fn work(&self, _: &ReadIndices) -> Result<Work> {
        // The forward pass's five; normal, three for each of dhead and dnorm, five for dx. A few dozen a pair.
        Ok(self.operands().moves() + Work::elementwise(self.x.len(), 17) + Work::elementwise(self.pairs.rows(), 32))
    }
}
