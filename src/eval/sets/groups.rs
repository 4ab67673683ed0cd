//! The groups of a set, each read when it is wanted.

use super::rmb::RankedLists;
use crate::data::{Rows, TripleSource};
use crate::error::{Error, Result};
use crate::eval::group::Group;

/// Groups to be read in any order. Of groups in files only where their rows lie is in memory.
#[derive(Clone, Debug)]
pub struct Groups(Inner);

#[derive(Clone, Debug)]
enum Inner {
    /// A group a row.
    Rows(Rows<Group>),
    /// Triples of one epoch, in the order drawn.
    Drawn {
        source: Box<TripleSource>,
        order: Vec<u32>,
        seed: u64,
    },
    Ranked(RankedLists),
}

impl From<Vec<Group>> for Groups {
    fn from(groups: Vec<Group>) -> Self {
        Self(Inner::Rows(groups.into()))
    }
}

impl From<Rows<Group>> for Groups {
    fn from(rows: Rows<Group>) -> Self {
        Self(Inner::Rows(rows))
    }
}

impl From<RankedLists> for Groups {
    fn from(lists: RankedLists) -> Self {
        Self(Inner::Ranked(lists))
    }
}

impl Groups {
    /// One drawing of triples.
    pub(super) fn drawn(source: TripleSource, seed: u64) -> Self {
        let order = source.order(seed, 0);
        Self(Inner::Drawn { source: Box::new(source), order, seed })
    }

    /// Number of groups.
    pub fn len(&self) -> usize {
        match &self.0 {
            Inner::Rows(rows) => rows.len(),
            Inner::Drawn { order, .. } => order.len(),
            Inner::Ranked(lists) => lists.len(),
        }
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
        match &self.0 {
            Inner::Rows(rows) => rows.get(index),
            Inner::Drawn { source, order, seed } => {
                let item = *order.get(index).ok_or_else(|| Error::machine(format!("triple {index}")))?;
                Ok(super::own::of_triple(source.draw(item as usize, *seed, 0)?))
            }
            Inner::Ranked(lists) => lists.get(index),
        }
    }

    /// All groups in order, one at a time.
    pub fn iter(&self) -> impl Iterator<Item = Result<Group>> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }
}
