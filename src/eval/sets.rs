//! Sets to evaluate on.

use std::path::Path;

use crate::data::{Group, Groups, IdPair, Reader, RowFile, SetFormat, Triple};
use crate::error::{Error, Result};

/// A file of evaluation data, or several.
#[derive(Clone, Debug)]
pub struct Set {
    /// What its rows are.
    pub format: SetFormat,
    /// What is to be judged.
    pub groups: Groups,
    /// Rows in all files.
    pub rows: usize,
    /// How many files they are from; none of triples and pairs that are in memory.
    pub files: usize,
    /// What a reader should know of how the groups were made.
    pub notes: Vec<String>,
    /// BLAKE3 of the file's text; empty where there is no file.
    pub blake3: String,
}

impl Set {
    /// Triples that are judged by their own references.
    pub fn of_triples(triples: impl IntoIterator<Item = Triple>) -> Self {
        Self::of_groups(SetFormat::Preferences, triples.into_iter().map(Group::from).collect())
    }

    /// Pairs of token ids.
    pub fn of_pairs(pairs: impl IntoIterator<Item = IdPair>) -> Self {
        Self::of_groups(SetFormat::Pairs, pairs.into_iter().map(Group::from).collect())
    }

    fn of_groups(format: SetFormat, groups: Vec<Group>) -> Self {
        Self { format, rows: groups.len(), files: 0, groups: groups.into(), notes: Vec::new(), blake3: String::new() }
    }
}

/// Reads evaluation data: JSON Lines, JSON arrays or Parquet, plain or packed, of all files that `path` stands for
/// ([`crate::data::files_of`]). The keys of the first row decide what they hold, or `format`; `seed` decides which triples are drawn from trajectories. Every row is read, so that every
/// mistake is found, and forgotten: what is kept of it is its place.
///
/// # Errors
/// The user's, with file, line and what was expected.
pub fn read(path: &Path, format: Option<SetFormat>, seed: u64) -> Result<Set> {
    let mut file = RowFile::open(path)?;
    let format = match format {
        Some(format) if !format.is_training_data() => format,
        wanted => known(path, &mut file, wanted)?,
    };
    let file = file.groups(format.rows(), seed)?;
    Ok(Set { format, groups: file.groups, rows: file.rows, files: file.files, notes: file.notes, blake3: file.blake3 })
}

/// The format of a file by its first row.
///
/// # Errors
/// The user's: a format that cannot be evaluated on, and another one than `wanted`, which models are trained on.
fn known(path: &Path, file: &mut RowFile, wanted: Option<SetFormat>) -> Result<SetFormat> {
    let reader = if wanted.is_some() { Reader::Training } else { Reader::Evaluation };
    let path = path.display();
    let format = SetFormat::of(file.format(reader)?).ok_or_else(|| {
        Error::user(format!("{path} holds documents, which cannot be ranked: give trajectories or preferences"))
    })?;
    match wanted.filter(|&wanted| wanted != format) {
        Some(wanted) => Err(Error::user(format!("{path}: the rows are {}, not {}", format.name(), wanted.name()))),
        None => Ok(format),
    }
}

#[cfg(test)]
mod tests;
