//! Where the reference comes from, and what is left to judge beside it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use rand::RngExt;

use super::judgement::Judgement;
use super::sets::Set;
use crate::data::{Group, Raw, ReferenceSource, Row, RowFile, Rows, SetFormat, TextHash, text_hash};
use crate::error::{Error, Result};
use crate::rng;

impl ReferenceSource {
    /// The rule, for those who read the result.
    pub fn rule(self, format: SetFormat) -> &'static str {
        match (self, format) {
            (Self::LeaveOneOut, SetFormat::Trajectories) => {
                "reference and chosen are two samples of one policy, rejected is one of another, drawn by the seed; a \
                 candidate with the reference's text is left out"
            }
            (Self::Field, SetFormat::Pairs) => "the reference is in the token ids",
            (Self::Field, _) => "the row's own reference; a candidate with its text is left out",
            (Self::Best, _) => {
                "the best candidate of the row (the first of equals) is the reference; it and candidates with its text \
                 are left out"
            }
            (Self::LeaveOneOut, _) => {
                "each candidate in turn is the reference for the others that are not better; it and candidates with its \
                 text are left out"
            }
            (Self::None, _) => "none: the model scores a candidate by itself",
            (Self::File, _) => {
                "references of a file, joined by id or else by prompt; a candidate with its text is left out"
            }
        }
    }
}

/// Candidates to be scored with one reference. In memory are no texts: [`Trials::questions`] reads them.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// Place of the group in the set.
    pub group: u32,
    /// Judgements asked.
    pub judgements: u32,
    /// Place of the group's subset in [`Trials::subsets`].
    pub subset: u32,
    /// The candidate that is the reference, if it is one of the group.
    own: Option<u32>,
    prompt: TextHash,
    reference: TextHash,
}

/// A trial with its texts, and what its scores are asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// Place of the group in the set.
    pub at: usize,
    /// Prompt and candidates.
    pub group: Arc<Group>,
    /// Place of the group's subset in [`Trials::subsets`].
    pub subset: u32,
    /// The text to compare with; empty for token ids, which hold it.
    pub reference: String,
    /// Places of the candidates in the group.
    pub candidates: Vec<usize>,
    /// Places in judgements are places in `candidates`.
    pub judgements: Vec<Judgement>,
}

/// What is scored, and what is not.
#[derive(Clone, Debug)]
pub struct Trials {
    /// Group by group.
    pub trials: Vec<Trial>,
    /// The names of the set's subsets, in order of appearance.
    pub subsets: Vec<String>,
    /// Candidates that are not scored since their text is the reference's; the reference itself does not count.
    pub left_out_candidates: usize,
    /// Groups that nothing can be asked of.
    pub left_out_groups: usize,
    references: References,
    source: ReferenceSource,
}

/// References by id and by prompt, each read when it is wanted.
#[derive(Clone, Debug, Default)]
pub struct References {
    rows: Option<Rows<Joined>>,
    /// Hashes of ids and prompts, and the row of each with the hash of its reference.
    by_id: HashMap<TextHash, (usize, TextHash)>,
    by_prompt: HashMap<TextHash, (usize, TextHash)>,
}

/// A reference, and what it is joined by.
#[derive(Clone, Debug)]
struct Joined {
    id: Option<String>,
    prompt: Option<String>,
    reference: String,
}

impl Joined {
    fn read(raw: Raw) -> Result<Self> {
        let known = |key: &str| ["id", "prompt", "reference", "output"].contains(&key);
        let mut row = Row::parse(raw.text()?, known)?;
        let id = row.label(&["id"]);
        let reference = row.one_of(&["reference", "output"]).and_then(|key| row.text(key))?;
        let prompt = row.value(&["prompt"]).is_some().then(|| row.text("prompt")).transpose()?;
        Ok(Self { id, prompt, reference })
    }
}

impl References {
    /// Reads rows `{reference, id}` or `{reference, prompt}`; with both the id decides. `output` is taken for a missing
    /// `reference`.
    ///
    /// # Errors
    /// The user's, with file, line and key; and two different references of one id or prompt.
    pub fn read(path: &Path) -> Result<Self> {
        let mut references = Self::default();
        let mut row = 0;
        let (rows, _) = RowFile::open(path)?.rows(Joined::read, |joined| {
            row += 1;
            references.add(row - 1, &joined)
        })?;
        references.rows = Some(rows);
        Ok(references)
    }

    fn add(&mut self, row: usize, joined: &Joined) -> Result<()> {
        let (map, key) = match (&joined.id, &joined.prompt) {
            (Some(id), _) => (&mut self.by_id, id),
            (None, Some(prompt)) => (&mut self.by_prompt, prompt),
            (None, None) => return Err(Error::user("a reference needs an id or a prompt to be joined by")),
        };
        let hash = text_hash(&joined.reference);
        match map.insert(text_hash(key), (row, hash)) {
            Some((_, other)) if other != hash => {
                Err(Error::user("there is another reference of the same id or prompt"))
            }
            _ => Ok(()),
        }
    }

