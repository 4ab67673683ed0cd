//! Baselines that compare a reference and a candidate without learning to read.
//!
//! A reward model is worth its compute only where it beats these. Each gives a score, higher for what is closer to the
//! reference, and is as strong as an honest effort makes it:
//!
//! - `hand`: logistic regression on hand-made features of layout and surface ([`features`]);
//! - `bag`: the same, with the counts of every byte;
//! - `ngram`: cosine of byte n-gram counts, the n and the weighting being the best on the training triples.

pub mod features;
mod length;
mod logistic;
mod ngram;

pub use length::Length;
pub use ngram::Ngram;

use std::collections::BTreeMap;

use rand::seq::SliceRandom;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::data::Triple;
use crate::rng::stream;
use crate::{Error, Result};
use features::FeatureSet;
use logistic::FeatureMatrix;

/// Something that scores a candidate by a reference.
pub trait Baseline: Send + Sync {
    /// A short name for tables.
    fn name(&self) -> &'static str;

    /// How close `candidate` is to `reference`: comparable between candidates of one prompt and reference only.
    fn score(&self, prompt: &str, reference: &str, candidate: &str) -> f64;

    /// Share of triples whose chosen text scores strictly higher than the rejected one; 0 for no triples.
    fn accuracy(&self, triples: &[Triple]) -> f64 {
        let right = |t: &&Triple| {
            self.score(&t.prompt, &t.reference, &t.chosen) > self.score(&t.prompt, &t.reference, &t.rejected)
        };
        triples.par_iter().filter(right).count() as f64 / triples.len().max(1) as f64
    }
}

/// A logistic regression on pairwise comparisons (Bradley-Terry with linear scores).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Linear {
    features: FeatureSet,
    /// One for each feature of the set, for the features as they come (the standardisation is folded in).
    weights: Vec<f64>,
}

impl Linear {
    fn check(&self, features: FeatureSet) -> Result<()> {
        let (found, wanted) = (self.weights.len(), features.count());
        if self.features != features || found != wanted {
            return Err(Error::user(format!(
                "{found} weights of {:?} instead of {wanted} of {features:?}: take the file as it was written",
                self.features
            )));
        }
        Ok(())
    }
}

impl Baseline for Linear {
    fn name(&self) -> &'static str {
        match self.features {
            FeatureSet::Hand => "hand",
            FeatureSet::HandAndBytes => "bag",
        }
    }

    fn score(&self, _prompt: &str, reference: &str, candidate: &str) -> f64 {
        let features = self.features.compare(reference, candidate);
        features.iter().zip(&self.weights).map(|(f, w)| f * w).sum()
    }
}

/// Hand-made features of layout and surface, weighted by logistic regression.
///
/// # Errors
/// A user error where there is no triple to learn from.
pub fn hand(train: &[Triple], seed: u64) -> Result<Linear> {
    fit(FeatureSet::Hand, train, seed)
}

/// The features of [`hand`] and the counts of every byte, weighted by logistic regression.
///
/// # Errors
/// A user error where there is no triple to learn from.
pub fn bag(train: &[Triple], seed: u64) -> Result<Linear> {
    fit(FeatureSet::HandAndBytes, train, seed)
}

/// Cosine of n-gram counts. Nothing is trained, but n and the weighting are those that do best on the triples.
///
/// # Errors
/// A user error where there is no triple to choose by.
pub fn ngram(train: &[Triple], seed: u64) -> Result<Ngram> {
    Ok(Ngram::choose(&shuffled(train, seed)?))
}

/// All baselines, fitted to the same triples.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Baselines {
    hand: Linear,
    bag: Linear,
    ngram: Ngram,
}

impl Baselines {
    /// Fits each to `train`.
    ///
    /// # Errors
    /// A user error where there is no triple to learn from.
    pub fn fit(train: &[Triple], seed: u64) -> Result<Self> {
        Ok(Self { hand: hand(train, seed)?, bag: bag(train, seed)?, ngram: ngram(train, seed)? })
    }

    /// Refuses what [`Baselines::fit`] cannot have made.
    ///
    /// # Errors
    /// The user's, with the name of the baseline.
    pub fn check(&self) -> Result<()> {
        self.hand.check(FeatureSet::Hand).map_err(|e| e.context("hand"))?;
        self.bag.check(FeatureSet::HandAndBytes).map_err(|e| e.context("bag"))?;
        self.ngram.check().map_err(|e| e.context("ngram"))
    }

    /// In the order of tables.
    pub fn iter(&self) -> impl Iterator<Item = &dyn Baseline> {
        [&self.hand as &dyn Baseline, &self.bag, &self.ngram].into_iter()
    }
}

fn fit(features: FeatureSet, train: &[Triple], seed: u64) -> Result<Linear> {
    let rows: Vec<Vec<f64>> = shuffled(train, seed)?
        .par_iter()
        .map(|t| {
            let chosen = features.compare(&t.reference, &t.chosen);
            let rejected = features.compare(&t.reference, &t.rejected);
            chosen.iter().zip(rejected).map(|(c, r)| c - r).collect()
        })
        .collect();
    Ok(Linear { features, weights: logistic::fit(&FeatureMatrix::new(&rows)) })
}

/// The triples in an order drawn from the seed, so that any part of them is a fair sample; those of a prompt stand side
/// by side, so that what is fitted to one part and judged on another has not seen its prompts.
fn shuffled(train: &[Triple], seed: u64) -> Result<Vec<&Triple>> {
    if train.is_empty() {
        return Err(Error::user("the baselines have no triple to learn from: give training data with usable triples"));
    }
    let mut prompts: BTreeMap<&str, Vec<&Triple>> = BTreeMap::new();
    train.iter().for_each(|triple| prompts.entry(&triple.prompt).or_default().push(triple));
    let mut groups: Vec<Vec<&Triple>> = prompts.into_values().collect();
    groups.shuffle(&mut stream(seed, "baselines", 0));
    Ok(groups.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests;
