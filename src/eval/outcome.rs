//! What scores come to: accuracies, what papers average, lengths, margins.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Accuracy;
use super::judge::Same;
use super::judgement::Level;
use super::reference::{Question, Trials};
use crate::data::{Section, SetFormat};

/// A judgement with its scores.
#[derive(Clone, Copy, Debug)]
pub struct Judged {
    /// Place of the group in the set.
    pub group: usize,
    /// Place of its subset in [`Trials::subsets`].
    pub subset: u32,
    /// The lowest score that must be above.
    pub better: f32,
    /// The highest score that must be below.
    pub worse: f32,
    /// What a guess reaches.
    pub chance: f64,
    /// Where styles are crossed with quality.
    pub level: Option<Level>,
    /// Whether a candidate that is to be above has the tokens of one that is to be below. It counts nowhere then.
    pub identical: bool,
}

impl Judged {
    /// `better` minus `worse`.
    pub fn margin(&self) -> f64 {
        f64::from(self.better) - f64::from(self.worse)
    }

    /// A tie is wrong, and so is NaN.
    pub fn right(&self) -> bool {
        self.better > self.worse
    }
}

/// Every judgement of `questions` by `scores`, in their order; `same` has what is the same in each question, or nothing.
pub fn judged<'a>(
    questions: &'a [Question],
    scores: &'a [Vec<f32>],
    same: &'a [Same],
) -> impl Iterator<Item = Judged> + 'a {
    questions.iter().zip(scores).enumerate().flat_map(move |(i, (question, scores))| {
        question.judgements.iter().map(move |j| {
            let (better, worse) = j.ends(scores);
            let (group, subset) = (question.at, question.subset);
            let identical = same.get(i).is_some_and(|same| same.spoils(j));
            Judged { group, subset, better, worse, chance: j.chance(), level: j.level, identical }
        })
    })
}

/// How many of `judged` are right; those of one group are one row.
pub fn accuracy<'a>(judged: impl Iterator<Item = &'a Judged>) -> Accuracy {
    let mut rows: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    for j in judged {
        let (right, pairs) = rows.entry(j.group).or_default();
        *right += usize::from(j.right());
        *pairs += 1;
    }
    Accuracy::of_rows(&rows.into_values().collect::<Vec<_>>())
}

/// One part of a set.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// What tables call it.
    pub name: String,
    /// Places of its judgements.
    pub places: Vec<usize>,
}

/// The parts of a set that have judgements, each under its name: all of it, then its subsets, then levels of style.
pub fn parts(name: &str, trials: &Trials, judged: &[Judged]) -> Vec<Part> {
    let asked = || judged.iter().enumerate().filter(|(_, j)| !j.identical);
    let mut parts = vec![Part { name: name.into(), places: asked().map(|(place, _)| place).collect() }];
    let mut subsets: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let mut levels: BTreeMap<Level, Vec<usize>> = BTreeMap::new();
    for (place, j) in asked() {
        subsets.entry(&trials.subsets[j.subset as usize]).or_default().push(place);
        if let Some(level) = j.level {
            levels.entry(level).or_default().push(place);
        }
    }
    // One subset that has no name is the set.
    if subsets.keys().any(|name| !name.is_empty()) {
        let name = |name: &str| if name.is_empty() { "(no subset)".to_string() } else { name.to_string() };
        parts.extend(subsets.into_iter().map(|(subset, places)| Part { name: name(subset), places }));
    }
    parts.extend(levels.into_iter().map(|(level, places)| Part { name: format!("style: {}", level.name()), places }));
    parts
}

/// A figure that the set's paper reports.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SectionFigure {
    /// What the paper calls it.
    pub name: String,
    /// Judgements in it.
    pub pairs: usize,
    /// The mean of its parts' accuracies.
    pub accuracy: f64,
}

/// The set as one number, in two ways.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Averages {
    /// Every judgement counts alike.
    pub by_pairs: f64,
    /// Every section counts alike; `None` where the set has no sections.
    pub by_section: Option<f64>,
    /// The sections that have judgements.
    pub sections: Vec<SectionFigure>,
}

/// Averages as in the set's paper. Subsets that belong to no section count in `by_pairs` alone.
pub fn averages(format: SetFormat, trials: &Trials, judged: &[Judged]) -> Averages {
    let section = |section: &Section| {
        let mut parts = vec![Accuracy::default(); section.parts.len()];
        for j in judged.iter().filter(|j| !j.identical) {
            if let Some(part) = section.part(&trials.subsets[j.subset as usize]) {
                parts[part].pairs += 1;
                parts[part].right += usize::from(j.right());
            }
        }
        parts.retain(|part| part.pairs > 0);
        let (sum, n) = (parts.iter().map(Accuracy::value).sum::<f64>(), parts.len());
        let pairs = parts.iter().map(|part| part.pairs).sum();
        (n > 0).then(|| SectionFigure { name: section.name.into(), pairs, accuracy: sum / n as f64 })
    };
    let sections: Vec<SectionFigure> = format.sections().iter().filter_map(section).collect();
    let mean = sections.iter().map(|s| s.accuracy).sum::<f64>() / sections.len().max(1) as f64;
    Averages {
        by_pairs: accuracy(judged.iter().filter(|j| !j.identical)).value(),
        by_section: (!sections.is_empty()).then_some(mean),
        sections,
    }
}

