//! From rows to what an objective trains and is measured on.

use rayon::prelude::*;

use super::EvalSet;
use crate::config::Config;
use crate::data::{Document, Records, Rows, Sequences, Trajectory, TripleSource};
use crate::error::{Error, Result};
use crate::eval::sets::Set;
use crate::model::ModelConfig;
use crate::objective::{self, LearnsFrom};
use crate::polar::{TemplateConfig, encode_document};
use crate::tokenizer::Tokenizer;
use crate::train::evaluation::drawn;
use crate::train::feed::TrainingSource;
use crate::zoo::{Split, Zoo};

/// Turns records into what the objective trains and is measured on.
pub(super) struct Examples<'a> {
    pub config: &'a Config,
    pub tokenizer: Option<&'a Tokenizer>,
    pub template: &'a TemplateConfig,
    pub model: &'a ModelConfig,
}

impl Examples<'_> {
    /// What the objective trains on, made of the records of what messages call `from`.
    pub fn source(&self, records: Records, from: &str) -> Result<TrainingSource> {
        let kind = records.kind();
        Ok(match (self.learns_from(), records) {
            (LearnsFrom::Documents, records) => {
                TrainingSource::Sequences(self.sequences(records).map_err(|e| e.context(from))?)
            }
            (_, Records::Trajectories(rows)) => {
                TrainingSource::Trajectories(TripleSource::new(rows).map_err(|e| e.context(from))?)
            }
            (_, Records::Preferences(triples)) => TrainingSource::Preferences(triples),
            (_, Records::Pairs(pairs)) => {
                let (vocab, most) = (self.model.vocab_size, self.model.max_position_embeddings);
                pairs.iter().try_for_each(|pair| pair?.check(vocab, most, self.model.special.reward))?;
                TrainingSource::Pairs(pairs)
            }
            (_, Records::Documents(_)) => {
                return Err(Error::user(format!(
                    "{from}: objective.kind = \"polar\" cannot compare {kind}: give trajectories, preferences or pairs \
                     of token ids, or --set objective.kind=lm"
                )));
            }
        })
    }

    fn learns_from(&self) -> LearnsFrom {
        objective::new(&self.config.objective).learns_from()
    }

    /// What is evaluated on of `records`, set `number`: at most `eval.pairs` rows, drawn by the seed, in their order.
    pub fn eval_set(&self, number: usize, name: String, records: Records, notes: &mut Vec<String>) -> Result<EvalSet> {
        let (most, seed) = (self.config.eval.pairs, self.config.train.seed);
        let source = self.source(records, &format!("evaluation data {name}"))?;
        let count = source.epoch_len().unwrap_or(0);
        if count > most {
            let what = if self.learns_from() == LearnsFrom::Documents { "sequences" } else { "pairs" };
            notes.push(format!("{name}: evaluated on {most} of {count} {what} (eval.pairs), drawn by train.seed"));
        }
        let places = || drawn("evaluation", count, most, seed, number).into_iter();
        Ok(match source {
            // Their order is drawn.
            TrainingSource::Trajectories(source) => {
                EvalSet::Ranked(name, Set::of_triples(source.epoch(seed, 0).take(most).collect::<Result<Vec<_>>>()?))
            }
            TrainingSource::Preferences(triples) => {
                let triples = places().map(|at| triples.get(at)).collect::<Result<Vec<_>>>()?;
                EvalSet::Ranked(name, Set::of_triples(triples))
            }
            TrainingSource::Pairs(pairs) => {
                let pairs = places().map(|at| pairs.get(at)).collect::<Result<Vec<_>>>()?;
                EvalSet::Ranked(name, Set::of_pairs(pairs))
            }
            TrainingSource::Sequences(sequences) => {
                EvalSet::Sequences(name, places().map(|at| sequences.get(at)).collect::<Result<_>>()?)
            }
            TrainingSource::Zoo(_) => return Err(Error::machine("the zoo is not a file")),
        })
    }

    pub fn zoo_sets(&self, zoo: &Zoo) -> Result<Vec<EvalSet>> {
        let n = self.config.eval.pairs as u64;
        let triples = |split| (0..n).map(move |i| zoo.triple(split, i));
        if self.learns_from() == LearnsFrom::Documents {
            let documents = triples(Split::HeldOutPrompts).map(|t| Document { prompt: t.prompt, output: t.reference });
            let sequences = self.sequences(Records::Documents(documents.collect::<Vec<_>>().into()))?;
            return Ok(vec![EvalSet::Sequences("held-out prompts".into(), sequences.iter().collect::<Result<_>>()?)]);
        }
        let preferences = (0..n).map(|i| zoo.preference(Split::HeldOutPrompts, i));
        Ok(vec![
            EvalSet::Ranked("held-out prompts".into(), Set::of_triples(triples(Split::HeldOutPrompts))),
            EvalSet::Ranked("held-out policies".into(), Set::of_triples(triples(Split::HeldOutPolicies))),
            EvalSet::Ranked("preferences".into(), Set::of_triples(preferences)),
        ])
    }

    /// Documents as ids. Trajectories are documents as well: prompt and output.
    fn sequences(&self, records: Records) -> Result<Rows<Vec<u32>>> {
        match &records {
            Records::Documents(documents) => self.encode(documents.iter()),
            Records::Trajectories(rows) => self.encode(
                rows.iter().map(|row| row.map(|Trajectory { prompt, output, .. }| Document { prompt, output })),
            ),
            other => Err(Error::user(format!(
                "holds {}; objective.kind = \"lm\" reads documents: rows {{prompt, output}} or {{text}}, or a .txt file",
                other.kind()
            ))),
        }
    }

    /// Encodes some documents at a time, on all cores.
    fn encode(&self, mut documents: impl Iterator<Item = Result<Document>>) -> Result<Rows<Vec<u32>>> {
        const AT_A_TIME: usize = 256;
        let no_tokenizer = || Error::user("the model's folder has no tokenizer.json, which documents need");
        let tokenizer = self.tokenizer.ok_or_else(no_tokenizer)?;
        let mut sequences = Sequences::default();
        loop {
            let some = documents.by_ref().take(AT_A_TIME).collect::<Result<Vec<_>>>()?;
            if some.is_empty() {
                break;
            }
            let encoded: Vec<Vec<Vec<u32>>> = some
                .par_iter()
                .map(|document| encode_document(tokenizer, document, self.template))
                .collect::<Result<_>>()?;
            // A sequence of one id predicts nothing.
            for sequence in encoded.iter().flatten().filter(|sequence| sequence.len() > 1) {
                sequences.push(sequence)?;
            }
        }
        let sequences = sequences.finish()?;
        if sequences.is_empty() {
            return Err(Error::user("the documents hold no text to learn from"));
        }
        Ok(sequences)
    }
}
