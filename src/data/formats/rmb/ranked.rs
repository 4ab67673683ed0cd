//! RMB's pairs put together to ranked lists: `{conversation_input, chosen: {llm_name, answer, score}, reject: {..}}`.

use std::collections::HashMap;

use serde_json::Value;

use super::{KEYS_OF_PAIRS, REJECTED, SECTIONS, group, is_conversation};
use crate::data::formats::{RowFormat, read};
use crate::data::group::{Answer, Candidate, Group, ReferenceSource, Rule, Section};
use crate::data::groups::{GroupMaker, GroupSource, Groups};
use crate::data::row::{Row, wrong};
use crate::data::rows::{RowPlaces, Rows};
use crate::data::sampling::{Hash, hash};
use crate::data::store::Raw;
use crate::error::{Error, Result};

/// The ranked lists that the scores of the pairs give back.
pub struct RmbRanked;

impl RowFormat for RmbRanked {
    fn name(&self) -> &'static str {
        "rmb-ranked"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["chosen"]
    }

    fn other_keys(&self) -> &'static [&'static str] {
        KEYS_OF_PAIRS
    }

    fn shape(&self) -> String {
        "{conversation_input, chosen: {llm_name, answer, score}, reject: {..}}".into()
    }

    fn knows(&self, row: &Row) -> bool {
        is_conversation(row) && row.value(&["chosen"]).is_some_and(|value| value.get("score").is_some())
    }

    fn evaluation(&self) -> Option<fn() -> Box<dyn GroupMaker>> {
        Some(|| Box::<Joined>::default())
    }

    fn default_source(&self) -> Option<ReferenceSource> {
        Some(ReferenceSource::Best)
    }

    fn sections(&self) -> &'static [Section] {
        SECTIONS
    }
}

/// A row of the pairwise set with its scores.
#[derive(Clone, Debug)]
struct ScoredPair {
    /// Without candidates.
    group: Group,
    /// The models and what they answered.
    answers: [(String, Candidate); 2],
}

fn scored_pair(row: &mut Row, raw: Raw) -> Result<ScoredPair> {
    let answers = [scored(row, &["chosen"])?, scored(row, REJECTED)?];
    Ok(ScoredPair { group: group(row, raw, &["pair_uid", "uid"], Vec::new(), Rule::FirstTwo)?, answers })
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
    conversations: HashMap<Hash, usize>,
    models: HashMap<String, u32>,
}

impl Joined {
    /// Adds the next row. An answer of one model is taken once.
    fn add(&mut self, pair: &ScoredPair) -> Result<()> {
        let next = self.lists.len();
        let at = *self.conversations.entry(hash(&pair.group.prompt)).or_insert(next);
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

impl GroupMaker for Joined {
    fn see(&mut self, row: &mut Row, raw: Raw) -> Result<()> {
        self.add(&scored_pair(row, raw)?)
    }

    fn finish(self: Box<Self>, rows: RowPlaces, _: u64) -> Result<(Groups, Vec<String>)> {
        let rows = rows.read(|raw| read(raw, scored_pair));
        Ok((Groups::of(self.ranked(rows)), Vec::new()))
    }
}

/// Lists of all answers of a conversation, best first. In memory is where the answers stand.
#[derive(Debug)]
struct RankedLists {
    rows: Rows<ScoredPair>,
    /// The first row of a conversation, and its answers.
    lists: Vec<(u32, Vec<Place>)>,
}

impl GroupSource for RankedLists {
    fn count(&self) -> usize {
        self.lists.len()
    }

    fn read(&self, index: usize) -> Result<Group> {
        let missing = || Error::machine(format!("conversation {index} of {}", self.count()));
        let (first, places) = self.lists.get(index).ok_or_else(missing)?;
        let mut group = self.rows.get(*first as usize)?.group;
        for place in places {
            let [chosen, rejected] = self.rows.get(place.row as usize)?.answers;
            group.candidates.push(if place.answer == 0 { chosen.1 } else { rejected.1 });
        }
        Ok(group)
    }
}

fn scored(row: &Row, keys: &[&str]) -> Result<(String, Candidate)> {
    let read = |value: &Value| {
        let gain = value.get("score")?.as_f64()?;
        let text = value.get("answer")?.as_str()?;
        let model = value.get("llm_name")?.as_str()?;
        Some((model.to_string(), Candidate { answer: Answer::Text(text.into()), gain, style: None }))
    };
    row.value(keys)
        .and_then(read)
        .ok_or_else(|| wrong(keys, "an answer {\"llm_name\", \"answer\", \"score\"}, whose scores give the ranks"))
}
