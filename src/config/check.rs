//! Ranges: what the types alone let through.

use std::collections::BTreeSet;
use std::fmt::Display;

use super::*;
use crate::error::{Error, Result};

/// The largest count: far beyond any run, and the product of two does not overflow.
const LARGE: usize = 1 << 31;

/// Checks of the keys under one prefix, such as `train.`.
struct Checks<'a>(&'a str);

impl Checks<'_> {
    /// Refuses `key` unless `ok`, saying what it must be.
    fn that(&self, key: &str, value: impl Display, ok: bool, must_be: &str) -> Result<()> {
        match ok {
            true => Ok(()),
            false => Err(Error::user(format!("{}{key} = {value}: must be {must_be}", self.0))),
        }
    }

    fn count(&self, key: &str, value: usize, low: usize, high: usize) -> Result<()> {
        self.that(key, value, (low..=high).contains(&value), &format!("between {low} and {high}"))
    }

    fn ratio(&self, key: &str, value: f64) -> Result<()> {
        self.that(key, value, (0.0..=1.0).contains(&value), "between 0 and 1")
    }

    fn at_least_zero(&self, key: &str, value: f64) -> Result<()> {
        self.that(key, value, value >= 0.0 && value.is_finite(), "a finite number, 0 or above")
    }

    fn above_zero(&self, key: &str, value: f64) -> Result<()> {
        self.that(key, value, value > 0.0 && value.is_finite(), "a finite number above 0")
    }

    /// TOML holds 64-bit integers with a sign.
    fn seed(&self, key: &str, value: u64) -> Result<()> {
        self.that(key, value, i64::try_from(value).is_ok(), &format!("at most {}", i64::MAX))
    }
}

impl Config {
    /// Checks every value's range and what must hold between values of a section.
    ///
    /// # Errors
    /// Names `section.key`, its value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        self.model.check("model.")?;
        self.tokenizer.check()?;
        self.data.check()?;
        let zoo = Checks("zoo.");
        zoo.seed("seed", self.zoo.seed)?;
        zoo.count("train_policies", self.zoo.train_policies, 2, 1 << 20)?;
        zoo.count("held_out_policies", self.zoo.held_out_policies, 2, 1 << 20)?;
        let objective = Checks("objective.");
        objective.at_least_zero("penalty_weight", self.objective.penalty_weight)?;
        objective.at_least_zero("lm_weight", self.objective.lm_weight)?;
        self.optimizer.check()?;
        let schedule = Checks("schedule.");
        schedule.ratio("warmup_ratio", self.schedule.warmup_ratio)?;
        schedule.ratio("min_lr_ratio", self.schedule.min_lr_ratio)?;
        schedule.ratio("decay_ratio", self.schedule.decay_ratio)?;
        let train = Checks("train.");
        train.count("steps", self.train.steps, 0, LARGE)?;
        train.count("epochs", self.train.epochs, 0, LARGE)?;
        if self.train.epochs > 0 && self.train.steps > 0 {
            return Err(Error::user(format!(
                "train.epochs = {} and train.steps = {}: both say how long the run is; give one of them",
                self.train.epochs, self.train.steps
            )));
        }
        train.count("batch_size", self.train.batch_size, 1, 1 << 20)?;
        train.seed("seed", self.train.seed)?;
        train.count("checkpoint_every", self.train.checkpoint_every, 0, LARGE)?;
        train.count("keep_checkpoints", self.train.keep_checkpoints, 1, LARGE)?;
        self.train.lora.check()?;
        let eval = Checks("eval.");
        eval.count("pairs", self.eval.pairs, 1, 1 << 24)?;
        eval.count("baseline_triples", self.eval.baseline_triples, 1, 1 << 24)?;
        eval.count("every", self.eval.every, 0, LARGE)?;
        eval.count("every_pairs", self.eval.every_pairs, 1, 1 << 24)?;
        train.count("patience", self.train.patience, 0, LARGE)?;
        match self.needs_evaluations() {
            Some(key) if self.eval.every == 0 => Err(Error::user(format!(
                "{key}: it goes by evaluations while training, and eval.every = 0 makes none: set the steps between \
                 them, as in --set eval.every=100"
            ))),
            _ => Ok(()),
        }
    }

    /// The first setting, with its value, that means nothing without evaluations while training.
    pub fn needs_evaluations(&self) -> Option<String> {
        let best = self.train.keep_best.then(|| "train.keep_best = true".into());
        best.or_else(|| (self.train.patience > 0).then(|| format!("train.patience = {}", self.train.patience)))
    }
}

impl ModelSection {
    /// Checks sizes and how they divide; `prefix` stands before the key in messages.
    ///
    /// The bounds leave room for every published model and keep each tensor below 2^40 elements.
    pub(crate) fn check(&self, prefix: &str) -> Result<()> {
        self.check_with(prefix, None)
    }

