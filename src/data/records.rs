//! The kinds of training data, as training and evaluation take them.

use super::rows::Rows;
use super::{Document, IdPair, Trajectory, Triple};

/// What files of training data hold.
#[derive(Clone, Debug)]
pub enum Records {
    /// `{prompt, policy, output}`
    Trajectories(Rows<Trajectory>),
    /// `{prompt, reference, chosen, rejected}`, and `wrapper`, if a row has its own
    Preferences(Rows<Triple>),
    /// `{chosen_ids, rejected_ids}`
    Pairs(Rows<IdPair>),
    /// `{prompt, output}`, `{text}`, or the paragraphs of a `.txt` file
    Documents(Rows<Document>),
}

impl Records {
    pub(super) const TRAJECTORIES: &'static str = "trajectories";
    pub(super) const PREFERENCES: &'static str = "preferences";
    pub(super) const PAIRS: &'static str = "pre-tokenised pairs";
    pub(super) const DOCUMENTS: &'static str = "documents";

    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Trajectories(rows) => rows.len(),
            Self::Preferences(rows) => rows.len(),
            Self::Pairs(rows) => rows.len(),
            Self::Documents(rows) => rows.len(),
        }
    }

    /// Whether there are no rows; [`super::read()`] never returns such.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What users call the kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Trajectories(_) => Self::TRAJECTORIES,
            Self::Preferences(_) => Self::PREFERENCES,
            Self::Pairs(_) => Self::PAIRS,
            Self::Documents(_) => Self::DOCUMENTS,
        }
    }
}
