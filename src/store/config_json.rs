//! `config.json` of an InternLM2 model: names and defaults are those of InternLM2's `configuration_internlm2.py`.

use std::fmt;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::files;
use crate::model::config::{Architecture, ModelConfig, SpecialIds};
use crate::tensor::Dtype;

/// The name of the file in a model's folder.
pub const FILE: &str = "config.json";
/// Bytes of a `config.json`, at most.
pub(super) const MAX_BYTES: u64 = 1 << 20;

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
            "torch_dtype": self.dtype.name(),
            "vocab_size": self.vocab_size,
        });
        if let Some(id) = self.special.reward {
            config["reward_token_id"] = json!(id);
        }
        format!("{config:#}\n")
    }
}

/// `rope_scaling` of a Hugging Face configuration: the factor of dynamic NTK scaling, or nothing where it scales nothing.
///
/// # Errors
/// The user's: a scaling that acts within the trained length.
pub(super) fn rope_scaling_factor(scaling: &Map<String, Value>) -> Result<Option<f64>> {
    let kind = scaling.get("rope_type").or_else(|| scaling.get("type")).and_then(Value::as_str);
    let factor = scaling.get("factor").and_then(Value::as_f64);
    match (kind, factor) {
        (Some("default"), _) | (Some("linear" | "yarn" | "llama3"), Some(1.0)) => Ok(None),
        (Some("dynamic"), Some(factor)) if factor >= 1.0 && factor.is_finite() => Ok(Some(factor)),
        _ => Err(Error::user(format!(
            "rope_scaling = {} is not supported: must be null or {{\"type\": \"dynamic\", \"factor\": 1 or above}}",
            Value::Object(scaling.clone())
        ))),
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
        Dtype::STORED.into_iter().find(|d| d.name() == name).ok_or_else(|| {
            Error::user(format!("torch_dtype = {name:?} is not supported: must be float32, bfloat16 or float16"))
        })
    }
}

#[cfg(test)]
mod tests;
