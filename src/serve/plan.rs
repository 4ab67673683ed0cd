//! Which scores of a request are normalised together, in the forms that have no room for a second number.

use std::collections::HashMap;

use super::error::ApiError;
use super::normalise::{Normalisation, Running};
use super::work::Context;

/// How the scores of a request in a form without room for a second number are normalised.
pub struct Plan {
    normalise: Normalisation,
    /// Sequences of one prompt and reference; for [`Normalisation::Reference`] the reference's own is the last.
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
            Normalisation::Raw | Normalisation::Running => Vec::new(),
            Normalisation::ZScore | Normalisation::Rank => groups(context, ids)?,
            Normalisation::Reference => {
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
        if self.normalise == Normalisation::Running {
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
