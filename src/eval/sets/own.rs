//! The formats that models are trained on: trajectories, preferences and pairs of token ids.

use std::path::Path;

use super::rows::JsonRow;
use super::{Groups, Set, SetFormat, SetReader, others};
use crate::data::{IdPair, Raw, Records, RowFile, Triple, TripleSource, read_pair, read_triple};
use crate::error::{Error, Result};
use crate::eval::group::{Answer, Candidate, Group, ReferenceSource, Rule};

/// A format that models are trained on.
pub struct Own {
    format: SetFormat,
    keys: &'static str,
    knows: fn(&JsonRow) -> bool,
    source: ReferenceSource,
}

/// Rows {chosen_ids, rejected_ids}.
pub const PAIRS: Own = Own {
    format: SetFormat::Pairs,
    keys: "pairs {chosen_ids, rejected_ids}",
    knows: |row| row.has_all(&["chosen_ids", "rejected_ids"]),
    source: ReferenceSource::Field,
};

/// Rows {prompt, reference, chosen, rejected}.
pub const PREFERENCES: Own = Own {
    format: SetFormat::Preferences,
    keys: "preferences {prompt, reference, chosen, rejected}",
    knows: |row| row.has_all(&["reference", "chosen"]),
    source: ReferenceSource::Field,
};

/// Rows {prompt, policy, output}.
pub const TRAJECTORIES: Own = Own {
    format: SetFormat::Trajectories,
    keys: "trajectories {prompt, policy, output}",
    knows: |row| row.has("policy"),
    source: ReferenceSource::LeaveOneOut,
};

impl SetReader for Own {
    fn keys(&self) -> &'static str {
        self.keys
    }

    fn knows(&self, row: &JsonRow) -> bool {
        (self.knows)(row)
    }

    fn read(&self, path: &Path, file: RowFile, seed: u64) -> Result<Set> {
        read(path, file, Some(self.format), seed)
    }

    fn default_source(&self) -> Option<ReferenceSource> {
        Some(self.source)
    }
}

/// Reads what a model could be trained on, as training does: groups of two, of trajectories one drawing of triples.
///
/// # Errors
/// The user's: what training refuses, rows of another format than `wanted`, documents, and trajectories that give no
/// triple.
pub fn read(path: &Path, file: RowFile, wanted: Option<SetFormat>, seed: u64) -> Result<Set> {
    let (records, blake3) = file.records().map_err(|e| match wanted {
        None => Error::user(format!("{e}; evaluation also reads {}", others())),
        Some(_) => e,
    })?;
    let format = match &records {
        Records::Preferences(_) => SetFormat::Preferences,
        Records::Pairs(_) => SetFormat::Pairs,
        Records::Trajectories(_) => SetFormat::Trajectories,
        Records::Documents(_) => {
            return Err(Error::user(format!(
                "{} holds documents, which cannot be ranked: give trajectories or preferences",
                path.display()
            )));
        }
    };
    if let Some(wanted) = wanted.filter(|&wanted| wanted != format) {
        let (path, found, wanted) = (path.display(), format.name(), wanted.name());
        return Err(Error::user(format!("{path}: the rows are {found}, not {wanted}")));
    }
    let (rows, mut notes) = (records.len(), Vec::new());
    let groups = match records {
        Records::Preferences(rows) => rows.read_as(preference).map(Groups::from),
        Records::Pairs(rows) => rows.read_as(|raw| read_pair(raw).map(of_pair)).map(Groups::from),
        Records::Trajectories(rows) => {
            let source = TripleSource::new(rows).map_err(|e| e.context(path.display()))?;
            notes.push(source.summary().to_string());
            Some(Groups::drawn(source, seed))
        }
        Records::Documents(_) => None,
    };
    let groups = groups.ok_or_else(|| Error::machine("rows of a file that are held"))?;
    Ok(Set { format, groups, rows, notes, blake3 })
}

/// A row of preferences with its line, id and subset.
fn preference(raw: Raw) -> Result<Group> {
    let row = JsonRow::read(raw)?;
    let subset = row.name(&["subset"]).unwrap_or_default();
    Ok(Group { line: row.line, id: row.name(&["id"]), subset, ..of_triple(read_triple(raw)?) })
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
