//! Pairs of token ids: `{chosen_ids, rejected_ids}`.

use super::{RowFormat, Training, each_row, read};
use crate::Result;
use crate::data::IdPair;
use crate::data::group::ReferenceSource;
use crate::data::groups::GroupMaker;
use crate::data::records::Records;
use crate::data::row::Row;
use crate::data::store::Raw;

pub struct Pairs;

impl RowFormat for Pairs {
    fn name(&self) -> &'static str {
        "pairs"
    }

    fn called(&self) -> &'static str {
        Records::PAIRS
    }

    fn keys(&self) -> &'static [&'static str] {
        &["chosen_ids", "rejected_ids"]
    }

    fn knows(&self, row: &Row) -> bool {
        row.has("chosen_ids") || row.has("rejected_ids")
    }

    fn training(&self) -> Option<Training> {
        Some(Training {
            kind: Records::PAIRS,
            check: |row, raw| pair(row, raw).map(drop),
            records: |rows| Records::Pairs(rows.read(|raw| read(raw, pair))),
        })
    }

    fn evaluation(&self) -> Option<fn() -> Box<dyn GroupMaker>> {
        Some(|| each_row(|row, raw| Ok(pair(row, raw)?.into()), |raw| Ok(read(raw, pair)?.into())))
    }

    fn default_source(&self) -> Option<ReferenceSource> {
        Some(ReferenceSource::Field)
    }
}

fn pair(row: &mut Row, raw: Raw) -> Result<IdPair> {
    let (chosen, rejected) = (row.ids("chosen_ids")?, row.ids("rejected_ids")?);
    Ok(IdPair { chosen, rejected, file: raw.file.clone(), line: raw.line })
}
