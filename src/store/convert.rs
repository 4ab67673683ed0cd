//! From one family and format to another.

use std::fs;
use std::path::Path;

use super::config_json::FILE;
use super::foreign::{Family, ROPE_FACTORS, rope_factors};
use super::layout::{Layout, Names};
use super::pretrained::{self, Pretrained};
use super::weights::{self, WriteOptions};
use crate::error::{Error, Result};
use crate::eval::{Companion, companion};
use crate::files::{self, StagedFolder};
use crate::formats::gguf::MetadataValue;
use crate::formats::{Encoding, Format, Piece, Writer};
use crate::model::TensorSpec;
use crate::model::config::{Architecture, ModelConfig, OutputHeads, ScoreMap};
use crate::run::RunCheckpoint;
use crate::tensor::Dtype;
use crate::tokenizer::{self, Missing};

/// What to convert to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelFormat {
    /// This program's own: an InternLM2 folder of safetensors.
    InternLm2,
    /// An InternLM2 folder of PyTorch files.
    InternLm2Torch,
    /// A folder of `transformers`' Llama, Qwen2 or Qwen3.
    HuggingFace(Family),
    /// A GGUF file.
    Gguf,
}

/// Files beside the weights that go along: tokenizer, generation, and how strings are built.
const COMPANIONS: [&str; 10] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
    companion::FILE,
];

/// Writes the model `from` to `to`, a folder or GGUF file that is whole or absent, as `kind`. `encoding` is the type of
/// its weights; without it the one that all weights of `from` have, or float32 where they are quantised or differ.
///
/// Gives notes of what a person wants to know.
///
/// # Errors
/// The user's: what [`Pretrained::open`] refuses, a target that exists, a model that `kind` cannot hold.
pub fn convert(
    from: &Path,
    to: &Path,
    kind: ModelFormat,
    encoding: Option<Encoding>,
    max_shard_bytes: usize,
) -> Result<Vec<String>> {
    let source = Pretrained::open(from)?;
    let architecture = source.config().architecture;
    // A reward model of InternLM2 may carry the head of its next-token loss.
    let heads = match kind {
        ModelFormat::InternLm2 | ModelFormat::InternLm2Torch => source.heads(),
        _ => architecture.heads(),
    };
    let loaded = source.check(&source.config().tensors(heads))?;
    let missing = match architecture {
        Architecture::RewardModel => !loaded.heads.reward,
        Architecture::CausalLm => !loaded.heads.lm,
    };
    if missing {
        return Err(Error::user(format!(
            "{} has no head: a {} without the weights of its own head would start at random elsewhere",
            from.display(),
            architecture.noun()
        )));
    }
    let encoding = encoding.unwrap_or_else(|| lossless(&source, heads));
    let dtype = Dtype::STORED.into_iter().find(|dtype| Encoding::from(*dtype) == encoding);
    let mut notes = Vec::new();
    if !loaded.unused.is_empty() {
        notes.push(format!("left behind: {}", loaded.unused.join(", ")));
    }
    let mut values = |spec: &TensorSpec| read(&source, spec);
    match (kind, dtype) {
        (ModelFormat::Gguf, _) => {
            if to.exists() {
                return Err(Error::user(format!("{} exists already: give the name of a new file", to.display())));
            }
            notes.extend(write_gguf(&source, from, to, encoding, heads, &mut values)?);
            return Ok(notes);
        }
        (_, None) => {
            return Err(Error::user(format!("{encoding} is a type of GGUF files: give float32, bfloat16 or float16")));
        }
        (kind, Some(dtype)) => {
            let folder = StagedFolder::create(to)?;
            let mut config = ModelConfig { dtype, ..source.config().clone() };
            let (format, layout, json) = match kind {
                ModelFormat::HuggingFace(family) => {
                    family.holds(&config)?;
                    config.bias |= family == Family::Qwen2;
                    (Format::Safetensors, family.layout(Names::HuggingFace, false), family.to_json(&config))
                }
                ModelFormat::InternLm2Torch => (Format::Torch, Layout::INTERNLM2, config.to_json()),
                _ => (Format::Safetensors, Layout::INTERNLM2, config.to_json()),
            };
            if layout.names == Names::InternLm2 && !config.is_internlm2() {
                notes.push("this is not InternLM2's network: the folder is for this program alone".into());
            }
            files::write_atomic(&folder.path().join(FILE), json.as_bytes())?;
            let target = WriteOptions { format, layout, dtype, max_shard_bytes };
            weights::write(folder.path(), &config, heads, target, &mut values)?;
            notes.extend(copy_companions(from, folder.path(), &config)?);
            folder.commit()?;
        }
    }
    Ok(notes)
}

/// The type that all tensors which are read have, if a folder can have it; else float32, which holds the values of any.
/// What a configuration says of the type need not be so.
fn lossless(source: &Pretrained, heads: OutputHeads) -> Encoding {
    let specs = source.config().tensors(heads);
    let parts = specs.iter().flat_map(|spec| source.layout().parts(spec, source.config().attention_heads()));
    let mut stored = parts.filter_map(|(name, _)| Some(source.tensors().get(&name)?.encoding));
    let first = stored.next().filter(|first| Dtype::STORED.into_iter().any(|dtype| Encoding::from(dtype) == *first));
    first.filter(|first| stored.all(|encoding| encoding == *first)).unwrap_or(Encoding::F32)
}

