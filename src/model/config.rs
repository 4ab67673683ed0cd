//! The configuration of an InternLM2 model, and the tensors that follow from it.
//!
//! Names and the fused `wqkv` layout are those of InternLM2's `configuration_internlm2.py` and
//! `modeling_internlm2.py`; the reward head is xtuner's `InternLM2ForRewardModel`. `store` reads and writes the
//! `config.json` that holds it.

use super::lora::Lora;
use crate::backend::{Llama3, Rotary};
use crate::config::ModelSection;
use crate::error::{Error, Result};
use crate::tensor::Dtype;

/// Parameters of a model, at most.
const MAX_PARAMETERS: usize = 1 << 40;

/// The shape and the constants of an InternLM2 model, valid by construction when it comes from [`ModelConfig::new`]
/// or from `store`, which reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Which head the checkpoint is published with.
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the SwiGLU hidden layer.
    pub intermediate_size: usize,
    /// Number of transformer layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key/value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Width of one head; `hidden_size / num_attention_heads` in InternLM2.
    pub head_dim: usize,
    /// Whether each head's queries and keys have a norm of their own before they are turned, as in Qwen3.
    pub qk_norm: bool,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// The factor of dynamic NTK scaling, which acts only beyond `max_position_embeddings`.
    pub rope_scaling_factor: Option<f64>,
    /// Llama 3.1's scaling of the rotary frequencies.
    pub rope_llama3: Option<Llama3>,
    /// Whether the projections of attention, `wqkv` and `wo`, have a bias.
    pub bias: bool,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// The longest sequence that is taken: what the rotary embedding serves unscaled, and no more than a sliding
    /// window, which does nothing within it.
    pub max_position_embeddings: usize,
    /// Standard deviation of initial weights.
    pub initializer_range: f64,
    /// The special ids.
    pub special: SpecialIds,
    /// What becomes of the reward head's product before it is a score.
    pub score: ScoreMap,
    /// The type that the weights are stored in.
    pub dtype: Dtype,
    /// The adapters beside the weights, which no folder of a model has: they are trained, and merged into them.
    pub lora: Option<Lora>,
}

/// What a checkpoint of another program does to the reward head's product: `(product + bias - mean) / std`. `bias` is
/// that of a head that has one; `mean` and `std` are those that OpenRLHF's reward models normalise their scores by.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names of the formula")]
pub struct ScoreMap {
    pub bias: f32,
    pub mean: f32,
    pub std: f32,
}

impl ScoreMap {
    /// The product is the score.
    pub const IDENTITY: Self = Self { bias: 0.0, mean: 0.0, std: 1.0 };

    /// The score of a product of the reward head.
    pub fn apply(&self, product: f32) -> f32 {
        if *self == Self::IDENTITY { product } else { (product + self.bias - self.mean) / self.std }
    }

    /// Refuses what would make no scores of finite products, or turn their order around.
    fn check(&self) -> Result<()> {
        let Self { bias, mean, std } = *self;
        if !bias.is_finite() || !mean.is_finite() {
            return Err(Error::user(format!("the bias {bias} and the mean {mean} of the scores: must be finite")));
        }
        match std > 0.0 && std.is_finite() {
            true => Ok(()),
            false => Err(Error::user(format!("std = {std}, which scores are divided by: must be above 0"))),
        }
    }
}

/// Ids with a meaning to the model's users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialIds {
    /// Begins every sequence.
    pub bos: u32,
    /// Ends a generated sequence.
    pub eos: u32,
    /// Fills batches of other implementations.
    pub pad: u32,
    /// The score token, at whose position the reward head is read.
    pub reward: Option<u32>,
}

/// The classes that an InternLM2 checkpoint may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// `v_head.weight`: one score a sequence.
    RewardModel,
    /// `output.weight`: logits of the next token.
    CausalLm,
}

/// Which heads stand on top of the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputHeads {
    /// `v_head.weight`, the scalar reward head.
    pub reward: bool,
    /// `output.weight`, the language-model head.
    pub lm: bool,
}

impl Architecture {
    /// The class name in `architectures`.
    pub fn class(self) -> &'static str {
        match self {
            Self::RewardModel => "InternLM2ForRewardModel",
            Self::CausalLm => "InternLM2ForCausalLM",
        }
    }

    /// What it is, in any family.
    pub fn noun(self) -> &'static str {
        match self {
            Self::RewardModel => "reward model",
            Self::CausalLm => "language model",
        }
    }

    /// The heads that the class has.
    pub fn heads(self) -> OutputHeads {
        OutputHeads { reward: self == Self::RewardModel, lm: self == Self::CausalLm }
    }
}

