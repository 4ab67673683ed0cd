//! Rows to score, read one at a time.

use std::io::Read;
use std::path::Path;

use super::formats::{self, score};
use super::lines::{Lines, MAX_LINE};
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
    /// Its line in the file, from 1.
    pub line: usize,
    /// What is to be scored.
    pub input: ScoreInput,
}

/// The rows of a file, in order. Ends after the first error; a file without rows is an error.
pub struct ScoreRows {
    lines: Lines,
    rows: usize,
    ended: bool,
    /// Of the lines so far.
    read: blake3::Hasher,
}

impl ScoreRows {
    /// Opens a file of JSON Lines, plain or zstd.
    ///
    /// # Errors
    /// The user's: a file that cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self::new(Lines::open(path)?))
    }

    /// As [`Self::open`], from anything that can be read; `path` is for messages.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_reader(path: &Path, source: impl Read + Send + 'static) -> Result<Self> {
        Ok(Self::new(Lines::new(path, source, MAX_LINE)?))
    }

    pub(super) fn new(lines: Lines) -> Self {
        Self { lines, rows: 0, ended: false, read: blake3::Hasher::new() }
    }

    /// The number of lines that were read, and a hash of them.
    pub fn so_far(&self) -> (usize, blake3::Hash) {
        (self.lines.number(), self.read.finalize())
    }

    /// Passes over the rows of the first `lines` lines, unparsed; [`Self::so_far`] then tells what they were. `rows` of
    /// them are no blank lines.
    ///
    /// # Errors
    /// The user's: a file that cannot be read.
    pub fn skip(&mut self, lines: usize, rows: usize) -> Result<()> {
        while self.lines.number() < lines
            && let Some(line) = self.lines.next()?
        {
            self.read.update(line.as_bytes()).update(b"\n");
        }
        self.rows += rows;
        Ok(())
    }

    fn read(&mut self) -> Result<Option<ScoreRow>> {
        while let Some(line) = self.lines.next()? {
            self.read.update(line.as_bytes()).update(b"\n");
            if line.trim().is_empty() {
                continue;
            }
            let input = formats::parse(line).and_then(input).map_err(|error| error.context(self.lines.place()))?;
            self.rows += 1;
            return Ok(Some(ScoreRow { line: self.lines.number(), input }));
        }
        if self.rows == 0 { Err(self.lines.empty()) } else { Ok(None) }
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
