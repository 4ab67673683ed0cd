//! What every set to evaluate on comes down to: groups of candidates of one prompt.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::store::Raw;
use super::{IdPair, Triple, Wrapper};

/// Where references come from. A candidate is never compared with itself: one whose text is the reference's is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ReferenceSource {
    /// The row's own reference
    Field,
    /// The best candidate of the row; the others are judged
    Best,
    /// Each candidate in turn, for the others that are not better than it
    LeaveOneOut,
    /// A file of references, given with --references, joined by id or prompt
    File,
    /// No reference, for models that are not of POLAR's form
    None,
}

impl ReferenceSource {
    /// What `--reference-source` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Field => "field",
            Self::Best => "best",
            Self::LeaveOneOut => "leave-one-out",
            Self::File => "file",
            Self::None => "none",
        }
    }
}

/// What a candidate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A text, to be scored with a prompt and a reference.
    Text(String),
    /// A whole sequence of token ids, its reference in it.
    Ids(Vec<u32>),
}

impl Answer {
    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Ids(_) => None,
        }
    }
}

/// An answer with its quality.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// What is scored.
    pub answer: Answer,
    /// Higher is better; only the order within the group counts.
    pub gain: f64,
    /// How elaborate its style is, in sets that cross quality with style.
    pub style: Option<u8>,
}

impl Candidate {
    /// A text with its quality.
    pub fn new(text: impl Into<String>, gain: f64) -> Self {
        Self { answer: Answer::Text(text.into()), gain, style: None }
    }
}

/// Turns candidates into judgements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// One judgement for every two candidates of different quality.
    Pairs,
    /// One judgement: every best candidate above every other one. With one best candidate this is best-of-n.
    BestOfN,
    /// One judgement: the best candidate above the second best, for lists whose very best is the reference.
    FirstTwo,
}

/// A prompt with its candidates.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The file of the row, if it is from one.
    pub file: Option<Arc<Path>>,
    /// Line of the row in its file, from 1; of the first one where several rows make a group.
    pub line: usize,
    /// Its name in the set, if it has one.
    pub id: Option<String>,
    /// What all candidates answer; empty for token ids.
    pub prompt: String,
    /// The reference in the row, if there is one.
    pub reference: Option<String>,
    /// At least two.
    pub candidates: Vec<Candidate>,
    /// The part of the set that it belongs to; empty where there are none.
    pub subset: String,
    /// What is asked of the scores.
    pub rule: Rule,
    /// How prompt and answers are joined, if the row says so.
    pub wrapper: Option<Wrapper>,
}

impl Group {
    /// Candidates of a prompt; the rest is for the format to say.
    pub fn new(prompt: String, candidates: Vec<Candidate>, rule: Rule) -> Self {
        Self {
            file: None,
            line: 0,
            id: None,
            prompt,
            reference: None,
            candidates,
            subset: String::new(),
            rule,
            wrapper: None,
        }
    }

    /// With the place of its row.
    #[must_use]
    pub(super) fn at(self, raw: Raw) -> Self {
        Self { file: Some(raw.file.clone()), line: raw.line, ..self }
    }
}

/// Chosen and rejected, with the triple's reference.
impl From<Triple> for Group {
    fn from(triple: Triple) -> Self {
        let candidates = vec![Candidate::new(triple.chosen, 1.0), Candidate::new(triple.rejected, 0.0)];
        let group = Self::new(triple.prompt, candidates, Rule::Pairs);
        Self { reference: Some(triple.reference), wrapper: triple.wrapper, ..group }
    }
}

/// Chosen and rejected as token ids.
impl From<IdPair> for Group {
    fn from(pair: IdPair) -> Self {
        let ids = |ids, gain| Candidate { answer: Answer::Ids(ids), gain, style: None };
        let candidates = vec![ids(pair.chosen, 1.0), ids(pair.rejected, 0.0)];
        Self { file: Some(pair.file), line: pair.line, ..Self::new(String::new(), candidates, Rule::Pairs) }
    }
}

/// Subsets that a paper reports as one figure.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// What the paper calls it.
    pub name: &'static str,
    /// Parts that count alike; within a part every judgement counts alike. A name that ends in `*` is a beginning.
    pub parts: &'static [&'static [&'static str]],
}

impl Section {
    pub(super) const fn new(name: &'static str, parts: &'static [&'static [&'static str]]) -> Self {
        Self { name, parts }
    }

    /// The part that `subset` belongs to.
    pub fn part(&self, subset: &str) -> Option<usize> {
        let matches = |name: &&str| match name.strip_suffix('*') {
            Some(beginning) => subset.starts_with(beginning),
            None => subset == *name,
        };
        self.parts.iter().position(|part| part.iter().any(matches))
    }
}