/// The width of a head where nothing else is said: the residual stream is divided among the heads. 0 where it cannot
/// be.
pub fn usual_head_dim(hidden_size: usize, heads: usize) -> usize {
    hidden_size.checked_div(heads).filter(|_| hidden_size.is_multiple_of(heads)).unwrap_or(0)
}

impl ModelConfig {
    /// The model that `[model]` describes, for a tokenizer of `vocab_size` ids.
    ///
    /// # Errors
    /// Names the key that is out of range.
    pub fn new(
        section: &ModelSection,
        vocab_size: usize,
        special: SpecialIds,
        architecture: Architecture,
    ) -> Result<Self> {
        let config = Self {
            architecture,
            hidden_size: section.hidden_size,
            intermediate_size: section.intermediate_size,
            num_hidden_layers: section.num_hidden_layers,
            num_attention_heads: section.num_attention_heads,
            num_key_value_heads: section.num_key_value_heads,
            head_dim: usual_head_dim(section.hidden_size, section.num_attention_heads),
            qk_norm: false,
            vocab_size,
            rope_theta: section.rope_theta,
            rope_scaling_factor: None,
            rope_llama3: None,
            bias: false,
            rms_norm_eps: section.rms_norm_eps,
            max_position_embeddings: section.max_position_embeddings,
            initializer_range: section.initializer_range,
            special,
            score: ScoreMap::IDENTITY,
            dtype: Dtype::F32,
            lora: None,
        };
        config.check("model.")?;
        Ok(config)
    }

    /// The same network without adapters, which they are merged into.
    pub fn merged(&self) -> Self {
        Self { lora: None, ..self.clone() }
    }

    /// The heads of an attention layer.
    pub fn attention_heads(&self) -> crate::backend::Heads {
        let (query, kv) = (self.num_attention_heads, self.num_key_value_heads);
        crate::backend::Heads { query, kv, dim: self.head_dim }
    }

    /// The rotary frequencies within the trained length.
    pub fn rotary(&self) -> Rotary {
        Rotary { theta: self.rope_theta, llama3: self.rope_llama3 }
    }

    /// Whether InternLM2's own code computes what this network does.
    pub fn is_internlm2(&self) -> bool {
        self.has_usual_heads() && !self.qk_norm && self.rope_llama3.is_none() && self.score == ScoreMap::IDENTITY
    }

    /// Whether the residual stream is divided among the heads.
    pub fn has_usual_heads(&self) -> bool {
        self.num_attention_heads.checked_mul(self.head_dim) == Some(self.hidden_size)
    }

    /// The part of the configuration that `[model]` holds.
    fn section(&self) -> ModelSection {
        ModelSection {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads,
            rope_theta: self.rope_theta,
            rms_norm_eps: self.rms_norm_eps,
            max_position_embeddings: self.max_position_embeddings,
            initializer_range: self.initializer_range,
        }
    }

    /// Refuses adapters that hold no less than the weights that they are for.
    fn check_lora(&self) -> Result<()> {
        let Some(Lora { rank, targets, .. }) = &self.lora else { return Ok(()) };
        for target in targets {
            let [rows, columns] = target.shape(self);
            if *rank > rows.min(columns) {
                return Err(Error::user(format!(
                    "train.lora.rank = {rank}: {} of this model is [{rows}, {columns}], so its rank is at most {}; lower \
                     the rank, or leave the projection out of train.lora.targets",
                    target.name(),
                    rows.min(columns)
                )));
            }
        }
        Ok(())
    }

    pub(crate) fn check(&self, prefix: &str) -> Result<()> {
        let explicit = self.head_dim != usual_head_dim(self.hidden_size, self.num_attention_heads);
        self.section().check_with(prefix, explicit.then_some(self.head_dim))?;
        self.score.check()?;
        self.check_lora()?;
        let vocab = self.vocab_size;
        if !(1..=1 << 22).contains(&vocab) {
            return Err(Error::user(format!("vocab_size = {vocab}: must be between 1 and {}", 1 << 22)));
        }
        let SpecialIds { bos, eos, pad, reward } = self.special;
        let ids = [("bos", Some(bos)), ("eos", Some(eos)), ("pad", Some(pad)), ("reward", reward)];
        for (name, id) in ids.into_iter().filter_map(|(name, id)| Some((name, id?))) {
            if id as usize >= vocab {
                return Err(Error::user(format!("{name}_token_id = {id}: must be below vocab_size = {vocab}")));
            }
        }
        // Within the bounds above no product or sum of sizes overflows 64 bits.
        let parameters = self.parameters(OutputHeads { reward: true, lm: true });
        if parameters > MAX_PARAMETERS {
            return Err(Error::user(format!("the sizes make {parameters} parameters, more than {MAX_PARAMETERS}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
