//! Ranked candidates with a reference: `{prompt, reference, chosen, rejected}`, and `wrapper`, if a row has its own.
//! Evaluation also reads `id` and `subset`.

use super::{RowFormat, Training, each_row, read};
use crate::Result;
use crate::data::Triple;
use crate::data::group::{Group, ReferenceSource};
use crate::data::groups::GroupMaker;
use crate::data::records::Records;
use crate::data::row::Row;
use crate::data::store::Raw;

pub struct Preferences;

impl RowFormat for Preferences {
    fn name(&self) -> &'static str {
        Records::PREFERENCES
    }

    fn keys(&self) -> &'static [&'static str] {
        &["prompt", "reference", "chosen", "rejected"]
    }

    fn other_keys(&self) -> &'static [&'static str] {
        &["wrapper", "id", "subset"]
    }

    fn knows(&self, row: &Row) -> bool {
        row.has("chosen") || row.has("rejected")
    }

    fn training(&self) -> Option<Training> {
        Some(Training {
            kind: Records::PREFERENCES,
            check: |row, raw| triple(row, raw).map(drop),
            records: |rows| Records::Preferences(rows.read(|raw| read(raw, triple))),
        })
    }

    fn evaluation(&self) -> Option<fn() -> Box<dyn GroupMaker>> {
        Some(|| each_row(group, |raw| read(raw, group)))
    }

    fn default_source(&self) -> Option<ReferenceSource> {
        Some(ReferenceSource::Field)
    }
}

fn triple(row: &mut Row, _: Raw) -> Result<Triple> {
    Ok(Triple {
        prompt: row.text("prompt")?,
        reference: row.text("reference")?,
        chosen: row.text("chosen")?,
        rejected: row.text("rejected")?,
        wrapper: row.wrapper()?,
    })
}

fn group(row: &mut Row, raw: Raw) -> Result<Group> {
    let (id, subset) = (row.label(&["id"]), row.label(&["subset"]).unwrap_or_default());
    Ok(Group { id, subset, ..Group::from(triple(row, raw)?).at(raw) })
}
