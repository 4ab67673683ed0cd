//! The configuration of an InternLM2 model, and the tensors that follow from it.
//!
//! Names and the fused `wqkv` layout are those of InternLM2's `configuration_internlm2.py` and
//! `modeling_internlm2.py`; the reward head is xtuner's `InternLM2ForRewardModel`. `store` reads and writes the
//! `config.json` that holds it.

use std::fmt;

use crate::config::ModelSection;
use crate::error::{Error, Result};

/// Parameters of a model, at most.
const MAX_PARAMETERS: usize = 1 << 40;
/// Elements that every tensor's offset into the flat buffer is a multiple of: 64 bytes of f32, one cache line.
pub const ALIGNMENT: usize = 16;

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
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// The factor of dynamic NTK scaling, which acts only beyond `max_position_embeddings`.
    pub rope_scaling_factor: Option<f64>,
    /// Whether the projections of attention, `wqkv` and `wo`, have a bias.
    pub bias: bool,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// The longest sequence that the rotary embedding serves unscaled.
    pub max_position_embeddings: usize,
    /// Standard deviation of initial weights.
    pub initializer_range: f64,
    /// The special ids.
    pub special: SpecialIds,
    /// The type that the weights are stored in.
    pub dtype: StorageDtype,
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

/// Floating-point types of stored weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum StorageDtype {
    /// IEEE 754 single precision.
    #[serde(rename = "float32")]
    F32,
    /// bfloat16.
    #[serde(rename = "bfloat16")]
    Bf16,
    /// IEEE 754 half precision.
    #[serde(rename = "float16")]
    F16,
}

/// Which heads stand on top of the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heads {
    /// `v_head.weight`, the scalar reward head.
    pub reward: bool,
    /// `output.weight`, the language-model head.
    pub lm: bool,
}

/// One tensor of the flat parameter buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// InternLM2's name.
    pub name: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Elements before it in the flat buffer, a multiple of [`ALIGNMENT`] except for `w3`, which follows `w1` at once.
    pub offset: usize,
}

impl TensorSpec {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
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
    pub fn heads(self) -> Heads {
        Heads { reward: self == Self::RewardModel, lm: self == Self::CausalLm }
    }
}

impl StorageDtype {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// PyTorch's name, as in `torch_dtype`.
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }

    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

impl fmt::Display for StorageDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.torch_name())
    }
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
            vocab_size,
            rope_theta: section.rope_theta,
            rope_scaling_factor: None,
            bias: false,
            rms_norm_eps: section.rms_norm_eps,
            max_position_embeddings: section.max_position_embeddings,
            initializer_range: section.initializer_range,
            special,
            dtype: StorageDtype::F32,
        };
        config.check("model.")?;
        Ok(config)
    }

    /// The heads of an attention layer.
    pub fn attention_heads(&self) -> crate::backend::Heads {
        let (query, kv) = (self.num_attention_heads, self.num_key_value_heads);
        crate::backend::Heads { query, kv, dim: self.head_dim() }
    }

    /// Width of one head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Number of trainable numbers, padding between tensors not counted.
    pub fn parameters(&self, heads: Heads) -> usize {
        self.tensors(heads).iter().map(TensorSpec::elements).sum()
    }

    /// Elements of the flat buffer, padding included: a multiple of [`ALIGNMENT`].
    pub fn buffer_elements(&self, heads: Heads) -> usize {
        self.tensors(heads).last().map_or(0, |last| (last.offset + last.elements()).next_multiple_of(ALIGNMENT))
    }

    /// Every tensor in the order of the flat buffer. `w3` follows `w1` without a gap: one matrix product reads both.
    pub fn tensors(&self, heads: Heads) -> Vec<TensorSpec> {
        let (hidden, inner, head) = (self.hidden_size, self.intermediate_size, self.head_dim());
        let qkv = (self.num_attention_heads + 2 * self.num_key_value_heads) * head;
        let mut tensors = Flat::default();
        tensors.push("model.tok_embeddings.weight", &[self.vocab_size, hidden]);
        for layer in 0..self.num_hidden_layers {
            let mut push = |name: &str, shape: &[usize]| {
                tensors.push(&format!("model.layers.{layer}.{name}"), shape);
            };
            push("attention_norm.weight", &[hidden]);
            push("attention.wqkv.weight", &[qkv, hidden]);
            if self.bias {
                push("attention.wqkv.bias", &[qkv]);
            }
            push("attention.wo.weight", &[hidden, hidden]);
            if self.bias {
                push("attention.wo.bias", &[hidden]);
            }
            push("ffn_norm.weight", &[hidden]);
            push("feed_forward.w1.weight", &[inner, hidden]);
            push("feed_forward.w3.weight", &[inner, hidden]);
            push("feed_forward.w2.weight", &[hidden, inner]);
        }
        tensors.push("model.norm.weight", &[hidden]);
        if heads.reward {
            tensors.push("v_head.weight", &[1, hidden]);
        }
        if heads.lm {
            tensors.push("output.weight", &[self.vocab_size, hidden]);
        }
        tensors.specs
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

    pub(crate) fn check(&self, prefix: &str) -> Result<()> {
        self.section().check(prefix)?;
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
        let parameters = self.parameters(Heads { reward: true, lm: true });
        if parameters > MAX_PARAMETERS {
            return Err(Error::user(format!("the sizes make {parameters} parameters, more than {MAX_PARAMETERS}")));
        }
        Ok(())
    }
}

/// Lays tensors out one after the other.
#[derive(Default)]
struct Flat {
    specs: Vec<TensorSpec>,
    end: usize,
}

impl Flat {
    fn push(&mut self, name: &str, shape: &[usize]) {
        // `w1` and `w3` are one matrix to the product that reads both: no gap between them.
        let offset = if name.ends_with("w3.weight") { self.end } else { self.end.next_multiple_of(ALIGNMENT) };
        let spec = TensorSpec { name: name.to_string(), shape: shape.to_vec(), offset };
        self.end = offset + spec.elements();
        self.specs.push(spec);
    }
}

#[cfg(test)]
mod tests;
