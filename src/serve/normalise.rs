//! What is answered in the place of raw scores, which have no unit and no bounds.

use std::sync::{Mutex, PoisonError};

use crate::eval;

/// How scores are normalised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalisation {
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

impl Normalisation {
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

#[cfg(test)]
mod tests {
    use super::*;
    use approx::abs_diff_eq;
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
            prop_assert!(abs_diff_eq!(moments.mean, mean, epsilon = 1e-9));
            prop_assert!(abs_diff_eq!(moments.deviation(), (squares / count).sqrt(), epsilon = 1e-9));
        }
    }

    #[test]
    fn equal_scores_are_no_better_than_others() {
        let running = Running::default();
        assert_eq!(Normalisation::Running.apply(&[3.0], &running), Some(vec![0.0]));
        running.add(&[-2.0, -2.0]);
        assert_eq!(Normalisation::Running.apply(&[-2.0], &running), Some(vec![0.0]));
    }
}
