//! JudgeBench (arXiv 2410.12784): `{question, response_A, response_B, label: "A>B" | "B>A", source}`.

use std::path::Path;

use super::rows::{JsonRow, wrong};
use super::{Section, Set, SetFormat, SetReader, group_of, named};
use crate::data::RowFile;
use crate::error::Result;
use crate::eval::group::{Candidate, Group, Rule};

/// Section 3 of the paper: where the questions come from.
const SECTIONS: &[Section] = &[
    named("Knowledge", &[&["mmlu-pro*"]]),
    named("Reasoning", &[&["livebench-reasoning"]]),
    named("Math", &[&["livebench-math"]]),
    named("Coding", &[&["livecodebench"]]),
];

/// Rows {question, response_A, response_B, label}.
pub struct JudgeBench;

impl SetReader for JudgeBench {
    fn keys(&self) -> &'static str {
        "judge-bench {question, response_A, response_B, label}"
    }

    fn knows(&self, row: &JsonRow) -> bool {
        row.has_all(&["response_A", "response_B"])
    }

    fn read(&self, _: &Path, file: RowFile, _: u64) -> Result<Set> {
        Set::of_rows(SetFormat::JudgeBench, file, |raw| group_of(raw, &JudgeBench, group))
    }

    fn sections(&self) -> &'static [Section] {
        SECTIONS
    }
}

/// Reads a row.
fn group(row: &JsonRow) -> Result<Group> {
    let label = row.text(&["label"])?;
    let gains = match label.split_whitespace().collect::<String>().as_str() {
        "A>B" => [1.0, 0.0],
        "B>A" => [0.0, 1.0],
        _ => return Err(wrong(&["label"], "\"A>B\" or \"B>A\"")),
    };
    let answers = [row.text(&["response_A"])?, row.text(&["response_B"])?];
    Ok(Group {
        line: row.line,
        id: row.name(&["pair_id", "id", "original_id"]),
        prompt: row.text(&["question"])?,
        reference: None,
        candidates: answers.into_iter().zip(gains).map(|(text, gain)| Candidate::new(text, gain)).collect(),
        subset: row.name(&["source"]).unwrap_or_default(),
        rule: Rule::Pairs,
        wrapper: None,
    })
}
