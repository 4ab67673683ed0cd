//! RewardBench 2 (arXiv 2506.01937): `{prompt, chosen: [..], rejected: [..], num_correct, subset}`.

use std::path::Path;

use super::rows::{JsonRow, wrong};
use super::{Section, Set, SetFormat, SetReader, group_of, named};
use crate::data::RowFile;
use crate::error::{Error, Result};
use crate::eval::group::{Candidate, Group, Rule};

/// The six subsets; the set's score is their plain mean.
const SECTIONS: &[Section] = &[
    named("Factuality", &[&["Factuality"]]),
    named("Precise IF", &[&["Precise IF"]]),
    named("Math", &[&["Math"]]),
    named("Safety", &[&["Safety"]]),
    named("Focus", &[&["Focus"]]),
    named("Ties", &[&["Ties"]]),
];

/// Rows {prompt, chosen: [..], rejected: [..], num_correct, subset}.
pub struct RewardBench2;

impl SetReader for RewardBench2 {
    fn keys(&self) -> &'static str {
        "reward-bench-2 {prompt, chosen: [..], rejected: [..], subset}"
    }

    fn knows(&self, row: &JsonRow) -> bool {
        row.has_all(&["prompt", "chosen", "rejected"]) && row.has_texts("chosen")
    }

    fn read(&self, _: &Path, file: RowFile, _: u64) -> Result<Set> {
        Set::of_rows(SetFormat::RewardBench2, file, |raw| group_of(raw, &RewardBench2, group))
    }

    fn sections(&self) -> &'static [Section] {
        SECTIONS
    }
}

/// Reads a row. Best of four, strictly; where several answers are right (`Ties`), all of them must be above all others.
fn group(row: &JsonRow) -> Result<Group> {
    let (chosen, rejected) = (row.texts(&["chosen"])?, row.texts(&["rejected"])?);
    if let Some(value) = row.get(&["num_correct"]) {
        let wanted = value.as_f64().ok_or_else(|| wrong(&["num_correct"], "a number"))?;
        if wanted != chosen.len() as f64 {
            let found = chosen.len();
            return Err(Error::user(format!("num_correct = {wanted}, but chosen has {found} answers")));
        }
    }
    let good = chosen.into_iter().map(|text| Candidate::new(text, 1.0));
    let bad = rejected.into_iter().map(|text| Candidate::new(text, 0.0));
    Ok(Group {
        line: row.line,
        id: row.name(&["id"]),
        prompt: row.text(&["prompt"])?,
        reference: None,
        candidates: good.chain(bad).collect(),
        subset: row.name(&["subset"]).unwrap_or_default(),
        rule: Rule::BestOfN,
        wrapper: None,
    })
}
