//! Text for a language model: `{prompt, output}`, `{text}`, or the paragraphs of a `.txt` file.

use super::RowFormat;
use crate::Result;
use crate::data::Document;
use crate::data::records::Records;
use crate::data::row::{Row, RowKind};
use crate::data::rows::Rows;
use crate::data::store::Raw;

pub struct Documents;

impl RowFormat for Documents {
    type Item = Document;

    fn item(mut row: Row, kind: RowKind, _: Raw) -> Result<Document> {
        match kind {
            RowKind::Text => Ok(Document { prompt: String::new(), output: row.text("text")? }),
            _ => Ok(Document { prompt: row.text("prompt")?, output: row.text("output")? }),
        }
    }

    /// Of plain text each run of lines without a blank one is a document.
    fn read(raw: Raw) -> Result<Document> {
        if raw.plain_text {
            let output = raw.text()?.lines().collect::<Vec<_>>().join("\n");
            return Ok(Document { prompt: String::new(), output });
        }
        let row = Row::parse(raw.text()?)?;
        let kind = row.kind()?;
        row.check(kind)?;
        Self::item(row, kind, raw)
    }

    fn records(rows: Rows<Document>) -> Records {
        Records::Documents(rows)
    }
}
