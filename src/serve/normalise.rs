//! What is answered in the place of raw scores, which have no unit and no bounds.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::error::ApiError;
use super::work::Context;
use crate::eval;

/// How scores are normalised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalise {
    /// Not at all.
    #[default]
    Raw,
    /// To mean 0 and standard deviation 1 within the sequences of a request that share prompt and reference.
    ZScore,
    /// To ranks from 0 for the lowest to 1 for the highest of these.
    Rank,
    /// To the difference to the score that the reference's own text gets as a candidate.
    Reference,
    /// To mean 0 and standard deviation 1 over all scores that the server has given.
    Running,
}

impl Normalise {
    /// The values of a group's scores, as [`eval::Normalise::apply`] takes them; `None` for [`Self::Raw`].
    pub fn apply(self, scores: &[f32], running: &Running) -> Option<Vec<f32>> {
        match self {
            Self::Raw => None,
            Self::ZScore => eval::Normalise::ZScore.apply(scores),
            Self::Rank => eval::Normalise::Rank.apply(scores),
            Self::Reference => eval::Normalise::Reference.apply(scores),
            Self::Running => {
                let moments = running.moments();
                Some(scores.iter().map(|score| moments.standardise(*score)).collect())
            }
        }
    }
}

/// Count, mean and spread of all raw scores that were given.
#[derive(Debug, Default)]
pub struct Running(Mutex<Moments>);

/// Welford's sums.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moments {
    /// Scores.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// The sum of their squared distances to the mean.
    squares: f64,
}

impl Running {
    /// Counts scores.
    pub fn add(&self, scores: &[f32]) {
        let mut moments = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for score in scores {
            let score = f64::from(*score);
            moments.count += 1;
            let distance = score - moments.mean;
            moments.mean += distance / moments.count as f64;
            moments.squares += distance * (score - moments.mean);
        }
    }

    /// Those of all that were counted.
    pub fn moments(&self) -> Moments {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Moments {
    /// The standard deviation of a population; 0 of nothing.
    pub fn deviation(&self) -> f64 {
        (self.squares / self.count.max(1) as f64).sqrt()
    }

    /// `(score - mean) / deviation`; 0 as long as all scores are equal.
    fn standardise(&self, score: f32) -> f32 {
        let deviation = self.deviation();
        if deviation > 0.0 { ((f64::from(score) - self.mean) / deviation) as f32 } else { 0.0 }
    }
}

/// How the scores of a request in a form without room for a second number are normalised.
pub struct Plan {
    normalise: Normalise,
    /// Sequences of one prompt and reference; for [`Normalise::Reference`] the reference's own is the last.
    groups: Vec<Vec<usize>>,
    /// Sequences that are answered.
    count: usize,
}

impl Plan {
    /// Groups the sequences, and appends those of the references where their scores are needed.
    ///
    /// # Errors
    /// The user's: no separator, or no room for the reference's own sequence.
    pub fn new(context: &Context, ids: &mut Vec<Vec<u32>>) -> Result<Self, ApiError> {
        let (normalise, count) = (context.normalise, ids.len());
        let groups = match normalise {
            Normalise::Raw | Normalise::Running => Vec::new(),
            Normalise::ZScore | Normalise::Rank => groups(context, ids)?,
            Normalise::Reference => {
                let mut groups = groups(context, ids)?;
                for group in &mut groups {
                    let own = group.first().and_then(|first| own(context, ids.get(*first)?));
                    let own = own.ok_or_else(no_separator)?;
                    context.fits("the reference as a candidate, which --normalise reference needs", &own)?;
                    group.push(ids.len());
                    ids.push(own);
                }
                groups
            }
        };
        Ok(Self { normalise, groups, count })
    }

    /// What is answered in the place of the scores of all sequences.
    pub fn apply(&self, mut scores: Vec<f32>, running: &Running) -> Vec<f32> {
        if self.normalise == Normalise::Running {
            return self.normalise.apply(&scores, running).unwrap_or(scores);
        }
        for group in &self.groups {
            let own: Vec<f32> = group.iter().filter_map(|index| scores.get(*index).copied()).collect();
            for (index, value) in group.iter().zip(self.normalise.apply(&own, running).into_iter().flatten()) {
                if let Some(score) = scores.get_mut(*index) {
                    *score = value;
                }
            }
        }
        scores.truncate(self.count);
        scores
    }
}

fn no_separator() -> ApiError {
    ApiError::invalid("a sequence has no separator, and so no reference: this server was started with --normalise")
}

/// Sequences with the same ids up to the separator.
fn groups(context: &Context, ids: &[Vec<u32>]) -> Result<Vec<Vec<usize>>, ApiError> {
    let separator = context.info.tokenizer.specials().separator.ok_or_else(no_separator)?;
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut known: HashMap<&[u32], usize> = HashMap::new();
    for (index, ids) in ids.iter().enumerate() {
        let begin = ids.split(|id| *id == separator).next().filter(|begin| begin.len() < ids.len());
        let place = *known.entry(begin.ok_or_else(no_separator)?).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.push(index),
            None => groups.push(vec![index]),
        }
    }
    Ok(groups)
}

/// The sequence of the reference as its own candidate: what is before the separator, twice.
fn own(context: &Context, ids: &[u32]) -> Option<Vec<u32>> {
    let specials = context.info.tokenizer.specials();
    let separator = specials.separator?;
    let begin = ids.split(|id| *id == separator).next()?;
    let text = begin.strip_prefix(specials.bos.as_slice()).unwrap_or(begin);
    Some([begin, &[separator], text, &[specials.score?]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_running_moments_are_those_of_all_scores(scores in prop::collection::vec(-11f32..0.5, 2..50), cut in 0usize..50) {
            let running = Running::default();
            let (first, second) = scores.split_at(cut.min(scores.len()));
            running.add(first);
            running.add(second);
            let count = scores.len() as f64;
            let mean = scores.iter().map(|score| f64::from(*score)).sum::<f64>() / count;
            let squares: f64 = scores.iter().map(|score| (f64::from(*score) - mean).powi(2)).sum();
            let moments = running.moments();
            prop_assert_eq!(moments.count, scores.len() as u64);
            prop_assert!((moments.mean - mean).abs() < 1e-9);
            prop_assert!((moments.deviation() - (squares / count).sqrt()).abs() < 1e-9);
        }
    }

    #[test]
    fn equal_scores_are_no_better_than_others() {
        let running = Running::default();
        assert_eq!(Normalise::Running.apply(&[3.0], &running), Some(vec![0.0]));
        running.add(&[-2.0, -2.0]);
        assert_eq!(Normalise::Running.apply(&[-2.0], &running), Some(vec![0.0]));
    }
}