    /// The reference of a group, if there is one.
    ///
    /// # Errors
    /// When the file cannot be read any more.
    pub fn of(&self, group: &Group) -> Result<Option<String>> {
        let by_id = group.id.as_ref().and_then(|id| self.by_id.get(&text_hash(id)));
        let found = by_id.or_else(|| self.by_prompt.get(&text_hash(&group.prompt)));
        let (Some((row, _)), Some(rows)) = (found, &self.rows) else { return Ok(None) };
        Ok(Some(rows.get(*row)?.reference))
    }
}

/// What `set` is judged by, with references from `source`.
///
/// # Errors
/// The user's: a source that the set does not have, with what to choose; groups without a reference in the file;
/// nothing left to judge.
pub fn trials(set: &Set, source: ReferenceSource, references: References) -> Result<Trials> {
    trials_if_any(set, source, references)?.ok_or_else(|| {
        Error::user(format!(
            "--reference-source {} leaves nothing to judge in any of {} groups: beside the reference a row needs an answer \
             that is better than another; choose {}",
            source.name(),
            set.groups.len(),
            match (set.format, source) {
                (SetFormat::Trajectories | SetFormat::Pairs, _) => "other data",
                (_, ReferenceSource::File) => "other references",
                _ => "file, with --references FILE",
            }
        ))
    })
}

/// As [`trials`], and `None` where nothing is left to judge.
///
/// # Errors
/// The others of [`trials`], and when the data cannot be read any more.
pub fn trials_if_any(set: &Set, source: ReferenceSource, references: References) -> Result<Option<Trials>> {
    refuse(set.format, source)?;
    if u32::try_from(set.groups.len()).is_err() {
        return Err(Error::user(format!("{} groups are more than 2^32: split the file", set.groups.len())));
    }
    let (trials, subsets) = (Vec::new(), Vec::new());
    let mut all = Trials { trials, subsets, left_out_candidates: 0, left_out_groups: 0, references, source };
    let mut subsets = HashMap::new();
    let (mut unknown, mut first_unknown) = (0, None);
    for (at, group) in set.groups.iter().enumerate() {
        let group = Arc::new(group?);
        let next = subsets.len() as u32;
        let subset = *subsets.entry(group.subset.clone()).or_insert(next);
        if subset == next {
            all.subsets.push(group.subset.clone());
        }
        let before = all.trials.len();
        match source {
            ReferenceSource::None => all.judge(at, subset, &group, None, None),
            ReferenceSource::File => match all.references.of(&group)? {
                Some(reference) => all.judge(at, subset, &group, Some(reference), None),
                None => {
                    unknown += 1;
                    first_unknown.get_or_insert_with(|| match &group.id {
                        Some(id) => format!("id {id}"),
                        None => format!("the prompt of line {}", group.line),
                    });
                }
            },
            // Of trajectories, the drawing has left the reference out.
            ReferenceSource::LeaveOneOut if set.format == SetFormat::Trajectories => {
                all.judge(at, subset, &group, group.reference.clone(), None);
            }
            ReferenceSource::Field => all.judge(at, subset, &group, group.reference.clone(), None),
            ReferenceSource::Best => {
                let better = |a, b| if gain(&group, b) > gain(&group, a) { b } else { a };
                if let Some(best) = (0..group.candidates.len()).reduce(better) {
                    all.judge(at, subset, &group, text(&group, best), Some(best));
                }
            }
            ReferenceSource::LeaveOneOut => {
                for own in 0..group.candidates.len() {
                    all.judge(at, subset, &group, text(&group, own), Some(own));
                }
            }
        }
        all.left_out_groups += usize::from(all.trials.len() == before);
    }
    if let Some(first) = first_unknown {
        return Err(Error::user(format!(
            "--references has nothing for {unknown} of {} rows, first for {first}: add rows {{id, reference}} or {{prompt, \
             reference}}",
            set.groups.len()
        )));
    }
    Ok(Some(all).filter(|all| !all.trials.is_empty()))
}

fn gain(group: &Group, at: usize) -> f64 {
    group.candidates[at].gain
}

fn text(group: &Group, at: usize) -> Option<String> {
    group.candidates.get(at).and_then(|candidate| candidate.answer.text()).map(String::from)
}

/// Refuses what a format cannot give.
fn refuse(format: SetFormat, source: ReferenceSource) -> Result<()> {
    let fits = match format {
        SetFormat::Preferences => {
            matches!(source, ReferenceSource::Field | ReferenceSource::File | ReferenceSource::None)
        }
        SetFormat::Pairs => source == ReferenceSource::Field,
        SetFormat::Trajectories => source == ReferenceSource::LeaveOneOut,
        _ => source != ReferenceSource::Field,
    };
    if fits {
        return Ok(());
    }
    let instead = match format {
        SetFormat::Preferences => "field, or file with --references FILE",
        SetFormat::Pairs => "field: their references are in the ids",
        SetFormat::Trajectories => "leave-one-out: the reference is another sample of the policy",
        SetFormat::RewardBench
        | SetFormat::Trl
        | SetFormat::JudgeBench
        | SetFormat::RmbPairs
        | SetFormat::RmbBestOfN => "file, with --references FILE",
        SetFormat::RewardBench2 => "file, with --references FILE, or, for the subset Ties alone, leave-one-out",
        SetFormat::RmBench | SetFormat::RmbRanked => "best or leave-one-out, or file with --references FILE",
    };
    let what =
        if source == ReferenceSource::Field { "have no reference of their own" } else { "give no such reference" };
    Err(Error::user(format!("--reference-source {}: {} rows {what}; choose {instead}", source.name(), format.name())))
}

