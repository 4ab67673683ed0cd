//! The result of an evaluation: what is printed, written as JSON and shown on the page.

use std::fmt;

use serde::Serialize;

use super::compare::Difference;
use super::judge::{self, Judge, Truncation};
use super::outcome::{self, Averages, Judged, Lengths, Margins, Part};
use super::reference::{Question, Trials};
use super::sets::Set;
use super::table::{CONTROL, Example, MODEL, Table, TableRow};
use crate::baselines::Baseline;
use crate::data::{ReferenceSource, SetFormat};
use crate::error::Result;
use crate::polar::{Form, Identical, TemplateConfig};

/// Version of the JSON. It rises when a key changes its meaning or goes.
pub const VERSION: u32 = 1;

/// An evaluation of one model or several on one set.
#[derive(Clone, Debug, Serialize)]
pub struct EvalResult {
    /// [`VERSION`].
    pub version: u32,
    /// The program that measured, with its version.
    pub program: String,
    /// What was judged.
    pub data: Data,
    /// What it was compared with.
    pub references: ReferenceFacts,
    /// Seed of what is drawn: triples of trajectories, control, bootstrap.
    pub seed: u64,
    /// What computed.
    pub device: String,
    /// Tokens of one pass, at most.
    pub pack_length: usize,
    /// The models, in the order given.
    pub models: Vec<ModelResult>,
    /// Every two models, the earlier first.
    pub comparisons: Vec<Comparison>,
}

/// The set.
#[derive(Clone, Debug, Serialize)]
pub struct Data {
    /// Path as given.
    pub file: String,
    /// BLAKE3 of its text, unpacked.
    pub blake3: String,
    /// What its rows are.
    pub format: SetFormat,
    /// Rows in the file.
    pub rows: usize,
    /// Prompts with candidates that the rows make.
    pub groups: usize,
    /// Judgements asked.
    pub judgements: usize,
    /// How the groups were made.
    pub notes: Vec<String>,
}

/// Where the references are from.
#[derive(Clone, Debug, Serialize)]
pub struct ReferenceFacts {
    /// The value of `--reference-source`.
    pub source: ReferenceSource,
    /// Whether it is what the format has by default.
    pub default: bool,
    /// The file of references, where there is one.
    pub file: Option<String>,
    /// The rule in words.
    pub rule: &'static str,
    /// Candidates not scored since their text is the reference's.
    pub left_out_candidates: usize,
    /// Groups that nothing could be asked of.
    pub left_out_groups: usize,
}

/// What one model did.
#[derive(Clone, Debug, Serialize)]
pub struct ModelResult {
    /// Short name for tables.
    pub name: String,
    /// Path as given.
    pub path: String,
    /// BLAKE3 over the names and contents of the model's files.
    pub blake3: String,
    /// What the strings were; none of token ids.
    pub form: Option<Form>,
    /// How strings were built and cut.
    pub template: TemplateConfig,
    /// All of the set, its subsets and levels, against model, baselines and control.
    pub table: Table,
    /// The set as one number.
    pub averages: Averages,
    /// How scores go with length.
    pub length: Lengths,
    /// How far right and wrong are apart.
    pub margins: Option<Margins>,
    /// What was cut.
    pub truncation: Truncation,
    /// Judgements whose candidates are the same by their tokens.
    pub identical: Identical,
    /// Every score.
    pub scores: Vec<Scored>,
    /// The judgements behind the table.
    #[serde(skip)]
    pub judged: Vec<Judged>,
    /// Length in tokens and score of every candidate, less the means of its trial.
    #[serde(skip)]
    pub around_mean: Vec<(f64, f64)>,
}

