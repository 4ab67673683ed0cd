//! What is in a model's folder or file.

use std::path::Path;

use serde::Serialize;

use super::layout::Names;
use super::pretrained::{self, Pretrained};
use crate::error::Result;
use crate::formats::Tensors;
use crate::model::config::{Architecture, ModelConfig, OutputHeads};
use crate::tokenizer::Missing;

/// All that can be said of a model without computing with it.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// `safetensors`, `PyTorch`, `GGUF` or `checkpoint of a run`.
    pub format: String,
    /// Files with tensors.
    pub files: usize,
    /// The configuration, where there is one.
    pub model: Option<ModelFacts>,
    /// The tokenizer, where there is one.
    pub tokenizer: Option<TokenizerFacts>,
    /// Why the tokenizer that is there cannot be read.
    pub tokenizer_error: Option<String>,
    /// Why it cannot be used as it is: tensors that are missing or do not fit.
    pub problems: Vec<String>,
    /// Tensors that this program does not need.
    pub unused: Vec<String>,
    /// Every stored tensor.
    pub tensors: Vec<TensorFacts>,
}

/// Architecture and sizes.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the names of config.json")]
pub struct ModelFacts {
    pub architecture: String,
    pub names: String,
    pub parameters: usize,
    pub reward_head: bool,
    pub lm_head: bool,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    pub rope_theta: f64,
    pub dynamic_ntk_factor: Option<f64>,
    pub llama3_factor: Option<f64>,
    pub qk_norm: bool,
    pub score_bias: f32,
    pub score_mean: f32,
    pub score_std: f32,
    pub rms_norm_eps: f64,
    pub bias: bool,
    pub tied: bool,
    pub max_length: Option<usize>,
    pub wrapper: Option<String>,
}

/// Kind and special ids.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the names of the tokenizer's own functions")]
pub struct TokenizerFacts {
    pub kind: String,
    pub vocab_size: usize,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub separator: Option<u32>,
    pub score: Option<u32>,
    /// Ids for which the model has no rows yet: training adds them.
    pub new: Vec<u32>,
}

/// A stored tensor.
#[derive(Debug, Serialize)]
pub struct TensorFacts {
    /// Its name in the file.
    pub name: String,
    /// The type in which it is stored.
    pub dtype: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Figures of its values, if asked for and readable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statistics: Option<Statistics>,
}

/// Figures of a tensor's values; of the finite ones, but for the last.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "they are what they are called")]
pub struct Statistics {
    pub min: f64,
    pub max: f64,
    pub mean: f64,
    pub rms: f64,
    pub non_finite: usize,
}

/// Looks into a model's folder, a GGUF file, or a bare file of tensors.
///
/// # Errors
/// The user's: no file that can be read as tensors, or a damaged one; a configuration of another family.
pub fn inspect(path: &Path, statistics: bool) -> Result<Inspection> {
    let path = &pretrained::resolve(path);
    let bare = path.is_file() && !pretrained::is_gguf(path) && !path.with_file_name(super::config_json::FILE).exists();
    if bare {
        let tensors = Tensors::open(path)?;
        return of_tensors(&tensors, statistics);
    }
    let model = Pretrained::open(path)?;
    let (config, tensors) = (model.config(), model.tensors());
    let heads = config.architecture.heads();
    let specs = config.tensors(heads);
    let mut problems: Vec<String> =
        specs.iter().filter_map(|spec| model.find(spec).err().map(|error| error.to_string())).collect();
    let found = model.heads();
    if heads.reward && !found.reward || heads.lm && !found.lm {
        problems.push(format!("the {} has no head of its own", config.architecture.noun()));
    }
    let (unused, unknown) = model.account(&config.tensors(found));
    problems.extend(unknown.into_iter().map(|name| format!("tensor `{name}` is not part of this network")));
    let (tokenizer, tokenizer_error) = match pretrained::tokenizer(path, Missing::Leave) {
        Ok(Some(tokenizer)) => {
            let specials = tokenizer.specials();
            let new = [specials.separator, specials.score].into_iter().flatten();
            let facts = TokenizerFacts {
                kind: tokenizer.description(),
                vocab_size: tokenizer.vocab_size(),
                bos: specials.bos,
                eos: specials.eos,
                separator: specials.separator,
                score: specials.score,
                new: new.filter(|id| *id as usize >= config.vocab_size).collect(),
            };
            (Some(facts), None)
        }
        Ok(None) => (None, None),
        Err(error) => (None, Some(error.to_string())),
    };
    let model = Some(facts(&model, path, config));
    Ok(Inspection { model, tokenizer, tokenizer_error, problems, unused, ..of_tensors(tensors, statistics)? })
}

