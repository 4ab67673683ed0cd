//! Final norm, scalar head and ranking loss. The head is a linear layer without bias over the normalised state of the
//! score token (POLAR, arXiv 2507.05197, section 4.1); the losses are those of xtuner's `model/reward.py`.

use super::rmsnorm;
use super::{Reference, rows, rows_mut, values, values_mut};
use crate::backend::{PairLoss, RewardHeadGrads};
use crate::config::{LossKind, PenaltyKind};
use crate::error::Result;
use crate::ops::{RewardHeadForward, RewardHeadLoss, Run};

/// The bounds of the log barrier's scores, as xtuner calls it.
const BARRIER: f64 = 5.0;
/// How far within the bounds scores are clamped.
const BARRIER_MARGIN: f64 = 1e-3;

/// `scores[s] = head . rmsnorm(x[s])`.
pub fn forward(scores: &mut [f64], x: &[&[f64]], norm: &[f64], head: &[f64], eps: f64) {
    let mut y = vec![0.0; head.len()];
    for s in 0..x.len() {
        rmsnorm::forward(&mut [&mut y], &mut [0.0], &[x[s]], norm, eps);
        scores[s] = y.iter().zip(head).map(|(y, w)| y * w).sum();
    }
}

/// The gradients of [`forward`]: with `y = rmsnorm(x[s])`, `dhead += dscores[s] y` and `dy = dscores[s] head`.
pub fn backward(
    dx: &mut [&mut [f64]],
    dnorm: &mut [f64],
    dhead: &mut [f64],
    dscores: &[f64],
    x: &[&[f64]],
    norm: &[f64],
    head: &[f64],
    eps: f64,
) {
    let mut y = vec![0.0; head.len()];
    for s in 0..x.len() {
        let mut rstd = [0.0];
        rmsnorm::forward(&mut [&mut y], &mut rstd, &[x[s]], norm, eps);
        for j in 0..head.len() {
            dhead[j] += dscores[s] * y[j];
        }
        let dy: Vec<f64> = head.iter().map(|w| dscores[s] * w).collect();
        dx[s].fill(0.0);
        rmsnorm::backward(&mut dx[s..=s], dnorm, &[&dy], &[x[s]], &rstd, norm);
    }
}

/// `scale sum over pairs of rank(s_chosen - s_rejected) + weight (penalty(s_chosen) + penalty(s_rejected))`, and its
/// gradient by the scores.
pub fn pair_loss(scores: &[f64], pairs: &[[u32; 2]], loss: &PairLoss) -> (f64, Vec<f64>) {
    let mut sum = 0.0;
    let mut dscores = vec![0.0; scores.len()];
    for &[chosen, rejected] in pairs {
        let (chosen, rejected) = (chosen as usize, rejected as usize);
        let (value, slope) = rank(loss.kind, scores[chosen] - scores[rejected]);
        sum += loss.scale * value;
        dscores[chosen] += loss.scale * slope;
        dscores[rejected] -= loss.scale * slope;
        for s in [chosen, rejected] {
            let (value, slope) = penalty(loss.penalty, scores[s]);
            sum += loss.scale * loss.penalty_weight * value;
            dscores[s] += loss.scale * loss.penalty_weight * slope;
        }
    }
    (sum, dscores)
}

/// The loss of a difference of scores, and its derivative.
fn rank(kind: LossKind, d: f64) -> (f64, f64) {
    let sigmoid = 1.0 / (1.0 + (-d).exp());
    // -log sigmoid(d), without overflow for either sign; its derivative is sigmoid(d) - 1.
    let nll = (-d).max(0.0) + (-d.abs()).exp().ln_1p();
    let miss = 1.0 / (1.0 + d.exp());
    match kind {
        LossKind::Ranking => (nll, -miss),
        LossKind::Focal => {
            // (1 - p)^2 nll with p = 2 relu(sigmoid(d) - 0.5): the factor is 1 for d <= 0 and 4 miss^2 above, and p
            // is part of what is differentiated: dp/dd = 2 sigmoid miss.
            let p = 2.0 * (sigmoid - 0.5).max(0.0);
            let dp = if d > 0.0 { 2.0 * sigmoid * miss } else { 0.0 };
            ((1.0 - p).powi(2) * nll, -(1.0 - p).powi(2) * miss - 2.0 * (1.0 - p) * dp * nll)
        }
    }
}

/// The penalty of one score, and its derivative.
fn penalty(kind: PenaltyKind, s: f64) -> (f64, f64) {
    match kind {
        PenaltyKind::None => (0.0, 0.0),
        PenaltyKind::LogBarrier => {
            let bound = BARRIER - BARRIER_MARGIN;
            let x = s.clamp(-bound, bound);
            let slope = if (-bound..=bound).contains(&s) { 1.0 / (BARRIER - x) - 1.0 / (BARRIER + x) } else { 0.0 };
            (-(BARRIER - x).ln() - (BARRIER + x).ln(), slope)
        }
        PenaltyKind::L2 => (s * s, 2.0 * s),
    }
}

impl Run<RewardHeadForward<'_>> for Reference {
    fn run(&self, op: &RewardHeadForward) -> Result<()> {
        forward(values_mut(op.scores), &rows(op.x), values(op.norm), values(op.head), op.eps);
        Ok(())
    }
}

impl Run<RewardHeadLoss<'_>> for Reference {
    fn run(&self, op: &RewardHeadLoss) -> Result<()> {
        let (x, norm, head) = (rows(op.x), values(op.norm), values(op.head));
        forward(values_mut(op.scores), &x, norm, head, op.eps);
        let pairs: &[[u32; 2]] = bytemuck::cast_slice(values::<u32>(op.pairs));
        let (pair_sum, dscores) = pair_loss(values(op.scores), pairs, op.pair_loss);
        values_mut::<f64>(op.loss)[0] += pair_sum;
        let RewardHeadGrads { dx, dnorm, dhead } = op.grads;
        backward(&mut rows_mut(dx), values_mut(dnorm), values_mut(dhead), &dscores, &x, norm, head, op.eps);
        Ok(())
    }
}
