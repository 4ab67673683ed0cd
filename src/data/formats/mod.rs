//! The formats of training data, one file each behind one trait; evaluation reads them too.

mod documents;
mod pairs;
mod preferences;
mod trajectories;

use std::sync::Arc;

use super::records::Records;
use super::row::{Row, RowKind};
use super::rows::Rows;
use super::store::{Place, Raw, Store};
use super::{IdPair, Triple};
use crate::{Error, Result};
use documents::Documents;
use pairs::Pairs;
use preferences::Preferences;
use trajectories::Trajectories;

/// A format of rows. Its name and its keys stand in the table of `row.rs`.
trait RowFormat {
    /// What a row holds.
    type Item: Clone;

    /// Reads a row that has all keys of `kind`.
    ///
    /// # Errors
    /// The user's, with key and value.
    fn item(row: Row, kind: RowKind, raw: Raw) -> Result<Self::Item>;

    /// Reads what stands in a file.
    ///
    /// # Errors
    /// As [`Self::item`], and for what is not a row.
    fn read(raw: Raw) -> Result<Self::Item> {
        let row = Row::parse(raw.text()?)?;
        let kind = row.kind()?;
        row.check(kind)?;
        Self::item(row, kind, raw)
    }

    /// Rows of this format among those that training and evaluation know.
    fn records(rows: Rows<Self::Item>) -> Records;
}

/// What the program does with a format, without its type.
#[derive(Clone, Copy)]
pub(super) struct Reader {
    /// Refuses a row that is not of the format.
    pub check: fn(Row, Raw) -> Result<()>,
    /// The rows at these places.
    pub records: fn(Arc<Store>, Vec<Place>) -> Records,
}

/// Reads a row of preferences where it lies.
///
/// # Errors
/// The user's, with file, line and key.
pub(crate) fn read_triple(raw: Raw) -> Result<Triple> {
    read::<Preferences>(raw)
}

/// Reads a row of pairs of token ids where it lies.
///
/// # Errors
/// As [`read_triple`].
pub(crate) fn read_pair(raw: Raw) -> Result<IdPair> {
    read::<Pairs>(raw)
}

fn read<F: RowFormat>(raw: Raw) -> Result<F::Item> {
    F::read(raw).map_err(|error| error.context(raw.place()))
}

fn reader<F: RowFormat>() -> Reader {
    Reader {
        check: |row, raw| {
            let kind = row.kind()?;
            F::item(row, kind, raw).map(drop)
        },
        records: |store, places| F::records(Rows::stored(store, places, read::<F>)),
    }
}

/// What reads rows of `kind`.
///
/// # Errors
/// The user's, for rows that are to be scored.
pub(super) fn reader_of(kind: RowKind) -> Result<Reader> {
    match kind {
        RowKind::Trajectory => Ok(reader::<Trajectories>()),
        RowKind::Preference => Ok(reader::<Preferences>()),
        RowKind::Pair => Ok(reader::<Pairs>()),
        RowKind::Document | RowKind::Text => Ok(reader::<Documents>()),
        RowKind::Score | RowKind::BestOf | RowKind::ScoreIds => Err(Error::user(format!(
            "{} are for `polar-raw score`; training and evaluation take trajectories, preferences, pre-tokenised pairs \
             or documents",
            kind.name()
        ))),
    }
}
