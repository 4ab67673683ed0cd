//! The sections of the configuration and their defaults.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;

use crate::data::Wrapper;
use crate::ops::reward_head::{LossKind, PenaltyKind};
use crate::tensor::Dtype;

/// Everything that decides a run. Saved, resolved, as `config.toml` in the run's folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Shape of the network.
    pub model: ModelSection,
    /// Where token ids come from.
    pub tokenizer: TokenizerSection,
    /// Where triples come from and how they are packed.
    pub data: DataSection,
    /// The built-in source of data, used when no file is given.
    pub zoo: ZooSection,
    /// What is minimised.
    pub objective: ObjectiveSection,
    /// AdamW.
    pub optimizer: OptimizerSection,
    /// The learning rate over the run.
    pub schedule: ScheduleSection,
    /// Steps, seed, checkpoints.
    pub train: TrainSection,
    /// The evaluation at the end of the run.
    pub eval: EvalSection,
}

/// `[model]`: an InternLM2 architecture. Ignored in favour of the checkpoint's own when `train.init` is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSection {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the SwiGLU hidden layer.
    pub intermediate_size: usize,
    /// Number of transformer layers.
    pub num_hidden_layers: usize,
    /// Query heads; `hidden_size / num_attention_heads` is the head dimension, which must be even.
    pub num_attention_heads: usize,
    /// Key/value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// The longest sequence that the model claims to read.
    pub max_position_embeddings: usize,
    /// Standard deviation of the initial weights.
    pub initializer_range: f64,
}

/// `[tokenizer]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TokenizerSection {
    /// Which kind.
    pub kind: TokenizerKind,
    /// Number of ids of a trained BPE, special tokens included.
    pub vocab_size: usize,
    /// Bytes of the run's own text that the BPE is trained on, at most.
    pub train_bytes: usize,
    /// The `tokenizer.json` or `tokenizer.model` to read, for kind `file`.
    pub path: Option<PathBuf>,
    /// Name of the separator token, added when a file has none of that name; or its id in the file.
    pub separator: TokenRef,
    /// Name of the score token, added when a file has none of that name; or its id in the file.
    pub score: TokenRef,
}

/// A token, by name or by id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected the name of a token, or its id")]
pub enum TokenRef {
    /// Its place in the vocabulary of a file.
    Id(u32),
    /// Its spelling.
    Name(String),
}

impl TokenRef {
    /// Whether it is the empty name.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::Name(String::new())
    }
}

impl Display for TokenRef {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Name(name) => write!(f, "{name:?}"),
        }
    }
}

/// The kinds of tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenizerKind {
    /// One id a byte.
    Bytes,
    /// A byte-level BPE trained on the run's own data.
    Bpe,
    /// A Hugging Face `tokenizer.json`, or a SentencePiece `tokenizer.model`.
    File,
}

/// `[data]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DataSection {
    /// Files to train on, folders of them or patterns; empty means the policy zoo. `--data` adds to it.
    pub train: Vec<PathBuf>,
    /// Files to evaluate on, folders of them or patterns. `--eval-data` adds to it.
    pub eval: Vec<PathBuf>,
    /// References of rows to train on that have none, as rows `{id, reference}` or `{prompt, reference}`; the rows may then
    /// be any pairs that can be evaluated on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub references: Option<PathBuf>,
    /// The share of prompts held out for evaluation when `eval` is empty.
    pub eval_fraction: f64,
    /// How prompt and trajectory are joined, for rows that do not say.
    pub wrapper: Wrapper,
    /// The longest sequence, score token included.
    pub max_length: usize,
    /// The longest reference or candidate, in tokens.
    pub max_response_length: usize,
    /// Tokens computed in one forward pass, at most; longer pairs are left out and counted.
    pub pack_length: usize,
    /// Compute the prefix that chosen and rejected have in common once.
    pub share_prefix: bool,
}

/// `[zoo]`: see `polar_raw::zoo`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ZooSection {
    /// Seed of policies and prompts.
    pub seed: u64,
    /// Policies to train on.
    pub train_policies: usize,
    /// Policies never trained on.
    pub held_out_policies: usize,
}

/// `[objective]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectiveSection {
    /// What is learnt.
    pub kind: ObjectiveKind,
    /// The ranking loss.
    pub loss: LossKind,
    /// A penalty on the scores, as in xtuner.
    pub penalty: PenaltyKind,
    /// Weight of the penalty (xtuner's default is 0.01; POLAR uses no penalty).
    pub penalty_weight: f64,
    /// Weight of a next-token loss beside the ranking loss; 0 for none.
    pub lm_weight: f64,
}