fn facts(model: &Pretrained, path: &Path, config: &ModelConfig) -> ModelFacts {
    let heads = model.heads();
    let reward = config.architecture == Architecture::RewardModel;
    let template =
        crate::eval::Companion::read(path, config).ok().map(|companion| companion.template).filter(|_| reward);
    ModelFacts {
        architecture: config.architecture.noun().into(),
        names: match model.layout().names {
            Names::InternLm2 => "InternLM2",
            Names::HuggingFace => "Llama",
            Names::Gguf => "llama.cpp",
        }
        .into(),
        parameters: config.parameters(OutputHeads { lm: heads.lm && !model.layout().tied, ..heads }),
        reward_head: heads.reward,
        lm_head: heads.lm,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_hidden_layers: config.num_hidden_layers,
        num_attention_heads: config.num_attention_heads,
        num_key_value_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        vocab_size: config.vocab_size,
        max_position_embeddings: config.max_position_embeddings,
        rope_theta: config.rope_theta,
        dynamic_ntk_factor: config.rope_scaling_factor,
        llama3_factor: config.rope_llama3.map(|llama3| llama3.factor),
        qk_norm: config.qk_norm,
        score_bias: config.score.bias,
        score_mean: config.score.mean,
        score_std: config.score.std,
        rms_norm_eps: config.rms_norm_eps,
        bias: config.bias,
        tied: model.layout().tied,
        max_length: template.as_ref().map(|template| template.max_length),
        wrapper: template.map(|template| format!("{:?}", template.wrapper).to_lowercase()),
    }
}

fn of_tensors(tensors: &Tensors, statistics: bool) -> Result<Inspection> {
    let mut facts = Vec::new();
    for (name, entry) in tensors.iter() {
        let wanted = statistics && entry.encoding.is_readable();
        facts.push(TensorFacts {
            name: name.into(),
            dtype: entry.encoding.to_string(),
            shape: entry.shape.clone(),
            statistics: if wanted { Some(figures(tensors, name)?) } else { None },
        });
    }
    Ok(Inspection {
        format: tensors.format(),
        files: tensors.file_count(),
        model: None,
        tokenizer: None,
        tokenizer_error: None,
        problems: Vec::new(),
        unused: Vec::new(),
        tensors: facts,
    })
}

/// Sums in f64, row by row.
fn figures(tensors: &Tensors, name: &str) -> Result<Statistics> {
    let entry = tensors.readable(name)?;
    // A tensor without elements may claim rows, or elements of a row, without end.
    let (rows, width) = if entry.elements() == 0 { (0, 0) } else { (entry.rows(), entry.row()) };
    let mut row = vec![0.0_f32; width];
    let (mut min, mut max, mut sum, mut squares, mut finite, mut non_finite) =
        (f64::INFINITY, f64::NEG_INFINITY, 0.0, 0.0, 0_usize, 0_usize);
    for i in 0..rows {
        tensors.read_rows(name, i..i + 1, &mut row)?;
        for value in row.iter().map(|v| f64::from(*v)) {
            if !value.is_finite() {
                non_finite += 1;
                continue;
            }
            (min, max, sum, squares) = (min.min(value), max.max(value), sum + value, squares + value * value);
            finite += 1;
        }
    }
    tensors.release(name);
    let n = finite.max(1) as f64;
    // A tensor without a finite value has no least one.
    let [min, max] = [min, max].map(|extreme| if finite > 0 { extreme } else { 0.0 });
    Ok(Statistics { min, max, mean: sum / n, rms: (squares / n).sqrt(), non_finite })
}
