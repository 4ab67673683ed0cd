//! JudgeBench (arXiv 2410.12784): `{question, response_A, response_B, label: "A>B" | "B>A", source}`.

use super::{RowFormat, each_row, read};
use crate::data::group::{Candidate, Group, Rule, Section};
use crate::data::groups::GroupMaker;
use crate::data::row::{Row, wrong};
use crate::data::store::Raw;
use crate::error::Result;

/// Section 3 of the paper: where the questions come from.
const SECTIONS: &[Section] = &[
    Section::new("Knowledge", &[&["mmlu-pro*"]]),
    Section::new("Reasoning", &[&["livebench-reasoning"]]),
    Section::new("Math", &[&["livebench-math"]]),
    Section::new("Coding", &[&["livecodebench"]]),
];

/// Rows {question, response_A, response_B, label}.
pub struct JudgeBench;

impl RowFormat for JudgeBench {
    fn name(&self) -> &'static str {
        "judge-bench"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["question", "response_A", "response_B", "label"]
    }

    fn other_keys(&self) -> &'static [&'static str] {
        &["pair_id", "id", "original_id", "source"]
    }

    fn shape(&self) -> String {
        "{question, response_A, response_B, label}".into()
    }

    fn knows(&self, row: &Row) -> bool {
        row.has_values(&["response_A", "response_B"])
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
    let gains = match row.text("label")?.split_whitespace().collect::<String>().as_str() {
        "A>B" => [1.0, 0.0],
        "B>A" => [0.0, 1.0],
        _ => return Err(wrong(&["label"], "\"A>B\" or \"B>A\"")),
    };
    let answers = [row.text("response_A")?, row.text("response_B")?];
    let candidates = answers.into_iter().zip(gains).map(|(text, gain)| Candidate::new(text, gain)).collect();
    Ok(Group {
        id: row.label(&["pair_id", "id", "original_id"]),
        subset: row.label(&["source"]).unwrap_or_default(),
        ..Group::new(row.text("question")?, candidates, Rule::Pairs).at(raw)
    })
}
