//! The formats that models are trained on: trajectories, preferences and pairs of token ids.

use std::path::Path;

use super::Set;
use super::rows::JsonRow;
use crate::error::{Error, Result};
use crate::eval::group::{Answer, Candidate, Group, Rule};
use crate::polar::{Records, Triple, TripleSource};

/// Groups of two of what a file of training data holds; of trajectories one drawing of triples by `seed`.
///
/// # Errors
/// The user's: documents, and trajectories that give no triple.
pub fn groups(path: &Path, records: Records, seed: u64, set: &mut Set) -> Result<()> {
    match records {
        Records::Preferences(triples) => set.groups = triples.into_iter().map(triple).collect(),
        Records::Trajectories(rows) => {
            let source = TripleSource::new(rows).map_err(|e| e.context(path.display()))?;
            set.notes.push(source.summary().to_string());
            set.groups = source.epoch(seed, 0).map(triple).collect();
        }
        Records::Pairs(pairs) => {
            let ids = |ids, gain| Candidate { answer: Answer::Ids(ids), gain, style: None };
            let group = |line, candidates| group(line, String::new(), candidates);
            set.groups =
                pairs.into_iter().map(|p| group(p.line, vec![ids(p.chosen, 1.0), ids(p.rejected, 0.0)])).collect();
        }
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

fn triple(triple: Triple) -> Group {
    let candidates = vec![Candidate::new(triple.chosen, 1.0), Candidate::new(triple.rejected, 0.0)];
    Group { reference: Some(triple.reference), wrapper: triple.wrapper, ..group(0, triple.prompt, candidates) }
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
