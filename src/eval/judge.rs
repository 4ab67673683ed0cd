//! Who scores candidates: a model, or a baseline.

use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use super::Scorer;
use super::group::{Answer, Group};
use super::reference::Trial;
use super::sets::Set;
use crate::baselines::Baseline;
use crate::error::Result;
use crate::model::ModelConfig;
use crate::polar::{IdPair, TemplateConfig, encode_candidates};
use crate::tokenizer::Tokenizer;

/// Scores candidates.
pub trait Judge {
    /// The scores of each trial's candidates, in their order.
    ///
    /// # Errors
    /// What cannot be represented or scored.
    fn scores(&mut self, set: &Set, trials: &[Trial]) -> Result<Vec<Vec<f32>>>;
}

/// Any function of prompt, reference and candidate. Token ids have no text and score NaN.
impl<F: Fn(&str, &str, &str) -> f32 + Sync> Judge for F {
    fn scores(&mut self, set: &Set, trials: &[Trial]) -> Result<Vec<Vec<f32>>> {
        let function: &F = self;
        let scores = trials.par_iter().map(|trial| {
            let group = &set.groups[trial.group];
            let score = |text: &str| function(&group.prompt, &trial.reference, text);
            let texts = trial.candidates.iter().map(|&place| group.candidates[place].answer.text());
            texts.map(|text| text.map_or(f32::NAN, score)).collect()
        });
        Ok(scores.collect())
    }
}

/// A baseline's scores as the judge's.
pub fn of_baseline(baseline: &dyn Baseline) -> impl Fn(&str, &str, &str) -> f32 + Sync + '_ {
    // Rounding to f32 would make ties of what differs in f64 by less; no baseline's order hangs on that.
    |prompt, reference, candidate| baseline.score(prompt, reference, candidate) as f32
}

/// Sequences that truncation has shortened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Truncation {
    /// Sequences scored.
    pub sequences: usize,
    /// Of those, with a prompt that was cut.
    pub prompt: usize,
    /// With a reference that was cut.
    pub reference: usize,
    /// With a candidate that was cut.
    pub candidate: usize,
    /// With any part cut.
    pub any: usize,
}

/// A model with what it takes to build its sequences.
pub struct ModelJudge<'a> {
    /// Scores sequences.
    pub scorer: &'a mut Scorer,
    /// Limits of token ids.
    pub config: &'a ModelConfig,
    /// Encodes text; token ids need none.
    pub tokenizer: Option<&'a Tokenizer>,
    /// How strings are built and cut.
    pub template: TemplateConfig,
    /// The file of the set, for messages.
    pub path: &'a Path,
    /// What the last call of [`Judge::scores`] has cut.
    pub truncation: Truncation,
}

impl Judge for ModelJudge<'_> {
    fn scores(&mut self, set: &Set, trials: &[Trial]) -> Result<Vec<Vec<f32>>> {
        /// Trials encoded before they are scored.
        const CHUNK: usize = 256;
        self.truncation = Truncation::default();
        let mut all = Vec::with_capacity(trials.len());
        for chunk in trials.chunks(CHUNK) {
            let groups = chunk.iter().map(|trial| self.encode(&set.groups[trial.group], trial));
            let groups = groups.collect::<Result<Vec<_>>>()?;
            let scores = self.scorer.score(&groups)?;
            let mut rest = &scores[..];
            for group in &groups {
                let (these, others) = rest.split_at(group.len().min(rest.len()));
                all.push(these.to_vec());
                rest = others;
            }
        }
        Ok(all)
    }
}

impl ModelJudge<'_> {
    fn encode(&mut self, group: &Group, trial: &Trial) -> Result<Vec<Vec<u32>>> {
        let answers: Vec<&Answer> = trial.candidates.iter().map(|&place| &group.candidates[place].answer).collect();
        if let [Answer::Ids(chosen), Answer::Ids(rejected)] = answers[..] {
            let (chosen, rejected) = (chosen.clone(), rejected.clone());
            let pair = IdPair { chosen, rejected, file: self.path.into(), line: group.line };
            pair.check(self.config)?;
            self.truncation.sequences += 2;
            return Ok(vec![pair.chosen, pair.rejected]);
        }
        let texts: Vec<&str> = answers.iter().filter_map(|answer| answer.text()).collect();
        let tokenizer = self.tokenizer.ok_or_else(|| crate::Error::machine("text without a tokenizer"))?;
        let template = TemplateConfig { wrapper: group.wrapper.unwrap_or(self.template.wrapper), ..self.template };
        let encoded = encode_candidates(tokenizer, &group.prompt, &trial.reference, &texts, &template)?;
        let (prompt, reference) = (encoded.cut.prompt > 0, encoded.cut.reference > 0);
        for &cut in &encoded.cut_each {
            let t = &mut self.truncation;
            t.sequences += 1;
            t.prompt += usize::from(prompt);
            t.reference += usize::from(reference);
            t.candidate += usize::from(cut > 0);
            t.any += usize::from(prompt || reference || cut > 0);
        }
        Ok(encoded.sequences)
    }
}

/// Lengths in tokens of every candidate of the set, whole; of token ids the whole sequence.
///
/// # Errors
/// When the tokenizer cannot represent a text.
pub fn lengths(set: &Set, tokenizer: Option<&Tokenizer>) -> Result<Vec<Vec<usize>>> {
    let length = |answer: &Answer| match (answer, tokenizer) {
        (Answer::Ids(ids), _) => Ok(ids.len()),
        (Answer::Text(text), Some(tokenizer)) => Ok(tokenizer.encode(text)?.len()),
        (Answer::Text(text), None) => Ok(text.len()),
    };
    set.groups.iter().map(|group| group.candidates.iter().map(|c| length(&c.answer)).collect()).collect()
}