/// The objectives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ObjectiveKind {
    /// Rank candidates by their policy's distance from the reference's.
    Polar,
    /// Predict the next token.
    Lm,
}

/// `[optimizer]`: AdamW with decoupled weight decay on every tensor, as in POLAR's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerSection {
    /// Peak learning rate.
    pub lr: f64,
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients are scaled to this global norm when above it; 0 for never.
    pub clip_grad_norm: f64,
}

/// `[schedule]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleSection {
    /// The shape after the warm-up.
    pub kind: ScheduleKind,
    /// Share of the steps that the linear warm-up takes.
    pub warmup_ratio: f64,
    /// The last learning rate over the peak.
    pub min_lr_ratio: f64,
    /// Share of the steps that the final decay takes, for `wsd`.
    pub decay_ratio: f64,
}

/// Shapes of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Half a cosine down to `min_lr_ratio`.
    Cosine,
    /// A straight line down to `min_lr_ratio`.
    Linear,
    /// The peak to the end.
    Constant,
    /// Warm-up, stable, decay: constant, then a straight line over the last `decay_ratio` of the steps.
    Wsd,
}

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSection {
    /// Optimiser steps. 0 means `epochs`, or one epoch over the files.
    pub steps: usize,
    /// Passes over the files, in place of `steps`; 0 leaves it to that.
    pub epochs: usize,
    /// Pairs (or documents, for `lm`) in a step; they are packed into as many forward passes as they need.
    pub batch_size: usize,
    /// Seed of weights and order.
    pub seed: u64,
    /// Steps between checkpoints; 0 for one at the end only.
    pub checkpoint_every: usize,
    /// Checkpoints kept; older ones are deleted.
    pub keep_checkpoints: usize,
    /// Whether the checkpoint with the lowest held-out loss is kept as well, and is what the run ends with.
    pub keep_best: bool,
    /// Evaluations in a row without a lower held-out loss after which the run ends; 0 for never.
    pub patience: usize,
    /// Which activations stay in memory for the backward pass; the rest is computed again, to the same bits.
    pub keep: KeepChoice,
    /// A model's folder to start from: weights, tokenizer and architecture. `--init` sets it.
    pub init: Option<PathBuf>,
    /// The dtype of the final model's file. What is evaluated is what is saved.
    #[serde(with = "stored_dtype")]
    #[schemars(with = "stored_dtype::Name")]
    pub save_dtype: Dtype,
    /// Adapters that are trained instead of the weights. The last key, since TOML has tables behind values.
    pub lora: LoraSection,
}

/// `[train.lora]`: low-rank adapters beside frozen weights, merged into them at the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LoraSection {
    /// The rank of every adapter; 0 for none: all weights are trained.
    pub rank: usize,
    /// An adapter counts `alpha / rank` times.
    pub alpha: f64,
    /// The projections of every layer that have an adapter.
    #[schemars(with = "Vec<ProjectionName>")]
    pub targets: Vec<Projection>,
}

/// What the schema says of a [`Projection`]: it knows nothing of the other names that are read.
struct ProjectionName;

impl JsonSchema for ProjectionName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Projection".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let own = ["q", "k", "v", "o", "gate", "up", "down"];
        let names: Vec<&str> = own.into_iter().chain(Projection::ALL.map(Projection::name)).collect();
        schemars::json_schema!({"type": "string", "enum": names})
    }
}

/// A matrix of a layer that an adapter can be beside. What the network has fused, queries with keys and values, gate
/// with up, has one for each of its parts. PEFT's names are read too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Projection {
    /// Queries.
    #[serde(alias = "q_proj")]
    Q,
    /// Keys.
    #[serde(alias = "k_proj")]
    K,
    /// Values.
    #[serde(alias = "v_proj")]
    V,
    /// Attention's output.
    #[serde(alias = "o_proj")]
    O,
    /// SwiGLU's gate.
    #[serde(alias = "gate_proj")]
    Gate,
    /// SwiGLU's up projection.
    #[serde(alias = "up_proj")]
    Up,
    /// SwiGLU's down projection.
    #[serde(alias = "down_proj")]
    Down,
}

