//! RM-Bench (arXiv 2410.16184): three chosen and three rejected answers, each in the styles concise, detailed plain
//! text, detailed Markdown; `{prompt, chosen: [3], rejected: [3], domain}`.

use std::path::Path;

use super::rows::{JsonRow, wrong};
use super::{Section, Set, SetFormat, SetReader, group_of, named};
use crate::data::RowFile;
use crate::error::Result;
use crate::eval::group::{Candidate, Group, ReferenceSource, Rule};

/// The domains; Safety is the mean of its two parts.
const SECTIONS: &[Section] = &[
    named("Chat", &[&["chat"]]),
    named("Math", &[&["math"]]),
    named("Code", &[&["code"]]),
    named("Safety", &[&["safety-refuse"], &["safety-response"]]),
];
const STYLES: usize = 3;

/// Rows {prompt, chosen: [3], rejected: [3], domain}.
pub struct RmBench;

impl SetReader for RmBench {
    fn keys(&self) -> &'static str {
        "rm-bench {prompt, chosen: [3], rejected: [3], domain}"
    }

    fn knows(&self, row: &JsonRow) -> bool {
        row.has_all(&["prompt", "chosen", "rejected", "domain"]) && row.has_texts("chosen")
    }

    fn read(&self, _: &Path, file: RowFile, _: u64) -> Result<Set> {
        Set::of_rows(SetFormat::RmBench, file, |raw| group_of(raw, &RmBench, group))
    }

    fn default_source(&self) -> Option<ReferenceSource> {
        Some(ReferenceSource::LeaveOneOut)
    }

    fn sections(&self) -> &'static [Section] {
        SECTIONS
    }
}

/// Reads a row: nine pairs, each with the level of its styles.
fn group(row: &JsonRow) -> Result<Group> {
    let mut candidates = Vec::new();
    for (key, gain) in [("chosen", 1.0), ("rejected", 0.0)] {
        let texts = row.texts(&[key])?;
        if texts.len() != STYLES {
            return Err(wrong(&[key], "a list of three answers: concise, detailed, detailed in Markdown"));
        }
        let style =
            |(style, text): (usize, String)| Candidate { style: Some(style as u8), ..Candidate::new(text, gain) };
        candidates.extend(texts.into_iter().enumerate().map(style));
    }
    Ok(Group {
        line: row.line,
        id: row.name(&["id"]),
        prompt: row.text(&["prompt"])?,
        reference: None,
        candidates,
        subset: row.name(&["domain", "subset"]).unwrap_or_default(),
        rule: Rule::Pairs,
        wrapper: None,
    })
}