/// What is asked of `group` with `reference`, which is its candidate at `own` or from elsewhere; and how many candidates
/// are left out since their text is the reference's.
fn ask(group: &Group, reference: Option<&str>, own: Option<usize>) -> (Vec<usize>, Vec<Judgement>, usize) {
    let best = own.map_or(f64::INFINITY, |own| gain(group, own));
    let (mut same, mut candidates) = (0, Vec::new());
    for (place, candidate) in group.candidates.iter().enumerate() {
        if Some(place) == own || candidate.gain > best {
            continue;
        }
        if reference.is_some() && candidate.answer.text() == reference {
            same += 1;
        } else {
            candidates.push(place);
        }
    }
    let judgements = group.judgements(&candidates);
    (candidates, judgements, same)
}

impl Trials {
    /// Adds what can be asked of `group` with `reference`, which is its candidate at `own` or from elsewhere.
    fn judge(&mut self, at: usize, subset: u32, group: &Group, reference: Option<String>, own: Option<usize>) {
        let (_, judgements, same) = ask(group, reference.as_deref(), own);
        self.left_out_candidates += same;
        if !judgements.is_empty() {
            self.trials.push(Trial {
                group: at as u32,
                judgements: judgements.len() as u32,
                subset,
                own: own.map(|own| own as u32),
                prompt: text_hash(&group.prompt),
                reference: text_hash(reference.as_deref().unwrap_or_default()),
            });
        }
    }

    /// Judgements asked.
    pub fn judgements(&self) -> usize {
        self.trials.iter().map(|trial| trial.judgements as usize).sum()
    }

    /// The trials in order with their texts, each read when it is wanted; a group once for all of its trials.
    pub fn questions<'a>(&'a self, set: &'a Set) -> impl Iterator<Item = Result<Question>> + 'a {
        let mut last: Option<(u32, Arc<Group>)> = None;
        self.trials.iter().map(move |trial| {
            let group = match last.take().filter(|(at, _)| *at == trial.group) {
                Some((_, group)) => group,
                None => Arc::new(set.groups.get(trial.group as usize)?),
            };
            last = Some((trial.group, group.clone()));
            let reference = self.reference(trial, &group)?;
            let (candidates, judgements, _) = ask(&group, reference.as_deref(), trial.own.map(|own| own as usize));
            let (at, subset, reference) = (trial.group as usize, trial.subset, reference.unwrap_or_default());
            Ok(Question { at, group, subset, reference, candidates, judgements })
        })
    }

    fn reference(&self, trial: &Trial, group: &Group) -> Result<Option<String>> {
        match (trial.own, self.source) {
            (Some(own), _) => Ok(text(group, own as usize)),
            (None, ReferenceSource::File) => self.references.of(group),
            (None, ReferenceSource::None) => Ok(None),
            (None, _) => Ok(group.reference.clone()),
        }
    }

    /// What gives each trial the reference of another prompt that is none of its candidates. `None` where there is no
    /// other trial, or the references are in token ids.
    pub fn control<'a>(&'a self, set: &'a Set, seed: u64) -> Option<Control<'a>> {
        let n = self.trials.len();
        if n < 2 || set.format == SetFormat::Pairs {
            return None;
        }
        let start = rng::stream(seed, "shuffled references", 0).random_range(1..n);
        Some(Control { trials: self, set, start })
    }
}

/// The same questions with references of other prompts.
#[derive(Clone, Copy)]
pub struct Control<'a> {
    trials: &'a Trials,
    set: &'a Set,
    start: usize,
}

impl Control<'_> {
    /// The question of trial `at` with another reference; `None` where no other trial has one.
    ///
    /// # Errors
    /// When the file cannot be read any more, or was changed.
    pub fn question(&self, at: usize, question: &Question) -> Result<Option<Question>> {
        let all = &self.trials.trials;
        let Some(trial) = all.get(at) else { return Ok(None) };
        let own: Vec<TextHash> =
            question.group.candidates.iter().filter_map(|c| c.answer.text()).map(text_hash).collect();
        let mut others = (0..all.len()).map(|d| &all[(at + self.start + d) % all.len()]);
        let other = others.find(|other| {
            other.prompt != trial.prompt && other.reference != trial.reference && !own.contains(&other.reference)
        });
        let Some(other) = other else { return Ok(None) };
        let reference = self.trials.reference(other, &self.set.groups.get(other.group as usize)?)?;
        Ok(Some(Question { reference: reference.unwrap_or_default(), ..question.clone() }))
    }
}

#[cfg(test)]
mod tests;
