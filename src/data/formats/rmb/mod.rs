//! RMB (arXiv 2410.09893): pairs, lists, and the ranked lists that the scores of the pairs give back, which POLAR's paper
//! evaluates on. What the three share.

mod best_of_n;
mod pairs;
mod ranked;

use serde_json::Value;

use crate::data::group::{Candidate, Group, Rule, Section};
use crate::data::row::{Row, text, wrong};
use crate::data::store::Raw;
use crate::error::Result;
pub use best_of_n::RmbBestOfN;
pub use pairs::RmbPairs;
pub use ranked::RmbRanked;

/// The two goals of the paper.
const SECTIONS: &[Section] =
    &[Section::new("Helpfulness", &[&["Helpfulness*"]]), Section::new("Harmlessness", &[&["Harmlessness*"]])];
const REJECTED: &[&str] = &["reject", "rejected"];
const CONVERSATION: &[&str] = &["conversation_input", "conversation"];
/// What a row of pairs may have, ranked or not.
const KEYS_OF_PAIRS: &[&str] = &[
    "conversation_input",
    "conversation",
    "chosen",
    "reject",
    "rejected",
    "pair_uid",
    "uid",
    "category_path",
    "category",
];

fn is_conversation(row: &Row) -> bool {
    row.value(CONVERSATION).is_some()
}

fn group(row: &mut Row, raw: Raw, id: &[&str], candidates: Vec<Candidate>, rule: Rule) -> Result<Group> {
    let conversation = row.one_of(CONVERSATION)?;
    Ok(Group {
        id: row.label(id),
        subset: row.label(&["category_path", "category"]).map(|path| subset(&path)).unwrap_or_default(),
        ..Group::new(row.text(conversation)?, candidates, rule).at(raw)
    })
}

/// `Helpfulness/Code` of `Pairwise_set/Helpfulness/Code/Data Management`.
fn subset(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').map(|part| part.trim_end_matches(".json")).collect();
    match parts.iter().position(|part| matches!(*part, "Helpfulness" | "Harmlessness")) {
        Some(goal) => parts[goal..parts.len().min(goal + 2)].join("/"),
        None => path.to_string(),
    }
}

fn candidate(row: &Row, keys: &[&str], gain: f64) -> Result<Candidate> {
    let text = row.value(keys).and_then(answer).ok_or_else(|| wrong(keys, "an answer {\"llm_name\", \"answer\"}"))?;
    Ok(Candidate::new(text, gain))
}

/// `{"llm_name", "answer"}`, or its text alone.
fn answer(value: &Value) -> Option<String> {
    value.get("answer").and_then(Value::as_str).map(String::from).or_else(|| text(value.clone(), "answer").ok())
}
