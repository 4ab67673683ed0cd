//! Rows that are read when they are wanted.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::store::{Place, Raw, Spool, Store};
use crate::{Error, Result};

/// Rows of data, to be read in any order. Of rows in files only where they lie is in memory, 16 bytes each.
#[derive(Clone, Debug)]
pub struct Rows<T>(Inner<T>);

#[derive(Clone, Debug)]
enum Inner<T> {
    Held(Vec<T>),
    Stored { store: Arc<Store>, places: Vec<Place>, parse: fn(Raw) -> Result<T> },
    Made { from: Vec<u32>, make: Maker<T> },
}

/// Makes a row of what lies elsewhere, by its number.
#[derive(Clone)]
struct Maker<T>(Arc<dyn Fn(usize) -> Result<T> + Send + Sync>);

impl<T> fmt::Debug for Maker<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Maker")
    }
}

impl<T> From<Vec<T>> for Rows<T> {
    fn from(rows: Vec<T>) -> Self {
        Self(Inner::Held(rows))
    }
}

/// Where the rows of files lie.
#[derive(Clone, Debug)]
pub(crate) struct RowPlaces {
    pub(super) store: Arc<Store>,
    pub(super) places: Vec<Place>,
}

impl RowPlaces {
    /// The rows as `parse` reads them.
    pub(super) fn read<T: Clone>(self, parse: fn(Raw) -> Result<T>) -> Rows<T> {
        Rows::stored(self.store, self.places, parse)
    }
}

impl<T: Clone> Rows<T> {
    fn stored(store: Arc<Store>, places: Vec<Place>, parse: fn(Raw) -> Result<T>) -> Self {
        Self(Inner::Stored { store, places, parse })
    }

    /// `count` rows, each made when it is wanted, by its number.
    ///
    /// # Errors
    /// The user's: more rows than 2^32.
    pub fn made(count: usize, make: impl Fn(usize) -> Result<T> + Send + Sync + 'static) -> Result<Self> {
        let count = u32::try_from(count).map_err(|_| Error::user("more than 2^32 rows: split the file"))?;
        Ok(Self(Inner::Made { from: (0..count).collect(), make: Maker(Arc::new(make)) }))
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        match &self.0 {
            Inner::Held(rows) => rows.len(),
            Inner::Made { from, .. } => from.len(),
            Inner::Stored { places, .. } => places.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Row `index`, read from its file.
    ///
    /// # Errors
    /// When the file cannot be read any more, or was changed. An index beyond the last row is the program's error.
    pub fn get(&self, index: usize) -> Result<T> {
        let missing = || Error::machine(format!("row {index} of {}", self.len()));
        match &self.0 {
            Inner::Held(rows) => rows.get(index).cloned().ok_or_else(missing),
            Inner::Stored { store, places, parse } => store.read(*places.get(index).ok_or_else(missing)?, parse),
            Inner::Made { from, make } => (make.0)(*from.get(index).ok_or_else(missing)? as usize),
        }
    }

    /// All rows in order, one at a time.
    pub fn iter(&self) -> impl Iterator<Item = Result<T>> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Divides the rows into those that `first` takes and the others, both in order.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn partition(self, mut first: impl FnMut(&T) -> bool) -> Result<(Self, Self)> {
        let takes: Vec<bool> = self.iter().map(|row| Ok(first(&row?))).collect::<Result<_>>()?;
        fn divide<T>(all: Vec<T>, takes: &[bool]) -> (Vec<T>, Vec<T>) {
            let mut takes = takes.iter();
            all.into_iter().partition(|_| takes.next().is_some_and(|&takes| takes))
        }
        Ok(match self.0 {
            Inner::Held(rows) => {
                let (a, b) = divide(rows, &takes);
                (Self(Inner::Held(a)), Self(Inner::Held(b)))
            }
            Inner::Stored { store, places, parse } => {
                let (a, b) = divide(places, &takes);
                (Self::stored(store.clone(), a, parse), Self::stored(store, b, parse))
            }
            Inner::Made { from, make } => {
                let (a, b) = divide(from, &takes);
                let make_a = make.clone();
                (Self(Inner::Made { from: a, make: make_a }), Self(Inner::Made { from: b, make }))
            }
        })
    }
}

/// Sequences of token ids on their way to [`Rows`]: in memory while they are few, else in a file without a name.
pub struct Sequences {
    spool: Spool,
    places: Vec<Place>,
}

impl Default for Sequences {
    fn default() -> Self {
        Self { spool: Spool::new(), places: Vec::new() }
    }
}

impl Sequences {
    /// Adds one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn push(&mut self, ids: &[u32]) -> Result<()> {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let len = u32::try_from(bytes.len()).map_err(|_| Error::user("a sequence of more than 2^30 ids"))?;
        self.places.push(Place { start: self.spool.len(), len, line: 0 });
        self.spool.write(&bytes)
    }

    /// All of them.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn finish(self) -> Result<Rows<Vec<u32>>> {
        let (bytes, len) = self.spool.finish()?;
        let mut store = Store::default();
        store.add(Path::new("token ids").into(), bytes, len, false);
        let ids = |raw: Raw| Ok(raw.bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect());
        Ok(Rows::stored(Arc::new(store), self.places, ids))
    }
}
