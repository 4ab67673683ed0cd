use super::math::{sum3, vectorised};
use super::rmsnorm::inverse_rms;
use super::{Cpu, values, values_mut};
use crate::backend::PairLoss;
use crate::config::{LossKind, PenaltyKind};
use crate::error::Result;
use crate::ops::{RewardHeadForward, RewardHeadLoss, Run};

/// Scores of a handful of rows: no more threads than one.
pub fn forward(scores: &mut [f32], x: &[f32], norm: &[f32], head: &[f32], eps: f32) {
    let hidden = norm.len();
    vectorised(
        #[inline(always)]
        || {
            for (score, x) in scores.iter_mut().zip(x.chunks_exact(hidden)) {
                let rstd = inverse_rms(x, eps);
                let sum = sum3(x, norm, head, |x, w, h| x * w * h);
                *score = sum * rstd;
            }
        },
    );
}

/// The loss of all pairs; gradients of rows overwrite `dx`, those of the weights add to `dnorm` and `dhead`.
pub fn backward(
    dx: &mut [f32],
    dnorm: &mut [f32],
    dhead: &mut [f32],
    scores: &[f32],
    [x, norm, head]: [&[f32]; 3],
    pairs: &[u32],
    loss: &PairLoss,
    eps: f32,
) -> f32 {
    let hidden = norm.len();
    dx.fill(0.0);
    let mut total = 0.0f64;
    // A row's score may stand in several pairs: the slope is gathered in its first element of dx, then spread.
    for pair in pairs.chunks_exact(2) {
        let (chosen, rejected) = (pair[0] as usize, pair[1] as usize);
        let (value, slope) = pair_slope(f64::from(scores[chosen]), f64::from(scores[rejected]), loss);
        total += value;
        dx[chosen * hidden] += slope[0] as f32;
        dx[rejected * hidden] += slope[1] as f32;
    }
    for (dx, x) in dx.chunks_exact_mut(hidden).zip(x.chunks_exact(hidden)) {
        let slope = std::mem::take(&mut dx[0]);
        if slope == 0.0 {
            continue;
        }
        vectorised(
            #[inline(always)]
            || {
                let rstd = inverse_rms(x, eps);
                let correction = sum3(x, norm, head, |x, w, h| x * w * h) * slope * rstd * rstd * rstd / hidden as f32;
                for i in 0..hidden {
                    let normal = x[i] * rstd;
                    dhead[i] += slope * normal * norm[i];
                    dnorm[i] += slope * normal * head[i];
                    dx[i] = slope * head[i] * norm[i] * rstd - x[i] * correction;
                }
            },
        );
    }
    total as f32
}

/// Loss of one pair and its slopes in the two scores (xtuner's `reward.py`; facts of the focal loss from the InternLM2
/// report, arXiv 2403.17297).
fn pair_slope(chosen: f64, rejected: f64, loss: &PairLoss) -> (f64, [f64; 2]) {
    let d = chosen - rejected;
    // log(1 + e^-d), for either sign of d, and sigmoid(-d), its slope.
    let ranking = (-d).max(0.0) + (-d.abs()).exp().ln_1p();
    let wrong = if d > 0.0 { (-d).exp() / (1.0 + (-d).exp()) } else { 1.0 / (1.0 + d.exp()) };
    let (mut value, slope) = match loss.kind {
        LossKind::Ranking => (ranking, -wrong),
        LossKind::Focal => {
            let right = 1.0 - wrong;
            let p = 2.0 * (right - 0.5).max(0.0);
            let dp = if right > 0.5 { 2.0 * right * wrong } else { 0.0 };
            let rest = 1.0 - p;
            (rest * rest * ranking, -rest * rest * wrong - 2.0 * rest * dp * ranking)
        }
    };
    let mut slopes = [slope, -slope];
    for (score, slope) in [chosen, rejected].into_iter().zip(&mut slopes) {
        let (penalty, dpenalty) = match loss.penalty {
            PenaltyKind::None => (0.0, 0.0),
            PenaltyKind::L2 => (score * score, 2.0 * score),
            PenaltyKind::LogBarrier => {
                const BOUND: f64 = 5.0;
                const MARGIN: f64 = 1e-3;
                let inside = score.clamp(-BOUND + MARGIN, BOUND - MARGIN);
                let slope = if inside == score { 1.0 / (BOUND - score) - 1.0 / (score + BOUND) } else { 0.0 };
                (-(BOUND - inside).ln() - (inside + BOUND).ln(), slope)
            }
        };
        value += loss.penalty_weight * penalty;
        *slope += loss.penalty_weight * dpenalty;
    }
    (value * loss.scale, slopes.map(|s| s * loss.scale))
}

impl Run<RewardHeadForward<'_>> for Cpu {
    fn run(&self, op: &RewardHeadForward) -> Result<()> {
        forward(values_mut(op.scores), values(op.x), values(op.norm), values(op.head), op.eps as f32);
        Ok(())
    }
}

impl Run<RewardHeadLoss<'_>> for Cpu {
    fn run(&self, op: &RewardHeadLoss) -> Result<()> {
        let (scores, operands) = (values_mut(op.scores), [values(op.x), values(op.norm), values(op.head)]);
        let eps = op.eps as f32;
        forward(scores, operands[0], operands[1], operands[2], eps);
        let (dx, dnorm, dhead) = (values_mut(op.grads.dx), values_mut(op.grads.dnorm), values_mut(op.grads.dhead));
        values_mut::<f32>(op.loss)[0] +=
            backward(dx, dnorm, dhead, scores, operands, values(op.pairs), op.pair_loss, eps);
        Ok(())
    }
}
