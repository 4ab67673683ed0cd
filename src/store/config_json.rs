//! `config.json` of an InternLM2 model: names and defaults are those of InternLM2's `configuration_internlm2.py`.

use std::fmt;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::unsupported;
use crate::backend::Llama3;
use crate::error::{Error, Result};
use crate::files;
use crate::model::config::{Architecture, ModelConfig, ScoreMap, SpecialIds, usual_head_dim};
use crate::tensor::Dtype;

/// The name of the file in a model's folder.
pub const FILE: &str = "config.json";
/// Bytes of a `config.json`, at most.
pub(super) const MAX_BYTES: u64 = 1 << 20;
/// The `model_type` of a network that InternLM2's own code would compute otherwise, so that it is not taken for one.
const OWN: &str = "polar_raw";

/// The class that such a network names.
fn own_class(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::RewardModel => "PolarRawForRewardModel",
        Architecture::CausalLm => "PolarRawForCausalLM",
    }
}

/// What this program's own networks have beyond InternLM2's.
struct Extension {
    head_dim: Option<usize>,
    qk_norm: bool,
    score: ScoreMap,
}

impl Default for Extension {
    fn default() -> Self {
        Self { head_dim: None, qk_norm: false, score: ScoreMap::IDENTITY }
    }
}

impl Extension {
    fn read(keys: &Keys) -> Result<Self> {
        let bias = keys.optional("score_bias")?.unwrap_or(0.0);
        Ok(Self {
            head_dim: keys.optional("head_dim")?,
            qk_norm: keys.optional("qk_norm")?.unwrap_or(false),
            score: ScoreMap { bias, ..normalisation(keys)? },
        })
    }
}

/// `mean` and `std` of the scores. OpenRLHF writes them into every configuration, and they act where `normalize_reward` is
/// true, which is for the caller to ask.
///
/// # Errors
/// One without the other.
pub(super) fn normalisation(keys: &Keys) -> Result<ScoreMap> {
    match (keys.optional("mean")?, keys.optional("std")?) {
        (None, None) => Ok(ScoreMap::IDENTITY),
        (Some(mean), Some(std)) => Ok(ScoreMap { bias: 0.0, mean, std }),
        _ => Err(Error::user("mean and std normalise scores together: one of them is missing")),
    }
}

impl ModelConfig {
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
        let model_type = keys.optional::<String>("model_type")?;
        let own = match model_type.as_deref() {
            None | Some("internlm2") => false,
            Some(OWN) => true,
            Some(other) => return Err(unsupported::refuse(other)),
        };
        keys.only("hidden_act", "silu".to_string())?;
        keys.only("tie_word_embeddings", false)?;
        let known = [Architecture::RewardModel, Architecture::CausalLm];
        let class = |architecture: Architecture| if own { own_class(architecture) } else { architecture.class() };
        let heads: usize = keys.required("num_attention_heads")?;
        let hidden: usize = keys.required("hidden_size")?;
        // InternLM2's own code does not know these keys.
        let extension = if own { Extension::read(keys)? } else { Extension::default() };
        let eos = keys.optional("eos_token_id")?.unwrap_or(2);
        let scaling = RopeScaling::read(keys.optional("rope_scaling")?, own)?;
        let config = Self {
            architecture: keys.architecture(&known.map(|architecture| (class(architecture), architecture)))?,
            hidden_size: hidden,
            intermediate_size: keys.required("intermediate_size")?,
            num_hidden_layers: keys.required("num_hidden_layers")?,
            num_attention_heads: heads,
            num_key_value_heads: keys.optional("num_key_value_heads")?.unwrap_or(heads),
            head_dim: extension.head_dim.unwrap_or_else(|| usual_head_dim(hidden, heads)),
            qk_norm: extension.qk_norm,
            vocab_size: keys.required("vocab_size")?,
            rope_theta: keys.optional("rope_theta")?.unwrap_or(10_000.0),
            rope_scaling_factor: scaling.dynamic,
            rope_llama3: scaling.llama3,
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
            score: extension.score,
            dtype: keys.dtype()?,
            lora: None,
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
        let internlm2 = self.is_internlm2();
        let mut config = json!({
            "architectures": [if internlm2 { self.architecture.class() } else { own_class(self.architecture) }],
            "model_type": if internlm2 { "internlm2" } else { OWN },
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
            "rope_scaling": rope_scaling(self, "type"),
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": false,
            "torch_dtype": self.dtype.name(),
            "vocab_size": self.vocab_size,
        });
        if let Some(id) = self.special.reward {
            config["reward_token_id"] = json!(id);
        }
        if !internlm2 {
            config["head_dim"] = json!(self.head_dim);
            config["qk_norm"] = json!(self.qk_norm);
            config["score_bias"] = json!(self.score.bias);
            config["mean"] = json!(self.score.mean);
            config["std"] = json!(self.score.std);
        }
        format!("{config:#}\n")
    }
}

