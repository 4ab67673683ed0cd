//! From a configuration to what training needs: data, tokenizer, architecture. Reads, and writes nothing.

mod data;
mod examples;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use crate::backend::Backend;
use crate::baselines::Baselines;
use crate::config::{Config, Projection, TokenizerKind};
use crate::error::{Error, Result};
use crate::eval::sets::Set;
use crate::model::config::{Architecture, ScoreMap, SpecialIds};
use crate::model::{Lora, Model, ModelConfig, OutputHeads, Param, TensorSpec};
use crate::objective;
use crate::passes::Capacity;
use crate::polar::TemplateConfig;
use crate::store::{Pretrained, pretrained};
use crate::tokenizer::{Missing, Tokenizer};
use crate::train::evaluation::HeldOut;
use crate::train::feed::{Feeder, TrainingSource};
use crate::train::plan::Sizes;
use crate::train::state::OptimizerState;
use data::Data;

/// Pairs that are looked at before a run begins, so that it is known early whether many are the same after cutting.
const LOOKED_AT: usize = 256;

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
    /// What is measured while training, if anything is.
    pub held_out: Option<HeldOut>,
    /// Optimiser steps.
    pub steps: u64,
    /// What a person wants to know of the data.
    pub notes: Vec<String>,
    /// What makes figures on these data mean less than they seem to.
    pub warnings: Vec<String>,
}