/// How scores go with length.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Lengths {
    /// Spearman's rank correlation of score and length in tokens, the mean over trials in which both vary.
    pub spearman: Option<f64>,
    /// Trials in that mean.
    pub trials: usize,
    /// Pairs of candidates of different length.
    pub pairs: usize,
    /// Of those, in which the longer one scores strictly higher.
    pub longer_wins: Option<f64>,
    /// Of pairs of different quality and length, in which the longer one is the better one: what the data says.
    pub longer_is_better: Option<f64>,
}

/// Scores against lengths in tokens, within trials, trial by trial.
#[derive(Clone, Debug, Default)]
pub struct LengthTally {
    found: Lengths,
    /// Of the correlations.
    sum: f64,
    wins: usize,
    better: usize,
    /// Pairs of different quality.
    differing: usize,
}

impl LengthTally {
    /// Adds a trial's scores; `tokens` are the lengths of all candidates of its group.
    pub fn add(&mut self, question: &Question, scores: &[f32], tokens: &[usize]) {
        let lengths: Vec<f64> = question.candidates.iter().map(|&place| tokens[place] as f64).collect();
        let scores: Vec<f64> = scores.iter().map(|&s| f64::from(s)).collect();
        if let Some(r) = spearman(&scores, &lengths) {
            self.sum += r;
            self.found.trials += 1;
        }
        let gain = |i: usize| question.group.candidates[question.candidates[i]].gain;
        for longer in 0..lengths.len() {
            for shorter in (0..lengths.len()).filter(|&s| lengths[longer] > lengths[s]) {
                self.found.pairs += 1;
                self.wins += usize::from(scores[longer] > scores[shorter]);
                self.differing += usize::from(gain(longer) != gain(shorter));
                self.better += usize::from(gain(longer) > gain(shorter));
            }
        }
    }

    /// What the trials come to.
    pub fn finish(self) -> Lengths {
        let share = |part: usize, of: usize| (of > 0).then(|| part as f64 / of as f64);
        let (trials, pairs) = (self.found.trials, self.found.pairs);
        Lengths {
            spearman: (trials > 0).then(|| self.sum / trials as f64),
            longer_wins: share(self.wins, pairs),
            longer_is_better: share(self.better, self.differing),
            ..self.found
        }
    }
}

/// Spearman's rank correlation, ties at their mean rank; `None` where one side does not vary or is not finite.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    if x.iter().chain(y).any(|v| !v.is_finite()) {
        return None;
    }
    let (x, y) = (ranks(x), ranks(y));
    let mean = (x.len() as f64 - 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>();
    let scale = (product(&x, &x) * product(&y, &y)).sqrt();
    (scale > 0.0).then(|| product(&x, &y) / scale)
}

/// Ranks from 0, equals sharing the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let below = |v: f64| values.iter().filter(|&&other| other < v).count() as f64;
    let equal = |v: f64| values.iter().filter(|&&other| other == v).count() as f64;
    values.iter().map(|&v| below(v) + (equal(v) - 1.0) / 2.0).collect()
}

/// How far right and wrong answers are apart.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Margins {
    /// Mean margin.
    pub mean: f64,
    /// The 5th, 25th, 50th, 75th and 95th of a hundred.
    pub quantiles: [f64; 5],
    /// Margins of zero: ties.
    pub ties: usize,
}

/// The shares of [`Margins::quantiles`].
pub const QUANTILES: [f64; 5] = [0.05, 0.25, 0.5, 0.75, 0.95];

/// Margins of the judgements whose scores are finite; `None` where there are none.
pub fn margins(judged: &[Judged]) -> Option<Margins> {
    let asked = judged.iter().filter(|j| !j.identical);
    let mut sorted: Vec<f64> = asked.map(Judged::margin).filter(|m| m.is_finite()).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    let quantile = |share: f64| {
        let at = share * last as f64;
        let (low, part) = (at.floor() as usize, at.fract());
        sorted[low] + part * (sorted[(low + 1).min(last)] - sorted[low])
    };
    let mean = sorted.iter().sum::<f64>() / sorted.len() as f64;
    let ties = sorted.iter().filter(|&&m| m == 0.0).count();
    Some(Margins { mean, quantiles: QUANTILES.map(quantile), ties })
}

#[cfg(test)]
mod tests;
