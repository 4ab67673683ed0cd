//! Rows of a Parquet file as JSON Lines. A column without a value in a row is a key that the row does not have.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::{Error, Result};

/// The rows of `file`, one a line; `path` is for messages.
///
/// # Errors
/// The user's: a file that is damaged, and any file if this program was built without the feature `parquet`.
#[cfg(not(feature = "parquet"))]
pub(super) fn rows(path: &Path, _: File) -> Result<Box<dyn Read + Send>> {
    Err(Error::user(format!(
        "{}: this is a Parquet file, and this program was built without the feature that reads it: build it with \
         `cargo build --release --features parquet`, or write JSON Lines with \
         pandas.read_parquet(FILE).to_json(OUT, orient=\"records\", lines=True)",
        path.display()
    )))
}

#[cfg(feature = "parquet")]
pub(super) use with::rows;

#[cfg(feature = "parquet")]
mod with {
    use std::cell::Cell;
    use std::io::{self, Cursor};
    use std::panic::{self, AssertUnwindSafe};
    use std::sync::Once;

    use parquet::errors::ParquetError;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::reader::RowIter;
    use parquet::record::{Field, Row};
    use serde_json::{Map, Value};

    use super::*;

    /// As the other `rows`.
    pub fn rows(path: &Path, file: File) -> Result<Box<dyn Read + Send>> {
        let damaged = |error: ParquetError| {
            Error::user(format!("{}: the Parquet data is damaged ({error}); get the file again", path.display()))
        };
        let reader = guarded(|| SerializedFileReader::new(file)).map_err(damaged)?;
        let most = reader.metadata().row_groups().iter().map(|group| group.num_rows()).max().unwrap_or(0);
        // Values held at once, of each column: rows may be long.
        let rows = RowIter::from_file_into(Box::new(reader)).with_batch_size(most.clamp(1, 64) as usize);
        Ok(Box::new(Lines { rows, line: Cursor::new(Vec::new()) }))
    }

    struct Lines {
        rows: RowIter<'static>,
        line: Cursor<Vec<u8>>,
    }

    impl Read for Lines {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.line.position() == self.line.get_ref().len() as u64 {
                let Some(row) = guarded(|| self.rows.next().transpose()).map_err(io::Error::other)? else {
                    return Ok(0);
                };
                let mut line = serde_json::to_vec(&value(row)).map_err(io::Error::other)?;
                line.push(b'\n');
                self.line = Cursor::new(line);
            }
            self.line.read(buffer)
        }
    }

    fn value(row: Row) -> Value {
        let fields = row.into_columns().into_iter().filter(|(_, field)| !matches!(field, Field::Null));
        Value::Object(fields.map(|(key, field)| (key, field.to_json_value())).collect::<Map<_, _>>())
    }

    thread_local! {
        /// Whether this thread is in the crate.
        static INSIDE: Cell<bool> = const { Cell::new(false) };
    }

    /// The crate panics on some damaged files, which is to be said as any other damage is.
    fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let usual = panic::take_hook();
            panic::set_hook(Box::new(move |about| {
                if !INSIDE.get() {
                    usual(about);
                }
            }));
        });
        INSIDE.set(true);
        let read = panic::catch_unwind(AssertUnwindSafe(read));
        INSIDE.set(false);
        read.unwrap_or_else(|_| Err(ParquetError::General("its parts do not fit together".into())))
    }
}

#[cfg(all(test, not(feature = "parquet")))]
mod tests {
    use std::path::Path;

    use crate::data::read;

    #[test]
    fn a_parquet_file_is_refused_with_what_to_build() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"PAR1 and more").unwrap();
        let error = read(file.path()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let error = error.to_string();
        let name = file.path().display().to_string();
        assert!(error.starts_with(&name) && error.contains("--features parquet"), "{error}");
        assert!(read(Path::new("none.parquet")).unwrap_err().to_string().contains("cannot read none.parquet"));
    }
}

#[cfg(all(test, feature = "parquet"))]
mod tests {
    use std::io::Cursor;
    use std::sync::Arc;

    use parquet::basic::{Compression, ZstdLevel};
    use parquet::data_type::{ByteArray, ByteArrayType, DoubleType};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
    use parquet::schema::parser::parse_message_type;
    use tempfile::NamedTempFile;

    use super::*;
    use crate::data::lines::{Lines, MAX_LINE};
    use crate::data::{Records, RowFile, ScoreRows, SetFormat, read};

