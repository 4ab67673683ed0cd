//! Configurations of other families: Llama, Mistral, Qwen2 and Qwen3 as Hugging Face folders and as GGUF files.

use serde_json::{Map, Value, json};

use super::config_json::{Keys, RopeScaling, normalisation, rope_scaling};
use super::unsupported;
use crate::backend::{Llama3, Rotary, rope_frequency};
use crate::error::{Error, Result};
use crate::formats::gguf::{self, Metadata};
use crate::formats::{Encoding, Tensors};
use crate::model::config::{Architecture, ModelConfig, ScoreMap, SpecialIds, usual_head_dim};
use crate::store::layout::{Layout, Names, REWARD_HEADS};
use crate::tensor::Dtype;
use crate::tokenizer::GgufVocabulary;

/// A family whose network is this one under other names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// No biases, or all four of attention's.
    Llama,
    /// Llama without biases, with a sliding window; a GGUF file calls it `llama`.
    Mistral,
    /// Biases of queries, keys and values.
    Qwen2,
    /// Norms of queries and keys; no biases, or all four.
    Qwen3,
}

impl Family {
    const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// `model_type`, and GGUF's `general.architecture`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The class in `transformers`.
    pub fn class(self, architecture: Architecture) -> &'static str {
        match (self, architecture) {
            (Self::Llama, Architecture::CausalLm) => "LlamaForCausalLM",
            (Self::Llama, Architecture::RewardModel) => "LlamaForSequenceClassification",
            (Self::Mistral, Architecture::CausalLm) => "MistralForCausalLM",
            (Self::Mistral, Architecture::RewardModel) => "MistralForSequenceClassification",
            (Self::Qwen3, Architecture::CausalLm) => "Qwen3ForCausalLM",
            (Self::Qwen3, Architecture::RewardModel) => "Qwen3ForSequenceClassification",
            (Self::Qwen2, Architecture::CausalLm) => "Qwen2ForCausalLM",
            (Self::Qwen2, Architecture::RewardModel) => "Qwen2ForSequenceClassification",
        }
    }

    /// The family that a configuration names.
    pub fn of(model_type: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.model_type() == model_type)
    }

    /// How its tensors lie.
    pub fn layout(self, names: Names, tied: bool) -> Layout {
        let llama = self == Self::Llama;
        let output_bias = matches!(self, Self::Llama | Self::Qwen3);
        Layout { names, interleaved: llama && names == Names::Gguf, tied, output_bias, reward_head: REWARD_HEADS[0] }
    }

    /// Reads the keys of a `config.json`, and how the weights are laid out.
    ///
    /// # Errors
    /// Names the key that is missing, out of range or asks for what this network does not have.
    pub(super) fn read_keys(self, keys: &Keys) -> Result<(ModelConfig, Layout)> {
        keys.only("hidden_act", "silu".to_string())?;
        keys.only("mlp_bias", false)?;
        keys.only("partial_rotary_factor", 1.0)?;
        let heads: usize = keys.required("num_attention_heads")?;
        let hidden: usize = keys.required("hidden_size")?;
        let head_dim = match (keys.optional("head_dim")?, self) {
            (Some(dim), _) => dim,
            (None, Self::Qwen3) => 128,
            (None, _) => usual_head_dim(hidden, heads),
        };
        let bias = match self {
            Self::Llama | Self::Qwen3 => keys.optional("attention_bias")?.unwrap_or(false),
            Self::Qwen2 => true,
            Self::Mistral => false,
        };
        let normalised = keys.optional("normalize_reward")?.unwrap_or(false);
        let reward_model = (OPENRLHF, Architecture::RewardModel);
        let [lm, reward] = [Architecture::CausalLm, Architecture::RewardModel].map(|a| (self.class(a), a));
        let eos = first_id(keys, "eos_token_id")?;
        let bos = first_id(keys, "bos_token_id")?;
        // Newer configurations keep all of it in one object.
        let rope: Map<String, Value> = keys.optional("rope_parameters")?.unwrap_or_default();
        Keys(&rope).only("partial_rotary_factor", 1.0)?;
        let theta = Keys(&rope).optional("rope_theta")?.or(keys.optional("rope_theta")?);
        let scales = rope.contains_key("rope_type") || rope.contains_key("type");
        let scaling = RopeScaling::read(if scales { Some(rope) } else { keys.optional("rope_scaling")? }, true)?;
        let positions = match self {
            Self::Llama => 2048,
            Self::Mistral => 4096 * 32,
            Self::Qwen2 | Self::Qwen3 => 32_768,
        };
        let positions: usize = keys.optional("max_position_embeddings")?.unwrap_or(positions);
        // Within its window a sliding window does nothing.
        let positions = self.sliding_window(keys)?.map_or(positions, |window| positions.min(window));
        let config = ModelConfig {
            architecture: keys.architecture(&[lm, reward, reward_model])?,
            hidden_size: hidden,
            intermediate_size: keys.required("intermediate_size")?,
            num_hidden_layers: keys.required("num_hidden_layers")?,
            num_attention_heads: heads,
            num_key_value_heads: keys.optional("num_key_value_heads")?.unwrap_or(heads),
            head_dim,
            qk_norm: self == Self::Qwen3,
            vocab_size: keys.required("vocab_size")?,
            rope_theta: theta.unwrap_or(10_000.0),
            rope_scaling_factor: scaling.dynamic,
            rope_llama3: scaling.llama3,
            bias,
            rms_norm_eps: keys.optional("rms_norm_eps")?.unwrap_or(1e-6),
            max_position_embeddings: positions,
            initializer_range: keys.optional("initializer_range")?.unwrap_or(0.02),
            special: SpecialIds {
                reward: keys.optional("reward_token_id")?,
                ..special_ids(bos, eos, first_id(keys, "pad_token_id")?)
            },
            score: if normalised { normalisation(keys)? } else { ScoreMap::IDENTITY },
            dtype: keys.dtype()?,
            lora: None,
        };
        config.check("")?;
        let tied =
            config.architecture == Architecture::CausalLm && keys.optional("tie_word_embeddings")?.unwrap_or(false);
        let reward_head = reward_head(keys)?;
        Ok((config, Layout { reward_head, ..self.layout(Names::HuggingFace, tied) }))
    }

    /// The tokens before a token that it sees, itself included, where not all.
    fn sliding_window(self, keys: &Keys) -> Result<Option<usize>> {
        const USUAL: usize = 4096;
        let window = keys.optional("sliding_window")?;
        match self {
            Self::Llama => Ok(None),
            // A window that is null is none, and one that is not there is the usual one.
            Self::Mistral => Ok(if keys.0.contains_key("sliding_window") { window } else { Some(USUAL) }),
            Self::Qwen2 | Self::Qwen3 => {
                let used: bool = keys.optional("use_sliding_window")?.unwrap_or(false);
                Ok(used.then(|| window.unwrap_or(USUAL)))
            }
        }
    }

    /// Refuses a model that this family's own code would compute otherwise.
    ///
    /// # Errors
    /// The user's: names what the family lacks, and what to convert to.
    pub fn holds(self, config: &ModelConfig) -> Result<()> {
        let refuse = |what: &str| Err(Error::user(format!("{} cannot hold {what}", self.model_type())));
        match (self == Self::Qwen3, config.qk_norm) {
            (false, true) => return refuse("norms of queries and keys: convert to qwen3 or internlm2"),
            (true, false) => return refuse("a model without norms of queries and keys: convert to llama"),
            _ => {}
        }
        if config.score.bias != 0.0 {
            return refuse("the bias of the reward head (score.bias), which its classes drop: convert to internlm2");
        }
        Ok(())
    }

    /// The text of a `config.json` in which `transformers` finds this model.
    pub fn to_json(self, config: &ModelConfig) -> String {
        let mut keys = json!({
            "architectures": [self.class(config.architecture)],
            "model_type": self.model_type(),
            "bos_token_id": config.special.bos,
            "eos_token_id": config.special.eos,
            "pad_token_id": config.special.pad,
            "hidden_act": "silu",
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "initializer_range": config.initializer_range,
            "max_position_embeddings": config.max_position_embeddings,
            "num_attention_heads": config.num_attention_heads,
            "num_hidden_layers": config.num_hidden_layers,
            "num_key_value_heads": config.num_key_value_heads,
            "rms_norm_eps": config.rms_norm_eps,
            "rope_scaling": rope_scaling(config, "rope_type"),
            "rope_theta": config.rope_theta,
            "tie_word_embeddings": false,
            "torch_dtype": config.dtype.name(),
            "vocab_size": config.vocab_size,
        });
        if !config.has_usual_heads() || self == Self::Qwen3 {
            keys["head_dim"] = json!(config.head_dim);
        }
        if config.score != ScoreMap::IDENTITY {
            keys["normalize_reward"] = json!(true);
            keys["mean"] = json!(config.score.mean);
            keys["std"] = json!(config.score.std);
        }
        if matches!(self, Self::Llama | Self::Qwen3) {
            keys["attention_bias"] = json!(config.bias);
        }
        if config.architecture == Architecture::RewardModel {
            keys["num_labels"] = json!(1);
        }
        if let Some(id) = config.special.reward {
            keys["reward_token_id"] = json!(id);
        }
        format!("{keys:#}\n")
    }

    /// The keys of a GGUF file of this model, without its tokenizer's.
    pub fn to_gguf(self, config: &ModelConfig, quantised: bool) -> Vec<(String, gguf::MetadataValue)> {
        use gguf::MetadataValue::{Float, Int, Text};
        let size = |n: usize| Int(n as i128);
        let mut keys = vec![("general.architecture".to_string(), Text(self.model_type().into()))];
        if quantised {
            keys.push(("general.quantization_version".into(), Int(2)));
        }
        let own = [
            ("context_length", size(config.max_position_embeddings)),
            ("embedding_length", size(config.hidden_size)),
            ("block_count", size(config.num_hidden_layers)),
            ("feed_forward_length", size(config.intermediate_size)),
            ("attention.head_count", size(config.num_attention_heads)),
            ("attention.head_count_kv", size(config.num_key_value_heads)),
            ("attention.layer_norm_rms_epsilon", Float(config.rms_norm_eps)),
            ("attention.key_length", size(config.head_dim)),
            ("attention.value_length", size(config.head_dim)),
            ("rope.dimension_count", size(config.head_dim)),
            ("rope.freq_base", Float(config.rope_theta)),
            ("vocab_size", size(config.vocab_size)),
        ];
        keys.extend(own.map(|(key, value)| (format!("{}.{key}", self.model_type()), value)));
        if config.architecture == Architecture::RewardModel {
            // llama.cpp's pooling of rerankers: `cls.output` at the last token.
            keys.push((format!("{}.pooling_type", self.model_type()), Int(4)));
        }
        keys
    }

    /// Whether attention has biases, which a GGUF file says by having them.
    fn gguf_bias(self, tensors: &Tensors) -> bool {
        let there = |name: &str| tensors.get(&format!("blk.0.{name}.bias")).is_some();
        self == Self::Qwen2 || ["attn_q", "attn_k", "attn_v", "attn_output"].into_iter().any(there)
    }

    /// Reads the metadata of a GGUF file, and how its weights are laid out.
    ///
    /// # Errors
    /// The user's: names the key that is missing, malformed or not supported.
    pub fn read_gguf(tensors: &Tensors) -> Result<(ModelConfig, Layout)> {
        let keys = GgufKeys { metadata: tensors.metadata(), prefix: "general" };
        let name = keys.text("architecture")?.unwrap_or_default();
        let family = Self::of(&name)
            .filter(|family| *family != Self::Mistral)
            .ok_or_else(|| unsupported::refuse(&name).context("general.architecture"))?;
        let keys = GgufKeys { prefix: family.model_type(), ..keys };
        let heads = keys.required("attention.head_count")?;
        let hidden = keys.required("embedding_length")?;
        let head_dim = keys.size("attention.key_length")?.unwrap_or_else(|| usual_head_dim(hidden, heads));
        for key in ["rope.dimension_count", "attention.value_length"] {
            if let Some(other) = keys.size(key)?.filter(|other| *other != head_dim) {
                return Err(Error::user(format!(
                    "{}.{key} = {other} is not supported: must be the width of a head, {head_dim}",
                    keys.prefix
                )));
            }
        }
        if keys.size("expert_count")?.unwrap_or(0) > 0 {
            return Err(Error::user(format!("{}.expert_count: mixtures of experts are not supported", keys.prefix)));
        }
        let factor = keys.float("rope.scaling.factor")?.or(keys.float("rope.scale_linear")?).unwrap_or(1.0);
        let scaling = keys.text("rope.scaling.type")?.unwrap_or_else(|| "none".into());
        if scaling != "none" && factor != 1.0 {
            return Err(Error::user(format!(
                "{}.rope.scaling.type = {scaling:?} with the factor {factor} is not supported: must be \"none\"",
                keys.prefix
            )));
        }
        let theta = keys.float("rope.freq_base")?.unwrap_or(10_000.0);
        let rope_llama3 = gguf_llama3(tensors, head_dim, theta)?;
        let positions: usize = keys.required("context_length")?;
        let window = keys.size("attention.sliding_window")?.filter(|window| *window > 0);
        let Some(embedding) = tensors.get("token_embd.weight") else {
            return Err(tensors.refuse("token_embd.weight", "is missing"));
        };
        let reward = tensors.get("cls.output.weight").is_some();
        let tokenizer = GgufKeys { prefix: "tokenizer.ggml", ..keys };
        let [bos, eos, pad] = ["bos", "eos", "padding"].map(|which| tokenizer.id(&format!("{which}_token_id")));
        let config = ModelConfig {
            architecture: if reward { Architecture::RewardModel } else { Architecture::CausalLm },
            hidden_size: hidden,
            intermediate_size: keys.required("feed_forward_length")?,
            num_hidden_layers: keys.required("block_count")?,
            num_attention_heads: heads,
            num_key_value_heads: keys.size("attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            qk_norm: family == Self::Qwen3,
            vocab_size: embedding.rows(),
            rope_theta: theta,
            rope_scaling_factor: None,
            rope_llama3,
            bias: family.gguf_bias(tensors),
            rms_norm_eps: keys.float("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6),
            max_position_embeddings: window.map_or(positions, |window| positions.min(window)),
            initializer_range: 0.02,
            special: special_ids(bos?, eos?, pad?),
            score: ScoreMap::IDENTITY,
            dtype: match embedding.encoding {
                Encoding::BF16 => Dtype::Bf16,
                Encoding::F16 => Dtype::F16,
                // Only f32 holds what a quantised block stands for.
                _ => Dtype::F32,
            },
            lora: None,
        };
        config.check("")?;
        // A reward model has no such head at all.
        let tied = !reward && tensors.get("output.weight").is_none();
        Ok((config, family.layout(Names::Gguf, tied)))
    }
}

/// The vocabulary in a GGUF file, if it has one.
///
/// # Errors
/// The user's: a key of another type than its own.
pub(super) fn vocabulary(metadata: &Metadata) -> Result<Option<GgufVocabulary>> {
    let keys = GgufKeys { metadata, prefix: "tokenizer.ggml" };
    // What converters write for a file without one.
    let model = keys.text("model")?.filter(|model| !["none", "no_vocab"].contains(&model.as_str()));
    let Some(model) = model else { return Ok(None) };
    let texts = |key| match keys.get(key) {
        None => Ok(Vec::new()),
        Some(gguf::MetadataValue::Texts(texts)) => Ok(texts.clone()),
        // An empty array may be of any type.
        Some(gguf::MetadataValue::Ints(none)) if none.is_empty() => Ok(Vec::new()),
        Some(_) => Err(keys.wrong(key, "a list of texts")),
    };
    let scores = match keys.get("scores") {
        None => Vec::new(),
        Some(gguf::MetadataValue::Floats(scores)) => scores.clone(),
        Some(_) => return Err(keys.wrong("scores", "a list of floats")),
    };
    let token_types = match keys.get("token_type") {
        None => Vec::new(),
        Some(gguf::MetadataValue::Ints(kinds)) => kinds.iter().map(|kind| *kind as i32).collect(),
        Some(_) => return Err(keys.wrong("token_type", "a list of integers")),
    };
    Ok(Some(GgufVocabulary {
        model,
        pre: keys.text("pre")?,
        tokens: texts("tokens")?,
        token_types,
        scores,
        merges: texts("merges")?,
        bos: keys.id("bos_token_id")?,
        eos: keys.id("eos_token_id")?,
        unknown: keys.id("unknown_token_id")?,
        pad: keys.id("padding_token_id")?,
        chat_template: GgufKeys { metadata, prefix: "tokenizer" }.text("chat_template")?,
        add_bos: keys.truth("add_bos_token")?,
        add_space_prefix: keys.truth("add_space_prefix")?,
    }))
}

/// The tensor of a GGUF file that divides the rotary frequencies.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The divisors of the rotary frequencies that llama.cpp computes Llama 3.1's scaling by: `[head_dim / 2]`.
pub(super) fn rope_factors(config: &ModelConfig) -> Option<Vec<f32>> {
    let factor =
        |i| rope_frequency(i, config.head_dim, config.rope_theta) / rope_frequency(i, config.head_dim, config.rotary());
    config.rope_llama3.map(|_| (0..config.head_dim / 2).map(factor).collect())
}

/// Llama 3.1's scaling, of which a GGUF file has only the divisors that it makes. Those of the published models, Llama
/// 3.1's and 3.2's, are known.
///
/// # Errors
/// Names the tensor with other divisors.
fn gguf_llama3(tensors: &Tensors, head_dim: usize, theta: f64) -> Result<Option<Llama3>> {
    let Some(entry) = tensors.get(ROPE_FACTORS).filter(|entry| entry.elements() <= 1 << 16) else { return Ok(None) };
    let mut values = vec![0.0; entry.elements()];
    tensors.read_rows(ROPE_FACTORS, 0..entry.rows(), &mut values)?;
    if values.iter().all(|factor| *factor == 1.0) {
        return Ok(None);
    }
    let published =
        [8.0, 32.0].map(|factor| Llama3 { factor, low_freq_factor: 1.0, high_freq_factor: 4.0, original_length: 8192 });
    let fits = |scaling: &Llama3| {
        values.len() == head_dim / 2
            && values.iter().enumerate().all(|(i, factor)| {
                let plain = rope_frequency(i, head_dim, theta);
                let wanted = plain / rope_frequency(i, head_dim, Rotary { theta, llama3: Some(*scaling) });
                (factor - wanted).abs() <= 1e-4 * wanted
            })
    };
    published.into_iter().find(fits).map(Some).ok_or_else(|| {
        tensors.refuse(ROPE_FACTORS, "scales the rotary frequencies otherwise than Llama 3.1 and 3.2: use the folder")
    })
}

/// The class of OpenRLHF's reward models.
const OPENRLHF: &str = "RewardModel";

/// The name of the reward head, where the configuration says it: OpenRLHF's `value_head_prefix`.
fn reward_head(keys: &Keys) -> Result<&'static str> {
    let Some(prefix) = keys.optional::<String>("value_head_prefix")? else { return Ok(REWARD_HEADS[0]) };
    let name = format!("{prefix}.weight");
    REWARD_HEADS.into_iter().find(|known| *known == name).ok_or_else(|| {
        Error::user(format!("value_head_prefix = {prefix:?} is not supported: must be score, value_head or v_head"))
    })
}