/// A tensor of the source; zero for a bias that it does not have.
fn read(source: &Pretrained, spec: &TensorSpec) -> Result<Vec<f32>> {
    if spec.param.is_bias() && !source.config().bias {
        return Ok(vec![0.0; spec.elements()]);
    }
    let mut values = Vec::new();
    source.read(spec, &mut values)?;
    Ok(values)
}

/// Writes a GGUF file: matrices as `element`, vectors as F32, as llama.cpp wants them.
fn write_gguf(
    source: &Pretrained,
    from: &Path,
    to: &Path,
    encoding: Encoding,
    heads: OutputHeads,
    values: &mut weights::ReadTensor,
) -> Result<Vec<String>> {
    let config = source.config();
    let family = match (config.qk_norm, config.bias) {
        (true, false) => Family::Qwen3,
        (true, true) => return Err(Error::user("llama.cpp's qwen3 has no biases: convert to qwen3 or internlm2")),
        (false, true) => Family::Qwen2,
        (false, false) => Family::Llama,
    };
    family.holds(config)?;
    if config.score != ScoreMap::IDENTITY {
        return Err(Error::user("a GGUF file cannot hold mean and std of the scores: convert to a folder"));
    }
    let layout = family.layout(Names::Gguf, false);
    let specs = config.tensors(heads);
    let of = |spec: &TensorSpec| if spec.shape.len() > 1 && spec.shape[0] > 1 { encoding } else { Encoding::F32 };
    let mut pieces = weights::pieces(&specs, config, layout, of);
    let factors = rope_factors(config);
    pieces.extend(factors.iter().map(|factors| Piece {
        name: ROPE_FACTORS.into(),
        shape: vec![factors.len()],
        encoding: Encoding::F32,
    }));
    let quantised = !matches!(encoding, Encoding::Plain(_));
    let mut keys = family.to_gguf(config, quantised);
    let tokenizer = source.tensors().metadata().iter().filter(|(key, _)| key.starts_with("tokenizer."));
    keys.extend(tokenizer.map(|(key, value)| (key.clone(), value.clone())));
    let bare = !keys.iter().any(|(key, _)| key == "tokenizer.ggml.model");
    if bare {
        keys.push(("tokenizer.ggml.model".into(), MetadataValue::Text("none".into())));
    }
    let keys: Vec<(&str, MetadataValue)> = keys.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    let mut writer = Writer::create(to, Format::Gguf, pieces, &keys)?;
    specs.iter().try_for_each(|spec| weights::write_tensor(&mut writer, spec, config, layout, values))?;
    factors.iter().try_for_each(|factors| writer.append(factors))?;
    writer.finish()?.commit()?;
    let mut notes = Vec::new();
    if bare {
        notes.push("the GGUF file has no vocabulary: put the tokenizer's files beside it, or give it token ids".into());
    }
    if RunCheckpoint::at(from)?.is_some() {
        notes.push(format!(
            "the GGUF file does not say how strings are built: put {} beside it, which a conversion to a folder writes",
            companion::FILE
        ));
    } else if pretrained::folder_of(from)?.join(companion::FILE).exists() {
        notes.push(format!("the GGUF file does not say how strings are built: put {} beside it", companion::FILE));
    }
    if let Some(id) = config.special.reward {
        notes.push(format!("the GGUF file has no key for the score token, which is {id}"));
    }
    if let Some(factor) = config.rope_scaling_factor {
        // It does nothing up to the trained length, which becomes the context length.
        notes.push(format!(
            "left out: the dynamic NTK scaling of factor {factor}, which acts beyond the context length"
        ));
    }
    Ok(notes)
}

/// Takes the tokenizer along: the vocabulary of a GGUF file, or else the files beside the weights.
fn copy_companions(from: &Path, to: &Path, config: &ModelConfig) -> Result<Option<String>> {
    let from = &pretrained::resolve(from);
    match pretrained::vocabulary(from, Missing::Leave) {
        Ok(Some(tokenizer)) => return tokenizer.save(to).map(|()| None),
        Ok(None) => {}
        Err(error) => return Ok(Some(format!("no tokenizer: {error}"))),
    }
    if RunCheckpoint::at(from)?.is_some() {
        Companion::read(from, config)?.write(to)?;
    }
    let folder = pretrained::folder_of(from)?;
    for name in COMPANIONS {
        let file = folder.join(name);
        if file.is_file() {
            fs::copy(&file, to.join(name)).map_err(|e| Error::io("copy", &file, &e))?;
        }
    }
    let bare = pretrained::is_gguf(from) && !tokenizer::exists(to);
    Ok(bare.then(|| "the GGUF file has no vocabulary: add a tokenizer.json".into()))
}