    const SCHEMA: &str = "message rows {
        REQUIRED BYTE_ARRAY prompt (UTF8);
        OPTIONAL BYTE_ARRAY policy (UTF8);
        OPTIONAL group output (LIST) { REPEATED group list { REQUIRED group element {
            REQUIRED BYTE_ARRAY role (UTF8); REQUIRED BYTE_ARRAY content (UTF8); } } }
        REQUIRED DOUBLE score;
    }";
    const ROWS: usize = 150;

    fn strings(group: &mut SerializedRowGroupWriter<std::fs::File>, texts: &[String], levels: [Option<&[i16]>; 2]) {
        let texts: Vec<ByteArray> = texts.iter().map(|text| text.as_str().into()).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&texts, levels[0], levels[1]).unwrap();
        column.close().unwrap();
    }

    /// Two groups of rows `{prompt, output: [message, message], score}`, in some of which policy is null.
    fn file(compression: Compression, policies: i16, prompt: impl Fn(usize) -> String) -> NamedTempFile {
        let file = NamedTempFile::new().unwrap();
        let properties = WriterProperties::builder().set_compression(compression).build();
        let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
        let mut writer = SerializedFileWriter::new(file.reopen().unwrap(), schema, Arc::new(properties)).unwrap();
        for begin in [0, ROWS] {
            let rows = begin..begin + ROWS;
            let mut group = writer.next_row_group().unwrap();
            strings(&mut group, &rows.clone().map(&prompt).collect::<Vec<_>>(), [None; 2]);
            let policy = vec!["a".to_string(); ROWS * policies as usize];
            strings(&mut group, &policy, [Some(&[policies; ROWS]), None]);
            let (two, first) = ([2; 2 * ROWS], [0, 1].repeat(ROWS));
            let messages =
                |what: &str| rows.clone().flat_map(|i| [0, 1].map(|m| format!("{what} {i} {m}"))).collect::<Vec<_>>();
            strings(&mut group, &messages("role"), [Some(&two), Some(&first)]);
            strings(&mut group, &messages("é"), [Some(&two), Some(&first)]);
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<DoubleType>().write_batch(&[f64::NAN; ROWS], None, None).unwrap();
            column.close().unwrap();
            group.close().unwrap();
        }
        writer.close().unwrap();
        file
    }

    fn short(i: usize) -> String {
        format!("prompt {i}")
    }

    #[test]
    fn rows_are_read_in_any_order_however_they_are_packed() {
        let codecs = [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::GZIP(Default::default()),
            Compression::ZSTD(ZstdLevel::default()),
        ];
        for compression in codecs {
            let file = file(compression, 0, short);
            let Records::Documents(rows) = read(file.path()).unwrap() else { panic!("another kind") };
            assert_eq!(rows.len(), 2 * ROWS);
            for i in [299, 0, 150, 7] {
                let row = rows.get(i).unwrap();
                assert_eq!((row.prompt, row.output), (short(i), format!("é {i} 0\né {i} 1")), "{compression:?}");
            }
        }
        let file = file(Compression::SNAPPY, 1, short);
        let rows = read(file.path()).unwrap();
        assert_eq!(rows.kind(), "trajectories", "a column without a value is a key that is not there");
        let rows: Vec<_> = ScoreRows::open(file.path()).unwrap().map(Result::unwrap).collect();
        assert_eq!((rows.len(), rows[299].line), (2 * ROWS, 2 * ROWS), "a line is a row");
        let file = RowFile::open(file.path()).unwrap();
        let error = file.groups(SetFormat::JudgeBench.rows(), 1).err().unwrap().to_string();
        assert!(error.contains("300 rows are wrong") && error.contains(":1: missing key \"label\""), "{error}");
    }

    #[test]
    fn what_is_damaged_or_a_bomb_is_refused() {
        let good = file(Compression::SNAPPY, 0, short);
        let bytes = std::fs::read(good.path()).unwrap();
        let mut refused = 0;
        for at in (0..bytes.len()).step_by(bytes.len() / 300) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x15;
            std::fs::write(good.path(), damaged).unwrap();
            if let Err(error) = read(good.path()) {
                assert_eq!(error.exit_code(), 2, "byte {at}: {error}");
                assert!(error.to_string().contains(&good.path().display().to_string()), "byte {at}: {error}");
                refused += 1;
            }
        }
        assert!(refused > 30, "{refused}");
        std::fs::write(good.path(), &bytes[..bytes.len() / 2]).unwrap();
        let error = read(good.path()).unwrap_err().to_string();
        assert!(error.contains("the Parquet data is damaged"), "{error}");
        // One text of nearly a megabyte, that all rows name.
        let bomb = file(Compression::ZSTD(ZstdLevel::default()), 0, |_| "x".repeat(900_000));
        let length = bomb.as_file().metadata().unwrap().len();
        assert!(length < 1 << 18, "{length}");
        let error = read(bomb.path()).unwrap_err().to_string();
        assert!(error.contains("hold more than 64 MiB and 1000 times as many"), "{error}");
        let piped = Lines::new(Path::new("standard input"), Cursor::new(bytes), MAX_LINE).err().unwrap().to_string();
        assert!(piped.contains("standard input: Parquet is read from a file"), "{piped}");
    }
}
