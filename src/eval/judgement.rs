//! What is to score above what.

use serde::{Deserialize, Serialize};

use crate::data::{Group, Rule};

/// How the styles of a pair stand to its quality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The better answer is the plainer one.
    Hard,
    /// Both have one style.
    Normal,
    /// The better answer is the more elaborate one.
    Easy,
}

impl Level {
    /// All of them, hardest first.
    pub const ALL: [Self; 3] = [Self::Hard, Self::Normal, Self::Easy];

    /// What tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hard => "hard",
            Self::Normal => "normal",
            Self::Easy => "easy",
        }
    }
}

/// One question that scores answer: does each of `better` score strictly above each of `worse`?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Places in the list of candidates.
    pub better: Vec<usize>,
    /// Places in the list of candidates.
    pub worse: Vec<usize>,
    /// Where styles are crossed with quality.
    pub level: Option<Level>,
}

impl Judgement {
    /// The lowest score that must be above, and the highest that must be below; NaN if any score is.
    pub fn ends(&self, scores: &[f32]) -> (f32, f32) {
        let fold = |places: &[usize], pick: fn(f32, f32) -> f32| {
            let mut values = places.iter().map(|&place| scores.get(place).copied().unwrap_or(f32::NAN));
            let first = values.next().unwrap_or(f32::NAN);
            values.fold(first, |a, b| if a.is_nan() || b.is_nan() { f32::NAN } else { pick(a, b) })
        };
        (fold(&self.better, f32::min), fold(&self.worse, f32::max))
    }

    /// Whether a judge that guesses is right: `better` is one of all sets of its size.
    pub fn chance(&self) -> f64 {
        let (k, n) = (self.better.len(), self.better.len() + self.worse.len());
        (0..k).map(|i| (i + 1) as f64 / (n - i) as f64).product()
    }
}

impl Group {
    /// What the scores of the candidates at `places` are asked; places in judgements are places in `places`.
    pub fn judgements(&self, places: &[usize]) -> Vec<Judgement> {
        let gain =
            |at: usize| places.get(at).and_then(|&place| self.candidates.get(place)).map_or(f64::NAN, |c| c.gain);
        let all = 0..places.len();
        match self.rule {
            Rule::Pairs => all
                .clone()
                .flat_map(|a| all.clone().map(move |b| (a, b)))
                .filter(|&(a, b)| gain(a) > gain(b))
                .map(|(a, b)| Judgement { better: vec![a], worse: vec![b], level: self.level(places[a], places[b]) })
                .collect(),
            Rule::BestOfN => {
                let best = all.clone().map(gain).fold(f64::NEG_INFINITY, f64::max);
                let (better, worse): (Vec<_>, Vec<_>) = all.partition(|&at| gain(at) == best);
                let asks = !better.is_empty() && !worse.is_empty();
                asks.then_some(Judgement { better, worse, level: None }).into_iter().collect()
            }
            Rule::FirstTwo => {
                let mut order: Vec<usize> = all.collect();
                order.sort_by(|&a, &b| gain(b).total_cmp(&gain(a)));
                match order[..] {
                    [a, b, ..] if gain(a) > gain(b) => {
                        vec![Judgement { better: vec![a], worse: vec![b], level: None }]
                    }
                    _ => Vec::new(),
                }
            }
        }
    }

    fn level(&self, better: usize, worse: usize) -> Option<Level> {
        let (better, worse) = (self.candidates[better].style?, self.candidates[worse].style?);
        Some(match better.cmp(&worse) {
            std::cmp::Ordering::Less => Level::Hard,
            std::cmp::Ordering::Equal => Level::Normal,
            std::cmp::Ordering::Greater => Level::Easy,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Candidate;
    use approx::abs_diff_eq;

    fn group(rule: Rule, gains: &[f64]) -> Group {
        let candidates = gains.iter().enumerate().map(|(i, &gain)| Candidate::new(format!("answer {i}"), gain));
        Group::new("p".into(), candidates.collect(), rule)
    }

    fn asked(rule: Rule, gains: &[f64]) -> Vec<(Vec<usize>, Vec<usize>)> {
        let places: Vec<usize> = (0..gains.len()).collect();
        group(rule, gains).judgements(&places).into_iter().map(|j| (j.better, j.worse)).collect()
    }

    #[test]
    fn each_rule_asks_its_questions() {
        let pair = |a, b| (vec![a], vec![b]);
        assert_eq!(asked(Rule::Pairs, &[1.0, 0.0, 1.0]), [pair(0, 1), pair(2, 1)]);
        assert_eq!(asked(Rule::BestOfN, &[0.0, 2.0, 1.0, 2.0]), [(vec![1, 3], vec![0, 2])]);
        assert_eq!(asked(Rule::FirstTwo, &[1.0, 4.0, 3.0, 0.0]), [pair(1, 2)]);
        for rule in [Rule::Pairs, Rule::BestOfN, Rule::FirstTwo] {
            assert!(asked(rule, &[1.0, 1.0]).is_empty(), "{rule:?}: equals are not asked");
            assert!(asked(rule, &[1.0]).is_empty() && asked(rule, &[]).is_empty(), "{rule:?}");
        }
        assert!(asked(Rule::FirstTwo, &[2.0, 2.0, 1.0]).is_empty(), "the first two are equals");
    }

    #[test]
    fn places_are_those_of_the_candidates_that_are_left() {
        let judgements = group(Rule::BestOfN, &[3.0, 1.0, 2.0]).judgements(&[1, 2]);
        assert_eq!((&judgements[0].better[..], &judgements[0].worse[..]), (&[1][..], &[0][..]));
    }

    #[test]
    fn every_better_one_must_be_strictly_above_every_worse_one() {
        let judgement = Judgement { better: vec![0, 1], worse: vec![2, 3], level: None };
        assert_eq!(judgement.ends(&[5.0, 3.0, 2.0, -1.0]), (3.0, 2.0));
        for nan in 0..4 {
            let mut scores = [5.0, 3.0, 2.0, -1.0];
            scores[nan] = f32::NAN;
            let (low, high) = judgement.ends(&scores);
            assert!(low.is_nan() || high.is_nan(), "{nan}");
        }
        assert!(judgement.ends(&[1.0]).1.is_nan(), "a score that is missing");
    }

    #[test]
    fn chance_is_that_of_a_guess() {
        let chance = |k, n| Judgement { better: (0..k).collect(), worse: (k..n).collect(), level: None }.chance();
        assert_eq!((chance(1, 2), chance(1, 4)), (0.5, 0.25));
        assert!(abs_diff_eq!(chance(2, 5), 0.1, epsilon = 1e-12), "one of ten sets of two");
    }
}
