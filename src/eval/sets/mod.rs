//! Sets to evaluate on: their formats, known by the keys of the rows, and what the papers behind them average.

mod judge_bench;
mod own;
mod reward_bench;
mod reward_bench2;
mod rm_bench;
mod rmb;
pub mod rows;

use std::path::Path;

use serde::Serialize;

use super::group::{Group, ReferenceSource};
use crate::data::{self, IdPair, Triple};
use crate::error::{Error, Result};
use rows::JsonRow;

/// The formats of evaluation data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Rows {prompt, policy, output}
    Trajectories,
    /// Rows {prompt, reference, chosen, rejected}
    Preferences,
    /// Rows {chosen_ids, rejected_ids}
    Pairs,
    /// RewardBench: {prompt, chosen, rejected, subset}
    RewardBench,
    /// RewardBench 2: {prompt, chosen: [..], rejected: [..], num_correct, subset}, best of four
    #[value(name = "reward-bench-2")]
    #[serde(rename = "reward-bench-2")]
    RewardBench2,
    /// RM-Bench: {prompt, chosen (three), rejected (three), domain}
    RmBench,
    /// JudgeBench: {question, response_A, response_B, label}
    JudgeBench,
    /// RMB's pairs: {conversation_input, chosen, reject, category_path}
    RmbPairs,
    /// RMB's lists: {conversation_input, bon_best, loser_list, category_path}
    RmbBestOfN,
    /// RMB's pairs put together to ranked lists, as in POLAR's paper: best answer as the reference, second against third
    RmbRanked,
}

/// A group of subsets that a paper reports as one figure.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// What the paper calls it.
    pub name: &'static str,
    /// Parts that count alike; within a part every judgement counts alike. A name that ends in `*` is a beginning.
    pub parts: &'static [&'static [&'static str]],
}

const fn named(name: &'static str, parts: &'static [&'static [&'static str]]) -> Section {
    Section { name, parts }
}

impl Section {
    /// The part that `subset` belongs to.
    pub fn part(&self, subset: &str) -> Option<usize> {
        let matches = |name: &&str| match name.strip_suffix('*') {
            Some(beginning) => subset.starts_with(beginning),
            None => subset == *name,
        };
        self.parts.iter().position(|part| part.iter().any(matches))
    }
}

impl Format {
    const ALL: [(Self, &'static str); 10] = [
        (Self::Trajectories, "trajectories {prompt, policy, output}"),
        (Self::Preferences, "preferences {prompt, reference, chosen, rejected}"),
        (Self::Pairs, "pairs {chosen_ids, rejected_ids}"),
        (Self::RewardBench, "reward-bench {prompt, chosen, rejected, subset}"),
        (Self::RewardBench2, "reward-bench-2 {prompt, chosen: [..], rejected: [..], subset}"),
        (Self::RmBench, "rm-bench {prompt, chosen: [3], rejected: [3], domain}"),
        (Self::JudgeBench, "judge-bench {question, response_A, response_B, label}"),
        (Self::RmbPairs, "rmb-pairs {conversation_input, chosen, reject, category_path}"),
        (Self::RmbBestOfN, "rmb-best-of-n {conversation_input, bon_best, loser_list, category_path}"),
        (Self::RmbRanked, "rmb-ranked {conversation_input, chosen: {llm_name, answer, score}, reject: {..}}"),
    ];

    /// What `--format` calls it.
    pub fn name(self) -> String {
        use clap::ValueEnum;
        self.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default()
    }

    /// The keys of its rows.
    fn keys(self) -> &'static str {
        Self::ALL.iter().find(|(format, _)| *format == self).map_or("", |(_, keys)| keys)
    }

    /// The format of a row, by its keys.
    fn of(row: &JsonRow) -> Option<Self> {
        let has = |keys: &[&str]| keys.iter().all(|key| row.has(key));
        let list =
            |key: &str| row.get(&[key]).is_some_and(|v| v.as_array().is_some_and(|l| l.iter().any(|x| x.is_string())));
        let conversation = row.has("conversation_input") || row.has("conversation");
        if has(&["chosen_ids", "rejected_ids"]) {
            Some(Self::Pairs)
        } else if has(&["response_A", "response_B"]) {
            Some(Self::JudgeBench)
        } else if conversation && (row.has("loser_list") || row.has("bon_best") || list("rejected")) {
            Some(Self::RmbBestOfN)
        } else if conversation {
            let scored = |key: &str| row.get(&[key]).is_some_and(|value| value.get("score").is_some());
            Some(if scored("chosen") { Self::RmbRanked } else { Self::RmbPairs })
        } else if has(&["prompt", "chosen", "rejected"]) && list("chosen") {
            Some(if row.has("domain") { Self::RmBench } else { Self::RewardBench2 })
        } else if has(&["reference", "chosen"]) {
            Some(Self::Preferences)
        } else if has(&["prompt", "chosen", "rejected"]) {
            Some(Self::RewardBench)
        } else if row.has("policy") {
            Some(Self::Trajectories)
        } else {
            None
        }
    }

    /// Whether its rows are what models are trained on.
    fn is_own(self) -> bool {
        matches!(self, Self::Trajectories | Self::Preferences | Self::Pairs)
    }

    /// Where references come from if nobody says; `None` where only a file has any.
    pub fn default_source(self) -> Option<ReferenceSource> {
        match self {
            Self::Preferences | Self::Pairs => Some(ReferenceSource::Field),
            Self::Trajectories | Self::RmBench => Some(ReferenceSource::LeaveOneOut),
            Self::RmbRanked => Some(ReferenceSource::Best),
            _ => None,
        }
    }

