//! Rows to score, read one at a time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::vec;

use super::complaints::Complaints;
use super::formats::{self, score};
use super::inputs::{STDIN, files_of};
use super::lines::Lines;
use super::row::Row;
use super::{Message, Wrapper};
use crate::{Error, Result};

/// What is to be scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScoreInput {
    /// `{prompt, reference, output}`, and `wrapper`, if the row has its own
    Text {
        /// The prompt that both answer.
        prompt: String,
        /// The prompt's messages, for models that are given the roles too.
        messages: Vec<Message>,
        /// The trajectory to compare with, if the row has one.
        reference: Option<String>,
        /// The candidate.
        output: String,
        /// The row's own wrapper, if it names one.
        wrapper: Option<Wrapper>,
    },
    /// `{prompt, reference, outputs}`, and `wrapper`, if the row has its own
    BestOf {
        /// The prompt that all answer.
        prompt: String,
        /// The prompt's messages, for models that are given the roles too.
        messages: Vec<Message>,
        /// The trajectory to compare with, if the row has one.
        reference: Option<String>,
        /// The candidates, at least one.
        outputs: Vec<String>,
        /// The row's own wrapper, if it names one.
        wrapper: Option<Wrapper>,
    },
    /// `{input_ids}`: a whole sequence, ending with the score token
    Ids(Vec<u32>),
}

/// A row to score.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoreRow {
    /// The file that it is from.
    pub file: Arc<Path>,
    /// Its line there, from 1.
    pub line: usize,
    /// What is to be scored.
    pub input: ScoreInput,
}

impl ScoreRow {
    /// `file:line`.
    pub fn place(&self) -> String {
        format!("{}:{}", self.file.display(), self.line)
    }
}

/// The rows of a file, or of several, in order. Ends after the first error, which has what is wrong with the rows behind
/// it too, unless they come from standard input; a file without rows is an error.
pub struct ScoreRows {
    file: Arc<Path>,
    lines: Lines,
    /// The files behind it.
    others: vec::IntoIter<PathBuf>,
    /// Bytes of all files together, if that is known.
    length: Option<u64>,
    /// Bytes of the files before this one.
    before: u64,
    /// Rows and blank lines so far, of all files.
    taken: usize,
    /// Rows of this file so far.
    rows: usize,
    ended: bool,
    /// Of the rows and blank lines so far.
    read: blake3::Hasher,
}

impl ScoreRows {
    /// Opens the files that `name` stands for, as [`files_of`] says: JSON Lines, JSON arrays or Parquet, plain or packed.
    ///
    /// # Errors
    /// The user's: a file that cannot be read.
    pub fn open(name: &Path) -> Result<Self> {
        let files = files_of(name)?;
        let length = |path: &PathBuf| path.metadata().ok().map(|found| found.len());
        let length = files.iter().map(length).sum::<Option<u64>>().filter(|_| name != Path::new(STDIN));
        let mut files = files.into_iter();
        let first = files.next().ok_or_else(|| Error::machine("a name of no file"))?;
        Ok(Self { others: files, length, ..Self::new(Lines::open(&first)?) })
    }

    pub(super) fn new(mut lines: Lines) -> Self {
        lines.expect_rows();
        let (file, others, read) = (lines.path().into(), Vec::new().into_iter(), blake3::Hasher::new());
        Self { file, lines, others, length: None, before: 0, taken: 0, rows: 0, ended: false, read }
    }

    /// Bytes of the files that were read, and of all, if that is known; packed ones where a file is packed.
    pub fn bytes(&self) -> (u64, Option<u64>) {
        (self.before + self.lines.taken().load(Ordering::Relaxed), self.length)
    }

    /// The number of rows and blank lines that were read, and a hash of them.
    pub fn so_far(&self) -> (usize, blake3::Hash) {
        (self.taken, self.read.finalize())
    }

    /// Passes over the first `taken` rows and blank lines, unparsed; [`Self::so_far`] then tells what they were.
    ///
    /// # Errors
    /// The user's: a file that cannot be read.
    pub fn skip(&mut self, taken: usize) -> Result<()> {
        while self.taken < taken && (self.advance()?.is_some() || self.next_file()?) {}
        Ok(())
    }

    /// Reads on; whether what was read is a blank line.
    fn advance(&mut self) -> Result<Option<bool>> {
        let blank = self.lines.next_is_blank()?;
        if let Some(blank) = blank {
            let raw = self.lines.raw(&self.file, false);
            self.read.update(raw.text()?.as_bytes()).update(b"\n");
            self.taken += 1;
            self.rows += usize::from(!blank);
        }
        Ok(blank)
    }

    /// Goes on with the next file, if there is one.
    fn next_file(&mut self) -> Result<bool> {
        if self.rows == 0 {
            return Err(self.lines.empty());
        }
        let Some(next) = self.others.next() else { return Ok(false) };
        self.before = self.bytes().0;
        self.lines = Lines::open(&next)?;
        self.lines.expect_rows();
        (self.file, self.rows) = (next.into(), 0);
        Ok(true)
    }

    fn read(&mut self) -> Result<Option<ScoreRow>> {
        let mut complaints = Complaints::default();
        loop {
            let blank = match self.advance() {
                Ok(Some(blank)) => blank,
                Ok(None) => match self.next_file() {
                    Ok(true) => continue,
                    Ok(false) => return complaints.finish().map(|()| None),
                    Err(error) => return Err(complaints.with(error)),
                },
                Err(error) if self.lines.can_go_on() => {
                    self.rows += 1;
                    complaints.add(error)?;
                    continue;
                }
                Err(error) => return Err(complaints.with(error)),
            };
            if blank {
                continue;
            }
            let raw = self.lines.raw(&self.file, false);
            match raw.text().and_then(formats::parse).and_then(input) {
                Ok(input) if complaints.is_empty() => {
                    return Ok(Some(ScoreRow { file: self.file.clone(), line: raw.line, input }));
                }
                Ok(_) => {}
                Err(error) => complaints.add_at(&raw.place(), error)?,
            }
            // Whoever writes into a pipe may wait for the scores before more rows come.
            if self.length.is_none() {
                complaints.finish()?;
                complaints = Complaints::default();
            }
        }
    }
}

/// Unlike training data, rows may differ in kind, and keys that mean something elsewhere are ignored.
fn input(mut row: Row) -> Result<ScoreInput> {
    if row.has("input_ids") {
        return Ok(ScoreInput::Ids(row.ids("input_ids")?));
    }
    if row.has("outputs") {
        formats::check_but(&row, &score::BEST_OF, "reference")?;
        if row.has("output") {
            return Err(Error::user("a row has either \"output\" or \"outputs\"; this one has both"));
        }
        return Ok(ScoreInput::BestOf {
            messages: row.messages("prompt", "user")?,
            prompt: row.text("prompt")?,
            reference: reference(&mut row)?,
            outputs: row.texts("outputs")?,
            wrapper: row.wrapper()?,
        });
    }
    formats::check_but(&row, &score::ONE, "reference")?;
    Ok(ScoreInput::Text {
        messages: row.messages("prompt", "user")?,
        prompt: row.text("prompt")?,
        reference: reference(&mut row)?,
        output: row.text("output")?,
        wrapper: row.wrapper()?,
    })
}

fn reference(row: &mut Row) -> Result<Option<String>> {
    row.has("reference").then(|| row.text("reference")).transpose()
}

impl Iterator for ScoreRows {
    type Item = Result<ScoreRow>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let row = self.read().transpose();
        self.ended = !matches!(row, Some(Ok(_)));
        row
    }
}
