//! Pairs of token ids: `{chosen_ids, rejected_ids}`.

use super::RowFormat;
use crate::Result;
use crate::data::IdPair;
use crate::data::records::Records;
use crate::data::row::{Row, RowKind};
use crate::data::rows::Rows;
use crate::data::store::Raw;

pub struct Pairs;

impl RowFormat for Pairs {
    type Item = IdPair;

    fn item(mut row: Row, _: RowKind, raw: Raw) -> Result<IdPair> {
        let (chosen, rejected) = (row.ids("chosen_ids")?, row.ids("rejected_ids")?);
        Ok(IdPair { chosen, rejected, file: raw.file.clone(), line: raw.line })
    }

    fn records(rows: Rows<IdPair>) -> Records {
        Records::Pairs(rows)
    }
}
