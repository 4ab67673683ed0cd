//! RMB (arXiv 2410.09893): pairs `{conversation_input, chosen, reject, category_path}`, lists
//! `{conversation_input, bon_best, loser_list, category_path}`, and the ranked lists that the scores of the pairs give
//! back, which POLAR's paper evaluates on.

use std::collections::HashMap;

use serde_json::Value;

use super::rows::{JsonRow, as_text, wrong};
use super::{Section, Set, SetFile, SetFormat, named};
use crate::error::Result;
use crate::eval::group::{Answer, Candidate, Group, ReferenceSource, Rule};

/// The two goals of the paper.
const SECTIONS: &[Section] =
    &[named("Helpfulness", &[&["Helpfulness*"]]), named("Harmlessness", &[&["Harmlessness*"]])];
const REJECTED: &[&str] = &["reject", "rejected"];
const LOSERS: &[&str] = &["loser_list", "rejected"];
const BEST: &[&str] = &["bon_best", "chosen"];
const CONVERSATION: &[&str] = &["conversation_input", "conversation"];

/// The pairwise set.
pub struct Pairs;

impl SetFormat for Pairs {
    fn keys(&self) -> &'static str {
        "rmb-pairs {conversation_input, chosen, reject, category_path}"
    }

    fn knows(&self, row: &JsonRow) -> bool {
        is_conversation(row)
    }

    fn read(&self, file: &SetFile, set: &mut Set) -> Result<()> {
        set.groups = file.groups(self.keys(), pair)?;
        set.rows = set.groups.len();
        Ok(())
    }

    fn sections(&self) -> &'static [Section] {
        SECTIONS
    }
}

/// The best-of-n set.
pub struct BestOfN;

impl SetFormat for BestOfN {
    fn keys(&self) -> &'static str {
        "rmb-best-of-n {conversation_input, bon_best, loser_list, category_path}"
    }

    fn knows(&self, row: &JsonRow) -> bool {
        is_conversation(row) && (row.has("loser_list") || row.has("bon_best") || row.has_texts("rejected"))
    }

    fn read(&self, file: &SetFile, set: &mut Set) -> Result<()> {
        set.groups = file.groups(self.keys(), best_of_n)?;
        set.rows = set.groups.len();
        Ok(())
    }

    fn sections(&self) -> &'static [Section] {
        SECTIONS
    }
}

/// The ranked lists that the scores of the pairs give back.
pub struct Ranked;

impl SetFormat for Ranked {
    fn keys(&self) -> &'static str {
        "rmb-ranked {conversation_input, chosen: {llm_name, answer, score}, reject: {..}}"
    }

    fn knows(&self, row: &JsonRow) -> bool {
        is_conversation(row) && row.get(&["chosen"]).is_some_and(|value| value.get("score").is_some())
    }

    fn read(&self, file: &SetFile, set: &mut Set) -> Result<()> {
        let rows = file.rows()?;
        set.rows = rows.len();
        set.groups = ranked(rows, |line| file.place(line))?;
        Ok(())
    }

    fn default_source(&self) -> Option<ReferenceSource> {
        Some(ReferenceSource::Best)
    }

    fn sections(&self) -> &'static [Section] {
        SECTIONS
    }
}

fn is_conversation(row: &JsonRow) -> bool {
    row.has("conversation_input") || row.has("conversation")
}

/// Reads a row of the pairwise set.
fn pair(row: &JsonRow) -> Result<Group> {
    let candidates = vec![candidate(row, &["chosen"], 1.0)?, candidate(row, REJECTED, 0.0)?];
    group(row, &["pair_uid", "uid"], candidates, Rule::Pairs)
}

/// Reads a row of the best-of-n set.
fn best_of_n(row: &JsonRow) -> Result<Group> {
    let losers = match row.get(LOSERS) {
        Some(Value::Array(losers)) if !losers.is_empty() => losers,
        _ => return Err(wrong(LOSERS, "a list of answers")),
    };
    let mut candidates = vec![candidate(row, BEST, 1.0)?];
    for loser in losers {
        let text = answer(loser).ok_or_else(|| wrong(LOSERS, "answers {\"llm_name\", \"answer\"}"))?;
        candidates.push(Candidate::new(text, 0.0));
    }
    group(row, &["bon_uid", "uid"], candidates, Rule::BestOfN)
}

/// Ranks all answers of a conversation by their scores, over all pairs that they stand in. An answer of one model is
/// taken once. Equal scores are ordered by the model's name.
fn ranked(rows: &[JsonRow], place: impl Fn(usize) -> String) -> Result<Vec<Group>> {
    let mut lists: Vec<(Group, Vec<(String, Candidate)>)> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for row in rows {
        let read = || -> Result<_> {
            let scored = [scored(row, &["chosen"])?, scored(row, REJECTED)?];
            Ok((group(row, &["pair_uid", "uid"], Vec::new(), Rule::FirstTwo)?, scored))
        };
        let (group, scored) = read().map_err(|e| e.context(place(row.line)))?;
        let at = *known.entry(group.prompt.clone()).or_insert_with(|| {
            lists.push((group, Vec::new()));
            lists.len() - 1
        });
        for (model, candidate) in scored {
            if lists[at].1.iter().all(|(known, _)| *known != model) {
                lists[at].1.push((model, candidate));
            }
        }
    }
    let rank = |(mut group, mut list): (Group, Vec<(String, Candidate)>)| {
        list.sort_by(|(a, x), (b, y)| y.gain.total_cmp(&x.gain).then_with(|| a.cmp(b)));
        group.candidates = list.into_iter().map(|(_, candidate)| candidate).collect();
        group
    };
    Ok(lists.into_iter().map(rank).collect())
}

fn group(row: &JsonRow, id: &[&str], candidates: Vec<Candidate>, rule: Rule) -> Result<Group> {
    Ok(Group {
        line: row.line,
        id: row.name(id),
        prompt: row.text(CONVERSATION)?,
        reference: None,
        candidates,
        subset: row.name(&["category_path", "category"]).map(|path| subset(&path)).unwrap_or_default(),
        rule,
        wrapper: None,
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

fn candidate(row: &JsonRow, keys: &[&str], gain: f64) -> Result<Candidate> {
    let text = row.get(keys).and_then(answer).ok_or_else(|| wrong(keys, "an answer {\"llm_name\", \"answer\"}"))?;
    Ok(Candidate::new(text, gain))
}

fn scored(row: &JsonRow, keys: &[&str]) -> Result<(String, Candidate)> {
    let read = |value: &Value| {
        let gain = value.get("score")?.as_f64()?;
        let text = value.get("answer")?.as_str()?;
        let model = value.get("llm_name")?.as_str()?;
        Some((model.to_string(), Candidate { answer: Answer::Text(text.into()), gain, style: None }))
    };
    row.get(keys)
        .and_then(read)
        .ok_or_else(|| wrong(keys, "an answer {\"llm_name\", \"answer\", \"score\"}, whose scores give the ranks"))
}

/// `{"llm_name", "answer"}`, or its text alone.
fn answer(value: &Value) -> Option<String> {
    value.get("answer").and_then(Value::as_str).map(String::from).or_else(|| as_text(value))
}
