//! Files of rows: JSON Lines or one JSON array, plain or zstd, whose kind is known by their keys, and plain text. They are read
//! once from beginning to end, so that every mistake in them is found, and what is kept of a row is its place.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::formats::{self, Reader, RowFormat, Training};
use super::groups::Groups;
use super::lines::{Lines, MAX_LINE};
use super::records::Records;
use super::row::{Row, list};
use super::rows::{RowPlaces, Rows};
use super::store::{Bytes, Place, Raw, Spool, Store};
use crate::{Error, Result};

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
    read_lines(Lines::new(path, source, MAX_LINE)?, is_plain_text(path))
}

/// Reads files of one kind, in order.
///
/// # Errors
/// As [`read`], and the user's when the files are of different kinds.
pub fn read_all(paths: &[PathBuf]) -> Result<Records> {
    let first = paths.first().ok_or_else(|| Error::user("no file of data is given; use --data FILE"))?;
    let mut index = Index::default();
    for path in paths {
        let before = index.found;
        let found = index.add(&mut Lines::open(path)?, is_plain_text(path))?;
        if let Some(before) = before.filter(|before| before.kind != found.kind) {
            let (path, first) = (path.display(), first.display());
            let (this, that) = (found.kind, before.kind);
            return Err(Error::user(format!("{path} holds {this} and {first} {that}; give files of one kind")));
        }
    }
    index.finish()
}

/// `.txt`, also compressed: the only kind of file that has no keys to be known by.
fn is_plain_text(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.strip_suffix(".zst").unwrap_or(&name).ends_with(".txt")
}

pub(super) fn read_lines(mut lines: Lines, plain_text: bool) -> Result<Records> {
    let mut index = Index::default();
    index.add(&mut lines, plain_text)?;
    index.finish()
}

/// Rows of one file that are read otherwise than as training data.
pub(crate) struct RowFile {
    lines: Lines,
    plain_text: bool,
}

impl RowFile {
    /// Opens a file.
    ///
    /// # Errors
    /// The user's: a file that cannot be read.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut lines = Lines::open(path)?;
        lines.hash();
        lines.expect_rows();
        Ok(Self { lines, plain_text: is_plain_text(path) })
    }

    /// The format of its first row, which is then still to be read.
    ///
    /// # Errors
    /// The user's, with file and line: a file without rows, and a first row that `reader` knows nothing of, or that lacks
    /// a key or is to be scored.
    pub(crate) fn format(&mut self, reader: Reader) -> Result<&'static dyn RowFormat> {
        while let Some(line) = self.lines.next()? {
            if line.trim().is_empty() {
                continue;
            }
            let file: Arc<Path> = self.lines.path().into();
            let raw = self.lines.raw(&file, self.plain_text);
            let format = formats::of_file(raw, reader);
            self.lines.hold();
            return format;
        }
        Err(self.lines.empty())
    }

    /// Reads it as a set to evaluate on, whose rows are of `format`. What is random follows `seed`.
    ///
    /// # Errors
    /// The user's, with file, line and key: what is not of the format, and rows of which no group can be made.
    pub(crate) fn groups(mut self, format: &'static dyn RowFormat, seed: u64) -> Result<GroupFile> {
        let mut maker = format.evaluation().ok_or_else(|| Error::machine("a format without groups"))?();
        let mut index = Index::default();
        let mut first = None;
        index.walk(&mut self.lines, false, |raw| {
            let mut see = || {
                let mut row = formats::parse(raw.text()?)?;
                if format.training().is_some() {
                    like_first(&row, Some(*first.get_or_insert((format, raw.line))))?;
                    return maker.see(&mut row, raw);
                }
                maker.see(&mut row, raw).map_err(|error| {
                    let (found, expected) = (list(&row.keys()), formats::described(format));
                    Error::user(format!("{error}; the row has the keys {found}, expected {expected}"))
                })
            };
            see().map_err(|error| error.context(raw.place()))
        })?;
        if index.places.is_empty() {
            return Err(self.lines.empty());
        }
        let rows = index.places.len();
        let made = maker.finish(index.places(), seed);
        let (groups, notes) = made.map_err(|error| error.context(self.lines.path().display()))?;
        Ok(GroupFile { groups, notes, rows, blake3: self.hash() })
    }

    /// Reads it with `parse`, which is to name the place in its errors; each row is shown to `each` and then forgotten.
    ///
    /// # Errors
    /// Those of `parse`, and a file without rows.
    pub(crate) fn rows<T: Clone>(
        mut self,
        parse: fn(Raw) -> Result<T>,
        mut each: impl FnMut(T) -> Result<()>,
    ) -> Result<(Rows<T>, String)> {
        let mut index = Index::default();
        index.walk(&mut self.lines, false, |raw| each(parse(raw)?))?;
        if index.places.is_empty() {
            return Err(self.lines.empty());
        }
        Ok((index.places().read(parse), self.hash()))
    }

    fn hash(&self) -> String {
        self.lines.hashed().map(|hash| hash.to_hex().to_string()).unwrap_or_default()
    }
}

