//! Final norm, scalar head, pair loss and their gradients.

use super::Cuda;
use super::abi::*;
use super::device::Device;
use super::kernel::Launch;
use super::kernels;
use super::{at, size};
use crate::backend::{PairLoss, RewardHeadGrads};
use crate::config::{LossKind, PenaltyKind};
use crate::error::{Error, Result};
use crate::ops::{RewardHeadForward, RewardHeadLoss, Run};
use crate::tensor::Tensor;

/// Rows that a block of the forward pass scores: one a warp.
const ROWS: usize = REWARD_HEAD_THREADS as usize / 32;

/// The launch that scores `rows` rows.
pub fn plan_forward(rows: usize) -> Launch<RewardHeadParams> {
    kernels::REWARD_HEAD_FORWARD.on([rows.div_ceil(ROWS), 1])
}

/// The one launch that makes scores, loss and gradients of `rows` of `columns`.
pub fn plan_loss(rows: usize, columns: usize) -> Launch<RewardHeadParams> {
    // Score, slope and inverse root mean square of each row, of which there are at most `REWARD_HEAD_MAX_ROWS`.
    let shared = 3 * size_of::<f32>() * rows;
    kernels::REWARD_HEAD_LOSS.on([bands(columns), 1]).with_shared(shared as u32)
}

/// The same in two launches behind [`plan_forward`]: the loss from the scores, then the gradients.
pub fn plan_unfused(columns: usize) -> [Launch<RewardHeadParams>; 2] {
    [kernels::REWARD_HEAD_PAIR_LOSS.on([1, 1]), kernels::REWARD_HEAD_BACKWARD.on([bands(columns), 1])]
}

/// Blocks that share the columns.
fn bands(columns: usize) -> usize {
    columns.div_ceil(REWARD_HEAD_COLUMNS as usize)
}

pub(super) fn forward(
    device: &Device,
    scores: &Tensor,
    x: &Tensor,
    norm: &Tensor,
    head: &Tensor,
    eps: f32,
) -> Result<()> {
    let params = RewardHeadParams { scores: at(scores), eps, ..operands([x, norm, head])? };
    // SAFETY: the operands were checked to have these shapes.
    unsafe { device.launch(&plan_forward(x.rows()), &params) }
}

pub(super) fn loss(
    device: &Device,
    scores: &Tensor,
    loss: &Tensor,
    grads: &RewardHeadGrads,
    operands_: [&Tensor; 3],
    pairs: &Tensor,
    pair_loss: &PairLoss,
    eps: f32,
) -> Result<()> {
    let [x, ..] = operands_;
    if x.rows() > REWARD_HEAD_MAX_ROWS as usize {
        return Err(Error::user(format!(
            "{} candidates in one pack are more than the {REWARD_HEAD_MAX_ROWS} that the reward head's kernel takes: \
             lower data.pack_length",
            x.rows()
        )));
    }
    let params = RewardHeadParams {
        scores: at(scores),
        loss: at(loss),
        dx: at(grads.dx),
        dnorm: at(grads.dnorm),
        dhead: at(grads.dhead),
        pairs: at(pairs),
        n_pairs: size(pairs.rows())?,
        loss_kind: match pair_loss.kind {
            LossKind::Ranking => LOSS_RANKING,
            LossKind::Focal => LOSS_FOCAL,
        },
        penalty_kind: match pair_loss.penalty {
            PenaltyKind::None => PENALTY_NONE,
            PenaltyKind::LogBarrier => PENALTY_LOG_BARRIER,
            PenaltyKind::L2 => PENALTY_L2,
        },
        penalty_weight: pair_loss.penalty_weight as f32,
        scale: pair_loss.scale as f32,
        eps,
        ..operands(operands_)?
    };
    // SAFETY: the operands were checked to have these shapes; pairs name rows of their pack.
    unsafe { device.launch(&plan_loss(x.rows(), x.cols()), &params) }
}

fn operands([x, norm, head]: [&Tensor; 3]) -> Result<RewardHeadParams> {
    let (rows, columns) = (size(x.rows())?, size(x.cols())?);
    Ok(RewardHeadParams { x: at(x), norm: at(norm), head: at(head), rows, columns, ..Default::default() })
}

impl Run<RewardHeadForward<'_>> for Cuda {
    fn run(&self, op: &RewardHeadForward) -> Result<()> {
        forward(&self.device, op.scores, op.x, op.norm, op.head, op.eps as f32)
    }
}

impl Run<RewardHeadLoss<'_>> for Cuda {
    fn run(&self, op: &RewardHeadLoss) -> Result<()> {
        let operands = [op.x, op.norm, op.head];
        loss(&self.device, op.scores, op.loss, &op.grads, operands, op.pairs, op.pair_loss, op.eps as f32)
    }
}
