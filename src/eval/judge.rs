//! Who scores candidates: a model, or a baseline.

use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use super::Scorer;
use super::judgement::Judgement;
use super::reference::Question;
use crate::baselines::Baseline;
use crate::data::{Answer, Group, IdPair, Message};
use crate::error::Result;
use crate::model::ModelConfig;
use crate::polar::{OwnForm, TemplateConfig, encode_candidates, is_same_as_reference};
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

    /// What is the same by its tokens in each question of the last call of [`Self::scores`]; nothing where a judge reads
    /// texts.
    fn same(&self) -> &[Same] {
        &[]
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

/// Candidates of a question that are the same by their tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Same {
    /// For each candidate the first one with its tokens.
    pub first: Vec<usize>,
    /// Whether each has the reference's tokens.
    pub as_reference: Vec<bool>,
}

impl Same {
    fn of(sequences: &[Vec<u32>], specials: Specials) -> Self {
        let first = |ids: &Vec<u32>| sequences.iter().position(|other| other == ids).unwrap_or_default();
        let as_reference = sequences.iter().map(|ids| is_same_as_reference(ids, specials)).collect();
        Self { first: sequences.iter().map(first).collect(), as_reference }
    }

    /// Whether some candidate that is to be above has the tokens of one that is to be below: nothing is asked then.
    pub fn spoils(&self, judgement: &Judgement) -> bool {
        let first = |place: &usize| self.first.get(*place);
        judgement.better.iter().any(|a| judgement.worse.iter().any(|b| first(a).is_some() && first(a) == first(b)))
    }

    /// Whether one of the candidates at `places` has the reference's tokens.
    pub fn has_reference(&self, places: &[usize]) -> bool {
        places.iter().any(|&place| self.as_reference.get(place) == Some(&true))
    }
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
    /// What is the same in the last questions.
    same: Vec<Same>,
}

impl<'a> ModelJudge<'a> {
    /// Scores by `scorer`, a model of `config`; `path` is the set's file, for messages. `tokenizer` is for text, `own` for a
    /// model that is not of POLAR's form.
    pub fn new(
        scorer: &'a mut Scorer,
        config: &'a ModelConfig,
        tokenizer: Option<&'a Tokenizer>,
        own: Option<&'a OwnForm>,
        template: TemplateConfig,
        path: &'a Path,
    ) -> Self {
        let (truncation, same) = (Truncation::default(), Vec::new());
        Self { scorer, config, tokenizer, own, template, path, truncation, same }
    }
}

impl Judge for ModelJudge<'_> {
    fn uses_references(&self) -> bool {
        self.own.is_none()
    }

    fn same(&self) -> &[Same] {
        &self.same
    }

    fn scores(&mut self, questions: &[Question]) -> Result<Vec<Vec<f32>>> {
        let groups = questions.iter().map(|question| self.encode(question)).collect::<Result<Vec<_>>>()?;
        let specials = self.tokenizer.filter(|_| self.own.is_none()).map(Tokenizer::specials).unwrap_or_default();
        self.same = groups.iter().map(|sequences| Same::of(sequences, specials)).collect();
        let as_reference = self.same.iter().flat_map(|same| &same.as_reference);
        self.truncation.same_as_reference += as_reference.filter(|same| **same).count();
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
            let file = group.file.clone().unwrap_or_else(|| self.path.into());
            let pair = IdPair { chosen, rejected, file, line: group.line };
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
            let file = group.file.as_deref().unwrap_or(self.path).display();
            let place = |error: crate::Error| error.context(format_args!("{file}:{}", group.line));
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
        Ok(encoded.sequences)
    }
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
