//! RewardBench (arXiv 2403.13787): pairs `{prompt, chosen, rejected, subset}`.

use super::{RowFormat, each_row, read};
use crate::data::group::{Candidate, Group, Rule, Section};
use crate::data::groups::GroupMaker;
use crate::data::row::Row;
use crate::data::store::Raw;
use crate::error::Result;

/// Section 3 of the paper: four sections of subsets. In Reasoning the mathematics and the six languages of code count
/// half each.
const SECTIONS: &[Section] = &[
    Section::new(
        "Chat",
        &[&["alpacaeval-easy", "alpacaeval-length", "alpacaeval-hard", "mt-bench-easy", "mt-bench-med*"]],
    ),
    Section::new("Chat Hard", &[&["mt-bench-hard", "llmbar-*"]]),
    Section::new("Safety", &[&["refusals-*", "xstest-*", "donotanswer"]]),
    Section::new("Reasoning", &[&["math-prm"], &["hep-*"]]),
];

/// Rows {prompt, chosen, rejected, subset}.
pub struct RewardBench;

impl RowFormat for RewardBench {
    fn name(&self) -> &'static str {
        "reward-bench"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["prompt", "chosen", "rejected"]
    }

    fn other_keys(&self) -> &'static [&'static str] {
        &["id", "subset"]
    }

    fn shape(&self) -> String {
        "{prompt, chosen, rejected, subset}".into()
    }

    fn knows(&self, row: &Row) -> bool {
        row.has_values(&["prompt", "chosen", "rejected"]) && !row.has_values(&["reference"])
    }

    fn evaluation(&self) -> Option<fn() -> Box<dyn GroupMaker>> {
        Some(|| each_row(group, |raw| read(raw, group)))
    }

    fn sections(&self) -> &'static [Section] {
        SECTIONS
    }
}

/// Reads a row.
fn group(row: &mut Row, raw: Raw) -> Result<Group> {
    let candidates = vec![Candidate::new(row.text("chosen")?, 1.0), Candidate::new(row.text("rejected")?, 0.0)];
    Ok(Group {
        id: row.label(&["id"]),
        subset: row.label(&["subset"]).unwrap_or_default(),
        ..Group::new(row.text("prompt")?, candidates, Rule::Pairs).at(raw)
    })
}
