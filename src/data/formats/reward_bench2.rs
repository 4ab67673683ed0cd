//! RewardBench 2 (arXiv 2506.01937): `{prompt, chosen: [..], rejected: [..], num_correct, subset}`.

use super::{RowFormat, each_row, read};
use crate::data::group::{Candidate, Group, Rule, Section};
use crate::data::groups::GroupMaker;
use crate::data::row::{Row, wrong};
use crate::data::store::Raw;
use crate::error::{Error, Result};

/// The six subsets; the set's score is their plain mean.
const SECTIONS: &[Section] = &[
    Section::new("Factuality", &[&["Factuality"]]),
    Section::new("Precise IF", &[&["Precise IF"]]),
    Section::new("Math", &[&["Math"]]),
    Section::new("Safety", &[&["Safety"]]),
    Section::new("Focus", &[&["Focus"]]),
    Section::new("Ties", &[&["Ties"]]),
];

/// Rows {prompt, chosen: [..], rejected: [..], num_correct, subset}.
pub struct RewardBench2;

impl RowFormat for RewardBench2 {
    fn name(&self) -> &'static str {
        "reward-bench-2"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["prompt", "chosen", "rejected"]
    }

    fn other_keys(&self) -> &'static [&'static str] {
        &["num_correct", "id", "subset"]
    }

    fn shape(&self) -> String {
        "{prompt, chosen: [..], rejected: [..], subset}".into()
    }

    fn knows(&self, row: &Row) -> bool {
        row.has_values(&["prompt", "chosen", "rejected"]) && row.has_texts("chosen")
    }

    fn evaluation(&self) -> Option<fn() -> Box<dyn GroupMaker>> {
        Some(|| each_row(group, |raw| read(raw, group)))
    }

    fn sections(&self) -> &'static [Section] {
        SECTIONS
    }
}

/// Reads a row. Best of four, strictly; where several answers are right (`Ties`), all of them must be above all others.
fn group(row: &mut Row, raw: Raw) -> Result<Group> {
    let (chosen, rejected) = (row.text_or_texts("chosen")?, row.text_or_texts("rejected")?);
    if let Some(value) = row.value(&["num_correct"]) {
        let wanted = value.as_f64().ok_or_else(|| wrong(&["num_correct"], "a number"))?;
        if wanted != chosen.len() as f64 {
            let found = chosen.len();
            return Err(Error::user(format!("num_correct = {wanted}, but chosen has {found} answers")));
        }
    }
    let good = chosen.into_iter().map(|text| Candidate::new(text, 1.0));
    let bad = rejected.into_iter().map(|text| Candidate::new(text, 0.0));
    Ok(Group {
        id: row.label(&["id"]),
        subset: row.label(&["subset"]).unwrap_or_default(),
        ..Group::new(row.text("prompt")?, good.chain(bad).collect(), Rule::BestOfN).at(raw)
    })
}
