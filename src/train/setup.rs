//! From a configuration to what training needs: data, tokenizer, architecture. Reads, and writes nothing.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use rayon::prelude::*;

use crate::backend::Backend;
use crate::baselines::Baselines;
use crate::config::{Config, ObjectiveKind, TokenizerKind};
use crate::data::{Document, Records, Trajectory, Triple, TripleSource, read, read_all, split_by_prompt};
use crate::error::{Error, Result};
use crate::eval::set_name;
use crate::eval::sets::Set;
use crate::model::config::{Architecture, SpecialIds};
use crate::model::{Model, ModelConfig, OutputHeads, Param, TensorSpec};
use crate::passes::{Capacity, Wanted};
use crate::polar::{TemplateConfig, encode_document};
use crate::store::{Pretrained, pretrained};
use crate::tokenizer::Tokenizer;
use crate::train::feed::{Feeder, Source};
use crate::train::plan::Sizes;
use crate::train::state::OptimizerState;
use crate::zoo::{Split, Zoo};

/// What the model is measured on at the end of a run.
pub enum EvalSet {
    /// Candidates to rank: triples of text, on which baselines can be measured too, or pairs of token ids.
    Ranked(String, Set),
    /// Documents as token ids, for next-token losses.
    Sequences(String, Vec<Vec<u32>>),
}

impl EvalSet {
    /// What it is called in tables.
    pub fn name(&self) -> &str {
        match self {
            Self::Ranked(name, _) | Self::Sequences(name, _) => name,
        }
    }

