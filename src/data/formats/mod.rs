//! The formats of rows, for training, evaluation and scores: one file each, behind one trait.

mod documents;
mod judge_bench;
mod pairs;
mod preferences;
mod reward_bench;
mod reward_bench2;
mod rm_bench;
mod rmb;
pub(super) mod score;
mod trajectories;
mod trl;

use serde::Serialize;

use super::group::{Group, ReferenceSource, Section};
use super::groups::{EachRow, GroupMaker};
use super::records::Records;
use super::row::{Row, list};
use super::rows::RowPlaces;
use super::store::Raw;
use crate::{Error, Result};
use documents::{Documents, Texts};
use judge_bench::JudgeBench;
use pairs::Pairs;
use preferences::Preferences;
use reward_bench::RewardBench;
use reward_bench2::RewardBench2;
use rm_bench::RmBench;
use rmb::{RmbBestOfN, RmbPairs, RmbRanked};
use trajectories::Trajectories;
use trl::Trl;

/// A format of rows. One that neither training nor evaluation makes anything of is for `polar-raw score`.
pub(crate) trait RowFormat: Sync {
    /// Its name; `--format` has those of what can be evaluated on.
    fn name(&self) -> &'static str;

    /// What messages call its rows.
    fn called(&self) -> &'static str {
        self.name()
    }

    /// The keys that every row has.
    fn keys(&self) -> &'static [&'static str];

    /// The other keys that it reads.
    fn other_keys(&self) -> &'static [&'static str] {
        &[]
    }

    /// Its keys and what they hold, as messages have them.
    fn shape(&self) -> String {
        list(self.keys())
    }

    /// Whether a row is of this format, if it is of none that stands before it in [`FORMATS`].
    fn knows(&self, row: &Row) -> bool;

    /// What a model is trained on.
    fn training(&self) -> Option<Training> {
        None
    }

    /// What a model is evaluated on: what makes groups of a file's rows.
    fn evaluation(&self) -> Option<fn() -> Box<dyn GroupMaker>> {
        None
    }

    /// Where an evaluation takes references from if nobody says; `None` where only a file has any.
    fn default_source(&self) -> Option<ReferenceSource> {
        None
    }

    /// What the set's paper averages; nothing where there is no such paper.
    fn sections(&self) -> &'static [Section] {
        &[]
    }
}

/// What training makes of rows.
#[derive(Clone, Copy)]
pub(crate) struct Training {
    /// As [`Records::kind`]: files of one kind are read together.
    pub kind: &'static str,
    /// Refuses a row that is not of the format.
    pub check: fn(&mut Row, Raw) -> Result<()>,
    /// The rows at these places.
    pub records: fn(RowPlaces) -> Records,
}

/// All formats, in the order in which a row is asked whether it is of one.
static FORMATS: [&dyn RowFormat; 16] = [
    &Pairs,
    &JudgeBench,
    &RmbBestOfN,
    &RmbRanked,
    &RmbPairs,
    &RmBench,
    &Trl,
    &RewardBench2,
    &RewardBench,
    &Preferences,
    &Trajectories,
    &score::IDS,
    &score::BEST_OF,
    &score::ONE,
    &Texts,
    &Documents,
];

/// What training makes of the paragraphs of plain text.
pub(super) const PLAIN_TEXT: Training = documents::TRAINING;

/// What `--format` of an evaluation may be.
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
    /// TRL: {chosen (messages), rejected (messages)}, and {prompt} if they do not begin with it
    Trl,
    /// JudgeBench: {question, response_A, response_B, label}
    JudgeBench,
    /// RMB's pairs: {conversation_input, chosen, reject, category_path}
    RmbPairs,
    /// RMB's lists: {conversation_input, bon_best, loser_list, category_path}
    RmbBestOfN,
    /// RMB's pairs put together to ranked lists, as in POLAR's paper: best answer as the reference, second against third
    RmbRanked,
}

impl SetFormat {
    pub(crate) fn rows(self) -> &'static dyn RowFormat {
        match self {
            Self::Trajectories => &Trajectories,
            Self::Preferences => &Preferences,
            Self::Pairs => &Pairs,
            Self::RewardBench => &RewardBench,
            Self::RewardBench2 => &RewardBench2,
            Self::RmBench => &RmBench,
            Self::Trl => &Trl,
            Self::JudgeBench => &JudgeBench,
            Self::RmbPairs => &RmbPairs,
            Self::RmbBestOfN => &RmbBestOfN,
            Self::RmbRanked => &RmbRanked,
        }
    }

    /// The one with these rows, if it can be evaluated on.
    pub(crate) fn of(rows: &dyn RowFormat) -> Option<Self> {
        use clap::ValueEnum;
        Self::value_variants().iter().copied().find(|format| format.name() == rows.name())
    }

    /// What `--format` calls it.
    pub fn name(self) -> &'static str {
        self.rows().name()
    }

    /// Whether models can be trained on its rows too.
    pub(crate) fn is_training_data(self) -> bool {
        self.rows().training().is_some()
    }

    /// Where references come from if nobody says; `None` where only a file has any.
    pub fn default_source(self) -> Option<ReferenceSource> {
        self.rows().default_source()
    }

    /// What the set's paper averages; nothing where there is no such paper.
    pub fn sections(self) -> &'static [Section] {
        self.rows().sections()
    }
}

