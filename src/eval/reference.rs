//! Where the reference comes from, and what is left to judge beside it.

use std::collections::HashMap;
use std::path::Path;

use rand::RngExt;

use super::group::{Answer, Group, Judgement, ReferenceSource};
use super::sets::{Format, Set, rows};
use crate::error::{Error, Result};
use crate::rng;

impl ReferenceSource {
    /// The rule, for those who read the result.
    pub fn rule(self, format: Format) -> &'static str {
        match (self, format) {
            (Self::LeaveOneOut, Format::Trajectories) => {
                "reference and chosen are two samples of one policy, rejected is one of another, drawn by the seed; a \
                 candidate with the reference's text is left out"
            }
            (Self::Field, Format::Pairs) => "the reference is in the token ids",
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

/// Candidates to be scored with one reference, and what their scores are asked.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Place of the group in the set.
    pub group: usize,
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
    /// Candidates that are not scored since their text is the reference's; the reference itself does not count.
    pub left_out_candidates: usize,
    /// Groups that nothing can be asked of.
    pub left_out_groups: usize,
}

/// References by id and by prompt.
#[derive(Clone, Debug, Default)]
pub struct References {
    by_id: HashMap<String, String>,
    by_prompt: HashMap<String, String>,
}

impl References {
    /// Reads rows `{reference, id}` or `{reference, prompt}`; with both the id decides. `output` is taken for a missing
    /// `reference`.
    ///
    /// # Errors
    /// The user's, with file, line and key; and two different references of one id or prompt.
    pub fn read(path: &Path) -> Result<Self> {
        let mut references = Self::default();
        for row in rows::parse(path, &rows::text(path)?)? {
            let mut add = || {
                let reference = row.text(&["reference", "output"])?;
                let prompt = if row.has("prompt") { Some(row.text(&["prompt"])?) } else { None };
                let (map, key) = match (row.name(&["id"]), prompt) {
                    (Some(id), _) => (&mut references.by_id, id),
                    (None, Some(prompt)) => (&mut references.by_prompt, prompt),
                    (None, None) => return Err(Error::user("a reference needs an id or a prompt to be joined by")),
                };
                match map.insert(key, reference.clone()) {
                    Some(other) if other != reference => {
                        Err(Error::user("there is another reference of the same id or prompt"))
                    }
                    _ => Ok(()),
                }
            };
            add().map_err(|e| e.context(format!("{}:{}", path.display(), row.line)))?;
        }
        Ok(references)
    }

