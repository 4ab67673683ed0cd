//! RMB (arXiv 2410.09893): pairs `{conversation_input, chosen, reject, category_path}`, lists
//! `{conversation_input, bon_best, loser_list, category_path}`, and the ranked lists that the scores of the pairs give
//! back, which POLAR's paper evaluates on.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::rows::{JsonRow, as_text, wrong};
use super::{Section, Set, SetFormat, SetReader, group_of, named};
use crate::data::{Raw, RowFile, Rows, TextHash, text_hash};
use crate::error::{Error, Result};
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

impl SetReader for Pairs {
    fn keys(&self) -> &'static str {
        "rmb-pairs {conversation_input, chosen, reject, category_path}"
    }

    fn knows(&self, row: &JsonRow) -> bool {
        is_conversation(row)
    }

    fn read(&self, _: &Path, file: RowFile, _: u64) -> Result<Set> {
        Set::of_rows(SetFormat::RmbPairs, file, |raw| group_of(raw, &Pairs, pair))
    }

    fn sections(&self) -> &'static [Section] {
        SECTIONS
    }
}

/// The best-of-n set.
pub struct BestOfN;

impl SetReader for BestOfN {
    fn keys(&self) -> &'static str {
        "rmb-best-of-n {conversation_input, bon_best, loser_list, category_path}"
    }

    fn knows(&self, row: &JsonRow) -> bool {
        is_conversation(row) && (row.has("loser_list") || row.has("bon_best") || row.has_texts("rejected"))
    }

    fn read(&self, _: &Path, file: RowFile, _: u64) -> Result<Set> {
        Set::of_rows(SetFormat::RmbBestOfN, file, |raw| group_of(raw, &BestOfN, best_of_n))
    }

    fn sections(&self) -> &'static [Section] {
        SECTIONS
    }
}

/// The ranked lists that the scores of the pairs give back.
pub struct Ranked;

impl SetReader for Ranked {
    fn keys(&self) -> &'static str {
        "rmb-ranked {conversation_input, chosen: {llm_name, answer, score}, reject: {..}}"
    }

    fn knows(&self, row: &JsonRow) -> bool {
        is_conversation(row) && row.get(&["chosen"]).is_some_and(|value| value.get("score").is_some())
    }

    fn read(&self, _: &Path, file: RowFile, _: u64) -> Result<Set> {
        let mut joined = Joined::default();
        let (rows, blake3) = file.rows(ScoredPair::read, |pair| joined.add(&pair))?;
        let n = rows.len();
        let groups = joined.ranked(rows).into();
        Ok(Set { format: SetFormat::RmbRanked, groups, rows: n, notes: Vec::new(), blake3 })
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

/// A row of the pairwise set with its scores.
#[derive(Clone, Debug)]
struct ScoredPair {
    /// Without candidates.
    group: Group,
    /// The models and what they answered.
    answers: [(String, Candidate); 2],
}

impl ScoredPair {
    fn read(raw: Raw) -> Result<Self> {
        let row = JsonRow::read(raw)?;
        let read = || -> Result<_> {
            let answers = [scored(&row, &["chosen"])?, scored(&row, REJECTED)?];
            Ok(Self { group: group(&row, &["pair_uid", "uid"], Vec::new(), Rule::FirstTwo)?, answers })
        };
        read().map_err(|e| e.context(raw.place()))
    }
}

/// Where an answer stands.
#[derive(Clone, Copy, Debug)]
struct Place {
    row: u32,
    /// In the row.
    answer: u8,
    /// Number of the model that wrote it.
    model: u32,
    score: f64,
}

/// Pairs on their way to [`RankedLists`].
#[derive(Default)]
struct Joined {
    rows: u32,
    lists: Vec<Vec<Place>>,
    /// Number of the list of a conversation.
    conversations: HashMap<TextHash, usize>,
    models: HashMap<String, u32>,
}

impl Joined {
    /// Adds the next row. An answer of one model is taken once.
    fn add(&mut self, pair: &ScoredPair) -> Result<()> {
        let next = self.lists.len();
        let at = *self.conversations.entry(text_hash(&pair.group.prompt)).or_insert(next);
        if at == next {
            self.lists.push(Vec::new());
        }
        for (answer, (model, candidate)) in pair.answers.iter().enumerate() {
            let next = self.models.len() as u32;
            let model = *self.models.entry(model.clone()).or_insert(next);
            if self.lists[at].iter().all(|known| known.model != model) {
                self.lists[at].push(Place { row: self.rows, answer: answer as u8, model, score: candidate.gain });
            }
        }
        self.rows = self.rows.checked_add(1).ok_or_else(|| Error::user("more than 2^32 rows: split the file"))?;
        Ok(())
    }

    /// Ranks all answers of a conversation by their scores, over all pairs that they stand in. Equal scores are ordered
    /// by the model's name.
    fn ranked(self, rows: Rows<ScoredPair>) -> RankedLists {
        let mut names: Vec<&String> = self.models.keys().collect();
        names.sort_unstable();
        let mut order = vec![0; names.len()];
        names.iter().enumerate().for_each(|(at, name)| order[self.models[*name] as usize] = at);
        let rank = |mut list: Vec<Place>| {
            let first = list.first().map_or(0, |place| place.row);
            list.sort_by(|a, b| {
                let by_name = || order[a.model as usize].cmp(&order[b.model as usize]);
                b.score.total_cmp(&a.score).then_with(by_name)
            });
            (first, list)
        };
        RankedLists { lists: self.lists.into_iter().map(rank).collect(), rows }
    }
}

/// Lists of all answers of a conversation, best first. In memory is where the answers stand.
#[derive(Clone, Debug)]
pub struct RankedLists {
    rows: Rows<ScoredPair>,
    /// The first row of a conversation, and its answers.
    lists: Vec<(u32, Vec<Place>)>,
}

impl RankedLists {
    /// Number of conversations.
    pub fn len(&self) -> usize {
        self.lists.len()
    }

    /// The list of conversation `index`.
    ///
    /// # Errors
    /// When the file cannot be read any more, or was changed.
    pub fn get(&self, index: usize) -> Result<Group> {
        let missing = || Error::machine(format!("conversation {index} of {}", self.len()));
        let (first, places) = self.lists.get(index).ok_or_else(missing)?;
        let mut group = self.rows.get(*first as usize)?.group;
        for place in places {
            let [chosen, rejected] = self.rows.get(place.row as usize)?.answers;
            group.candidates.push(if place.answer == 0 { chosen.1 } else { rejected.1 });
        }
        Ok(group)
    }
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