    /// As [`ModelSection::check`], of a model whose heads are `head_dim` wide, if that is not what the sizes make.
    pub(crate) fn check_with(&self, prefix: &str, head_dim: Option<usize>) -> Result<()> {
        let c = Checks(prefix);
        c.count("hidden_size", self.hidden_size, 2, 1 << 17)?;
        c.count("intermediate_size", self.intermediate_size, 1, 1 << 20)?;
        c.count("num_hidden_layers", self.num_hidden_layers, 1, 1 << 10)?;
        c.count("num_attention_heads", self.num_attention_heads, 1, 1 << 12)?;
        c.count("num_key_value_heads", self.num_key_value_heads, 1, 1 << 12)?;
        let (hidden, heads, kv) = (self.hidden_size, self.num_attention_heads, self.num_key_value_heads);
        match head_dim {
            Some(dim) => {
                let fits = (2..=1 << 12).contains(&dim) && dim.is_multiple_of(2);
                c.that("head_dim", dim, fits, &format!("an even number between 2 and {}", 1 << 12))?;
            }
            None => {
                let fits = hidden.is_multiple_of(2 * heads);
                let must = format!("a divisor of hidden_size = {hidden} that leaves an even head dimension");
                c.that("num_attention_heads", heads, fits, &must)?;
            }
        }
        let must = format!("a divisor of num_attention_heads = {heads}");
        c.that("num_key_value_heads", kv, heads.is_multiple_of(kv), &must)?;
        c.that("rope_theta", self.rope_theta, self.rope_theta >= 1.0 && self.rope_theta.is_finite(), "1 or above")?;
        c.above_zero("rms_norm_eps", self.rms_norm_eps)?;
        c.count("max_position_embeddings", self.max_position_embeddings, 1, 1 << 24)?;
        c.at_least_zero("initializer_range", self.initializer_range)
    }
}

impl TokenizerSection {
    fn check(&self) -> Result<()> {
        let c = Checks("tokenizer.");
        // A byte-level BPE holds 256 bytes and the special tokens before its first merge.
        c.count("vocab_size", self.vocab_size, 300, 1 << 20)?;
        c.count("train_bytes", self.train_bytes, 1, 1 << 32)?;
        c.that("separator", "\"\"", !self.separator.is_empty(), "the name of a token")?;
        let must = "the name of a token other than the separator";
        c.that("score", &self.score, !self.score.is_empty() && self.score != self.separator, must)?;
        let by_id = [&self.separator, &self.score].iter().any(|token| matches!(token, TokenRef::Id(_)));
        if by_id && self.kind != TokenizerKind::File {
            return Err(Error::user(
                "tokenizer.separator and tokenizer.score are ids only with tokenizer.kind = \"file\": give names",
            ));
        }
        match (&self.path, self.kind) {
            (None, TokenizerKind::File) => Err(Error::user(
                "tokenizer.path is missing: tokenizer.kind = \"file\" needs a tokenizer.json or tokenizer.model",
            )),
            (Some(path), TokenizerKind::Bytes | TokenizerKind::Bpe) => Err(Error::user(format!(
                "tokenizer.path = {path:?} is read only with tokenizer.kind = \"file\": set that kind or leave out the path"
            ))),
            _ => Ok(()),
        }
    }
}

impl DataSection {
    fn check(&self) -> Result<()> {
        let c = Checks("data.");
        c.ratio("eval_fraction", self.eval_fraction)?;
        c.count("max_length", self.max_length, 8, 1 << 24)?;
        c.count("max_response_length", self.max_response_length, 2, self.max_length)?;
        c.count("pack_length", self.pack_length, 8, 1 << 30)
    }
}

impl LoraSection {
    fn check(&self) -> Result<()> {
        let c = Checks("train.lora.");
        c.count("rank", self.rank, 0, 1 << 16)?;
        c.above_zero("alpha", self.alpha)?;
        let must = "a list of projections, each named once";
        let sorted: BTreeSet<Projection> = self.targets.iter().copied().collect();
        let names = self.targets.iter().map(|target| target.name()).collect::<Vec<_>>().join(", ");
        c.that("targets", format!("[{names}]"), !sorted.is_empty() && sorted.len() == self.targets.len(), must)
    }
}

impl OptimizerSection {
    fn check(&self) -> Result<()> {
        let c = Checks("optimizer.");
        c.above_zero("lr", self.lr)?;
        let [first, second] = self.betas;
        let fits = [first, second].iter().all(|beta| (0.0..1.0).contains(beta));
        c.that("betas", format!("[{first}, {second}]"), fits, "two numbers, each 0 or above and below 1")?;
        c.above_zero("eps", self.eps)?;
        c.at_least_zero("weight_decay", self.weight_decay)?;
        c.at_least_zero("clip_grad_norm", self.clip_grad_norm)
    }
}