    fn of(&self, group: &Group) -> Option<&str> {
        let by_id = group.id.as_ref().and_then(|id| self.by_id.get(id));
        by_id.or_else(|| self.by_prompt.get(&group.prompt)).map(String::as_str)
    }
}

/// What `set` is judged by, with references from `source`.
///
/// # Errors
/// The user's: a source that the set does not have, with what to choose; groups without a reference in the file;
/// nothing left to judge.
pub fn trials(set: &Set, source: ReferenceSource, references: &References) -> Result<Trials> {
    refuse(set.format, source)?;
    let mut all = Trials { trials: Vec::new(), left_out_candidates: 0, left_out_groups: 0 };
    let mut unknown = Vec::new();
    for (at, group) in set.groups.iter().enumerate() {
        let before = all.trials.len();
        match source {
            // Of trajectories, the drawing has left the reference out.
            ReferenceSource::Field => all.judge(at, group, group.reference.as_deref(), None),
            ReferenceSource::LeaveOneOut if set.format == Format::Trajectories => {
                all.judge(at, group, group.reference.as_deref(), None);
            }
            ReferenceSource::None => all.judge(at, group, None, None),
            ReferenceSource::File => match references.of(group) {
                Some(reference) => all.judge(at, group, Some(reference), None),
                None => unknown.push(group),
            },
            ReferenceSource::Best => {
                let best =
                    (0..group.candidates.len()).reduce(|a, b| if gain(group, b) > gain(group, a) { b } else { a });
                if let Some(best) = best {
                    all.judge(at, group, group.candidates[best].answer.text(), Some(best));
                }
            }
            ReferenceSource::LeaveOneOut => {
                for own in 0..group.candidates.len() {
                    all.judge(at, group, group.candidates[own].answer.text(), Some(own));
                }
            }
        }
        all.left_out_groups += usize::from(all.trials.len() == before);
    }
    if let Some(first) = unknown.first() {
        let name =
            first.id.as_ref().map_or_else(|| format!("the prompt of line {}", first.line), |id| format!("id {id}"));
        return Err(Error::user(format!(
            "--references has nothing for {} of {} rows, first for {name}: add rows {{id, reference}} or {{prompt, reference}}",
            unknown.len(),
            set.groups.len()
        )));
    }
    if all.trials.is_empty() {
        return Err(Error::user(format!(
            "--reference-source {} leaves nothing to judge in any of {} groups: beside the reference a row needs an answer \
             that is better than another; choose {}",
            source.name(),
            set.groups.len(),
            match (set.format, source) {
                (Format::Trajectories | Format::Pairs, _) => "other data",
                (_, ReferenceSource::File) => "other references",
                _ => "file, with --references FILE",
            }
        )));
    }
    Ok(all)
}

fn gain(group: &Group, at: usize) -> f64 {
    group.candidates[at].gain
}

/// Refuses what a format cannot give.
fn refuse(format: Format, source: ReferenceSource) -> Result<()> {
    let fits = match format {
        Format::Preferences => matches!(source, ReferenceSource::Field | ReferenceSource::File | ReferenceSource::None),
        Format::Pairs => source == ReferenceSource::Field,
        Format::Trajectories => source == ReferenceSource::LeaveOneOut,
        _ => source != ReferenceSource::Field,
    };
    if fits {
        return Ok(());
    }
    let instead = match format {
        Format::Preferences => "field, or file with --references FILE",
        Format::Pairs => "field: their references are in the ids",
        Format::Trajectories => "leave-one-out: the reference is another sample of the policy",
        Format::RewardBench | Format::JudgeBench | Format::RmbPairs | Format::RmbBestOfN => {
            "file, with --references FILE"
        }
        Format::RewardBench2 => "file, with --references FILE, or, for the subset Ties alone, leave-one-out",
        Format::RmBench | Format::RmbRanked => "best or leave-one-out, or file with --references FILE",
    };
    let what =
        if source == ReferenceSource::Field { "have no reference of their own" } else { "give no such reference" };
    Err(Error::user(format!("--reference-source {}: {} rows {what}; choose {instead}", source.name(), format.name())))
}

impl Trials {
    /// Adds what can be asked of `group` with `reference`, which is its candidate at `own` or from elsewhere.
    fn judge(&mut self, at: usize, group: &Group, reference: Option<&str>, own: Option<usize>) {
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
        self.left_out_candidates += same;
        if !judgements.is_empty() {
            let reference = reference.unwrap_or_default().to_string();
            self.trials.push(Trial { group: at, reference, candidates, judgements });
        }
    }

    /// The same trials, each with the reference of another prompt that is none of its candidates: the control. `None`
    /// where a trial has no such other one, or the references are in token ids.
    pub fn shuffled(&self, set: &Set, seed: u64) -> Option<Vec<Trial>> {
        let n = self.trials.len();
        if n < 2 || set.format == Format::Pairs {
            return None;
        }
        let start = rng::stream(seed, "shuffled references", 0).random_range(1..n);
        let other = |i: usize| {
            let trial = &self.trials[i];
            let group = &set.groups[trial.group];
            let is_own =
                |text: &str| group.candidates.iter().any(|c| matches!(&c.answer, Answer::Text(t) if t == text));
            let mut others = (0..n).map(|d| &self.trials[(i + start + d) % n]);
            let other = others.find(|other| {
                let prompt = &set.groups[other.group].prompt;
                *prompt != group.prompt && other.reference != trial.reference && !is_own(&other.reference)
            })?;
            Some(Trial { reference: other.reference.clone(), ..trial.clone() })
        };
        (0..n).map(other).collect()
    }
}

#[cfg(test)]
mod tests;