/// A file as a set to evaluate on.
pub(crate) struct GroupFile {
    pub groups: Groups,
    /// What a reader should know of how the groups were made.
    pub notes: Vec<String>,
    pub rows: usize,
    /// Of the text, unpacked.
    pub blake3: String,
}

/// The places of rows, file after file.
#[derive(Default)]
struct Index {
    store: Store,
    places: Vec<Place>,
    found: Option<Training>,
}

impl Index {
    /// Adds the rows of a file of training data.
    fn add(&mut self, lines: &mut Lines, plain_text: bool) -> Result<Training> {
        if !plain_text {
            lines.expect_rows();
        }
        let mut first: Option<(&'static dyn RowFormat, usize)> = None;
        let mut training = None;
        self.walk(lines, plain_text, |raw| {
            let mut see = || {
                if plain_text {
                    training.get_or_insert(formats::PLAIN_TEXT);
                    return Ok(());
                }
                let mut row = formats::parse(raw.text()?)?;
                let format = like_first(&row, first)?;
                first.get_or_insert((format, raw.line));
                let training = match training {
                    Some(training) => training,
                    None => *training.insert(formats::training(format)?),
                };
                (training.check)(&mut row, raw)
            };
            see().map_err(|error| error.context(raw.place()))
        })?;
        let training = training.ok_or_else(|| lines.empty())?;
        self.found.get_or_insert(training);
        Ok(training)
    }

    /// Adds the places of a file's rows, each of which is shown to `see` and forgotten. A file that can be read anywhere
    /// stays where it is; what comes compressed or out of a pipe is kept in a spool.
    fn walk(&mut self, lines: &mut Lines, plain_text: bool, mut see: impl FnMut(Raw) -> Result<()>) -> Result<()> {
        let file: Arc<Path> = lines.path().into();
        let base = self.store.end();
        let again = lines.file_to_read_again();
        let mut spool = Spool::new();
        let mut inside = false;
        while let Some(line) = lines.next()? {
            let blank = line.trim().is_empty();
            let goes_on = std::mem::replace(&mut inside, plain_text && !blank);
            if blank {
                continue;
            }
            let raw = lines.raw(&file, plain_text);
            let start = base + if again.is_some() { lines.start() } else { spool.len() };
            if again.is_none() {
                spool.write(raw.bytes)?;
            }
            let end = start + raw.bytes.len() as u64;
            match self.places.last_mut().filter(|_| goes_on) {
                // The next line of a paragraph.
                Some(place) => place.len = length(end - place.start).map_err(|error| error.context(raw.place()))?,
                None => {
                    let line =
                        u32::try_from(raw.line).map_err(|_| Error::user("more than 2^32 lines: split the file"))?;
                    self.places.push(Place { start, len: length(end - start)?, line });
                }
            }
            see(raw)?;
        }
        let (bytes, len) = match again {
            Some((file, len)) => (Bytes::file(file, len, lines.path())?, len),
            None => spool.finish()?,
        };
        self.store.add(file, bytes, len, plain_text);
        Ok(())
    }

    fn places(self) -> RowPlaces {
        RowPlaces { store: Arc::new(self.store), places: self.places }
    }

    fn finish(self) -> Result<Records> {
        let training = self.found.ok_or_else(|| Error::machine("rows of no file"))?;
        Ok((training.records)(self.places()))
    }
}

fn length(bytes: u64) -> Result<u32> {
    u32::try_from(bytes).map_err(|_| Error::user("a paragraph of more than 4 GiB; put blank lines between documents"))
}

/// The format of a row of training data; refuses one that lacks a key, or is not of the format of the `first` row.
fn like_first(row: &Row, first: Option<(&'static dyn RowFormat, usize)>) -> Result<&'static dyn RowFormat> {
    let format = formats::of(row, Reader::Training)?;
    formats::check(row, format)?;
    if let Some((wanted, line)) = first.filter(|(wanted, _)| wanted.name() != format.name()) {
        let (this, that) = (format.called(), wanted.called());
        let complaint = format!("this row is of the kind {this}, line {line} of the kind {that}");
        // A key that was forgotten makes a row look like another kind.
        let missing = formats::check(row, wanted).err().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(Error::user(format!("{complaint}{missing}; a file holds rows of one kind")));
    }
    Ok(format)
}