/// Who reads rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Knows all formats but those that only an evaluation has a use for.
    Training,
    /// Knows all formats.
    Evaluation,
}

impl Reader {
    fn knows(self, format: &dyn RowFormat) -> bool {
        self == Self::Evaluation || !is_for_evaluation_alone(format)
    }
}

fn is_for_evaluation_alone(format: &dyn RowFormat) -> bool {
    format.training().is_none() && format.evaluation().is_some()
}

/// Parses a row of any format.
///
/// # Errors
/// As [`Row::parse`].
pub(super) fn parse(text: &str) -> Result<Row> {
    Row::parse(text, |key| {
        let has = |format: &&dyn RowFormat| format.keys().contains(&key) || format.other_keys().contains(&key);
        FORMATS.iter().any(has)
    })
}

/// All keys that rows of `format` must have are there.
///
/// # Errors
/// The user's, with the first that is not.
pub(super) fn check(row: &Row, format: &dyn RowFormat) -> Result<()> {
    match format.keys().iter().find(|key| !row.has(key)) {
        None => Ok(()),
        Some(key) => {
            let lacks_reference = format.name() == Preferences.name() && !row.has("reference");
            let instead =
                if lacks_reference { "; to train on pairs without references give --references FILE" } else { "" };
            let (called, shape) = (format.called(), format.shape());
            Err(Error::user(format!("missing key {key:?}: {called} need {shape}{instead}")))
        }
    }
}

/// As [`check`], where the key `optional` may be missing and no other.
///
/// # Errors
/// As [`check`].
pub(super) fn check_but(row: &Row, format: &dyn RowFormat, optional: &str) -> Result<()> {
    match format.keys().iter().all(|key| *key == optional || row.has(key)) {
        true => Ok(()),
        false => check(row, format),
    }
}

/// The format of a row, by its keys.
///
/// # Errors
/// The user's: one that `reader` does not know.
pub(super) fn of(row: &Row, reader: Reader) -> Result<&'static dyn RowFormat> {
    let mut formats = FORMATS.iter().copied().filter(|format| reader.knows(*format));
    formats.find(|format| format.knows(row)).ok_or_else(|| {
        let (keys, known) = (list(&row.keys()), shapes(|format| !is_for_evaluation_alone(format)));
        Error::user(format!("a row with the keys {keys} is of no known kind; known are {known}"))
    })
}

/// The format of a file whose first row is `raw`.
///
/// # Errors
/// The user's, with what `reader` reads: what is not JSON, and a row of no format, without a key that it must have, or
/// that is to be scored.
pub(super) fn of_file(raw: Raw, reader: Reader) -> Result<&'static dyn RowFormat> {
    let known = || {
        if raw.plain_text {
            return Ok(&Documents as &dyn RowFormat);
        }
        let row = parse(raw.text()?)?;
        let format = of(&row, reader)?;
        if is_for_evaluation_alone(format) {
            return Ok(format);
        }
        check(&row, format)?;
        training(format).map(|_| format)
    };
    known().map_err(|error: Error| match reader {
        Reader::Training => error,
        Reader::Evaluation => {
            Error::user(format!("{error}; evaluation also reads {}", shapes(is_for_evaluation_alone)))
        }
    })
}

/// What training makes of rows of `format`.
///
/// # Errors
/// The user's, for rows that are to be scored.
pub(super) fn training(format: &dyn RowFormat) -> Result<Training> {
    format.training().ok_or_else(|| {
        Error::user(format!(
            "{} are for `polar-raw score`; training and evaluation take trajectories, preferences, pre-tokenised pairs \
             or documents",
            format.called()
        ))
    })
}

/// The name of a format and the keys of its rows, as messages have them.
pub(super) fn described(format: &dyn RowFormat) -> String {
    format!("{} {}", format.called(), format.shape())
}

fn shapes(which: fn(&dyn RowFormat) -> bool) -> String {
    let formats = FORMATS.iter().filter(|format| which(**format));
    formats.map(|format| described(*format)).collect::<Vec<_>>().join(", ")
}

/// Reads a row where it lies.
///
/// # Errors
/// The user's, with file, line and key.
fn read<T>(raw: Raw, item: fn(&mut Row, Raw) -> Result<T>) -> Result<T> {
    let read = || item(&mut parse(raw.text()?)?, raw);
    read().map_err(|error: Error| error.context(raw.place()))
}

/// Makes a group of every row: what `group` makes of a row, and `read` of one where it lies.
fn each_row(group: fn(&mut Row, Raw) -> Result<Group>, read: fn(Raw) -> Result<Group>) -> Box<dyn GroupMaker> {
    Box::new(EachRow { group, read })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_set_format_has_one_name() {
        for format in SetFormat::value_variants() {
            let listed = FORMATS.iter().filter(|rows| rows.name() == format.name());
            assert_eq!(listed.count(), 1, "{format:?}");
            assert_eq!(format.to_possible_value().unwrap().get_name(), format.name());
            assert_eq!(serde_json::to_value(format).unwrap(), format.name());
            assert!(format.rows().evaluation().is_some(), "{format:?}");
        }
        let evaluated = FORMATS.iter().filter(|format| format.evaluation().is_some());
        assert_eq!(evaluated.count(), SetFormat::value_variants().len());
    }
}
