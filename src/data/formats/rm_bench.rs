//! RM-Bench (arXiv 2410.16184): three chosen and three rejected answers, each in the styles concise, detailed plain
//! text, detailed Markdown; `{prompt, chosen: [3], rejected: [3], domain}`.

use super::{RowFormat, each_row, read};
use crate::data::group::{Candidate, Group, ReferenceSource, Rule, Section};
use crate::data::groups::GroupMaker;
use crate::data::row::{Row, wrong};
use crate::data::store::Raw;
use crate::error::Result;

/// The domains; Safety is the mean of its two parts.
const SECTIONS: &[Section] = &[
    Section::new("Chat", &[&["chat"]]),
    Section::new("Math", &[&["math"]]),
    Section::new("Code", &[&["code"]]),
    Section::new("Safety", &[&["safety-refuse"], &["safety-response"]]),
];
const STYLES: usize = 3;

/// Rows {prompt, chosen: [3], rejected: [3], domain}.
pub struct RmBench;

impl RowFormat for RmBench {
    fn name(&self) -> &'static str {
        "rm-bench"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["prompt", "chosen", "rejected"]
    }

    fn other_keys(&self) -> &'static [&'static str] {
        &["domain", "subset", "id"]
    }

    fn shape(&self) -> String {
        "{prompt, chosen: [3], rejected: [3], domain}".into()
    }

    fn knows(&self, row: &Row) -> bool {
        row.has_values(&["prompt", "chosen", "rejected", "domain"]) && row.has_texts("chosen")
    }

    fn evaluation(&self) -> Option<fn() -> Box<dyn GroupMaker>> {
        Some(|| each_row(group, |raw| read(raw, group)))
    }

    fn default_source(&self) -> Option<ReferenceSource> {
        Some(ReferenceSource::LeaveOneOut)
    }

    fn sections(&self) -> &'static [Section] {
        SECTIONS
    }
}

/// Reads a row: nine pairs, each with the level of its styles.
fn group(row: &mut Row, raw: Raw) -> Result<Group> {
    let mut candidates = Vec::new();
    for (key, gain) in [("chosen", 1.0), ("rejected", 0.0)] {
        let texts = row.text_or_texts(key)?;
        if texts.len() != STYLES {
            return Err(wrong(&[key], "a list of three answers: concise, detailed, detailed in Markdown"));
        }
        let style =
            |(style, text): (usize, String)| Candidate { style: Some(style as u8), ..Candidate::new(text, gain) };
        candidates.extend(texts.into_iter().enumerate().map(style));
    }
    Ok(Group {
        id: row.label(&["id"]),
        subset: row.label(&["domain", "subset"]).unwrap_or_default(),
        ..Group::new(row.text("prompt")?, candidates, Rule::Pairs).at(raw)
    })
}
