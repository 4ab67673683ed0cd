//! What can be made of the scores of one prompt and reference, which have no unit and no bounds.

/// How scores are normalised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalise {
    /// Not at all.
    #[default]
    Raw,
    /// To mean 0 and standard deviation 1 within the group.
    ZScore,
    /// To ranks from 0 for the lowest to 1 for the highest of the group.
    Rank,
    /// To the difference to the score that the reference's own text gets as a candidate.
    Reference,
}

impl Normalise {
    /// The values of a group's scores; `None` for [`Self::Raw`]. For [`Self::Reference`] the last score is that of the
    /// reference itself, and has no value.
    pub fn apply(self, scores: &[f32]) -> Option<Vec<f32>> {
        match self {
            Self::Raw => None,
            Self::ZScore => Some(z_scores(scores)),
            Self::Rank => Some(ranks(scores)),
            Self::Reference => {
                let (own, others) = scores.split_last()?;
                Some(others.iter().map(|score| score - own).collect())
            }
        }
    }

    /// Whether a group of one candidate says nothing.
    pub fn needs_group(self) -> bool {
        matches!(self, Self::ZScore | Self::Rank)
    }
}

/// `(score - mean) / deviation` with the deviation of a population; 0 where all scores are equal.
pub fn z_scores(scores: &[f32]) -> Vec<f32> {
    if scores.iter().all(|score| *score == scores[0]) {
        return vec![0.0; scores.len()];
    }
    let mean_of = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / scores.len() as f64;
    let mean = mean_of(&mut scores.iter().map(|score| f64::from(*score)));
    let deviation = mean_of(&mut scores.iter().map(|score| (f64::from(*score) - mean).powi(2))).sqrt();
    scores.iter().map(|score| ((f64::from(*score) - mean) / deviation) as f32).collect()
}

/// The share of the other scores that are lower; an equal one counts half, so that ties share the mean of their ranks.
/// A score alone has 0.5, as have scores that are all equal.
pub fn ranks(scores: &[f32]) -> Vec<f32> {
    if scores.len() == 1 {
        return vec![0.5];
    }
    let mut sorted = scores.to_vec();
    sorted.sort_by(f32::total_cmp);
    let others = 2.0 * scores.len().saturating_sub(1) as f32;
    let rank = |score: &f32| {
        let below = sorted.partition_point(|other| other < score);
        let equal = sorted[below..].partition_point(|other| other <= score);
        (2 * below + equal.saturating_sub(1)) as f32 / others
    };
    scores.iter().map(rank).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;
    use approx::abs_diff_eq;
    use rand::RngExt;

    #[test]
    fn known_values() {
        assert_eq!(z_scores(&[2.0, 4.0]), [-1.0, 1.0]);
        assert_eq!(z_scores(&[0.1, 0.1, 0.1]), [0.0; 3]);
        assert_eq!(z_scores(&[5.0]), [0.0]);
        assert_eq!(ranks(&[3.0, 1.0, 1.0, 7.0]), [4.0 / 6.0, 1.0 / 6.0, 1.0 / 6.0, 1.0]);
        assert_eq!(ranks(&[2.0, 2.0, 2.0]), [0.5; 3]);
        assert_eq!(ranks(&[-1.0]), [0.5]);
        assert_eq!(ranks(&[0.0, -0.0]), [0.5; 2], "both zeros are equal");
        assert_eq!(Normalise::Reference.apply(&[1.0, -2.0, 0.5]), Some(vec![0.5, -2.5]));
        assert_eq!(Normalise::Raw.apply(&[1.0]), None);
        assert!(z_scores(&[]).is_empty() && ranks(&[]).is_empty());
    }

    #[test]
    fn random_groups_against_the_definitions() {
        let mut random = rng::stream(std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64, "normalise", 0);
        for _ in 0..200 {
            let n = random.random_range(2..20);
            let scores: Vec<f32> = (0..n).map(|_| random.random_range(-8..8) as f32 / 2.0).collect();
            let z = z_scores(&scores);
            let (sum, squares) = z.iter().fold((0.0, 0.0), |(s, q), &z| (s + f64::from(z), q + f64::from(z).powi(2)));
            assert!(abs_diff_eq!(sum, 0.0, epsilon = 1e-4), "{scores:?} {z:?}");
            let constant = scores.iter().all(|score| *score == scores[0]);
            assert!(abs_diff_eq!(squares, if constant { 0.0 } else { n as f64 }, epsilon = 1e-3), "{scores:?} {z:?}");
            for (i, rank) in ranks(&scores).into_iter().enumerate() {
                let others = (0..n).filter(|&j| j != i);
                let points = others.map(|j| match scores[j].total_cmp(&scores[i]) {
                    _ if scores[j] == scores[i] => 0.5,
                    std::cmp::Ordering::Less => 1.0,
                    _ => 0.0,
                });
                assert!(
                    abs_diff_eq!(f64::from(rank), points.sum::<f64>() / (n - 1) as f64, epsilon = 1e-6),
                    "{scores:?}"
                );
            }
        }
    }
}
