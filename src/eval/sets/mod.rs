//! Sets to evaluate on: their formats, known by the keys of the rows, and what the papers behind them average.

mod groups;
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
use crate::data::{IdPair, Raw, RowFile, Triple};
use crate::error::{Error, Result};
pub use groups::Groups;
use rows::JsonRow;

/// The formats of evaluation data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SetFormat {
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

/// A format of evaluation data, one file each: how its rows are known, how they become groups, what its paper averages.
trait SetReader: Sync {
    /// Its name and the keys of its rows, as messages have them.
    fn keys(&self) -> &'static str;

    /// Whether a row is of this format, if it is of none that stands before it in [`FORMATS`].
    fn knows(&self, row: &JsonRow) -> bool;

    /// Reads a file whose triples, if it has trajectories, are drawn by `seed`.
    ///
    /// # Errors
    /// The user's, with file, line and key.
    fn read(&self, path: &Path, file: RowFile, seed: u64) -> Result<Set>;

    /// Where references come from if nobody says; `None` where only a file has any.
    fn default_source(&self) -> Option<ReferenceSource> {
        None
    }

    /// What the set's paper averages; nothing where there is no such paper.
    fn sections(&self) -> &'static [Section] {
        &[]
    }
}

/// All formats, in the order in which a row is asked whether it is of one.
const FORMATS: [(SetFormat, &dyn SetReader); 10] = [
    (SetFormat::Pairs, &own::PAIRS),
    (SetFormat::JudgeBench, &judge_bench::JudgeBench),
    (SetFormat::RmbBestOfN, &rmb::BestOfN),
    (SetFormat::RmbRanked, &rmb::Ranked),
    (SetFormat::RmbPairs, &rmb::Pairs),
    (SetFormat::RmBench, &rm_bench::RmBench),
    (SetFormat::RewardBench2, &reward_bench2::RewardBench2),
    (SetFormat::Preferences, &own::PREFERENCES),
    (SetFormat::RewardBench, &reward_bench::RewardBench),
    (SetFormat::Trajectories, &own::TRAJECTORIES),
];

impl SetFormat {
    /// What `--format` calls it.
    pub fn name(self) -> String {
        use clap::ValueEnum;
        self.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default()
    }

    fn implementation(self) -> &'static dyn SetReader {
        FORMATS.iter().find(|(format, _)| *format == self).map_or(FORMATS[0].1, |(_, implementation)| *implementation)
    }

    /// The format of a row, by its keys.
    fn of(row: &JsonRow) -> Option<Self> {
        FORMATS.iter().find(|(_, implementation)| implementation.knows(row)).map(|(format, _)| *format)
    }

    /// Whether its rows are what models are trained on.
    fn is_own(self) -> bool {
        matches!(self, Self::Trajectories | Self::Preferences | Self::Pairs)
    }

    /// Where references come from if nobody says; `None` where only a file has any.
    pub fn default_source(self) -> Option<ReferenceSource> {
        self.implementation().default_source()
    }

    /// What the set's paper averages; nothing where there is no such paper.
    pub fn sections(self) -> &'static [Section] {
        self.implementation().sections()
    }
}

/// Reads the group of a row.
///
/// # Errors
/// The user's, with file, line, the row's keys and those that are expected.
fn group_of(raw: Raw, format: &dyn SetReader, group: fn(&JsonRow) -> Result<Group>) -> Result<Group> {
    let row = JsonRow::read(raw)?;
    group(&row).map_err(|e| {
        let found: Vec<&str> = row.keys().take(12).collect();
        let (found, expected) = (found.join(", "), format.keys());
        Error::user(format!("{e}; the row has the keys {{{found}}}, expected {expected}")).context(raw.place())
    })
}

/// A file of evaluation data.
#[derive(Clone, Debug)]
pub struct Set {
    /// What its rows are.
    pub format: SetFormat,
    /// What is to be judged.
    pub groups: Groups,
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
        Self::of_groups(SetFormat::Preferences, triples.into_iter().map(own::of_triple).collect())
    }

    /// Pairs of token ids.
    pub fn of_pairs(pairs: impl IntoIterator<Item = IdPair>) -> Self {
        Self::of_groups(SetFormat::Pairs, pairs.into_iter().map(own::of_pair).collect())
    }

    fn of_groups(format: SetFormat, groups: Vec<Group>) -> Self {
        Self { format, rows: groups.len(), groups: groups.into(), notes: Vec::new(), blake3: String::new() }
    }

    /// A set of a file that has one group a row.
    fn of_rows(format: SetFormat, file: RowFile, parse: fn(Raw) -> Result<Group>) -> Result<Self> {
        let (rows, blake3) = file.rows(parse, |_| Ok(()))?;
        Ok(Self { format, rows: rows.len(), groups: rows.into(), notes: Vec::new(), blake3 })
    }
}

/// Reads a file of evaluation data: JSON Lines or one JSON array, plain or zstd. The keys of the first row decide what it
/// holds, or `format`; `seed` decides which triples are drawn from trajectories. Every row is read, so that every
/// mistake is found, and forgotten: what is kept of it is its place.
///
/// # Errors
/// The user's, with file, line and what was expected.
pub fn read(path: &Path, format: Option<SetFormat>, seed: u64) -> Result<Set> {
    let mut file = RowFile::open(path)?;
    // What the training reader would say of a row of no format is better than what this one could.
    let known = file.first(|row| JsonRow::parse(0, row).ok().as_ref().and_then(SetFormat::of))?.flatten();
    match format.or(known) {
        Some(format) => format.implementation().read(path, file, seed),
        None => own::read(path, file, None, seed),
    }
}

/// The formats that no model is trained on.
fn others() -> String {
    let others = FORMATS.iter().filter(|(format, _)| !format.is_own());
    others.map(|(_, implementation)| implementation.keys()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
