//! The formats that models are trained on: trajectories, preferences and pairs of token ids.

use std::path::Path;

use super::Set;
use super::rows::JsonRow;
use crate::data::{IdPair, Records, Triple, TripleSource};
use crate::error::{Error, Result};
use crate::eval::group::{Answer, Candidate, Group, Rule};

/// Groups of two of what a file of training data holds; of trajectories one drawing of triples by `seed`.
///
/// # Errors
/// The user's: documents, and trajectories that give no triple.
pub fn groups(path: &Path, records: Records, seed: u64, set: &mut Set) -> Result<()> {
    match records {
        Records::Preferences(triples) => set.groups = triples.into_iter().map(of_triple).collect(),
        Records::Trajectories(rows) => {
            let source = TripleSource::new(rows).map_err(|e| e.context(path.display()))?;
            set.notes.push(source.summary().to_string());
            set.groups = source.epoch(seed, 0).map(of_triple).collect();
        }
        Records::Pairs(pairs) => set.groups = pairs.into_iter().map(of_pair).collect(),
        Records::Documents(_) => {
            return Err(Error::user(format!(
                "{} holds documents, which cannot be ranked: give trajectories or preferences",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Gives groups of preferences line, id and subset of the rows that they are from, one each.
pub fn name(groups: &mut [Group], rows: &[JsonRow]) {
    for (group, row) in groups.iter_mut().zip(rows) {
        group.line = row.line;
        group.id = row.name(&["id"]);
        group.subset = row.name(&["subset"]).unwrap_or_default();
    }
}

/// Chosen and rejected, with the triple's reference.
pub fn of_triple(triple: Triple) -> Group {
    let candidates = vec![Candidate::new(triple.chosen, 1.0), Candidate::new(triple.rejected, 0.0)];
    Group { reference: Some(triple.reference), wrapper: triple.wrapper, ..group(0, triple.prompt, candidates) }
}

/// Chosen and rejected as token ids.
pub fn of_pair(pair: IdPair) -> Group {
    let ids = |ids, gain| Candidate { answer: Answer::Ids(ids), gain, style: None };
    group(pair.line, String::new(), vec![ids(pair.chosen, 1.0), ids(pair.rejected, 0.0)])
}

fn group(line: usize, prompt: String, candidates: Vec<Candidate>) -> Group {
    Group {
        line,
        id: None,
        prompt,
        reference: None,
        candidates,
        subset: String::new(),
        rule: Rule::Pairs,
        wrapper: None,
    }
}