/// An id, or the first of a list.
fn first_id(keys: &Keys, key: &str) -> Result<Option<u32>> {
    match keys.optional::<Value>(key)? {
        Some(Value::Array(ids)) => {
            let first: Map<String, Value> = ids.into_iter().take(1).map(|id| (key.to_string(), id)).collect();
            Keys(&first).optional(key)
        }
        _ => keys.optional(key),
    }
}

/// What stands in for ids that a configuration lacks. It needs no BOS where its tokenizer adds none.
fn special_ids(bos: Option<u32>, eos: Option<u32>, pad: Option<u32>) -> SpecialIds {
    let eos = eos.or(bos).unwrap_or(0);
    SpecialIds { bos: bos.unwrap_or(eos), eos, pad: pad.unwrap_or(eos), reward: None }
}

/// Typed reading of GGUF keys `prefix.key`.
#[derive(Clone, Copy)]
struct GgufKeys<'a> {
    metadata: &'a Metadata,
    prefix: &'a str,
}

impl GgufKeys<'_> {
    fn get(&self, key: &str) -> Option<&gguf::MetadataValue> {
        self.metadata.get(&format!("{}.{key}", self.prefix))
    }

    fn wrong(&self, key: &str, what: &str) -> Error {
        Error::user(format!("{}.{key} is not {what}", self.prefix))
    }

    fn text(&self, key: &str) -> Result<Option<String>> {
        match self.get(key) {
            None => Ok(None),
            Some(gguf::MetadataValue::Text(text)) => Ok(Some(text.clone())),
            Some(_) => Err(self.wrong(key, "a text")),
        }
    }

    fn size(&self, key: &str) -> Result<Option<usize>> {
        match self.get(key) {
            None => Ok(None),
            Some(gguf::MetadataValue::Int(n)) => {
                usize::try_from(*n).map(Some).map_err(|_| self.wrong(key, "a size that can be used"))
            }
            // Some models have a figure a layer; where all are equal it is one.
            Some(gguf::MetadataValue::Ints(all)) if all.iter().all(|n| Some(n) == all.first()) => all
                .first()
                .map(|n| usize::try_from(*n).map_err(|_| self.wrong(key, "a size that can be used")))
                .transpose(),
            Some(_) => Err(self.wrong(key, "one integer")),
        }
    }

    fn required(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| Error::user(format!("{}.{key} is missing", self.prefix)))
    }

    fn id(&self, key: &str) -> Result<Option<u32>> {
        self.size(key)?.map(|id| u32::try_from(id).map_err(|_| self.wrong(key, "a token id"))).transpose()
    }

    fn truth(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(gguf::MetadataValue::Bool(truth)) => Ok(Some(*truth)),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    /// A float, as the decimal number that its single precision stands for.
    fn float(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(gguf::MetadataValue::Float(number)) => Ok((*number as f32).to_string().parse().ok()),
            Some(gguf::MetadataValue::Int(n)) => Ok(Some(*n as f64)),
            Some(_) => Err(self.wrong(key, "a number")),
        }
    }
}
