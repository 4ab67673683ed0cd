//! RewardBench (arXiv 2403.13787): pairs `{prompt, chosen, rejected, subset}`.

use std::path::Path;

use super::rows::JsonRow;
use super::{Section, Set, SetFormat, SetReader, group_of, named};
use crate::data::RowFile;
use crate::error::Result;
use crate::eval::group::{Candidate, Group, Rule};

/// Section 3 of the paper: four sections of subsets. In Reasoning the mathematics and the six languages of code count
/// half each.
const SECTIONS: &[Section] = &[
    named("Chat", &[&["alpacaeval-easy", "alpacaeval-length", "alpacaeval-hard", "mt-bench-easy", "mt-bench-med*"]]),
    named("Chat Hard", &[&["mt-bench-hard", "llmbar-*"]]),
    named("Safety", &[&["refusals-*", "xstest-*", "donotanswer"]]),
    named("Reasoning", &[&["math-prm"], &["hep-*"]]),
];

/// Rows {prompt, chosen, rejected, subset}.
pub struct RewardBench;

impl SetReader for RewardBench {
    fn keys(&self) -> &'static str {
        "reward-bench {prompt, chosen, rejected, subset}"
    }

    fn knows(&self, row: &JsonRow) -> bool {
        row.has_all(&["prompt", "chosen", "rejected"])
    }

    fn read(&self, _: &Path, file: RowFile, _: u64) -> Result<Set> {
        Set::of_rows(SetFormat::RewardBench, file, |raw| group_of(raw, &RewardBench, group))
    }

    fn sections(&self) -> &'static [Section] {
        SECTIONS
    }
}

/// Reads a row.
fn group(row: &JsonRow) -> Result<Group> {
    let (chosen, rejected) = (row.text(&["chosen"])?, row.text(&["rejected"])?);
    Ok(Group {
        line: row.line,
        id: row.name(&["id"]),
        prompt: row.text(&["prompt"])?,
        reference: None,
        candidates: vec![Candidate::new(chosen, 1.0), Candidate::new(rejected, 0.0)],
        subset: row.name(&["subset"]).unwrap_or_default(),
        rule: Rule::Pairs,
        wrapper: None,
    })
}
