//! POLAR: candidates are ranked by their policy's distance from the reference's (arXiv 2507.05197, Eq. 7 and 8), with a
//! penalty on the scores and a next-token loss beside it where they are wanted.

use super::{LearnsFrom, Objective, ScoreStats, StepTotals};
use crate::backend::PairLoss;
use crate::config::ObjectiveSection;
use crate::error::Result;
use crate::model::{LossHeads, OutputHeads};
use crate::ops::reward_head::{LossKind, PenaltyKind};
use crate::passes::{Pack, Wanted};

/// Rank candidates.
pub struct Polar {
    loss: LossKind,
    penalty: PenaltyKind,
    penalty_weight: f64,
    /// Weight of the next-token loss; 0 for none.
    lm_weight: f64,
}

impl Polar {
    /// As the configuration has it.
    pub fn new(section: &ObjectiveSection) -> Self {
        let &ObjectiveSection { loss, penalty, penalty_weight, lm_weight, .. } = section;
        Self { loss, penalty, penalty_weight, lm_weight }
    }

    fn predicts(&self) -> bool {
        self.lm_weight > 0.0
    }
}

impl Objective for Polar {
    fn heads(&self) -> OutputHeads {
        OutputHeads { reward: true, lm: self.predicts() }
    }

    fn wanted(&self, share_prefix: bool) -> Wanted {
        Wanted { scores: true, next_tokens: self.predicts(), share_prefix }
    }

    fn learns_from(&self) -> LearnsFrom {
        LearnsFrom::Comparisons
    }

    fn backward(&self, heads: &LossHeads, totals: &StepTotals) -> Result<()> {
        heads.ranking_loss(&PairLoss {
            kind: self.loss,
            penalty: self.penalty,
            penalty_weight: self.penalty_weight,
            scale: 1.0 / totals.pairs.max(1) as f64,
        })?;
        match self.predicts() {
            true => heads.next_token_loss(self.lm_weight / totals.predicted.max(1.0)),
            false => Ok(()),
        }
    }

    fn mean_next_token_loss(&self, sum: f64) -> Option<f64> {
        self.predicts().then(|| sum / self.lm_weight)
    }

    fn score_stats(&self, packs: &[Pack], scores: &[f32]) -> Option<ScoreStats> {
        let (mut first, mut pairs) = (0, 0);
        let mut stats =
            ScoreStats { min_reward: f64::INFINITY, max_reward: f64::NEG_INFINITY, ..ScoreStats::default() };
        for pack in packs {
            for pair in &pack.pairs {
                let pair = pair.map(|candidate| f64::from(scores[first + candidate as usize]));
                let margin = pair[0] - pair[1];
                // A tie is wrong. Equal sequences are one candidate, so that theirs is one to the last bit.
                stats.accuracy += f64::from(u8::from(margin > 0.0));
                stats.margin += margin;
                for score in pair {
                    stats.mean_reward += score;
                    stats.min_reward = stats.min_reward.min(score);
                    stats.max_reward = stats.max_reward.max(score);
                }
            }
            first += pack.candidates();
            pairs += pack.pairs.len();
        }
        if pairs == 0 {
            return None;
        }
        stats.accuracy /= pairs as f64;
        stats.margin /= pairs as f64;
        stats.mean_reward /= 2.0 * pairs as f64;
        Some(stats)
    }

    fn loss_without_opinion(&self) -> Option<(f64, &'static str)> {
        let plain = self.loss == LossKind::Ranking && self.penalty == PenaltyKind::None && !self.predicts();
        plain.then_some((std::f64::consts::LN_2, "no opinion, ln 2"))
    }
}
