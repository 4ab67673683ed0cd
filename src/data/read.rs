//! Files of rows, JSON Lines, one JSON array or Parquet, whose kind is known by their keys, and plain text. They are read
//! once from beginning to end, so that every mistake in them is found, and what is kept of a row is its place.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::complaints::Complaints;
use super::formats::{self, Reader, RowFormat, Training};
use super::groups::Groups;
use super::inputs::files_of;
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
        let mut lines = Lines::open(path).map_err(|error| index.ends_with(error))?;
        let found = index.add(&mut lines, is_plain_text(path))?;
        if let Some((before, found)) = before.zip(found).filter(|(before, found)| before.kind != found.kind) {
            let (path, first) = (path.display(), first.display());
            let (this, that) = (found.kind, before.kind);
            return Err(Error::user(format!("{path} holds {this} and {first} {that}; give files of one kind")));
        }
    }
    index.finish()
}

/// `.txt`, also packed: the only kind of file that has no keys to be known by.
fn is_plain_text(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.strip_suffix(".zst").or(name.strip_suffix(".gz")).unwrap_or(&name).ends_with(".txt")
}

pub(super) fn read_lines(mut lines: Lines, plain_text: bool) -> Result<Records> {
    let mut index = Index::default();
    index.add(&mut lines, plain_text)?;
    index.finish()
}

/// Rows that are read otherwise than as training data, of one file or several.
pub(crate) struct RowFile {
    /// The first file.
    lines: Lines,
    /// The files behind it.
    others: std::vec::IntoIter<PathBuf>,
    /// What the files were named by.
    name: PathBuf,
    plain_text: bool,
}

impl RowFile {
    /// Opens the files that `name` stands for, as [`files_of`] says.
    ///
    /// # Errors
    /// The user's: a file that cannot be read.
    pub(crate) fn open(name: &Path) -> Result<Self> {
        let mut files = files_of(name)?.into_iter();
        let first = files.next().ok_or_else(|| Error::machine("a name of no file"))?;
        let mut lines = Lines::open(&first)?;
        lines.hash_into(Box::default());
        lines.expect_rows();
        Ok(Self { lines, others: files, name: name.into(), plain_text: is_plain_text(&first) })
    }

    /// Adds the rows of all files to `index`.
    ///
    /// # Errors
    /// As [`Index::walk`], and the user's: a file without rows.
    fn walk(&mut self, index: &mut Index, mut see: impl FnMut(Raw) -> Result<()>) -> Result<()> {
        loop {
            if index.walk(&mut self.lines, false, &mut see)? == 0 {
                return Err(index.ends_with(self.lines.empty()));
            }
            let Some(next) = self.others.next() else { return Ok(()) };
            let mut lines = Lines::open(&next).map_err(|error| index.ends_with(error))?;
            lines.hash_into(self.lines.hashed());
            lines.expect_rows();
            self.lines = lines;
        }
    }

    /// The format of its first row, which is then still to be read.
    ///
    /// # Errors
    /// The user's, with file and line: a file without rows, and a first row that `reader` knows nothing of, or that lacks
    /// a key or is to be scored; then with what else is wrong in the first file.
    pub(crate) fn format(&mut self, reader: Reader) -> Result<&'static dyn RowFormat> {
        let file: Arc<Path> = self.lines.path().into();
        let mut complaints = Complaints::default();
        loop {
            match self.lines.next_is_blank() {
                Ok(Some(true)) => continue,
                Ok(Some(false)) => {}
                Ok(None) if complaints.is_empty() => return Err(self.lines.empty()),
                Ok(None) => break,
                Err(error) if self.lines.can_go_on() => {
                    complaints.add(error)?;
                    continue;
                }
                Err(error) => return Err(complaints.with(error)),
            }
            let raw = self.lines.raw(&file, self.plain_text);
            match formats::of_file(raw, reader) {
                Ok(format) if complaints.is_empty() => {
                    self.lines.hold();
                    return Ok(format);
                }
                Ok(_) => {}
                Err(error) => complaints.add_at(&raw.place(), error)?,
            }
        }
        complaints.finish().and(Err(Error::machine("a file of no format")))
    }

    /// Reads it as a set to evaluate on, whose rows are of `format`. What is random follows `seed`.
    ///
    /// # Errors
    /// The user's, with file, line and key: what is not of the format, and rows of which no group can be made.
    pub(crate) fn groups(mut self, format: &'static dyn RowFormat, seed: u64) -> Result<GroupFile> {
        let mut maker = format.evaluation().ok_or_else(|| Error::machine("a format without groups"))?();
        let mut index = Index::default();
        let mut first = None;
        self.walk(&mut index, |raw| {
            let mut row = formats::parse(raw.text()?)?;
            if format.training().is_some() {
                like_first(&row, raw, Some(first.get_or_insert_with(|| First::new(format, raw))))?;
                return maker.see(&mut row, raw);
            }
            maker.see(&mut row, raw).map_err(|error| {
                let (found, expected) = (list(&row.keys()), formats::described(format));
                Error::user(format!("{error}; the row has the keys {found}, expected {expected}"))
            })
        })?;
        let rows = index.finish_rows()?;
        let (count, files) = (rows.places.len(), rows.store.files());
        let made = maker.finish(rows, seed);
        let (groups, notes) = made.map_err(|error| error.context(self.name.display()))?;
        Ok(GroupFile { groups, notes, files, rows: count, blake3: self.hash() })
    }

    /// Reads it with `parse`; each row is shown to `each` and then forgotten.
    ///
    /// # Errors
    /// Those of `parse`, and a file without rows.
    pub(crate) fn rows<T: Clone>(
        mut self,
        parse: fn(Raw) -> Result<T>,
        mut each: impl FnMut(T) -> Result<()>,
    ) -> Result<(Rows<T>, String)> {
        let mut index = Index::default();
        self.walk(&mut index, |raw| each(parse(raw)?))?;
        Ok((index.finish_rows()?.read(parse), self.hash()))
    }

    fn hash(&mut self) -> String {
        self.lines.hashed().finalize().to_hex().to_string()
    }
}

