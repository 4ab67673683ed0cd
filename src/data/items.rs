//! What is learnt from: trajectories of known policies, triples, pairs of token ids, documents.

use std::path::Path;
use std::sync::Arc;

use crate::{Error, Result};

/// How prompt and trajectory are joined into POLAR's string (section 4.1 of the paper; the official client and
/// xtuner's `rm_utils.py`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Wrapper {
    /// `prompt \n reference <sep> prompt \n candidate <score>`: fine-tuning, and the default of the official client.
    #[default]
    Sft,
    /// `prompt reference <sep> prompt candidate <score>`: pre-training on continuations of text.
    Pretrain,
}

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Message {
    /// Who speaks: `user`, `assistant`, `system`, or what else a chat template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// One output of one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trajectory {
    /// The text that the policy answered.
    pub prompt: String,
    /// The name of the policy: a model, a checkpoint, a decoding.
    pub policy: String,
    /// What the policy wrote.
    pub output: String,
}

/// What the ranking loss compares: `r(prompt, reference, chosen)` is to exceed `r(prompt, reference, rejected)`.
///
/// In pre-training `reference` and `chosen` are two samples of one policy and `rejected` is one of another (Eq. 7);
/// in fine-tuning the three are ranked by people, best first (Eq. 8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Triple {
    /// The prompt that all three answer. Roles are dropped: messages are joined by newlines.
    pub prompt: String,
    /// The trajectory to compare with.
    pub reference: String,
    /// The one that is to score higher.
    pub chosen: String,
    /// The one that is to score lower.
    pub rejected: String,
    /// The row's own wrapper, if it names one.
    pub wrapper: Option<Wrapper>,
}

/// A pair that somebody else tokenised: whole sequences, each ending with the score token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdPair {
    /// The sequence that is to score higher.
    pub chosen: Vec<u32>,
    /// The sequence that is to score lower.
    pub rejected: Vec<u32>,
    /// The file that it is from.
    pub file: Arc<Path>,
    /// Its line there, from 1.
    pub line: usize,
}

impl IdPair {
    /// Refuses ids that are not below the vocabulary's size `vocab`, more than `most` of them, which the model reads, and
    /// an end that is not the token `score`, if the model names one.
    pub fn check(&self, vocab: usize, most: usize, score: Option<u32>) -> Result<()> {
        let (file, line) = (self.file.display(), self.line);
        for (key, ids) in [("chosen_ids", &self.chosen), ("rejected_ids", &self.rejected)] {
            if ids.len() > most {
                return Err(Error::user(format!(
                    "{file}:{line}: {key} has {} ids; the model reads at most max_position_embeddings = {most}",
                    ids.len()
                )));
            }
            if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
                return Err(Error::user(format!(
                    "{file}:{line}: {key} has {id}, which is not below the model's vocab_size = {vocab}"
                )));
            }
            if let Some(score) = score.filter(|score| ids.last() != Some(score)) {
                return Err(Error::user(format!(
                    "{file}:{line}: {key} does not end with the score token, {score}, where the score is read"
                )));
            }
        }
        Ok(())
    }
}

/// Text for a language model: a prompt and what follows it, or a text without a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// What comes first; empty for plain text.
    pub prompt: String,
    /// The rest.
    pub output: String,
}
