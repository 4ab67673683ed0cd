//! Pairs of token ids: `{chosen_ids, rejected_ids}`.

use std::path::Path;
use std::sync::Arc;

use super::Format;
use crate::data::records::Records;
use crate::data::row::{Kind, Row};
use crate::data::rows::Rows;
use crate::data::store::Raw;
use crate::model::ModelConfig;
use crate::{Error, Result};

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
    /// Refuses ids that `model`'s vocabulary does not have, more of them than it reads, and an end that is not the score
    /// token, if the model names one.
    pub fn check(&self, model: &ModelConfig) -> Result<()> {
        let (vocab, most) = (model.vocab_size, model.max_position_embeddings);
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
            if let Some(score) = model.special.reward.filter(|score| ids.last() != Some(score)) {
                return Err(Error::user(format!(
                    "{file}:{line}: {key} does not end with the score token, {score}, where the score is read"
                )));
            }
        }
        Ok(())
    }
}

pub struct Pairs;

impl Format for Pairs {
    type Item = IdPair;

    fn item(mut row: Row, _: Kind, raw: Raw) -> Result<IdPair> {
        let (chosen, rejected) = (row.ids("chosen_ids")?, row.ids("rejected_ids")?);
        Ok(IdPair { chosen, rejected, file: raw.file.clone(), line: raw.line })
    }

    fn records(rows: Rows<IdPair>) -> Records {
        Records::Pairs(rows)
    }
}