/// The scores of one trial.
#[derive(Clone, Debug, Serialize)]
pub struct Scored {
    /// Place of the group, from 0.
    pub group: usize,
    /// The file of its row, in a set of several files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line of its row, from 1; 0 where the row's line was not kept.
    pub line: usize,
    /// Its name in the set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its subset.
    pub subset: String,
    /// Places of the candidates in the row, from 0: the chosen ones first.
    pub candidates: Vec<usize>,
    /// Their scores.
    pub scores: Vec<f32>,
    /// Judgements that are right.
    pub right: usize,
    /// Judgements asked.
    pub of: usize,
}

/// Two models side by side.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The first model's name.
    pub a: String,
    /// The second model's name.
    pub b: String,
    /// All of the set, its subsets and levels.
    pub rows: Vec<Difference>,
}

/// What a measurement needs beside the judge.
pub struct Task<'a> {
    /// What the set is called in tables.
    pub name: &'a str,
    /// What is judged.
    pub set: &'a Set,
    /// With which references.
    pub trials: &'a Trials,
    /// What stands beside the model.
    pub baselines: Vec<&'a dyn Baseline>,
    /// Decides which reference takes which one's place in the control.
    pub seed: u64,
}

/// What [`measure`] has found.
pub struct Measured {
    /// The table.
    pub table: Table,
    /// Every judgement.
    pub judged: Vec<Judged>,
    /// Those whose candidates are the same by their tokens. If all are, the table has no row.
    pub identical: Identical,
}

/// Judges `task` by `judge`, the baselines, and `judge` again with references of other prompts, some questions at a time.
/// `each` sees every question with the judge's scores, and without the judgements whose candidates are the same tokens.
///
/// # Errors
/// The judge's, those of `each`, and when a file cannot be read any more.
pub fn measure<J: Judge>(
    task: &Task,
    judge: &mut J,
    mut each: impl FnMut(&Question, Vec<f32>) -> Result<()>,
) -> Result<Measured> {
    /// Questions held at once.
    const CHUNK: usize = 256;
    let (set, trials) = (task.set, task.trials);
    let with_text = set.format != SetFormat::Pairs;
    let baselines = if with_text { &task.baselines[..] } else { &[] };
    let mut control = trials.control(set, task.seed).filter(|_| judge.uses_references());
    let mut columns = vec![MODEL.to_string()];
    columns.extend(baselines.iter().map(|baseline| baseline.name().to_string()));
    columns.extend(with_text.then(|| CONTROL.to_string()));
    let mut judged: Vec<Vec<Judged>> = vec![Vec::new(); columns.len()];
    let mut identical = Identical::default();
    let (mut questions, mut at) = (trials.questions(set), 0);
    loop {
        let some = questions.by_ref().take(CHUNK).collect::<Result<Vec<_>>>()?;
        if some.is_empty() {
            break;
        }
        let scores = judge.scores(&some)?;
        let same = judge.same().to_vec();
        let before = judged[0].len();
        judged[0].extend(outcome::judged(&some, &scores, &same));
        identical.pairs += judged[0][before..].iter().filter(|j| j.identical).count() as u64;
        for (column, baseline) in judged[1..].iter_mut().zip(baselines) {
            column.extend(outcome::judged(&some, &judge::of_baseline(*baseline).scores(&some)?, &same));
        }
        if let (Some(others), Some(column)) = (control, judged.last_mut()) {
            let others = some.iter().enumerate().map(|(i, question)| others.question(at + i, question));
            match others.collect::<Result<Option<Vec<_>>>>()? {
                Some(others) => column.extend(outcome::judged(&others, &judge.control(&others)?, &same)),
                // One question without another reference, and there is no control.
                None => {
                    control = None;
                    column.clear();
                }
            }
        }
        at += some.len();
        for (i, (mut question, scores)) in some.into_iter().zip(scores).enumerate() {
            if let Some(same) = same.get(i) {
                question.judgements.retain(|judgement| !same.spoils(judgement));
                for judgement in &question.judgements {
                    identical.better_is_reference += u64::from(same.has_reference(&judgement.better));
                    identical.worse_is_reference += u64::from(same.has_reference(&judgement.worse));
                }
            }
            if !question.judgements.is_empty() {
                each(&question, scores)?;
            }
        }
    }
    if judged[0].iter().all(|j| j.identical) {
        columns.clear();
        return Ok(Measured { table: Table { columns, rows: Vec::new() }, judged: judged.swap_remove(0), identical });
    }
    let parts = outcome::parts(task.name, trials, &judged[0]);
    let rows = parts.iter().enumerate().map(|(i, part)| row(part, &judged, i == 0)).collect();
    Ok(Measured { table: Table { columns, rows }, judged: judged.swap_remove(0), identical })
}

