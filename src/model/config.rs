//! `config.json` of an InternLM2 model, and the tensors that follow from it.
//!
//! Names, defaults and the fused `wqkv` layout are those of InternLM2's `configuration_internlm2.py` and
//! `modeling_internlm2.py`; the reward head is xtuner's `InternLM2ForRewardModel`.

use std::fmt;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::config::ModelSection;
use crate::error::{Error, Result};
use crate::files;
use crate::model::foreign::rope_scaling_factor;

/// The name of the file in a model's folder.
pub const FILE: &str = "config.json";
/// Bytes of a `config.json`, at most.
pub(super) const MAX_BYTES: u64 = 1 << 20;
/// Parameters of a model, at most.
const MAX_PARAMETERS: usize = 1 << 40;
/// Elements that every tensor's offset into the flat buffer is a multiple of: 64 bytes of f32, one cache line.
pub const ALIGNMENT: usize = 16;

/// The shape and the constants of an InternLM2 model, valid by construction when it comes from [`ModelConfig::read`]
/// or [`ModelConfig::new`].
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
    const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

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

    /// Reads `config.json` of the folder `dir`.
    ///
    /// # Errors
    /// Names file and key of what is missing, malformed, out of range or not supported.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        Self::parse(&files::read_text(&path, MAX_BYTES)?).map_err(|e| e.context(path.display()))
    }

    /// Reads the text of a `config.json`. Keys without a meaning here are ignored.
    ///
    /// # Errors
    /// As [`ModelConfig::read`], without the file's name.
    pub fn parse(text: &str) -> Result<Self> {
        let keys: Map<String, Value> = serde_json::from_str(text).map_err(|e| Error::user(e.to_string()))?;
        Self::from_keys(&Keys(&keys))
    }

    pub(super) fn from_keys(keys: &Keys) -> Result<Self> {
        match keys.optional::<String>("model_type")?.as_deref() {
            None | Some("internlm2") => {}
            Some(other) => {
                return Err(Error::user(format!(
                    "model_type = {other:?} is not supported: must be \"internlm2\", \"llama\" or \"qwen2\""
                )));
            }
        }
        keys.only("hidden_act", "silu".to_string())?;
        keys.only("tie_word_embeddings", false)?;
        let known = [Architecture::RewardModel, Architecture::CausalLm];
        let heads = keys.required("num_attention_heads")?;
        let eos = keys.optional("eos_token_id")?.unwrap_or(2);
        let config = Self {
            architecture: keys.architecture(&known.map(|architecture| (architecture.class(), architecture)))?,
            hidden_size: keys.required("hidden_size")?,
            intermediate_size: keys.required("intermediate_size")?,
            num_hidden_layers: keys.required("num_hidden_layers")?,
            num_attention_heads: heads,
            num_key_value_heads: keys.optional("num_key_value_heads")?.unwrap_or(heads),
            vocab_size: keys.required("vocab_size")?,
            rope_theta: keys.optional("rope_theta")?.unwrap_or(10_000.0),
            rope_scaling_factor: keys
                .optional("rope_scaling")?
                .map_or(Ok(None), |scaling| rope_scaling_factor(&scaling))?,
            // InternLM2's own default is true, and its published models say false: it has to be there.
            bias: keys.required("bias")?,
            rms_norm_eps: keys.optional("rms_norm_eps")?.unwrap_or(1e-6),
            max_position_embeddings: keys.optional("max_position_embeddings")?.unwrap_or(2048),
            initializer_range: keys.optional("initializer_range")?.unwrap_or(0.02),
            special: SpecialIds {
                bos: keys.optional("bos_token_id")?.unwrap_or(1),
                eos,
                pad: keys.optional("pad_token_id")?.unwrap_or(eos),
                reward: keys.optional("reward_token_id")?,
            },
            dtype: keys.dtype()?,
        };
        config.check("")?;
        Ok(config)
    }

    /// Writes `config.json` into the folder `dir`, in one step.
    ///
    /// # Errors
    /// When the folder cannot be written or the disk is full.
    pub fn write(&self, dir: &Path) -> Result<()> {
        files::write_atomic(&dir.join(FILE), self.to_json().as_bytes())
    }

    /// The text of `config.json`.
    pub fn to_json(&self) -> String {
        let scaling = self.rope_scaling_factor.map(|factor| json!({ "type": "dynamic", "factor": factor }));
        let mut config = json!({
            "architectures": [self.architecture.class()],
            "model_type": "internlm2",
            "attn_implementation": "eager",
            "bias": self.bias,
            "bos_token_id": self.special.bos,
            "eos_token_id": self.special.eos,
            "pad_token_id": self.special.pad,
            // The official modelling code reads it, and its configuration class has no default for it.
            "pretraining_tp": 1,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "initializer_range": self.initializer_range,
            "max_position_embeddings": self.max_position_embeddings,
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_scaling": scaling,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": false,
            "torch_dtype": self.dtype.torch_name(),
            "vocab_size": self.vocab_size,
        });
        if let Some(id) = self.special.reward {
            config["reward_token_id"] = json!(id);
        }
        format!("{config:#}\n")
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

    pub(super) fn check(&self, prefix: &str) -> Result<()> {
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

/// Typed reading of the keys of a JSON object. A key that is null counts as absent, as in `transformers`.
pub(super) struct Keys<'a>(pub(super) &'a Map<String, Value>);

impl Keys<'_> {
    pub(super) fn optional<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value).map(Some).map_err(|e| Error::user(format!("{key}: {e}"))),
        }
    }

    pub(super) fn required<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        self.optional(key)?.ok_or_else(|| Error::user(format!("{key} is missing")))
    }

    /// Refuses any value but `only`, which is also the default.
    pub(super) fn only<T: DeserializeOwned + PartialEq + fmt::Debug>(&self, key: &str, only: T) -> Result<()> {
        match self.optional::<T>(key)? {
            Some(value) if value != only => {
                Err(Error::user(format!("{key} = {value:?} is not supported: must be {only:?}")))
            }
            _ => Ok(()),
        }
    }

    /// Which of the classes `known` the checkpoint names.
    pub(super) fn architecture(&self, known: &[(&str, Architecture)]) -> Result<Architecture> {
        let names: Vec<String> = self.required("architectures")?;
        match names.as_slice() {
            [name] => known.iter().find(|(class, _)| class == name).map(|(_, architecture)| *architecture),
            _ => None,
        }
        .ok_or_else(|| {
            let known: Vec<String> = known.iter().map(|(class, _)| format!("[\"{class}\"]")).collect();
            Error::user(format!("architectures = {names:?} is not supported: must be {}", known.join(" or ")))
        })
    }

    /// `dtype` is the newer name of `torch_dtype`.
    pub(super) fn dtype(&self) -> Result<StorageDtype> {
        let Some(name) = self.optional::<String>("torch_dtype")?.or(self.optional("dtype")?) else {
            return Ok(StorageDtype::F32);
        };
        StorageDtype::ALL.into_iter().find(|d| d.torch_name() == name).ok_or_else(|| {
            Error::user(format!("torch_dtype = {name:?} is not supported: must be float32, bfloat16 or float16"))
        })
    }
}

#[cfg(test)]
mod tests;
