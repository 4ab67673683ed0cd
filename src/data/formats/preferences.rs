//! Ranked candidates with a reference: `{prompt, reference, chosen, rejected}`, and `wrapper`, if a row has its own.

use super::RowFormat;
use crate::Result;
use crate::data::Triple;
use crate::data::records::Records;
use crate::data::row::{Row, RowKind};
use crate::data::rows::Rows;
use crate::data::store::Raw;

pub struct Preferences;

impl RowFormat for Preferences {
    type Item = Triple;

    fn item(mut row: Row, _: RowKind, _: Raw) -> Result<Triple> {
        Ok(Triple {
            prompt: row.text("prompt")?,
            reference: row.text("reference")?,
            chosen: row.text("chosen")?,
            rejected: row.text("rejected")?,
            wrapper: row.wrapper()?,
        })
    }

    fn records(rows: Rows<Triple>) -> Records {
        Records::Preferences(rows)
    }
}
