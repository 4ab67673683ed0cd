//! Overlap of byte n-grams.

use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;

use super::Baseline;
use crate::data::Triple;
use crate::{Error, Result};

/// The lengths that are tried.
const LENGTHS: std::ops::RangeInclusive<usize> = 2..=5;
/// Triples that the choice is made by, at most.
const TRIPLES_TO_CHOOSE_BY: usize = 2000;

/// Cosine of the n-gram vectors of reference and candidate.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Ngram {
    /// Bytes in an n-gram.
    length: usize,
    /// Whether an n-gram counts once however often it occurs.
    once: bool,
    /// Inverse document frequencies, and that of an n-gram never seen; `None` for equal weights.
    rarity: Option<(BTreeMap<u64, f64>, f64)>,
}

impl Ngram {
    /// The best of all lengths, counts or presence, equal weights or inverse document frequencies, on `train`, whose
    /// order must be random.
    pub(super) fn choose(train: &[&Triple]) -> Self {
        let sample = &train[..train.len().min(TRIPLES_TO_CHOOSE_BY)];
        let triples: Vec<Triple> = sample.iter().map(|t| (*t).clone()).collect();
        let variants = LENGTHS.flat_map(|length| {
            let rarity = rarity(&triples, length);
            [(true, false), (true, true), (false, false), (false, true)].map(|(once, weighted)| Self {
                length,
                once,
                rarity: weighted.then(|| rarity.clone()),
            })
        });
        let scored = variants.map(|v| (v.accuracy(&triples), v));
        let best = scored.reduce(|best, next| if next.0 > best.0 { next } else { best });
        best.expect("the lists of variants are not empty").1
    }

    /// Refuses a length that is never chosen.
    pub(super) fn check(&self) -> Result<()> {
        match LENGTHS.contains(&self.length) {
            true => Ok(()),
            false => Err(Error::user(format!("length = {}: must be one of {LENGTHS:?}", self.length))),
        }
    }

    /// The n-grams of a text with their weights, in order.
    fn vector(&self, text: &str) -> Vec<(u64, f64)> {
        let mut vector: Vec<(u64, f64)> = Vec::new();
        for gram in grams(text, self.length) {
            match vector.last_mut() {
                Some((last, count)) if *last == gram => *count += 1.0,
                _ => vector.push((gram, 1.0)),
            }
        }
        for (gram, weight) in &mut vector {
            if self.once {
                *weight = 1.0;
            }
            if let Some((known, unseen)) = &self.rarity {
                *weight *= known.get(gram).unwrap_or(unseen);
            }
        }
        vector
    }
}

impl Baseline for Ngram {
    fn name(&self) -> &'static str {
        "ngram"
    }

    fn score(&self, _prompt: &str, reference: &str, candidate: &str) -> f64 {
        let (a, b) = (self.vector(reference), self.vector(candidate));
        let norm = |v: &[(u64, f64)]| v.iter().map(|(_, w)| w * w).sum::<f64>().sqrt();
        let both = norm(&a) * norm(&b);
        if both > 0.0 { product(&a, &b) / both } else { 0.0 }
    }
}

/// Inner product of two vectors in order.
fn product(a: &[(u64, f64)], b: &[(u64, f64)]) -> f64 {
    let (mut i, mut j, mut sum) = (0, 0, 0.0);
    while i < a.len() && j < b.len() {
        match a[i].0.cmp(&b[j].0) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                sum += a[i].1 * b[j].1;
                (i, j) = (i + 1, j + 1);
            }
        }
    }
    sum
}

/// Every n-gram of a text, packed into an integer, sorted. A shorter text is one n-gram.
fn grams(text: &str, length: usize) -> Vec<u64> {
    let pack = |gram: &[u8]| gram.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let bytes = text.as_bytes();
    let mut grams: Vec<u64> = match bytes.len() {
        0 => Vec::new(),
        short if short < length => vec![pack(bytes)],
        _ => bytes.windows(length).map(pack).collect(),
    };
    grams.sort_unstable();
    grams
}

/// `ln((1 + texts) / (1 + texts with the n-gram))` for each n-gram, and for one that is in none.
fn rarity(triples: &[Triple], length: usize) -> (BTreeMap<u64, f64>, f64) {
    let texts: Vec<&str> = triples.iter().flat_map(|t| [&*t.reference, &*t.chosen, &*t.rejected]).collect();
    let present: Vec<Vec<u64>> = texts
        .par_iter()
        .map(|text| {
            let mut grams = grams(text, length);
            grams.dedup();
            grams
        })
        .collect();
    let mut frequency: HashMap<u64, f64> = HashMap::new();
    for gram in present.into_iter().flatten() {
        *frequency.entry(gram).or_insert(0.0) += 1.0;
    }
    let count = texts.len() as f64;
    let rarity = |frequency: f64| ((1.0 + count) / (1.0 + frequency)).ln();
    // In order, so that the same data is saved as the same bytes.
    (frequency.into_iter().map(|(gram, f)| (gram, rarity(f))).collect(), rarity(0.0))
}