    /// What the set's paper averages; nothing where there is no such paper.
    pub fn sections(self) -> &'static [Section] {
        match self {
            Self::Trajectories | Self::Preferences | Self::Pairs => &[],
            Self::RewardBench => reward_bench::SECTIONS,
            Self::RewardBench2 => reward_bench2::SECTIONS,
            Self::RmBench => rm_bench::SECTIONS,
            Self::JudgeBench => judge_bench::SECTIONS,
            Self::RmbPairs | Self::RmbBestOfN | Self::RmbRanked => rmb::SECTIONS,
        }
    }
}

/// A file of evaluation data.
#[derive(Clone, Debug)]
pub struct Set {
    /// What its rows are.
    pub format: Format,
    /// What is to be judged.
    pub groups: Vec<Group>,
    /// Rows in the file.
    pub rows: usize,
    /// What a reader should know of how the groups were made.
    pub notes: Vec<String>,
    /// BLAKE3 of the file's text; empty where there is no file.
    pub blake3: String,
}

impl Set {
    /// Triples that are judged by their own references.
    pub fn of_triples(triples: impl IntoIterator<Item = Triple>) -> Self {
        Self::of_groups(Format::Preferences, triples.into_iter().map(own::of_triple).collect())
    }

    /// Pairs of token ids.
    pub fn of_pairs(pairs: impl IntoIterator<Item = IdPair>) -> Self {
        Self::of_groups(Format::Pairs, pairs.into_iter().map(own::of_pair).collect())
    }

    fn of_groups(format: Format, groups: Vec<Group>) -> Self {
        Self { format, rows: groups.len(), groups, notes: Vec::new(), blake3: String::new() }
    }
}

/// Reads a file of evaluation data: JSON Lines or one JSON array, plain or zstd. The keys of the first row decide what it
/// holds, or `format`; `seed` decides which triples are drawn from trajectories.
///
/// # Errors
/// The user's, with file, line and what was expected.
pub fn read(path: &Path, format: Option<Format>, seed: u64) -> Result<Set> {
    let text = rows::text(path)?;
    let array = rows::is_array(&text);
    let parsed = if array { rows::parse(path, &text)? } else { Vec::new() };
    let first = match parsed.first() {
        Some(row) => Some(row.clone()),
        // What the training reader would say of such a file is better than what this one could.
        None => rows::first(path, &text).ok().flatten(),
    };
    let found = format.or_else(|| first.as_ref().and_then(Format::of));
    let blake3 = blake3::hash(text.as_bytes()).to_hex().to_string();
    let mut set =
        Set { format: found.unwrap_or(Format::Preferences), groups: Vec::new(), rows: 0, notes: Vec::new(), blake3 };
    if found.is_none_or(Format::is_own) {
        let lines = if array { one_a_line(&parsed)? } else { text.clone() };
        let records = data::read_from(path, std::io::Cursor::new(lines.into_bytes())).map_err(|e| match found {
            None => Error::user(format!("{e}; evaluation also reads {}", others())),
            Some(_) => e,
        })?;
        set.rows = records.len();
        let format = match &records {
            data::Records::Trajectories(_) => Format::Trajectories,
            data::Records::Pairs(_) => Format::Pairs,
            _ => Format::Preferences,
        };
        if let Some(wanted) = found.filter(|&wanted| wanted != format && records_are_ranked(&records)) {
            return Err(Error::user(format!(
                "{}: the rows are {}, not {}",
                path.display(),
                format.name(),
                wanted.name()
            )));
        }
        set.format = format;
        own::groups(path, records, seed, &mut set)?;
        if format == Format::Preferences {
            let rows = if array { parsed } else { rows::parse(path, &text)? };
            own::name(&mut set.groups, &rows);
        }
        return Ok(set);
    }
    let parsed = if array { parsed } else { rows::parse(path, &text)? };
    set.rows = parsed.len();
    set.groups = groups(path, &parsed, set.format)?;
    Ok(set)
}

fn records_are_ranked(records: &data::Records) -> bool {
    !matches!(records, data::Records::Documents(_))
}

fn groups(path: &Path, rows: &[JsonRow], format: Format) -> Result<Vec<Group>> {
    let place = |line: usize| format!("{}:{line}", path.display());
    let expected = |row: &JsonRow, e: Error| {
        let keys: Vec<&str> = row.keys().take(12).collect();
        let (keys, expected) = (keys.join(", "), format.keys());
        Error::user(format!("{e}; the row has the keys {{{keys}}}, expected {expected}"))
    };
    let read = match format {
        Format::RewardBench2 => reward_bench2::group,
        Format::RmBench => rm_bench::group,
        Format::JudgeBench => judge_bench::group,
        Format::RmbPairs => rmb::pair,
        Format::RmbBestOfN => rmb::best_of_n,
        Format::RmbRanked => return rmb::ranked(rows, place),
        _ => reward_bench::group,
    };
    rows.iter().map(|row| read(row).map_err(|e| expected(row, e).context(place(row.line)))).collect()
}

/// The rows as JSON Lines, each as near to its own line as those before it allow.
fn one_a_line(rows: &[JsonRow]) -> Result<String> {
    let (mut text, mut line) = (String::new(), 1);
    for row in rows {
        while line < row.line {
            text.push('\n');
            line += 1;
        }
        text.push_str(&row.to_json()?);
        text.push('\n');
        line += 1;
    }
    Ok(text)
}

fn others() -> String {
    let others = Format::ALL.iter().filter(|(format, _)| !format.is_own());
    others.map(|(_, keys)| *keys).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
