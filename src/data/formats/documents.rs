//! Text for a language model: `{prompt, output}`, `{text}`, or the paragraphs of a `.txt` file. Files of both kinds are
//! read together.

use super::{RowFormat, Training, read};
use crate::Result;
use crate::data::Document;
use crate::data::records::Records;
use crate::data::row::Row;
use crate::data::store::Raw;

/// Rows {prompt, output}, and plain text.
pub struct Documents;

/// Rows {text}.
pub struct Texts;

pub const TRAINING: Training = Training {
    kind: Records::DOCUMENTS,
    check: |row, raw| document(row, raw).map(drop),
    records: |rows| Records::Documents(rows.read(read_document)),
};

impl RowFormat for Documents {
    fn name(&self) -> &'static str {
        Records::DOCUMENTS
    }

    fn keys(&self) -> &'static [&'static str] {
        &["prompt", "output"]
    }

    fn knows(&self, row: &Row) -> bool {
        row.has("output")
    }

    fn training(&self) -> Option<Training> {
        Some(TRAINING)
    }
}

impl RowFormat for Texts {
    fn name(&self) -> &'static str {
        "texts"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["text"]
    }

    fn knows(&self, row: &Row) -> bool {
        row.has("text")
    }

    fn training(&self) -> Option<Training> {
        Some(TRAINING)
    }
}

fn document(row: &mut Row, _: Raw) -> Result<Document> {
    match row.has("text") {
        true => Ok(Document { prompt: String::new(), output: row.text("text")? }),
        false => Ok(Document { prompt: row.text("prompt")?, output: row.text("output")? }),
    }
}

/// Of plain text each run of lines without a blank one is a document.
fn read_document(raw: Raw) -> Result<Document> {
    if !raw.plain_text {
        return read(raw, document);
    }
    let text = raw.text().map_err(|error| error.context(raw.place()))?;
    Ok(Document { prompt: String::new(), output: text.lines().collect::<Vec<_>>().join("\n") })
}
