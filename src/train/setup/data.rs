//! The data of a run: files, or the policy zoo; and what of it is held out.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::EvalSet;
use super::examples::Examples;
use crate::config::Config;
use crate::data::{
    Complaints, Document, Group, Groups, Records, Rows, TextHash, Triple, read, read_all, split_by_prompt, text_hash,
};
use crate::error::{Error, Result};
use crate::eval::reference::References;
use crate::eval::{set_name, sets};
use crate::files;
use crate::model::ModelConfig;
use crate::polar::TemplateConfig;
use crate::tokenizer::Tokenizer;
use crate::train::feed::TrainingSource;
use crate::zoo::{Split, Zoo};

/// The data as read, before it is turned into examples.
pub(super) enum Data {
    Zoo(Zoo),
    Files { train: Records, eval: Vec<(String, Records)> },
}

impl Data {
    pub(super) fn read(config: &Config, notes: &mut Vec<String>, warnings: &mut Vec<String>) -> Result<Self> {
        let names: Vec<_> = config.data.eval.iter().map(|path| set_name(path)).collect();
        let mut eval = Vec::new();
        for (path, name) in config.data.eval.iter().zip(&names) {
            // Two files of one name are told apart by their folders.
            let unique = names.iter().filter(|other| *other == name).count() == 1;
            eval.push((if unique { name.clone() } else { path.display().to_string() }, read(path)?));
        }
        if config.data.train.is_empty() {
            let zoo = Zoo::new(&config.zoo)?;
            let z = &config.zoo;
            notes.push(format!(
                "data: the policy zoo, seed {}, {} training policies, {} held out",
                z.seed, z.train_policies, z.held_out_policies
            ));
            if eval.is_empty() {
                return Ok(Self::Zoo(zoo));
            }
            return Err(Error::user(
                "--eval-data goes with --data; a run on the policy zoo evaluates on the zoo. \
                 To evaluate a trained model on a file: polar-raw eval --model DIR --data FILE",
            ));
        }
        let mut train = match &config.data.references {
            None => read_all(&config.data.train)?,
            Some(references) => with_references(&config.data.train, references)?,
        };
        notes.push(format!("data: {} rows of {}", train.len(), train.kind()));
        for ((name, set), path) in eval.iter().zip(&config.data.eval) {
            let (prompts, trained) = trained_on(set, &train)?;
            if trained > 0 {
                warnings.push(format!(
                    "{name}: {trained} of its {prompts} prompts are trained on too; what is measured on these does not say \
                     how the model judges others"
                ));
            }
            // Of token ids no prompt is known.
            let of_ids = [set, &train].into_iter().all(|records| matches!(records, Records::Pairs(_)));
            if let Some(same) = same_file(path, &config.data.train)?.filter(|_| of_ids) {
                warnings.push(format!(
                    "{name}: the file has the bytes of {}, which is trained on; what is measured on it does not say how the \
                     model judges other pairs",
                    same.display()
                ));
            }
        }
        if eval.is_empty() && config.data.eval_fraction > 0.0 {
            let (kept, held_out) = split(train, config.data.eval_fraction, config.train.seed)?;
            if kept.is_empty() {
                return Err(Error::user(format!(
                    "data.eval_fraction = {} holds out every prompt and leaves none to train on: lower it, or give \
                     --eval-data",
                    config.data.eval_fraction
                )));
            }
            train = kept;
            notes.push(match held_out.len() {
                0 if matches!(train, Records::Pairs(_)) => {
                    "held out for evaluation: nothing, since ids do not say what their prompt is; give --eval-data"
                        .into()
                }
                0 => "held out for evaluation: nothing; give --eval-data or raise data.eval_fraction".into(),
                rows => format!("held out for evaluation: {rows} rows, by prompt"),
            });
            if !held_out.is_empty() {
                eval.push(("held-out prompts".into(), held_out));
            }
        }
        Ok(Self::Files { train, eval })
    }

