//! A model on the disk, of any family and format that can be read, as this network's tensors.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::config::{FILE, Heads, Keys, MAX_BYTES, ModelConfig, TensorSpec};
use super::foreign::{self, Family};
use super::layout::{Layout, Names};
use crate::error::{Error, Result};
use crate::files;
use crate::formats::{Tensors, lone_gguf};
use crate::tokenizer::{self, Tokenizer};

/// What a model on the disk held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The heads that were asked for and found.
    pub heads: Heads,
    /// Tensors that were not read, by the names that they have there.
    pub unused: Vec<String>,
}

/// A model on the disk: its configuration and its mapped, not yet read weights.
pub struct Pretrained {
    config: ModelConfig,
    layout: Layout,
    tensors: Tensors,
}

impl Pretrained {
    /// Opens a folder (InternLM2, Llama or Qwen2, as safetensors or PyTorch files, or a single GGUF file in it) or a GGUF
    /// file. Reads configuration and headers; the weights are mapped. Another program must not shorten the files
    /// meanwhile.
    ///
    /// # Errors
    /// The user's: names the file and what is missing, malformed or not supported.
    pub fn open(path: &Path) -> Result<Self> {
        let path = &resolve(path);
        if is_gguf(path) {
            let tensors = Tensors::open(path)?;
            let (config, layout) = Family::read_gguf(&tensors).map_err(|e| e.context(path.display()))?;
            return Ok(Self { config, layout, tensors });
        }
        let (config, layout) = read_folder(path)?;
        Ok(Self { config, layout, tensors: Tensors::open(path)? })
    }

    /// The architecture.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Names and order of the stored tensors.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The stored tensors.
    pub fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// The heads that are there.
    pub fn heads(&self) -> Heads {
        let has = |name: &str| self.tensors.get(self.layout.source(name).first()).is_some();
        Heads { reward: has("v_head.weight"), lm: has("output.weight") }
    }

    /// Reads the weights and gives every tensor of `config.tensors(heads)` to `sink`, in that order and converted to f32. A
    /// head that is not there is left out; [`Loaded::heads`] says which were found. Takes memory for the largest tensor.
    ///
    /// # Errors
    /// Names the file and the tensor that is missing, malformed, not finite, or of a shape or type that does not fit the
    /// configuration; what `sink` returns.
    pub fn read_into(&self, heads: Heads, sink: &mut dyn FnMut(&TensorSpec, &[f32]) -> Result<()>) -> Result<Loaded> {
        let specs = self.config.tensors(heads);
        // All tensors are checked before the first is passed on.
        let (found, loaded) = self.check(&specs)?;
        let mut values = Vec::new();
        for (spec, stored) in specs.iter().zip(found) {
            values.clear();
            values.resize(spec.elements(), 0.0);
            match stored {
                Stored::Absent => continue,
                Stored::Zero => {}
                Stored::There => {
                    self.layout.read(spec, self.config.attention_heads(), &self.tensors, &mut values)?;
                }
            }
            if values.iter().any(|v| !v.is_finite()) {
                let name = self.layout.source(&spec.name).first().to_string();
                return Err(self.tensors.refuse(&name, "holds a value that is not finite: get it again"));
            }
            sink(spec, &values)?;
        }
        Ok(loaded)
    }

    fn check(&self, specs: &[TensorSpec]) -> Result<(Vec<Stored>, Loaded)> {
        let mut unused: BTreeSet<&str> = self.tensors.iter().map(|(name, _)| name).collect();
        let mut heads = Heads::default();
        let mut found = Vec::with_capacity(specs.len());
        for spec in specs {
            let names = self.layout.check(spec, self.config.attention_heads(), &self.tensors)?;
            found.push(match (&names, spec.name.as_str()) {
                (Some(_), name) => {
                    heads.reward |= name == "v_head.weight";
                    heads.lm |= name == "output.weight";
                    Stored::There
                }
                (None, "v_head.weight" | "output.weight") => Stored::Absent,
                // Qwen2 has biases for queries, keys and values alone.
                (None, name) if name.ends_with("wo.bias") && self.layout.names != Names::InternLm2 => Stored::Zero,
                (None, name) => {
                    let name = self.layout.source(name).first().to_string();
                    return Err(self.tensors.refuse(&name, "is missing"));
                }
            });
            names.iter().flatten().for_each(|name| {
                unused.remove(name.as_str());
            });
        }
        Ok((found, Loaded { heads, unused: unused.into_iter().map(String::from).collect() }))
    }
}

/// Where a tensor's values come from.
enum Stored {
    There,
    Zero,
    Absent,
}

/// Reads the configuration alone of what [`Pretrained::open`] opens.
///
/// # Errors
/// As [`Pretrained::open`].
pub fn read_config(path: &Path) -> Result<ModelConfig> {
    let path = &resolve(path);
    if is_gguf(path) {
        return Pretrained::open(path).map(|model| model.config);
    }
    read_folder(path).map(|(config, _)| config)
}

/// The folder's only GGUF file, where the folder has no configuration.
fn resolve(path: &Path) -> PathBuf {
    let lone = path.is_dir() && !path.join(FILE).exists();
    lone.then(|| lone_gguf(path)).flatten().unwrap_or_else(|| path.to_path_buf())
}

/// Whether `path` is a GGUF file, by its ending.
pub fn is_gguf(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|ending| ending == "gguf")
}

/// The configuration in a folder, or beside a file of weights.
fn read_folder(path: &Path) -> Result<(ModelConfig, Layout)> {
    let path = if path.is_dir() { path } else { files::parent(path) }.join(FILE);
    let text = files::read_text(&path, MAX_BYTES)?;
    parse(&text).map_err(|e| e.context(path.display()))
}

/// Reads the text of a `config.json` of any family.
///
/// # Errors
/// The user's: names the key that is missing, malformed or not supported.
pub fn parse(text: &str) -> Result<(ModelConfig, Layout)> {
    let keys: Map<String, Value> = serde_json::from_str(text).map_err(|e| Error::user(e.to_string()))?;
    let model_type = keys.get("model_type").and_then(Value::as_str).unwrap_or_default();
    match Family::of(model_type) {
        Some(family) => family.read_keys(&Keys(&keys)),
        None => Ok((ModelConfig::from_keys(&Keys(&keys))?, Layout::INTERNLM2)),
    }
}

/// The tokenizer of what [`Pretrained::open`] opens; `None` if a folder has none.
///
/// # Errors
/// The user's: a tokenizer that is damaged or not supported.
pub fn tokenizer(path: &Path) -> Result<Option<Tokenizer>> {
    let path = &resolve(path);
    if is_gguf(path) {
        let tensors = Tensors::open(path)?;
        let vocabulary = foreign::vocabulary(tensors.metadata()).map_err(|e| e.context(path.display()))?;
        let tokenizer = vocabulary.map(|vocabulary| Tokenizer::from_gguf(&vocabulary, tokenizer::Names::default()));
        return tokenizer.transpose().map_err(|e| e.context(path.display()));
    }
    let dir = if path.is_dir() { path } else { files::parent(path) };
    tokenizer::exists(dir).then(|| Tokenizer::load(dir)).transpose()
}
