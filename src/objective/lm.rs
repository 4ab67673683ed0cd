//! Next tokens: the mean negative log likelihood of every token that follows another.

use super::{LearnsFrom, Objective, ScoreStats, StepTotals};
use crate::error::Result;
use crate::model::{LossHeads, OutputHeads};
use crate::passes::{Pack, Wanted};

/// Predict the next token.
pub struct LanguageModel;

impl Objective for LanguageModel {
    fn heads(&self) -> OutputHeads {
        OutputHeads { reward: false, lm: true }
    }

    fn wanted(&self, share_prefix: bool) -> Wanted {
        Wanted { scores: false, next_tokens: true, share_prefix }
    }

    fn learns_from(&self) -> LearnsFrom {
        LearnsFrom::Documents
    }

    fn backward(&self, heads: &LossHeads, totals: &StepTotals) -> Result<()> {
        heads.next_token_loss(1.0 / totals.predicted.max(1.0))
    }

    fn mean_next_token_loss(&self, sum: f64) -> Option<f64> {
        Some(sum)
    }

    fn score_stats(&self, _: &[Pack], _: &[f32]) -> Option<ScoreStats> {
        None
    }

    fn loss_name(&self) -> (&'static str, &'static str) {
        ("next-token loss", " nats a token")
    }
}