/// One row; scores stand in the first alone.
fn row(part: &Part, columns: &[Vec<Judged>], with_scores: bool) -> TableRow {
    let of = |judged: &Vec<Judged>| outcome::accuracy(part.places.iter().filter_map(|&at| judged.get(at)));
    let mine = || part.places.iter().map(|&at| &columns[0][at]);
    let kept = || mine().filter(|_| with_scores);
    TableRow {
        name: part.name.clone(),
        accuracies: columns.iter().map(of).collect(),
        chance: mine().map(|j| j.chance).sum::<f64>() / part.places.len().max(1) as f64,
        chosen: kept().map(|j| j.better).collect(),
        rejected: kept().map(|j| j.worse).collect(),
    }
}

/// A question of two texts with its scores, to be read; `set` is what its set is called.
pub fn example(set: &str, question: &Question, scores: &[f32]) -> Option<Example> {
    let group = &question.group;
    let ([better, worse], &[chosen, rejected]) = (&question.candidates[..], scores) else { return None };
    let text = |place: usize| group.candidates[place].answer.text().map(str::to_string);
    Some(Example {
        row: set.into(),
        prompt: group.prompt.clone(),
        reference: question.reference.clone(),
        chosen: text(*better)?,
        rejected: text(*worse)?,
        scores: [chosen, rejected],
    })
}

/// Scores with the row that they are from; with its file too if that is not said elsewhere.
pub fn scored(question: &Question, scores: Vec<f32>, with_file: bool) -> Scored {
    let group = &question.group;
    let file = group.file.as_ref().filter(|_| with_file).map(|file| file.display().to_string());
    let right = question.judgements.iter().filter(|j| {
        let (low, high) = j.ends(&scores);
        low > high
    });
    Scored {
        group: question.at,
        file,
        line: group.line,
        id: group.id.clone(),
        subset: group.subset.clone(),
        candidates: question.candidates.clone(),
        right: right.count(),
        of: question.judgements.len(),
        scores,
    }
}

/// Length in tokens and score of every candidate, less their means; `tokens` are the lengths of all candidates of the
/// group.
pub fn around_mean<'a>(
    question: &'a Question,
    scores: &'a [f32],
    tokens: &'a [usize],
) -> impl Iterator<Item = (f64, f64)> + 'a {
    let lengths = || question.candidates.iter().map(|&place| tokens[place] as f64);
    let scores = || scores.iter().map(|&score| f64::from(score));
    let n = scores().len().max(1) as f64;
    let (x, y) = (lengths().sum::<f64>() / n, scores().sum::<f64>() / n);
    lengths().zip(scores()).map(move |(length, score)| (length - x, score - y))
}

/// `0.0123`, or `<0.0001`.
pub(super) fn p_value(p: f64) -> String {
    if p < 1e-4 { "<0.0001".into() } else { format!("{p:.4}") }
}

/// `12.3 %`.
pub(super) fn percent(part: usize, of: usize) -> String {
    format!("{:.1} %", 100.0 * part as f64 / of.max(1) as f64)
}