/// A model before its first step.
pub struct Initial {
    /// The model.
    pub model: Model,
    /// Its weights in full precision, and moments of zero.
    pub state: OptimizerState,
    /// What a person wants to know of where the weights come from.
    pub notes: Vec<String>,
    /// What a person should think about before the run has cost hours.
    pub warnings: Vec<String>,
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
            let epochs = match config.train.epochs {
                0 => "train.steps = 0 means one epoch over it".into(),
                epochs => format!("train.epochs = {epochs} counts passes over it"),
            };
            return Err(Error::user(format!(
                "there is no data, and {epochs}: give --data FILE, or train on the policy zoo, which has no end, with \
                 --set train.steps=N"
            )));
        }
        let mut notes = Vec::new();
        let mut warnings = Vec::new();
        let data = Data::read(config, &mut notes, &mut warnings)?;
        let objective = objective::new(&config.objective);
        let outputs = objective.heads();
        let (tokenizer, mut model_config) = match &start {
            Start::Fresh if data.is_ids() && config.tokenizer.kind == TokenizerKind::Bpe => {
                return Err(Error::user(
                    "the rows are token ids, and a tokenizer cannot be trained on them: say whose they are with --init \
                     DIR or --set tokenizer.kind=file --set tokenizer.path=tokenizer.json; ids of single bytes are \
                     tokenizer.kind=bytes",
                ));
            }
            Start::Fresh => {
                let tokenizer = data.with_texts(|texts| Tokenizer::from_config(&config.tokenizer, texts))?;
                let model_config = model_config(config, &tokenizer, outputs)?;
                (Some(tokenizer), model_config)
            }
            Start::From(dir) => read_start(dir, outputs, data.is_ids())?,
        };
        model_config.dtype = config.train.save_dtype;
        model_config = with_adapters(config, model_config, outputs)?;
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
        let wanted = objective.wanted(config.data.share_prefix);
        let capacity = Capacity::new(config.data.pack_length, wanted);
        let (source, eval_sets) = data.into_parts(config, tokenizer.as_ref(), &template, &model_config, &mut notes)?;
        let (steps, examples) = length(config, &source)?;
        let feeder = Feeder {
            source,
            tokenizer,
            template,
            wanted,
            capacity,
            vocabulary: model_config.vocab_size,
            batch_size: config.train.batch_size,
            examples,
            seed: config.train.seed,
        };
        feeder.check(steps)?;
        let held_out = held_out(config, &eval_sets, &feeder, &mut notes)?;
        let (pairs, same) = feeder.identical_among_first(LOOKED_AT)?;
        notes.extend(
            same.sentences("chosen", "rejected").iter().map(|same| format!("of the first {pairs} pairs: {same}")),
        );
        let (config, feeder) = (config.clone(), Arc::new(feeder));
        Ok(Self { config, model_config, outputs, feeder, eval_sets, held_out, steps, notes, warnings })
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

    /// Rows that a run of `before` would leave out if it went on after `done` steps: those of its last step, which had what
    /// was left of the epochs, that a whole one would have had beside them.
    ///
    /// # Errors
    /// The machine's, for epochs of a source without an end.
    pub fn left_out(&self, before: &Config, done: u64) -> Result<u64> {
        let (_, examples) = length(before, &self.feeder.source)?;
        let whole = done.saturating_mul(before.train.batch_size as u64);
        Ok(self.feeder.examples_before(done).saturating_sub(whole.min(examples.unwrap_or(u64::MAX))))
    }

    /// The model before its first step: the weights of `init`, as far as it has them, and random ones for the rest. A
    /// reward head that `init` lacks starts at zero, as in xtuner.
    pub fn initial_model(&self, backend: Rc<dyn Backend>, init: Option<&Path>) -> Result<Initial> {
        let model = Model::new(backend, self.model_config.clone(), self.outputs)?;
        let state = OptimizerState::zeroed(&model, model.trained())?;
        state.initialise(&model, self.config.train.seed)?;
        let Some(dir) = init else {
            let warnings = self.of_random_weights().into_iter().collect();
            return Ok(Initial { model, state, notes: Vec::new(), warnings });
        };
        let pretrained = Pretrained::open(dir)?;
        let loaded =
            pretrained.read_into(self.outputs, &mut |stored, values| self.take_over(&model, &state, stored, values))?;
        let mut notes = vec![format!("weights: from {}", dir.display())];
        if pretrained.config().score != ScoreMap::IDENTITY {
            notes
                .push("bias, mean and std of the scores are left behind: training has the head's product alone".into());
        }
        let rows = pretrained.config().vocab_size;
        let added = self.feeder.tokenizer.as_ref().map_or(Vec::new(), |tokenizer| new_tokens(tokenizer, rows));
        if !added.is_empty() {
            notes.push(format!("token ids {added:?} are new to the model: they start as the mean of the others"));
        }
        if self.outputs.reward && !loaded.heads.reward {
            if pretrained.config().architecture == Architecture::RewardModel {
                return Err(pretrained.without_head(dir));
            }
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
        Ok(Initial { model, state, notes, warnings: Vec::new() })
    }

    /// Given data are seldom enough for a small model that has read nothing else: on GSM8K's preferences such models stay
    /// behind a bag of bytes (docs/results.md).
    fn of_random_weights(&self) -> Option<String> {
        const SMALL: usize = 100_000_000;
        let parameters = self.model_config.parameters(self.outputs);
        let small = self.outputs.reward && !self.config.data.train.is_empty() && parameters < SMALL;
        small.then(|| {
            format!(
                "the weights are random: a model of {:.1} M parameters that has read nothing but these data will hardly \
                 judge better than the baselines; begin with a trained one, --init DIR (a reward model, or a language model \
                 of the Llama, Mistral, Qwen or InternLM2 family)",
                parameters as f64 / 1e6
            )
        })
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

    /// The baselines, fitted to the first triples that the model trained on in `steps` steps; none if they were no text.
    pub fn baselines(&self, steps: u64) -> Result<Option<Baselines>> {
        let trained = self.feeder.examples_before(steps);
        let triples = self.feeder.triples(trained.min(self.config.eval.baseline_triples as u64))?;
        if triples.is_empty() {
            return Ok(None);
        }
        Baselines::fit(&triples, self.config.train.seed).map(Some)
    }
}

/// What is evaluated on while training, if anything is to be.
///
/// # Errors
/// The user's, when something goes by such evaluations and nothing is held out.
fn held_out(config: &Config, sets: &[EvalSet], feeder: &Feeder, notes: &mut Vec<String>) -> Result<Option<HeldOut>> {
    if config.eval.every == 0 {
        return Ok(None);
    }
    let held_out = HeldOut::new(sets, feeder, config.eval.every_pairs)?;
    let what = if feeder.wanted.scores { "pairs" } else { "documents" };
    let over_long = match held_out.over_long() {
        0 => String::new(),
        count => format!("; {count} do not fit data.pack_length = {} and are left out", feeder.capacity.tokens),
    };
    let same = held_out.identical().sentences("chosen", "rejected");
    if !held_out.is_empty() {
        notes.extend(same.iter().map(|same| format!("of those evaluated on while training: {same}")));
        let (every, count) = (config.eval.every, held_out.len());
        notes.push(format!("evaluated while training: every {every} steps on {count} held-out {what}{over_long}"));
        return Ok(Some(held_out));
    }
    let nothing = format!(
        "there are no held-out {what} to evaluate on while training{over_long}{}: give --eval-data FILE, or raise \
         data.eval_fraction",
        same.iter().map(|same| format!("; {same}")).collect::<String>()
    );
    match config.needs_evaluations() {
        Some(key) => Err(Error::user(format!("{key}: {nothing}"))),
        None => {
            notes.push(nothing);
            Ok(None)
        }
    }
}

/// Separator and score token as far as a model whose embedding has `rows` rows does not know them.
fn new_tokens(tokenizer: &Tokenizer, rows: usize) -> Vec<u32> {
    let (specials, added) = (tokenizer.specials(), tokenizer.added());
    let new = |id: &u32| added.contains(id) || *id as usize >= rows;
    [specials.separator, specials.score].into_iter().flatten().filter(new).collect()
}

/// Tokenizer and architecture of a model's folder. A folder without a tokenizer will do where all data are ids.
fn read_start(dir: &Path, outputs: OutputHeads, ids_only: bool) -> Result<(Option<Tokenizer>, ModelConfig)> {
    let mut config = pretrained::read_config(dir)?;
    config.architecture = architecture(outputs);
    config.score = ScoreMap::IDENTITY;
    let tokenizer = match pretrained::tokenizer(dir, Missing::Add)? {
        None if ids_only => return Ok((None, config)),
        None => pretrained::required_tokenizer(dir, Missing::Add)?,
        Some(tokenizer) => tokenizer,
    };
    config.special.reward = tokenizer.specials().score;
    // Other programs find the last token of a sequence by what their tokenizer fills batches up with.
    config.special.pad = tokenizer.pad().unwrap_or(config.special.pad);
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

fn architecture(outputs: OutputHeads) -> Architecture {
    if outputs.reward { Architecture::RewardModel } else { Architecture::CausalLm }
}

/// The architecture with the adapters of `train.lora`, if there are such.
///
/// # Errors
/// The user's: a run that adapters are not for, or a rank that is too large.
fn with_adapters(config: &Config, model: ModelConfig, outputs: OutputHeads) -> Result<ModelConfig> {
    let section = &config.train.lora;
    if section.rank == 0 {
        return Ok(model);
    }
    let refuse = |why: &str| Err(Error::user(format!("train.lora.rank = {}: {why}", section.rank)));
    if config.train.init.is_none() {
        return refuse(
            "adapters change a model that has learnt already: give it with --init DIR, or set the rank to 0",
        );
    }
    if outputs.reward && outputs.lm {
        return refuse(
            "PEFT's adapters are for one head, and objective.lm_weight asks for a second: set that to 0, or the rank",
        );
    }
    let targets = Projection::ALL.into_iter().filter(|target| section.targets.contains(target)).collect();
    let lora = Lora { rank: section.rank, alpha: section.alpha, targets };
    let model = ModelConfig { lora: Some(lora), ..model };
    model.check("")?;
    Ok(model)
}

fn model_config(config: &Config, tokenizer: &Tokenizer, outputs: OutputHeads) -> Result<ModelConfig> {
    let specials = tokenizer.specials();
    let eos = specials.eos.or(specials.bos).unwrap_or(0);
    let pad = tokenizer.pad().unwrap_or(eos);
    let special = SpecialIds { bos: specials.bos.unwrap_or(eos), eos, pad, reward: specials.score };
    ModelConfig::new(&config.model, tokenizer.vocab_size(), special, architecture(outputs))
}

/// Whether the run is for data that was not given.
pub fn is_without_data(config: &Config) -> bool {
    config.data.train.is_empty() && config.train.steps == 0
}

/// What decides how much memory a run takes, as far as the configuration and what it starts from say so: a tokenizer that
/// is still to be trained counts with the ids that it may have.
pub fn sizes_without_data(config: &Config, start: &Start) -> Result<Sizes> {
    config.validate()?;
    let objective = objective::new(&config.objective);
    let outputs = objective.heads();
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
    let model = with_adapters(config, model, outputs)?;
    let capacity = Capacity::new(config.data.pack_length, objective.wanted(config.data.share_prefix));
    Ok(Sizes { config: model, outputs, capacity, candidates: 2 * config.train.batch_size })
}

/// Steps of the run, and its examples where it is so many epochs long.
fn length(config: &Config, source: &TrainingSource) -> Result<(u64, Option<u64>)> {
    match (config.train.steps, source.epoch_len()) {
        (0, Some(len)) => {
            let examples = (len as u64).saturating_mul(config.train.epochs.max(1) as u64);
            Ok((examples.div_ceil(config.train.batch_size as u64), Some(examples)))
        }
        (0, None) => Err(Error::machine("an epoch of a source without an end")),
        (steps, _) => Ok((steps as u64, None)),
    }
}