    /// Number of pairs or documents.
    pub fn len(&self) -> usize {
        match self {
            Self::Ranked(_, set) => set.groups.len(),
            Self::Sequences(_, sequences) => sequences.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Everything that a run is made of before the first weight is drawn.
pub struct Setup {
    /// The resolved configuration.
    pub config: Config,
    /// The architecture.
    pub model_config: ModelConfig,
    /// The heads that the objective trains.
    pub outputs: OutputHeads,
    /// Examples to packs.
    pub feeder: Arc<Feeder>,
    /// What is measured at the end.
    pub eval_sets: Vec<EvalSet>,
    /// Optimiser steps.
    pub steps: u64,
    /// What a person wants to know of the data.
    pub notes: Vec<String>,
}

/// A model before its first step.
pub struct Initial {
    /// The model.
    pub model: Model,
    /// Its weights in full precision, and moments of zero.
    pub state: OptimizerState,
    /// What a person wants to know of where the weights come from.
    pub notes: Vec<String>,
}

/// Where tokenizer and architecture come from.
#[derive(Clone, Debug)]
pub enum Start {
    /// Made from the configuration and the data.
    Fresh,
    /// Those in a model's folder.
    From(PathBuf),
}

impl Setup {
    /// Reads data and trains or loads a tokenizer.
    pub fn new(config: &Config, start: Start) -> Result<Self> {
        config.validate()?;
        if is_without_data(config) {
            return Err(Error::user(
                "there is no data, and train.steps = 0 means one epoch over it: give --data FILE, or train on the \
                 policy zoo, which has no end, with --set train.steps=N",
            ));
        }
        let mut notes = Vec::new();
        let data = Data::read(config, &mut notes)?;
        let outputs = outputs(config);
        let (tokenizer, mut model_config) = match &start {
            Start::Fresh if data.is_ids() && config.tokenizer.kind == TokenizerKind::Bpe => {
                return Err(Error::user(
                    "the rows are token ids, and a tokenizer cannot be trained on them: say whose they are with --init \
                     DIR or --set tokenizer.kind=file --set tokenizer.path=tokenizer.json; ids of single bytes are \
                     tokenizer.kind=bytes",
                ));
            }
            Start::Fresh => {
                let tokenizer = Tokenizer::from_config(&config.tokenizer, data.texts())?;
                let model_config = model_config(config, &tokenizer, outputs)?;
                (Some(tokenizer), model_config)
            }
            Start::From(dir) => read_start(dir, outputs, data.is_ids())?,
        };
        model_config.dtype = config.train.save_dtype;
        let mut template = TemplateConfig::new(&config.data)?;
        if data.is_ids() {
            // Rows of ids are not cut. What is scored later is text, and has to fit.
            template.max_length = template.max_length.min(model_config.max_position_embeddings);
        } else if config.data.max_length > model_config.max_position_embeddings {
            return Err(Error::user(format!(
                "data.max_length = {}: the model reads at most max_position_embeddings = {} tokens; lower the one or \
                 raise the other",
                config.data.max_length, model_config.max_position_embeddings
            )));
        }
        let lm = config.objective.kind == ObjectiveKind::Lm;
        let wanted = Wanted {
            scores: !lm,
            next_tokens: lm || config.objective.lm_weight > 0.0,
            share_prefix: config.data.share_prefix,
        };
        let capacity = capacity(config, wanted);
        let (source, eval_sets) = data.into_parts(config, tokenizer.as_ref(), &template, &model_config, &mut notes)?;
        let steps = steps(config, &source)?;
        let feeder = Feeder {
            source,
            tokenizer,
            template,
            wanted,
            capacity,
            batch_size: config.train.batch_size,
            seed: config.train.seed,
        };
        feeder.check(steps)?;
        Ok(Self { config: config.clone(), model_config, outputs, feeder: Arc::new(feeder), eval_sets, steps, notes })
    }

    /// What decides how much memory the run takes.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            config: self.model_config.clone(),
            outputs: self.outputs,
            capacity: self.feeder.capacity,
            candidates: 2 * self.config.train.batch_size,
        }
    }

    /// The model before its first step: the weights of `init`, as far as it has them, and random ones for the rest. A
    /// reward head that `init` lacks starts at zero, as in xtuner.
    pub fn initial_model(&self, backend: Rc<dyn Backend>, init: Option<&Path>) -> Result<Initial> {
        let model = Model::new(backend, self.model_config.clone(), self.outputs)?;
        let state = OptimizerState::zeroed(&model, 0..model.params().len())?;
        state.initialise(&model, self.config.train.seed)?;
        let Some(dir) = init else { return Ok(Initial { model, state, notes: Vec::new() }) };
        let pretrained = Pretrained::open(dir)?;
        let loaded =
            pretrained.read_into(self.outputs, &mut |stored, values| self.take_over(&model, &state, stored, values))?;
        let mut notes = vec![format!("weights: from {}", dir.display())];
        let rows = pretrained.config().vocab_size;
        let added = self.feeder.tokenizer.as_ref().map_or(Vec::new(), |tokenizer| new_tokens(tokenizer, rows));
        if !added.is_empty() {
            notes.push(format!("token ids {added:?} are new to the model: they start as the mean of the others"));
        }
        if self.outputs.reward && !loaded.heads.reward {
            let specs = model.specs().iter().filter(|spec| spec.param == Param::RewardHead);
            for spec in specs {
                state.set_rows(&model, spec, 0, &vec![0.0; spec.elements()])?;
            }
            notes.push("the reward head starts at zero: the folder has none".into());
        }
        if self.outputs.lm && !loaded.heads.lm {
            notes.push("the next-token head starts at random: the folder has none".into());
        }
        if !loaded.unused.is_empty() {
            notes.push(format!("tensors not needed: {}", loaded.unused.join(", ")));
        }
        Ok(Initial { model, state, notes })
    }

    /// Gives the model one tensor of the model that it starts from.
    ///
    /// Tokens that are new to it start as the mean of those that it knows: a row of the usual length and direction, from
    /// which the network computes something near its average, as it would not from a random or an untrained padding row.
    fn take_over(&self, model: &Model, state: &OptimizerState, stored: &TensorSpec, values: &[f32]) -> Result<()> {
        let Some(spec) = model.specs().iter().find(|spec| spec.param == stored.param) else {
            return Err(Error::machine(format!("the model has no tensor {}", stored.name)));
        };
        state.set_rows(model, spec, 0, values)?;
        let Some(tokenizer) = self.feeder.tokenizer.as_ref().filter(|_| spec.param.is_by_token()) else {
            return Ok(());
        };
        let added = new_tokens(tokenizer, stored.shape[0]);
        let (width, known) = (spec.shape[1], tokenizer.vocab_size() - added.len());
        let mut mean = vec![0.0_f64; width];
        for row in values.chunks(width).take(known) {
            mean.iter_mut().zip(row).for_each(|(sum, v)| *sum += f64::from(*v) / known as f64);
        }
        let mean: Vec<f32> = mean.into_iter().map(|v| v as f32).collect();
        added.iter().try_for_each(|id| state.set_rows(model, spec, *id as usize, &mean))
    }

    /// The baselines, fitted to the first triples that the model trained on; none if they were no text.
    pub fn baselines(&self) -> Result<Option<Baselines>> {
        let trained = self.steps.saturating_mul(self.config.train.batch_size as u64);
        let triples = self.feeder.triples(trained.min(self.config.eval.baseline_triples as u64));
        if triples.is_empty() {
            return Ok(None);
        }
        Baselines::fit(&triples, self.config.train.seed).map(Some)
    }
}

/// Separator and score token as far as a model whose embedding has `rows` rows does not know them.
fn new_tokens(tokenizer: &Tokenizer, rows: usize) -> Vec<u32> {
    let (specials, added) = (tokenizer.specials(), tokenizer.added());
    let new = |id: &u32| added.contains(id) || *id as usize >= rows;
    [specials.separator, specials.score].into_iter().filter(new).collect()
}

/// Tokenizer and architecture of a model's folder. A folder without a tokenizer will do where all data are ids.
fn read_start(dir: &Path, outputs: OutputHeads, ids_only: bool) -> Result<(Option<Tokenizer>, ModelConfig)> {
    let mut config = pretrained::read_config(dir)?;
    config.architecture = architecture(outputs);
    let tokenizer = match pretrained::tokenizer(dir)? {
        None if ids_only => return Ok((None, config)),
        None => pretrained::required_tokenizer(dir)?,
        Some(tokenizer) => tokenizer,
    };
    config.special.reward = Some(tokenizer.specials().score);
    // Separator and score token may need rows of their own.
    let known = tokenizer.vocab_size() - new_tokens(&tokenizer, config.vocab_size).len();
    if known <= config.vocab_size {
        config.vocab_size = config.vocab_size.max(tokenizer.vocab_size());
    } else {
        return Err(Error::user(format!(
            "{}: the tokenizer has {} ids and config.json has vocab_size = {}; they do not belong together",
            dir.display(),
            known,
            config.vocab_size
        )));
    }
    Ok((Some(tokenizer), config))
}

fn outputs(config: &Config) -> OutputHeads {
    match config.objective.kind {
        ObjectiveKind::Polar => OutputHeads { reward: true, lm: config.objective.lm_weight > 0.0 },
        ObjectiveKind::Lm => OutputHeads { reward: false, lm: true },
    }
}

fn architecture(outputs: OutputHeads) -> Architecture {
    if outputs.reward { Architecture::RewardModel } else { Architecture::CausalLm }
}

fn model_config(config: &Config, tokenizer: &Tokenizer, outputs: OutputHeads) -> Result<ModelConfig> {
    let specials = tokenizer.specials();
    let eos = specials.eos.or(specials.bos).unwrap_or(0);
    let special = SpecialIds { bos: specials.bos.unwrap_or(eos), eos, pad: eos, reward: Some(specials.score) };
    ModelConfig::new(&config.model, tokenizer.vocab_size(), special, architecture(outputs))
}

fn capacity(config: &Config, wanted: Wanted) -> Capacity {
    let tokens = config.data.pack_length;
    let candidates = Capacity::candidates_for(tokens);
    Capacity { tokens, selected: if wanted.next_tokens { tokens } else { candidates }, candidates }
}

/// Whether the run is for data that was not given.
pub fn is_without_data(config: &Config) -> bool {
    config.data.train.is_empty() && config.train.steps == 0
}

/// What decides how much memory a run takes, as far as the configuration and what it starts from say so: a tokenizer that
/// is still to be trained counts with the ids that it may have.
pub fn sizes_without_data(config: &Config, start: &Start) -> Result<Sizes> {
    config.validate()?;
    let outputs = outputs(config);
    let model = match start {
        Start::From(dir) => read_start(dir, outputs, true)?.1,
        Start::Fresh if config.tokenizer.kind == TokenizerKind::Bpe => {
            let special = SpecialIds { bos: 0, eos: 0, pad: 0, reward: Some(0) };
            ModelConfig::new(&config.model, config.tokenizer.vocab_size, special, architecture(outputs))?
        }
        Start::Fresh => {
            model_config(config, &Tokenizer::from_config(&config.tokenizer, std::iter::empty::<String>())?, outputs)?
        }
    };
    let lm = config.objective.kind == ObjectiveKind::Lm;
    let next_tokens = lm || config.objective.lm_weight > 0.0;
    let wanted = Wanted { scores: !lm, next_tokens, share_prefix: config.data.share_prefix };
    Ok(Sizes { config: model, outputs, capacity: capacity(config, wanted), candidates: 2 * config.train.batch_size })
}

fn steps(config: &Config, source: &Source) -> Result<u64> {
    match (config.train.steps, source.epoch_len()) {
        (0, Some(len)) => Ok((len as u64).div_ceil(config.train.batch_size as u64)),
        (0, None) => Err(Error::machine("an epoch of a source without an end")),
        (steps, _) => Ok(steps as u64),
    }
}

/// The data as read, before it is turned into examples.
enum Data {
    Zoo(Zoo),
    Files { train: Records, eval: Vec<(String, Records)> },
}

impl Data {
    fn read(config: &Config, notes: &mut Vec<String>) -> Result<Self> {
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
        let mut train = read_all(&config.data.train)?;
        notes.push(format!("data: {} rows of {}", train.len(), train.kind()));
        if let Records::Preferences(rows) = &train {
            let equal = rows.iter().filter(|row| row.chosen == row.rejected).count();
            if equal > 0 {
                notes.push(format!("{equal} of them have the same text as chosen and rejected and teach nothing"));
            }
        }
        if eval.is_empty() && config.data.eval_fraction > 0.0 {
            let (kept, held_out) = split(train, config.data.eval_fraction, config.train.seed);
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
    fn is_ids(&self) -> bool {
        match self {
            Self::Zoo(_) => false,
            Self::Files { train, eval } => {
                std::iter::once(train).chain(eval.iter().map(|(_, set)| set)).all(|r| matches!(r, Records::Pairs(_)))
            }
        }
    }

    /// Text to train a tokenizer on, in the order of the examples.
    fn texts(&self) -> Box<dyn Iterator<Item = String> + '_> {
        match self {
            Self::Zoo(zoo) => Box::new((0..).flat_map(|i| {
                let Triple { prompt, reference, chosen, rejected, .. } = zoo.triple(Split::Train, i);
                [prompt, reference, chosen, rejected]
            })),
            Self::Files { train, .. } => match train {
                Records::Trajectories(rows) => Box::new(rows.iter().flat_map(|t| [t.prompt.clone(), t.output.clone()])),
                Records::Preferences(rows) => Box::new(
                    rows.iter().flat_map(|t| [&t.prompt, &t.reference, &t.chosen, &t.rejected].map(String::clone)),
                ),
                Records::Documents(rows) => Box::new(rows.iter().flat_map(|d| [d.prompt.clone(), d.output.clone()])),
                Records::Pairs(_) => Box::new(std::iter::empty()),
            },
        }
    }

    fn into_parts(
        self,
        config: &Config,
        tokenizer: Option<&Tokenizer>,
        template: &TemplateConfig,
        model: &ModelConfig,
        notes: &mut Vec<String>,
    ) -> Result<(Source, Vec<EvalSet>)> {
        let examples = Examples { config, tokenizer, template, model };
        match self {
            Self::Zoo(zoo) => {
                let sets = examples.zoo_sets(&zoo)?;
                Ok((Source::Zoo(zoo), sets))
            }
            Self::Files { train, eval } => {
                let files: Vec<_> = config.data.train.iter().map(|path| path.display().to_string()).collect();
                let source = examples.source(train, &files.join(", "))?;
                let mut sets = Vec::new();
                for (name, records) in eval {
                    match examples.eval_set(name, records) {
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

/// Turns records into what the objective trains and is measured on.
struct Examples<'a> {
    config: &'a Config,
    tokenizer: Option<&'a Tokenizer>,
    template: &'a TemplateConfig,
    model: &'a ModelConfig,
}

impl Examples<'_> {
    /// What the objective trains on, made of the records of what messages call `from`.
    fn source(&self, records: Records, from: &str) -> Result<Source> {
        let kind = records.kind();
        Ok(match (self.config.objective.kind, records) {
            (ObjectiveKind::Lm, records) => Source::Sequences(self.sequences(records).map_err(|e| e.context(from))?),
            (_, Records::Trajectories(rows)) => {
                Source::Trajectories(TripleSource::new(rows).map_err(|e| e.context(from))?)
            }
            (_, Records::Preferences(triples)) => Source::Preferences(triples),
            (_, Records::Pairs(pairs)) => {
                let (vocab, most) = (self.model.vocab_size, self.model.max_position_embeddings);
                pairs.iter().try_for_each(|pair| pair.check(vocab, most, self.model.special.reward))?;
                Source::Pairs(pairs)
            }
            (_, Records::Documents(_)) => {
                return Err(Error::user(format!(
                    "{from}: objective.kind = \"polar\" cannot compare {kind}: give trajectories, preferences or pairs \
                     of token ids, or --set objective.kind=lm"
                )));
            }
        })
    }

    fn eval_set(&self, name: String, records: Records) -> Result<EvalSet> {
        let most = self.config.eval.pairs;
        Ok(match self.source(records, &format!("evaluation data {name}"))? {
            Source::Trajectories(source) => {
                EvalSet::Ranked(name, Set::of_triples(source.epoch(self.config.train.seed, 0).take(most)))
            }
            Source::Preferences(triples) => EvalSet::Ranked(name, Set::of_triples(triples.into_iter().take(most))),
            Source::Pairs(pairs) => EvalSet::Ranked(name, Set::of_pairs(pairs.into_iter().take(most))),
            Source::Sequences(sequences) => EvalSet::Sequences(name, sequences.into_iter().take(most).collect()),
            Source::Zoo(_) => return Err(Error::machine("the zoo is no file")),
        })
    }

    fn zoo_sets(&self, zoo: &Zoo) -> Result<Vec<EvalSet>> {
        let n = self.config.eval.pairs as u64;
        let triples = |split| (0..n).map(move |i| zoo.triple(split, i));
        if self.config.objective.kind == ObjectiveKind::Lm {
            let documents =
                triples(Split::HeldOutPrompts).map(|t| Document { prompt: t.prompt, output: t.reference }).collect();
            let sequences = self.sequences(Records::Documents(documents))?;
            return Ok(vec![EvalSet::Sequences("held-out prompts".into(), sequences)]);
        }
        let preferences = (0..n).map(|i| zoo.preference(Split::HeldOutPrompts, i));
        Ok(vec![
            EvalSet::Ranked("held-out prompts".into(), Set::of_triples(triples(Split::HeldOutPrompts))),
            EvalSet::Ranked("held-out policies".into(), Set::of_triples(triples(Split::HeldOutPolicies))),
            EvalSet::Ranked("preferences".into(), Set::of_triples(preferences)),
        ])
    }

    /// Documents as ids. Trajectories are documents as well: prompt and output.
    fn sequences(&self, records: Records) -> Result<Vec<Vec<u32>>> {
        let documents = match records {
            Records::Documents(documents) => documents,
            Records::Trajectories(rows) => {
                rows.into_iter().map(|Trajectory { prompt, output, .. }| Document { prompt, output }).collect()
            }
            other => {
                return Err(Error::user(format!(
                    "holds {}; objective.kind = \"lm\" reads documents: rows {{prompt, output}} or {{text}}, \
                     or a .txt file",
                    other.kind()
                )));
            }
        };
        let no_tokenizer = || Error::user("the model's folder has no tokenizer.json, which documents need");
        let tokenizer = self.tokenizer.ok_or_else(no_tokenizer)?;
        let sequences: Vec<Vec<Vec<u32>>> = documents
            .par_iter()
            .map(|document| encode_document(tokenizer, document, self.template))
            .collect::<Result<_>>()?;
        // A sequence of one id predicts nothing.
        let sequences: Vec<_> = sequences.into_iter().flatten().filter(|sequence| sequence.len() > 1).collect();
        if sequences.is_empty() {
            return Err(Error::user("the documents hold no text to learn from"));
        }
        Ok(sequences)
    }
}

fn split(records: Records, fraction: f64, seed: u64) -> (Records, Records) {
    match records {
        Records::Trajectories(rows) => {
            let (a, b) = split_by_prompt(rows, |row| &row.prompt, fraction, seed);
            (Records::Trajectories(a), Records::Trajectories(b))
        }
        Records::Preferences(rows) => {
            let (a, b) = split_by_prompt(rows, |row| &row.prompt, fraction, seed);
            (Records::Preferences(a), Records::Preferences(b))
        }
        Records::Documents(rows) => {
            let key = |row: &Document| if row.prompt.is_empty() { row.output.clone() } else { row.prompt.clone() };
            let keyed: Vec<(String, Document)> = rows.into_iter().map(|row| (key(&row), row)).collect();
            let (a, b) = split_by_prompt(keyed, |(key, _)| key, fraction, seed);
            let rows = |keyed: Vec<(String, Document)>| Records::Documents(keyed.into_iter().map(|(_, d)| d).collect());
            (rows(a), rows(b))
        }
        // Token ids do not say what their prompt is; neighbours may share it.
        Records::Pairs(rows) => (Records::Pairs(rows), Records::Pairs(Vec::new())),
    }
}