    /// Whether no row has text.
    pub(super) fn is_ids(&self) -> bool {
        match self {
            Self::Zoo(_) => false,
            Self::Files { train, eval } => {
                std::iter::once(train).chain(eval.iter().map(|(_, set)| set)).all(|r| matches!(r, Records::Pairs(_)))
            }
        }
    }

    /// What `train` makes of the text to train a tokenizer on, in the order of the examples.
    ///
    /// # Errors
    /// Those of `train`, and when the data cannot be read any more.
    pub(super) fn with_texts<T>(&self, train: impl FnOnce(&mut dyn Iterator<Item = String>) -> Result<T>) -> Result<T> {
        let mut failed = None;
        let made = match self {
            Self::Zoo(zoo) => train(&mut (0..).flat_map(|i| {
                let Triple { prompt, reference, chosen, rejected, .. } = zoo.triple(Split::Train, i);
                [prompt, reference, chosen, rejected]
            })),
            Self::Files { train: records, .. } => {
                let mut texts: Box<dyn Iterator<Item = Result<Vec<String>>>> = match records {
                    Records::Trajectories(rows) => {
                        Box::new(rows.iter().map(|row| row.map(|t| vec![t.prompt, t.output])))
                    }
                    Records::Preferences(rows) => {
                        Box::new(rows.iter().map(|row| row.map(|t| vec![t.prompt, t.reference, t.chosen, t.rejected])))
                    }
                    Records::Documents(rows) => Box::new(rows.iter().map(|row| row.map(|d| vec![d.prompt, d.output]))),
                    Records::Pairs(_) => Box::new(std::iter::empty()),
                };
                let mut until_failed = texts.by_ref().map_while(|row| row.map_err(|error| failed = Some(error)).ok());
                train(&mut until_failed.by_ref().flatten())
            }
        };
        failed.map_or(made, Err)
    }

    pub(super) fn into_parts(
        self,
        config: &Config,
        tokenizer: Option<&Tokenizer>,
        template: &TemplateConfig,
        model: &ModelConfig,
        notes: &mut Vec<String>,
    ) -> Result<(TrainingSource, Vec<EvalSet>)> {
        let examples = Examples { config, tokenizer, template, model };
        match self {
            Self::Zoo(zoo) => {
                let sets = examples.zoo_sets(&zoo)?;
                Ok((TrainingSource::Zoo(zoo), sets))
            }
            Self::Files { train, eval } => {
                let files: Vec<_> = config.data.train.iter().map(|path| path.display().to_string()).collect();
                let source = examples.source(train, &files.join(", "))?;
                let mut sets = Vec::new();
                for (number, (name, records)) in eval.into_iter().enumerate() {
                    match examples.eval_set(number, name, records, notes) {
                        Ok(set) => sets.push(set),
                        // What was held out by chance may be of no use, and nobody has asked for it.
                        Err(error) if config.data.eval.is_empty() => notes.push(format!("not evaluated: {error}")),
                        Err(error) => return Err(error),
                    }
                }
                Ok((source, sets))
            }
        }
    }
}