/// What `rope_scaling`, or `rope_parameters`, of a Hugging Face configuration asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct RopeScaling {
    /// The factor of dynamic NTK scaling.
    pub dynamic: Option<f64>,
    /// Llama 3.1's scaling.
    pub llama3: Option<Llama3>,
}

impl RopeScaling {
    /// Reads it; `llama3`: whether the family knows Llama 3.1's scaling.
    ///
    /// # Errors
    /// The user's: a scaling of another kind that acts within the trained length, a `llama3` without all its keys.
    pub fn read(scaling: Option<Map<String, Value>>, llama3: bool) -> Result<Self> {
        let Some(scaling) = scaling else { return Ok(Self::default()) };
        let kind = scaling.get("rope_type").or_else(|| scaling.get("type")).and_then(Value::as_str);
        let factor = scaling.get("factor").and_then(Value::as_f64);
        match (kind, factor) {
            (Some("default"), _) | (Some("linear" | "yarn" | "llama3"), Some(1.0)) => Ok(Self::default()),
            (Some("dynamic"), Some(factor)) if factor >= 1.0 && factor.is_finite() => {
                Ok(Self { dynamic: Some(factor), llama3: None })
            }
            (Some("llama3"), Some(factor)) if llama3 => {
                Ok(Self { dynamic: None, llama3: Some(read_llama3(&Keys(&scaling), factor)?) })
            }
            _ => Err(Error::user(format!(
                "rope_scaling = {} is not supported: must be null or of the type \"dynamic\"{}, with a factor of 1 or \
                 above",
                Value::Object(scaling.clone()),
                if llama3 { " or \"llama3\"" } else { "" }
            ))),
        }
    }
}

fn read_llama3(keys: &Keys, factor: f64) -> Result<Llama3> {
    let scaling = Llama3 {
        factor,
        low_freq_factor: keys.required("low_freq_factor")?,
        high_freq_factor: keys.required("high_freq_factor")?,
        original_length: keys.required("original_max_position_embeddings")?,
    };
    let Llama3 { low_freq_factor: low, high_freq_factor: high, original_length: length, .. } = scaling;
    if [factor, low, high, f64::from(length)].iter().all(|v| v.is_finite() && *v > 0.0) && factor >= 1.0 && high > low {
        return Ok(scaling);
    }
    Err(Error::user(format!(
        "rope_scaling of the type \"llama3\": factor = {factor} must be 1 or above, and low_freq_factor = {low} below \
         high_freq_factor = {high}, both above 0 like original_max_position_embeddings = {length}"
    )))
}

/// `rope_scaling` as `transformers` reads it, its kind under the key `kind`; null where nothing is scaled.
pub(super) fn rope_scaling(config: &ModelConfig, kind: &str) -> Value {
    match (config.rope_llama3, config.rope_scaling_factor) {
        (Some(llama3), _) => json!({
            "rope_type": "llama3",
            "factor": llama3.factor,
            "low_freq_factor": llama3.low_freq_factor,
            "high_freq_factor": llama3.high_freq_factor,
            "original_max_position_embeddings": llama3.original_length,
        }),
        (None, Some(factor)) => json!({ kind: "dynamic", "factor": factor }),
        (None, None) => Value::Null,
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
    pub(super) fn dtype(&self) -> Result<Dtype> {
        let Some(name) = self.optional::<String>("torch_dtype")?.or(self.optional("dtype")?) else {
            return Ok(Dtype::F32);
        };
        Dtype::named(&name).ok_or_else(|| {
            Error::user(format!("torch_dtype = {name:?} is not supported: must be float32, bfloat16 or float16"))
        })
    }
}

#[cfg(test)]
mod tests;
