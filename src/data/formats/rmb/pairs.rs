//! RMB's pairs: `{conversation_input, chosen, reject, category_path}`.

use super::{KEYS_OF_PAIRS, REJECTED, SECTIONS, candidate, is_conversation};
use crate::data::formats::{RowFormat, each_row, read};
use crate::data::group::{Group, Rule, Section};
use crate::data::groups::GroupMaker;
use crate::data::row::Row;
use crate::data::store::Raw;
use crate::error::Result;

/// The pairwise set.
pub struct RmbPairs;

impl RowFormat for RmbPairs {
    fn name(&self) -> &'static str {
        "rmb-pairs"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["chosen"]
    }

    fn other_keys(&self) -> &'static [&'static str] {
        KEYS_OF_PAIRS
    }

    fn shape(&self) -> String {
        "{conversation_input, chosen, reject, category_path}".into()
    }

    fn knows(&self, row: &Row) -> bool {
        is_conversation(row)
    }

    fn evaluation(&self) -> Option<fn() -> Box<dyn GroupMaker>> {
        Some(|| each_row(group, |raw| read(raw, group)))
    }

    fn sections(&self) -> &'static [Section] {
        SECTIONS
    }
}

fn group(row: &mut Row, raw: Raw) -> Result<Group> {
    let candidates = vec![candidate(row, &["chosen"], 1.0)?, candidate(row, REJECTED, 0.0)?];
    super::group(row, raw, &["pair_uid", "uid"], candidates, Rule::Pairs)
}
