//! RMB's lists: `{conversation_input, bon_best, loser_list, category_path}`.

use serde_json::Value;

use super::{SECTIONS, answer, candidate, is_conversation};
use crate::data::formats::{RowFormat, each_row, read};
use crate::data::group::{Candidate, Group, Rule, Section};
use crate::data::groups::GroupMaker;
use crate::data::row::{Row, wrong};
use crate::data::store::Raw;
use crate::error::Result;

const LOSERS: &[&str] = &["loser_list", "rejected"];
const BEST: &[&str] = &["bon_best", "chosen"];

/// The best-of-n set.
pub struct RmbBestOfN;

impl RowFormat for RmbBestOfN {
    fn name(&self) -> &'static str {
        "rmb-best-of-n"
    }

    fn keys(&self) -> &'static [&'static str] {
        &[]
    }

    fn other_keys(&self) -> &'static [&'static str] {
        &[
            "conversation_input",
            "conversation",
            "bon_best",
            "chosen",
            "loser_list",
            "rejected",
            "bon_uid",
            "uid",
            "category_path",
            "category",
        ]
    }

    fn shape(&self) -> String {
        "{conversation_input, bon_best, loser_list, category_path}".into()
    }

    fn knows(&self, row: &Row) -> bool {
        let listed = row.value(&["loser_list", "bon_best"]).is_some() || row.has_texts("rejected");
        is_conversation(row) && listed
    }

    fn evaluation(&self) -> Option<fn() -> Box<dyn GroupMaker>> {
        Some(|| each_row(group, |raw| read(raw, group)))
    }

    fn sections(&self) -> &'static [Section] {
        SECTIONS
    }
}

fn group(row: &mut Row, raw: Raw) -> Result<Group> {
    let losers = match row.value(LOSERS) {
        Some(Value::Array(losers)) if !losers.is_empty() => losers,
        _ => return Err(wrong(LOSERS, "a list of answers")),
    };
    let mut candidates = vec![candidate(row, BEST, 1.0)?];
    for loser in losers {
        let text = answer(loser).ok_or_else(|| wrong(LOSERS, "answers {\"llm_name\", \"answer\"}"))?;
        candidates.push(Candidate::new(text, 0.0));
    }
    super::group(row, raw, &["bon_uid", "uid"], candidates, Rule::BestOfN)
}