impl fmt::Display for EvalResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (data, references) = (&self.data, &self.references);
        writeln!(f, "{}: {} rows of {}, {} judgements", data.file, data.rows, data.format.name(), data.judgements)?;
        for note in &data.notes {
            writeln!(f, "{note}")?;
        }
        let default = if references.default { " (the default)" } else { "" };
        writeln!(f, "reference source: {}{default}: {}", references.source.name(), references.rule)?;
        if references.left_out_candidates + references.left_out_groups > 0 {
            writeln!(
                f,
                "left out: {} candidates with the reference's text; {} of {} groups, with nothing to judge",
                references.left_out_candidates, references.left_out_groups, data.groups
            )?;
        }
        for model in &self.models {
            writeln!(f, "\n{}", model.path)?;
            write!(f, "{model}")?;
        }
        for comparison in &self.comparisons {
            write!(f, "\n{comparison}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ModelResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.table)?;
        if let Some(mean) = self.averages.by_section {
            let sections = self.averages.sections.iter().map(|s| format!("{} {:.3}", s.name, s.accuracy));
            let sections = sections.collect::<Vec<_>>().join(", ");
            writeln!(f, "average: by pairs {:.3}; by section {mean:.3} ({sections})", self.averages.by_pairs)?;
        }
        for line in self.readings() {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

impl ModelResult {
    /// Margins, lengths and truncation, a sentence each.
    pub fn readings(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(m) = &self.margins {
            let [low, lower, median, upper, high] = m.quantiles;
            let ties = if m.ties > 0 { format!(", {} ties", m.ties) } else { String::new() };
            lines.push(format!(
                "margin: mean {:.3}, median {median:.3}, quartiles {lower:.3} and {upper:.3}, 5 % to 95 % {low:.3} to \
                 {high:.3}{ties}",
                m.mean
            ));
        }
        let l = &self.length;
        if let Some(wins) = l.longer_wins {
            let spearman = l.spearman.map_or(String::from("-"), |r| format!("{r:+.3}"));
            let data = l.longer_is_better.map_or(String::from("-"), |share| format!("{share:.3}"));
            lines.push(format!(
                "length: Spearman with the score {spearman}; of {} pairs of different length the longer one scores higher \
                 in {wins:.3}, and is the better one in {data}",
                l.pairs
            ));
        }
        let t = &self.truncation;
        if t.sequences > 0 {
            let of = |part| percent(part, t.sequences);
            lines.push(format!(
                "truncated: {} of {} sequences (prompt {}, reference {}, candidate {})",
                of(t.any),
                t.sequences,
                of(t.prompt),
                of(t.reference),
                of(t.candidate)
            ));
            lines.extend(self.identical.sentences("better answer", "worse one"));
            if t.same_as_reference > 0 {
                lines.push(format!(
                    "candidate and reference are the same tokens, after cutting, in {} of the sequences",
                    of(t.same_as_reference)
                ));
            }
        }
        lines
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(10);
        writeln!(f, "a = {}, b = {}", self.a, self.b)?;
        writeln!(
            f,
            "{:names$}  {:>6}  {:>12}  {:>12}  {:>8}  {:>16}  {:>11}  {:>9}",
            "difference", "pairs", "a", "b", "b - a", "95 % interval", "only a / b", "McNemar p"
        )?;
        for row in &self.rows {
            let (low, high) = row.interval;
            writeln!(
                f,
                "{:names$}  {:>6}  {:>12}  {:>12}  {:>+8.3}  {:>16}  {:>11}  {:>9}{}",
                row.name,
                row.a.pairs,
                row.a.to_string(),
                row.b.to_string(),
                row.difference,
                format!("[{low:+.3}, {high:+.3}]"),
                format!("{} / {}", row.only_a, row.only_b),
                p_value(row.mcnemar_p),
                if row.is_real() { " *" } else { "" }
            )?;
        }
        writeln!(
            f,
            "* the difference is real: the interval, a paired bootstrap over rows, leaves out zero, and the sign test over \
             rows has p < 0.05, times the number of parts or models that are compared (Holm)"
        )
    }
}
