//! What training minimises. An objective says which heads it needs and what passes are packed for, computes its loss and
//! the gradient at the heads, and says what a step was worth. The trainer knows none by name.

mod lm;
mod polar;

use std::iter::Sum;
use std::ops::Add;

pub use lm::LanguageModel;
pub use polar::Polar;

use crate::config::{ObjectiveKind, ObjectiveSection};
use crate::error::Result;
use crate::model::{LossHeads, OutputHeads};
use crate::passes::{Pack, Wanted};

/// What is minimised. One for a policy would add a method to [`LossHeads`], its own file here, and a name in
/// [`ObjectiveKind`].
pub trait Objective {
    /// The heads that the model ends in.
    fn heads(&self) -> OutputHeads;

    /// What passes are packed for; `share_prefix` is the configuration's.
    fn wanted(&self, share_prefix: bool) -> Wanted;

    /// What it learns from.
    fn learns_from(&self) -> LearnsFrom;

    /// Adds the losses of a pack to those of its step, and leaves their gradients in the last residual. They are scaled by
    /// the `totals` of the whole step, whoever computes which of its packs, so that over all packs they add up to means.
    ///
    /// # Errors
    /// What the backend reports, and a head that the model lacks.
    fn backward(&self, heads: &LossHeads, totals: &StepTotals) -> Result<()>;

    /// The mean next-token loss in nats a token, of what [`Self::backward`] added to the step's next-token loss; none
    /// without such a loss.
    fn mean_next_token_loss(&self, sum: f64) -> Option<f64>;

    /// What is said of the scores of a step, the candidates of `packs` one after the other; nothing where none is
    /// scored.
    fn score_stats(&self, packs: &[Pack], scores: &[f32]) -> Option<ScoreStats>;

    /// What its loss is called, and in which unit it is, after a number.
    fn loss_name(&self) -> (&'static str, &'static str) {
        ("loss", "")
    }

    /// The loss of a model without any opinion, if that is one number for all data, and what it is called.
    fn loss_without_opinion(&self) -> Option<(f64, &'static str)> {
        None
    }
}

/// What an objective learns from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LearnsFrom {
    /// Candidates of which one is to score higher: trajectories, preferences, pairs of token ids.
    Comparisons,
    /// Text that goes on: documents, and trajectories as such.
    Documents,
}

/// How much the packs of a step hold together: what means are taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepTotals {
    /// Pairs compared.
    pub pairs: usize,
    /// The sum of the weights of all targets.
    pub predicted: f64,
}

impl StepTotals {
    /// Of these packs.
    pub fn of(packs: &[Pack]) -> Self {
        packs.iter().map(|pack| Self { pairs: pack.pairs.len(), predicted: pack.predicted_tokens() }).sum()
    }
}

impl Add for StepTotals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { pairs: self.pairs + other.pairs, predicted: self.predicted + other.predicted }
    }
}

impl Sum for StepTotals {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

/// Statistics over the pairs of a step, named as in TRL's reward trainer.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ScoreStats {
    /// Share of the pairs with the chosen one strictly above the rejected one.
    pub accuracy: f64,
    /// Mean of chosen minus rejected score.
    pub margin: f64,
    /// Mean over all scores.
    pub mean_reward: f64,
    /// The lowest score.
    pub min_reward: f64,
    /// The highest score.
    pub max_reward: f64,
}

/// The objective that a configuration names.
pub fn new(section: &ObjectiveSection) -> Box<dyn Objective> {
    match section.kind {
        ObjectiveKind::Polar => Box::new(Polar::new(section)),
        ObjectiveKind::Lm => Box::new(LanguageModel),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::Packer;

    #[test]
    fn totals_do_not_depend_on_who_computes_which_pack() {
        let pack = |pairs: &[[&[u32]; 2]]| {
            let mut packer = Packer::new(Wanted { next_tokens: true, ..Wanted::SCORES });
            pairs.iter().for_each(|[chosen, rejected]| packer.push_pair(chosen, rejected).unwrap());
            packer.finish(10).unwrap()
        };
        let packs = [pack(&[[&[1, 2, 3], &[1, 4]]]), pack(&[[&[5, 6], &[7, 8]], [&[9, 9], &[9, 9]]])];
        let all = StepTotals::of(&packs);
        assert_eq!(all, StepTotals { pairs: 3, predicted: 3.0 + 4.0 });
        assert_eq!(all, StepTotals::of(&packs[..1]) + StepTotals::of(&packs[1..]));
    }

    #[test]
    fn a_tie_is_wrong() {
        let mut packer = Packer::new(Wanted::SCORES);
        packer.push_pair(&[1, 2], &[1, 3]).unwrap();
        packer.push_pair(&[4], &[4]).unwrap();
        packer.push_pair(&[5], &[6]).unwrap();
        let pack = packer.finish(10).unwrap();
        let polar = new(&ObjectiveSection::default());
        let stats = polar.score_stats(&[pack.clone(), pack], &[2.0, 1.0, 9.0, 3.0, 3.0, 1.0, 2.0, 0.0, 5.0, 4.0]);
        let ScoreStats { accuracy, margin, mean_reward, min_reward, max_reward } = stats.unwrap();
        assert_eq!((accuracy, margin), (2.0 / 6.0, (1.0 - 1.0 + 1.0) / 6.0));
        assert_eq!((mean_reward, min_reward, max_reward), ((3.0 + 18.0 + 6.0 + 3.0 + 0.0 + 9.0) / 12.0, 0.0, 9.0));
    }
}