/// The first of `files` that has the bytes of the file `path`.
fn same_file<'a>(path: &Path, files: &'a [PathBuf]) -> Result<Option<&'a PathBuf>> {
    let length = |path: &Path| path.metadata().map(|found| found.len()).ok();
    let mut known = None;
    for file in files.iter().filter(|file| file.is_file() && length(file) == length(path)) {
        let hash = match &known {
            Some(hash) => hash,
            None => known.insert(files::hash(path)?),
        };
        if *hash == files::hash(file)? {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// Different prompts of `set`, and how many of them are trained on; of token ids, which do not say what their prompt is,
/// none.
fn trained_on(set: &Records, train: &Records) -> Result<(usize, usize)> {
    let mut found: HashMap<TextHash, bool> = HashMap::new();
    each_prompt(set, |prompt| {
        found.insert(prompt, false);
    })?;
    if !found.is_empty() {
        each_prompt(train, |prompt| {
            if let Some(trained) = found.get_mut(&prompt) {
                *trained = true;
            }
        })?;
    }
    Ok((found.len(), found.values().filter(|trained| **trained).count()))
}

/// Shows the prompt of every row to `see`; of a document without one its text.
fn each_prompt(records: &Records, mut see: impl FnMut(TextHash)) -> Result<()> {
    let mut see = |prompt: &str| see(text_hash(prompt));
    match records {
        Records::Trajectories(rows) => rows.iter().try_for_each(|row| row.map(|row| see(&row.prompt))),
        Records::Preferences(rows) => rows.iter().try_for_each(|row| row.map(|row| see(&row.prompt))),
        Records::Documents(rows) => rows.iter().try_for_each(|row| row.map(|row| see(split_key(&row)))),
        Records::Pairs(_) => Ok(()),
    }
}

/// What documents are told apart by.
fn split_key(row: &Document) -> &str {
    if row.prompt.is_empty() { &row.output } else { &row.prompt }
}

/// Pairs of any format that can be evaluated on, each with the reference that the file `references` has for it.
fn with_references(files: &[PathBuf], references: &Path) -> Result<Records> {
    let found = References::read(references)?;
    let mut groups: Vec<Groups> = Vec::new();
    let mut ends = Vec::new();
    let mut complaints = Complaints::default();
    for file in files {
        let set = sets::read(file, None, 0)?;
        for group in set.groups.iter() {
            let group = group?;
            if let Err(error) = triple(&group, &found) {
                complaints.add_at(&format!("{}:{}", file.display(), group.line), error)?;
            }
        }
        ends.push(ends.last().unwrap_or(&0) + set.groups.len());
        groups.push(set.groups);
    }
    complaints.finish()?;
    let count = ends.last().copied().unwrap_or(0);
    let rows = Rows::made(count, move |row| {
        let at = ends.partition_point(|&end| end <= row);
        let before = if at == 0 { 0 } else { ends[at - 1] };
        let group = groups.get(at).ok_or_else(|| Error::machine(format!("row {row} of no file")))?.get(row - before)?;
        triple(&group, &found)
    })?;
    Ok(Records::Preferences(rows))
}

fn triple(group: &Group, references: &References) -> Result<Triple> {
    let [chosen, rejected] = &group.candidates[..] else {
        return Err(Error::user("data.references is for rows with one chosen and one rejected answer"));
    };
    let texts = chosen.answer.text().zip(rejected.answer.text()).filter(|_| chosen.gain > rejected.gain);
    let Some((chosen, rejected)) = texts else {
        return Err(Error::user("data.references is for rows whose first answer is text, and better than the second"));
    };
    let reference = references.of(group)?.ok_or_else(|| {
        Error::user("data.references has nothing for this row: add a row {id, reference} or {prompt, reference}")
    })?;
    let (prompt, wrapper) = (group.prompt.clone(), group.wrapper);
    Ok(Triple { prompt, reference, chosen: chosen.into(), rejected: rejected.into(), wrapper })
}

fn split(records: Records, fraction: f64, seed: u64) -> Result<(Records, Records)> {
    Ok(match records {
        Records::Trajectories(rows) => {
            let (a, b) = split_by_prompt(rows, |row| &row.prompt, fraction, seed)?;
            (Records::Trajectories(a), Records::Trajectories(b))
        }
        Records::Preferences(rows) => {
            let (a, b) = split_by_prompt(rows, |row| &row.prompt, fraction, seed)?;
            (Records::Preferences(a), Records::Preferences(b))
        }
        Records::Documents(rows) => {
            let (a, b) = split_by_prompt(rows, split_key, fraction, seed)?;
            (Records::Documents(a), Records::Documents(b))
        }
        // Token ids do not say what their prompt is; neighbours may share it.
        Records::Pairs(rows) => (Records::Pairs(rows), Records::Pairs(Vec::new().into())),
    })
}