/// A file as a set to evaluate on.
pub(crate) struct GroupFile {
    pub groups: Groups,
    /// What a reader should know of how the groups were made.
    pub notes: Vec<String>,
    pub rows: usize,
    /// How many files they are from.
    pub files: usize,
    /// Of the text, unpacked, file after file.
    pub blake3: String,
}

/// The places of rows, file after file.
#[derive(Default)]
struct Index {
    store: Store,
    places: Vec<Place>,
    found: Option<Training>,
    complaints: Complaints,
}

/// The first row of a file that is what it is to be.
struct First {
    format: &'static dyn RowFormat,
    file: Arc<Path>,
    line: usize,
}

impl First {
    fn new(format: &'static dyn RowFormat, raw: Raw) -> Self {
        Self { format, file: raw.file.clone(), line: raw.line }
    }
}

impl Index {
    /// Adds the rows of a file of training data. What training makes of them, unless every row is wrong.
    fn add(&mut self, lines: &mut Lines, plain_text: bool) -> Result<Option<Training>> {
        if !plain_text {
            lines.expect_rows();
        }
        let mut first: Option<First> = None;
        let mut training = None;
        let rows = self.walk(lines, plain_text, |raw| {
            if plain_text {
                training.get_or_insert(formats::PLAIN_TEXT);
                return Ok(());
            }
            let mut row = formats::parse(raw.text()?)?;
            let format = like_first(&row, raw, first.as_ref())?;
            first.get_or_insert_with(|| First::new(format, raw));
            let training = match training {
                Some(training) => training,
                None => *training.insert(formats::training(format)?),
            };
            (training.check)(&mut row, raw)
        })?;
        if rows == 0 {
            return Err(self.ends_with(lines.empty()));
        }
        self.found = self.found.or(training);
        Ok(training)
    }

    /// Adds the places of a file's rows, each of which is shown to `see` and forgotten, and says how many there are. What
    /// is wrong with a row is kept until [`Self::finish_rows`]. A file that can be read anywhere stays where it is; what
    /// comes packed or out of a pipe is kept in a spool.
    fn walk(&mut self, lines: &mut Lines, plain_text: bool, mut see: impl FnMut(Raw) -> Result<()>) -> Result<usize> {
        let file: Arc<Path> = lines.path().into();
        let mut rows = 0;
        let base = self.store.end();
        let again = lines.file_to_read_again();
        let mut spool = Spool::new();
        let mut inside = false;
        loop {
            let blank = match lines.next_is_blank() {
                Ok(None) => break,
                Ok(Some(blank)) => blank,
                Err(error) if lines.can_go_on() => {
                    rows += 1;
                    self.complaints.add(error)?;
                    continue;
                }
                Err(error) => return Err(self.ends_with(error)),
            };
            let goes_on = std::mem::replace(&mut inside, plain_text && !blank);
            if blank {
                continue;
            }
            rows += 1;
            let raw = lines.raw(&file, plain_text);
            if let Err(error) = see(raw) {
                self.complaints.add_at(&raw.place(), error)?;
            }
            // Nothing comes of the others but what is wrong with them.
            if !self.complaints.is_empty() {
                continue;
            }
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
        }
        let (bytes, len) = match again {
            Some((file, len)) => (Bytes::file(file, len, lines.path())?, len),
            None => spool.finish()?,
        };
        self.store.add(file, bytes, len, plain_text);
        Ok(rows)
    }

    /// What is wrong with the rows, and the error that keeps others from being read.
    fn ends_with(&mut self, error: Error) -> Error {
        std::mem::take(&mut self.complaints).with(error)
    }

    /// The rows, if nothing is wrong with any.
    fn finish_rows(self) -> Result<RowPlaces> {
        self.complaints.finish()?;
        Ok(RowPlaces { store: Arc::new(self.store), places: self.places })
    }

    fn finish(self) -> Result<Records> {
        let found = self.found;
        let rows = self.finish_rows()?;
        let training = found.ok_or_else(|| Error::machine("rows of no file"))?;
        Ok((training.records)(rows))
    }
}

fn length(bytes: u64) -> Result<u32> {
    u32::try_from(bytes).map_err(|_| Error::user("a paragraph of more than 4 GiB; put blank lines between documents"))
}

/// The format of a row of training data; refuses one that lacks a key, or is not of the format of the `first` row.
fn like_first(row: &Row, raw: Raw, first: Option<&First>) -> Result<&'static dyn RowFormat> {
    let format = formats::of(row, Reader::Training)?;
    formats::check(row, format)?;
    if let Some(first) = first.filter(|first| first.format.name() != format.name()) {
        let wanted = first.format;
        let (this, that) = (format.called(), wanted.called());
        let file = if first.file == *raw.file { String::new() } else { format!(" of {}", first.file.display()) };
        let complaint = format!("this row is of the kind {this}, line {}{file} of the kind {that}", first.line);
        // A key that was forgotten makes a row look like another kind.
        let missing = formats::check(row, wanted).err().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(Error::user(format!("{complaint}{missing}; a file holds rows of one kind")));
    }
    Ok(format)
}
