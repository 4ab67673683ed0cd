//! The groups of a set to evaluate on, each read when it is wanted.

use std::fmt;
use std::sync::Arc;

use super::group::Group;
use super::row::Row;
use super::rows::{RowPlaces, Rows};
use super::store::Raw;
use crate::error::Result;

/// Groups to be read in any order. Of groups in files only where their rows lie is in memory.
#[derive(Clone, Debug)]
pub struct Groups(Arc<dyn GroupSource>);

/// Where groups come from.
pub(super) trait GroupSource: fmt::Debug + Send + Sync {
    /// Number of groups.
    fn count(&self) -> usize;

    /// Reads a group.
    ///
    /// # Errors
    /// As [`Groups::get`].
    fn read(&self, index: usize) -> Result<Group>;
}

impl GroupSource for Rows<Group> {
    fn count(&self) -> usize {
        self.len()
    }

    fn read(&self, index: usize) -> Result<Group> {
        self.get(index)
    }
}

impl From<Vec<Group>> for Groups {
    fn from(groups: Vec<Group>) -> Self {
        Self::of(Rows::from(groups))
    }
}

impl Groups {
    pub(super) fn of(source: impl GroupSource + 'static) -> Self {
        Self(Arc::new(source))
    }

    /// Number of groups.
    pub fn len(&self) -> usize {
        self.0.count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Group `index`, read from its file.
    ///
    /// # Errors
    /// When the file cannot be read any more, or was changed. An index beyond the last group is the program's error.
    pub fn get(&self, index: usize) -> Result<Group> {
        self.0.read(index)
    }

    /// All groups in order, one at a time.
    pub fn iter(&self) -> impl Iterator<Item = Result<Group>> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }
}

/// Makes groups of the rows of a file, each of which it sees once.
pub(crate) trait GroupMaker {
    /// Looks at the next row, of which little may be kept.
    ///
    /// # Errors
    /// The user's, with key and value.
    fn see(&mut self, row: &mut Row, raw: Raw) -> Result<()>;

    /// The groups of all rows, and what a reader should know of how they were made. What is random follows `seed`.
    ///
    /// # Errors
    /// The user's: rows of which no group can be made.
    fn finish(self: Box<Self>, rows: RowPlaces, seed: u64) -> Result<(Groups, Vec<String>)>;
}

/// Every row is a group.
pub(super) struct EachRow {
    /// Reads a row that was parsed.
    pub group: fn(&mut Row, Raw) -> Result<Group>,
    /// Reads a row where it lies.
    pub read: fn(Raw) -> Result<Group>,
}

impl GroupMaker for EachRow {
    fn see(&mut self, row: &mut Row, raw: Raw) -> Result<()> {
        (self.group)(row, raw).map(drop)
    }

    fn finish(self: Box<Self>, rows: RowPlaces, _: u64) -> Result<(Groups, Vec<String>)> {
        Ok((Groups::of(rows.read(self.read)), Vec::new()))
    }
}
