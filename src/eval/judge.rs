//! Who scores candidates: a model, or a baseline.

use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use super::Scorer;
use super::reference::Question;
use crate::baselines::Baseline;
use crate::data::{Answer, Group, IdPair, Message};
use crate::error::Result;
use crate::model::ModelConfig;
use crate::polar::{OwnForm, TemplateConfig, encode_candidates};
use crate::tokenizer::{Specials, Tokenizer};

/// Scores candidates.
pub trait Judge {
    /// The scores of each question's candidates, in their order.
    ///
    /// # Errors
    /// What cannot be represented or scored.
    fn scores(&mut self, questions: &[Question]) -> Result<Vec<Vec<f32>>>;

    /// The same for a control, which does not count where a judge counts.
    ///
    /// # Errors
    /// As [`Self::scores`].
    fn control(&mut self, questions: &[Question]) -> Result<Vec<Vec<f32>>> {
        self.scores(questions)
    }

    /// Whether scores depend on references; the control means nothing where they do not.
    fn uses_references(&self) -> bool {
        true
    }
}

/// Any function of prompt, reference and candidate. Token ids have no text and score NaN.
impl<F: Fn(&str, &str, &str) -> f32 + Sync> Judge for F {
    fn scores(&mut self, questions: &[Question]) -> Result<Vec<Vec<f32>>> {
        let function: &F = self;
        let scores = questions.par_iter().map(|question| {
            let group = &question.group;
            let score = |text: &str| function(&group.prompt, &question.reference, text);
            let texts = question.candidates.iter().map(|&place| group.candidates[place].answer.text());
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
    /// With a candidate whose tokens are the reference's: only what was cut off told them apart, or what the tokenizer
    /// takes for the same.
    pub same_as_reference: usize,
}

/// A model with what it takes to build its sequences.
pub struct ModelJudge<'a> {
    /// Scores sequences.
    pub scorer: &'a mut Scorer,
    /// Limits of token ids.
    pub config: &'a ModelConfig,
    /// Encodes text; token ids need none.
    pub tokenizer: Option<&'a Tokenizer>,
    /// The strings of a model that is not of POLAR's form; they hold no reference.
    pub own: Option<&'a OwnForm>,
    /// How strings are built and cut.
    pub template: TemplateConfig,
    /// The file of the set, for messages.
    pub path: &'a Path,
    /// What the calls of [`Judge::scores`] have cut.
    pub truncation: Truncation,
}

impl Judge for ModelJudge<'_> {
    fn uses_references(&self) -> bool {
        self.own.is_none()
    }

    fn scores(&mut self, questions: &[Question]) -> Result<Vec<Vec<f32>>> {
        let groups = questions.iter().map(|question| self.encode(question)).collect::<Result<Vec<_>>>()?;
        let mut scores = self.scorer.score(&groups)?.into_iter();
        Ok(groups.iter().map(|group| scores.by_ref().take(group.len()).collect()).collect())
    }

    fn control(&mut self, questions: &[Question]) -> Result<Vec<Vec<f32>>> {
        let counted = self.truncation;
        let scores = self.scores(questions);
        self.truncation = counted;
        scores
    }
}

impl ModelJudge<'_> {
    fn encode(&mut self, question: &Question) -> Result<Vec<Vec<u32>>> {
        let group = &question.group;
        let answers: Vec<&Answer> = question.candidates.iter().map(|&place| &group.candidates[place].answer).collect();
        if let [Answer::Ids(chosen), Answer::Ids(rejected)] = answers[..] {
            let (chosen, rejected) = (chosen.clone(), rejected.clone());
            let pair = IdPair { chosen, rejected, file: self.path.into(), line: group.line };
            let config = self.config;
            pair.check(config.vocab_size, config.max_position_embeddings, config.special.reward)?;
            self.truncation.sequences += 2;
            return Ok(vec![pair.chosen, pair.rejected]);
        }
        let texts: Vec<&str> = answers.iter().filter_map(|answer| answer.text()).collect();
        let tokenizer = self.tokenizer.ok_or_else(|| crate::Error::machine("text without a tokenizer"))?;
        let template = TemplateConfig { wrapper: group.wrapper.unwrap_or(self.template.wrapper), ..self.template };
        if let Some(own) = self.own {
            self.truncation.sequences += texts.len();
            let prompt = [Message { role: "user".into(), content: group.prompt.clone() }];
            let place = |error: crate::Error| error.context(format_args!("{}:{}", self.path.display(), group.line));
            let sequence = |text: &&str| own.encode(&prompt, text, template.wrapper).map_err(place);
            return texts.iter().map(sequence).collect();
        }
        let encoded = encode_candidates(tokenizer, &group.prompt, &question.reference, &texts, &template)?;
        let (prompt, reference) = (encoded.cut.prompt > 0, encoded.cut.reference > 0);
        for &cut in &encoded.cut_each {
            let t = &mut self.truncation;
            t.sequences += 1;
            t.prompt += usize::from(prompt);
            t.reference += usize::from(reference);
            t.candidate += usize::from(cut > 0);
            t.any += usize::from(prompt || reference || cut > 0);
        }
        let same = encoded.sequences.iter().filter(|ids| is_same_as_reference(ids, tokenizer.specials()));
        self.truncation.same_as_reference += same.count();
        Ok(encoded.sequences)
    }
}

/// Whether prompt with candidate and prompt with reference are the same tokens.
fn is_same_as_reference(ids: &[u32], specials: Specials) -> bool {
    let ids = &ids[usize::from(specials.bos.is_some())..];
    let Ok([separator, score]) = specials.polar() else { return false };
    let middle = ids.iter().position(|&id| id == separator);
    middle.is_some_and(|at| ids[at + 1..] == [&ids[..at], &[score]].concat())
}

/// Lengths in tokens of a group's candidates, whole; of token ids the whole sequence.
///
/// # Errors
/// When the tokenizer cannot represent a text.
pub fn lengths(group: &Group, tokenizer: Option<&Tokenizer>) -> Result<Vec<usize>> {
    let length = |answer: &Answer| match (answer, tokenizer) {
        (Answer::Ids(ids), _) => Ok(ids.len()),
        (Answer::Text(text), Some(tokenizer)) => Ok(tokenizer.encode(text)?.len()),
        (Answer::Text(text), None) => Ok(text.len()),
    };
    group.candidates.iter().map(|c| length(&c.answer)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Wrapper;
    use crate::tokenizer::Names;

    #[test]
    fn what_differs_only_where_it_was_cut_is_the_same_as_the_reference() {
        let tokenizer = Tokenizer::bytes(Names::default()).unwrap();
        for (max_response_length, expected) in [(4, [true, false, false]), (40, [false, false, false])] {
            for wrapper in [Wrapper::Sft, Wrapper::Pretrain] {
                let template = TemplateConfig { wrapper, max_length: 100, max_response_length };
                let candidates = ["a wren", "another", "a"];
                let encoded = encode_candidates(&tokenizer, "Name a bird", "a whale", &candidates, &template).unwrap();
                let same = encoded.sequences.iter().map(|ids| is_same_as_reference(ids, tokenizer.specials()));
                assert_eq!(same.collect::<Vec<_>>(), expected, "{template:?}");
            }
        }
    }
}