impl Projection {
    /// In the order in which a layer has them.
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// Its place within a layer of `transformers`.
    pub fn path(self) -> &'static str {
        match self {
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::O => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// Its name in `transformers`, by which PEFT knows it.
    pub fn name(self) -> &'static str {
        self.path().split_once('.').map_or(self.path(), |(_, name)| name)
    }
}

/// A type of [`Dtype::STORED`], by its name.
mod stored_dtype {
    use super::Dtype;
    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    const NAMES: [&str; Dtype::STORED.len()] = {
        let [f32, bf16, f16] = Dtype::STORED;
        [f32.name(), bf16.name(), f16.name()]
    };

    /// What the schema says of it.
    pub(super) struct Name;

    impl JsonSchema for Name {
        fn schema_name() -> std::borrow::Cow<'static, str> {
            "Dtype".into()
        }

        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            json_schema!({"type": "string", "enum": NAMES})
        }
    }

    pub(super) fn serialize<S: Serializer>(dtype: &Dtype, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(dtype.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Dtype, D::Error> {
        let name = String::deserialize(deserializer)?;
        Dtype::named(&name).ok_or_else(|| D::Error::unknown_variant(&name, &NAMES))
    }
}

/// Which activations stay for the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeepChoice {
    /// The least recomputing that fits the device; all on the CPU.
    Auto,
    /// All of them.
    All,
    /// All but what is cheap to compute: norms and SwiGLU.
    Norms,
    /// The input of each layer.
    Block,
}

/// `[eval]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvalSection {
    /// Pairs in each row of the table, at most.
    pub pairs: usize,
    /// Triples that the baselines learn from, at most.
    pub baseline_triples: usize,
    /// Steps between evaluations while training; 0 for one at the end only.
    pub every: usize,
    /// Pairs (or documents, for `lm`) of each set that an evaluation while training looks at, at most.
    pub every_pairs: usize,
}

impl Default for ModelSection {
    fn default() -> Self {
        Self {
            hidden_size: 128,
            intermediate_size: 384,
            num_hidden_layers: 4,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            rope_theta: 10_000.0,
            rms_norm_eps: 1e-5,
            max_position_embeddings: 4096,
            initializer_range: 0.02,
        }
    }
}

impl Default for TokenizerSection {
    fn default() -> Self {
        Self {
            kind: TokenizerKind::Bpe,
            vocab_size: 1024,
            train_bytes: 4 << 20,
            path: None,
            separator: TokenRef::Name("<|reward|>".into()),
            score: TokenRef::Name("[UNUSED_TOKEN_130]".into()),
        }
    }
}

impl Default for DataSection {
    fn default() -> Self {
        Self {
            train: Vec::new(),
            eval: Vec::new(),
            references: None,
            eval_fraction: 0.05,
            wrapper: Wrapper::Sft,
            max_length: 2048,
            max_response_length: 1024,
            pack_length: 4096,
            share_prefix: true,
        }
    }
}

impl Default for ZooSection {
    fn default() -> Self {
        Self { seed: 1, train_policies: 192, held_out_policies: 64 }
    }
}

impl Default for ObjectiveSection {
    fn default() -> Self {
        Self {
            kind: ObjectiveKind::Polar,
            loss: LossKind::Ranking,
            penalty: PenaltyKind::None,
            penalty_weight: 0.01,
            lm_weight: 0.0,
        }
    }
}

impl Default for OptimizerSection {
    fn default() -> Self {
        Self { lr: 2e-3, betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.0, clip_grad_norm: 1.0 }
    }
}

impl Default for ScheduleSection {
    fn default() -> Self {
        Self { kind: ScheduleKind::Cosine, warmup_ratio: 0.05, min_lr_ratio: 0.1, decay_ratio: 0.2 }
    }
}

impl Default for TrainSection {
    fn default() -> Self {
        Self {
            steps: 1000,
            epochs: 0,
            batch_size: 16,
            seed: 1,
            checkpoint_every: 100,
            keep_checkpoints: 2,
            keep_best: false,
            patience: 0,
            keep: KeepChoice::Auto,
            init: None,
            save_dtype: Dtype::F32,
            lora: LoraSection::default(),
        }
    }
}

impl Default for LoraSection {
    fn default() -> Self {
        Self { rank: 0, alpha: 16.0, targets: Projection::ALL.to_vec() }
    }
}

impl Default for EvalSection {
    fn default() -> Self {
        Self { pairs: 2000, baseline_triples: 20_000, every: 0, every_pairs: 200 }
    }
}
