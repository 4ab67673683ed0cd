//! Files of training data: JSON Lines, plain or zstd, whose kind is known by their keys, and plain text.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::lines::Lines;
use super::row::{Kind, Row};
use super::{Trajectory, Triple};
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

/// Text for a language model: a prompt and what follows it, or a text without a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// What comes first; empty for plain text.
    pub prompt: String,
    /// The rest.
    pub output: String,
}

/// What a file of training data holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Records {
    /// `{prompt, policy, output}`
    Trajectories(Vec<Trajectory>),
    /// `{prompt, reference, chosen, rejected}`, and `wrapper`, if a row has its own
    Preferences(Vec<Triple>),
    /// `{chosen_ids, rejected_ids}`
    Pairs(Vec<IdPair>),
    /// `{prompt, output}`, `{text}`, or the paragraphs of a `.txt` file
    Documents(Vec<Document>),
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

impl Records {
    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Trajectories(rows) => rows.len(),
            Self::Preferences(rows) => rows.len(),
            Self::Pairs(rows) => rows.len(),
            Self::Documents(rows) => rows.len(),
        }
    }

    /// Whether there are no rows; [`read`] never returns such.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What users call the kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Trajectories(_) => Kind::Trajectory.name(),
            Self::Preferences(_) => Kind::Preference.name(),
            Self::Pairs(_) => Kind::Pair.name(),
            Self::Documents(_) => Kind::Document.name(),
        }
    }

    fn new(kind: Kind) -> Result<Self> {
        match kind {
            Kind::Trajectory => Ok(Self::Trajectories(Vec::new())),
            Kind::Preference => Ok(Self::Preferences(Vec::new())),
            Kind::Pair => Ok(Self::Pairs(Vec::new())),
            Kind::Document | Kind::Text => Ok(Self::Documents(Vec::new())),
            Kind::Score | Kind::BestOf | Kind::ScoreIds => Err(Error::user(format!(
                "{} are for `polar-raw score`; training and evaluation take trajectories, preferences, pre-tokenised \
                 pairs or documents",
                kind.name()
            ))),
        }
    }

    fn push(&mut self, mut row: Row, kind: Kind, file: &Arc<Path>, line: usize) -> Result<()> {
        match self {
            Self::Trajectories(rows) => rows.push(Trajectory {
                prompt: row.text("prompt")?,
                policy: row.name("policy")?,
                output: row.text("output")?,
            }),
            Self::Preferences(rows) => rows.push(Triple {
                prompt: row.text("prompt")?,
                reference: row.text("reference")?,
                chosen: row.text("chosen")?,
                rejected: row.text("rejected")?,
                wrapper: row.wrapper()?,
            }),
            Self::Pairs(rows) => {
                let (chosen, rejected) = (row.ids("chosen_ids")?, row.ids("rejected_ids")?);
                rows.push(IdPair { chosen, rejected, file: file.clone(), line });
            }
            Self::Documents(rows) => rows.push(match kind {
                Kind::Text => Document { prompt: String::new(), output: row.text("text")? },
                _ => Document { prompt: row.text("prompt")?, output: row.text("output")? },
            }),
        }
        Ok(())
    }
}

/// Reads one file.
///
/// # Errors
/// The user's, with file, line and key: what cannot be read, is not JSON, lacks a key, has a wrong type, or mixes
/// kinds of rows; and a file without rows.
pub fn read(path: &Path) -> Result<Records> {
    read_lines(Lines::open(path)?, is_plain_text(path))
}

/// Reads JSON Lines from anything; `path` is for messages.
///
/// # Errors
/// As [`read`].
pub fn read_from(path: &Path, source: impl std::io::Read + Send + 'static) -> Result<Records> {
    read_lines(Lines::new(path, source, super::lines::MAX_LINE)?, is_plain_text(path))
}

/// Reads files of one kind, in order.
///
/// # Errors
/// As [`read`], and the user's when the files are of different kinds.
pub fn read_all(paths: &[PathBuf]) -> Result<Records> {
    let (first, rest) = paths.split_first().ok_or_else(|| Error::user("no file of data is given; use --data FILE"))?;
    let mut all = read(first)?;
    for path in rest {
        match (&mut all, read(path)?) {
            (Records::Trajectories(all), Records::Trajectories(more)) => all.extend(more),
            (Records::Preferences(all), Records::Preferences(more)) => all.extend(more),
            (Records::Pairs(all), Records::Pairs(more)) => all.extend(more),
            (Records::Documents(all), Records::Documents(more)) => all.extend(more),
            (all, more) => {
                let (path, first) = (path.display(), first.display());
                let (this, that) = (more.kind(), all.kind());
                return Err(Error::user(format!("{path} holds {this} and {first} {that}; give files of one kind")));
            }
        }
    }
    Ok(all)
}

/// `.txt`, also compressed: the only kind of file that has no keys to be known by.
fn is_plain_text(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.strip_suffix(".zst").unwrap_or(&name).ends_with(".txt")
}

pub(super) fn read_lines(lines: Lines, plain_text: bool) -> Result<Records> {
    if plain_text { read_text(lines) } else { read_rows(lines) }
}

fn read_rows(mut lines: Lines) -> Result<Records> {
    let mut all: Option<(Records, Kind, usize)> = None;
    let file: Arc<Path> = lines.path().into();
    while let Some(line) = lines.next()? {
        if line.trim().is_empty() {
            continue;
        }
        let row = Row::parse(line);
        let number = lines.number();
        let add = |row: Row| {
            let kind = row.kind()?;
            row.check(kind)?;
            let (records, first_kind, first) = match &mut all {
                Some(all) => all,
                None => all.insert((Records::new(kind)?, kind, number)),
            };
            if kind != *first_kind {
                let (this, that) = (kind.name(), first_kind.name());
                let complaint = format!("this row is of the kind {this}, line {first} of the kind {that}");
                // A key that was forgotten makes a row look like another kind.
                let missing = row.check(*first_kind).err().map(|error| format!(" ({error})")).unwrap_or_default();
                return Err(Error::user(format!("{complaint}{missing}; a file holds rows of one kind")));
            }
            records.push(row, kind, &file, number)
        };
        row.and_then(add).map_err(|error| error.context(lines.place()))?;
    }
    all.map(|(records, ..)| records).ok_or_else(|| lines.empty())
}

/// Each run of lines without a blank one is a document.
fn read_text(mut lines: Lines) -> Result<Records> {
    let mut documents: Vec<Document> = Vec::new();
    let mut inside = false;
    while let Some(line) = lines.next()? {
        let blank = line.trim().is_empty();
        match documents.last_mut() {
            Some(document) if inside && !blank => {
                document.output.push('\n');
                document.output.push_str(line);
            }
            _ if !blank => documents.push(Document { prompt: String::new(), output: line.to_owned() }),
            _ => {}
        }
        inside = !blank;
    }
    if documents.is_empty() { Err(lines.empty()) } else { Ok(Records::Documents(documents)) }
}
