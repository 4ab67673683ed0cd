//! The formats that models are trained on: trajectories, preferences and pairs of token ids.

use super::rows::JsonRow;
use super::{Format, Set, SetFile, SetFormat, others};
use crate::data::{self, IdPair, Records, Triple, TripleSource};
use crate::error::{Error, Result};
use crate::eval::group::{Answer, Candidate, Group, ReferenceSource, Rule};

/// A format that models are trained on.
pub struct Own {
    format: Format,
    keys: &'static str,
    knows: fn(&JsonRow) -> bool,
    source: ReferenceSource,
}

/// Rows {chosen_ids, rejected_ids}.
pub const PAIRS: Own = Own {
    format: Format::Pairs,
    keys: "pairs {chosen_ids, rejected_ids}",
    knows: |row| row.has_all(&["chosen_ids", "rejected_ids"]),
    source: ReferenceSource::Field,
};

/// Rows {prompt, reference, chosen, rejected}.
pub const PREFERENCES: Own = Own {
    format: Format::Preferences,
    keys: "preferences {prompt, reference, chosen, rejected}",
    knows: |row| row.has_all(&["reference", "chosen"]),
    source: ReferenceSource::Field,
};

/// Rows {prompt, policy, output}.
pub const TRAJECTORIES: Own = Own {
    format: Format::Trajectories,
    keys: "trajectories {prompt, policy, output}",
    knows: |row| row.has("policy"),
    source: ReferenceSource::LeaveOneOut,
};

impl SetFormat for Own {
    fn keys(&self) -> &'static str {
        self.keys
    }

    fn knows(&self, row: &JsonRow) -> bool {
        (self.knows)(row)
    }

    fn read(&self, file: &SetFile, set: &mut Set) -> Result<()> {
        read(file, Some(self.format), set)
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
pub fn read(file: &SetFile, wanted: Option<Format>, set: &mut Set) -> Result<()> {
    let path = file.path;
    let lines = std::io::Cursor::new(file.lines()?.into_bytes());
    let records = data::read_from(path, lines).map_err(|e| match wanted {
        None => Error::user(format!("{e}; evaluation also reads {}", others())),
        Some(_) => e,
    })?;
    set.rows = records.len();
    let groups: Result<Vec<Group>>;
    (set.format, groups) = match records {
        Records::Preferences(rows) => (Format::Preferences, rows.iter().map(|row| row.map(of_triple)).collect()),
        Records::Pairs(rows) => (Format::Pairs, rows.iter().map(|row| row.map(of_pair)).collect()),
        Records::Trajectories(rows) if wanted.is_none_or(|wanted| wanted == Format::Trajectories) => {
            let source = TripleSource::new(rows).map_err(|e| e.context(path.display()))?;
            set.notes.push(source.summary().to_string());
            let triples = source.epoch(file.seed, 0).map(|triple| triple.map(of_triple));
            (Format::Trajectories, triples.collect())
        }
        Records::Trajectories(_) => (Format::Trajectories, Ok(Vec::new())),
        Records::Documents(_) => {
            return Err(Error::user(format!(
                "{} holds documents, which cannot be ranked: give trajectories or preferences",
                path.display()
            )));
        }
    };
    if let Some(wanted) = wanted.filter(|&wanted| wanted != set.format) {
        let (path, found, wanted) = (path.display(), set.format.name(), wanted.name());
        return Err(Error::user(format!("{path}: the rows are {found}, not {wanted}")));
    }
    set.groups = groups?;
    if set.format == Format::Preferences {
        name(&mut set.groups, file.rows()?);
    }
    Ok(())
}

/// Gives groups of preferences line, id and subset of the rows that they are from, one each.
fn name(groups: &mut [Group], rows: &[JsonRow]) {
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
