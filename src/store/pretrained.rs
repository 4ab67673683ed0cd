//! A model on the disk, of any family and format that can be read, as this network's tensors.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::config_json::{FILE, Keys, MAX_BYTES};
use super::foreign::{self, Family, ROPE_FACTORS};
use super::layout::{Layout, Names, REWARD_HEADS};
use crate::error::{Error, Result};
use crate::files;
use crate::formats::{Tensors, lone_gguf};
use crate::model::TensorSpec;
use crate::model::config::{Architecture, ModelConfig, OutputHeads};
use crate::model::{LayerParam, Param};
use crate::run::RunCheckpoint;
use crate::tokenizer::{self, Missing, Tokenizer};

/// What a model on the disk held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The heads that were asked for and found.
    pub heads: OutputHeads,
    /// Tensors that were not read and change nothing, by the names that they have there.
    pub unused: Vec<String>,
}

impl Loaded {
    fn has(&self, param: Param) -> bool {
        match param {
            Param::RewardHead => self.heads.reward,
            Param::LmHead => self.heads.lm,
            _ => true,
        }
    }
}

/// A model on the disk: its configuration and its mapped, not yet read weights.
pub struct Pretrained {
    config: ModelConfig,
    layout: Layout,
    tensors: Tensors,
}

impl Pretrained {
    /// Opens a folder (InternLM2, Llama, Mistral, Qwen2 or Qwen3, as safetensors or PyTorch files, or a single GGUF
    /// file in it), a GGUF file, or the folder of a checkpoint in that of its run. Reads configuration and headers; the weights are mapped. Another program must not
    /// shorten the files meanwhile.
    ///
    /// # Errors
    /// The user's: names the file and what is missing, malformed or not supported.
    pub fn open(path: &Path) -> Result<Self> {
        let path = &resolve(path);
        if is_gguf(path) {
            let tensors = Tensors::open(path)?;
            let (config, layout) = Family::read_gguf(&tensors).map_err(|e| e.context(path.display()))?;
            return Self { config, layout, tensors }.with_head();
        }
        let (config, layout) = read_folder(path)?;
        let tensors = match RunCheckpoint::at(path)? {
            Some(checkpoint) => checkpoint.tensors(&config)?,
            None => Tensors::open(path)?,
        };
        Self { config, layout, tensors }.with_head()
    }

    /// Settles under which name the reward head is stored, and what becomes of its product.
    fn with_head(mut self) -> Result<Self> {
        let reward = self.config.architecture == Architecture::RewardModel;
        if reward && self.layout.names == Names::HuggingFace {
            let there: Vec<&str> = REWARD_HEADS.into_iter().filter(|name| self.tensors.get(name).is_some()).collect();
            // Where there are several, that of the configuration is meant, and the others are not known.
            if let [head] = there[..] {
                self.layout.reward_head = head;
            }
        }
        if let Some(name) = self.head_bias().filter(|name| self.tensors.get(name).is_some()) {
            if self.tensors.readable(&name)?.elements() != 1 {
                return Err(self.tensors.refuse(&name, "has more than one number, and a score is one"));
            }
            let mut value = [0.0];
            self.tensors.read_rows(&name, 0..1, &mut value)?;
            self.config.score.bias = value[0];
        }
        self.config.check("").map_err(|e| e.context(self.tensors.path().display()))?;
        Ok(self)
    }

    /// The name that a bias of a reward model's head has, if it has one.
    fn head_bias(&self) -> Option<String> {
        let head = self.layout.stored(Param::RewardHead);
        let bias = head.first().strip_suffix("weight").map(|head| format!("{head}bias"));
        bias.filter(|_| self.config.architecture == Architecture::RewardModel)
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
    pub fn heads(&self) -> OutputHeads {
        let has = |param: Param| self.tensors.get(self.layout.stored(param).first()).is_some();
        OutputHeads { reward: has(Param::RewardHead), lm: has(Param::LmHead) }
    }

    /// Reads the weights and gives every tensor of `config.tensors(heads)` to `sink`, in that order and converted to f32. A
    /// head that is not there is left out; [`Loaded::heads`] says which were found. Takes memory for the largest tensor.
    ///
    /// # Errors
    /// Names the file and the tensor that is missing, malformed, not finite, or of a shape or type that does not fit the
    /// configuration; what `sink` returns.
    pub fn read_into(
        &self,
        heads: OutputHeads,
        sink: &mut dyn FnMut(&TensorSpec, &[f32]) -> Result<()>,
    ) -> Result<Loaded> {
        let specs = self.config.tensors(heads);
        // All tensors are checked before the first is passed on.
        let loaded = self.check(&specs)?;
        let mut values = Vec::new();
        for spec in specs.iter().filter(|spec| loaded.has(spec.param)) {
            self.read(spec, &mut values)?;
            sink(spec, &values)?;
        }
        Ok(loaded)
    }

    /// Replaces `values` by one tensor, converted to f32.
    ///
    /// # Errors
    /// As [`Pretrained::read_into`].
    pub fn read(&self, spec: &TensorSpec, values: &mut Vec<f32>) -> Result<()> {
        if values.capacity() < spec.elements() {
            // Growing would hold the old values and the new ones at once.
            *values = Vec::new();
        }
        values.clear();
        if self.find(spec)?.is_none() {
            values.resize(spec.elements(), 0.0);
            return Ok(());
        }
        values.resize(spec.elements(), 0.0);
        self.layout.read(spec, self.config.attention_heads(), &self.tensors, values)?;
        if values.iter().any(|v| !v.is_finite()) {
            let name = self.layout.stored(spec.param).first().to_string();
            return Err(self.tensors.refuse(&name, "holds a value that is not finite: get it again"));
        }
        Ok(())
    }

    /// What the tensors `specs` are made of is there, and of their shapes; a head may be missing. Every stored tensor
    /// is one of them, or known to change nothing of what they compute.
    ///
    /// # Errors
    /// Names the first tensor that is missing or does not fit, and those that are not known.
    pub fn check(&self, specs: &[TensorSpec]) -> Result<Loaded> {
        let mut heads = OutputHeads::default();
        for spec in specs {
            match (spec.param, self.find(spec)) {
                (Param::RewardHead, Ok(Some(_))) => heads.reward = true,
                (Param::LmHead, Ok(Some(_))) => heads.lm = true,
                (Param::RewardHead | Param::LmHead, Ok(None)) => {}
                (_, found) => drop(found?),
            }
        }
        let (unused, unknown) = self.account(specs);
        match unknown.first() {
            None => Ok(Loaded { heads, unused }),
            Some(first) => Err(self.refuse_unknown(first, &unknown)),
        }
    }

    /// The refusal of a declared reward model that has no reward head.
    pub fn without_head(&self, path: &Path) -> Error {
        Error::user(format!(
            "{} is declared as a reward model and has no reward head ({}): get its weights again, or the language \
             model that it was made from",
            path.display(),
            self.layout.stored(Param::RewardHead).first()
        ))
    }

    fn refuse_unknown(&self, first: &str, all: &[String]) -> Error {
        let others = match all.len() - 1 {
            0 => String::new(),
            _ => format!(" (also {})", all[1..].join(", ")),
        };
        let head = match self.config.architecture == Architecture::RewardModel && !self.heads().reward {
            true => format!("; the reward head, `{}`, is missing", self.layout.stored(Param::RewardHead).first()),
            false => String::new(),
        };
        self.tensors.refuse(
            first,
            format!("is not part of this network, which would compute something else without it{others}{head}"),
        )
    }

    /// The one rule for what a file holds beside the tensors `specs`: names of tensors that change nothing of what is
    /// computed, and of those that are not known. A head that is not asked for changes nothing, nor does a head that is
    /// tied and stored all the same, a copy of the embedding.
    pub fn account(&self, specs: &[TensorSpec]) -> (Vec<String>, Vec<String>) {
        let all = self.config.tensors(OutputHeads { reward: true, lm: true });
        let names = |specs: &[TensorSpec]| -> BTreeSet<String> {
            let parts = specs.iter().flat_map(|spec| self.layout.parts(spec, self.config.attention_heads()));
            parts.map(|(name, _)| name).collect()
        };
        let (used, mut known) = (names(specs), names(&all));
        known.insert(Layout { tied: false, ..self.layout }.stored(Param::LmHead).first().to_string());
        let bias = self.head_bias();
        let rest = self.tensors.iter().map(|(name, _)| name).filter(|name| !used.contains(*name));
        // A tied head was read, and the bias of the head as well.
        let tied = |name: &str| self.layout.tied && known.contains(name);
        let rest = rest.filter(|name| !tied(name) && bias.as_deref() != Some(*name));
        let (unused, unknown): (Vec<&str>, Vec<&str>) =
            rest.partition(|name| known.contains(*name) || changes_nothing(name));
        let own = |names: Vec<&str>| names.into_iter().map(String::from).collect();
        (own(unused), own(unknown))
    }

    /// The stored tensors that `spec` is made of; none for a bias that is zero because its family has none.
    ///
    /// # Errors
    /// Names a tensor that is missing, unless it is a head, or does not fit.
    pub fn find(&self, spec: &TensorSpec) -> Result<Option<Vec<String>>> {
        let found = self.layout.check(spec, self.config.attention_heads(), &self.tensors)?;
        let optional = self.layout.names == Names::Gguf && matches!(spec.param, Param::Layer(_, LayerParam::WoBias));
        let zero = optional || !self.layout.holds(spec.param);
        match found {
            None if !zero && !spec.param.is_head() => {
                let name = self.layout.stored(spec.param).first().to_string();
                Err(self.tensors.refuse(&name, "is missing"))
            }
            found => Ok(found),
        }
    }
}

/// Whether a tensor is one that programs store and compute anew: buffers of rotary embeddings and of masks. The
/// divisors of rotary frequencies are read with the configuration.
fn changes_nothing(name: &str) -> bool {
    const ENDINGS: [&str; 4] = ["rotary_emb.inv_freq", ".masked_bias", ".attn_rot_embd", ".rope.freqs"];
    name == ROPE_FACTORS || ENDINGS.into_iter().any(|ending| name.ends_with(ending))
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

/// The folder's only GGUF file, where the folder has no configuration; else `path` itself.
pub fn resolve(path: &Path) -> PathBuf {
    let lone = path.is_dir() && !path.join(FILE).exists();
    lone.then(|| lone_gguf(path)).flatten().unwrap_or_else(|| path.to_path_buf())
}

/// Whether `path` is a GGUF file, by its ending.
pub fn is_gguf(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|ending| ending == "gguf")
}

/// The configuration in a folder, or beside a file of weights.
fn read_folder(path: &Path) -> Result<(ModelConfig, Layout)> {
    // Of a name that is nothing the parent's configuration would say nothing.
    if !path.metadata().map_err(|e| Error::io("read the model", path, &e))?.is_dir() {
        files::open(path)?;
    }
    let dir = folder_of(path)?;
    let (own, inner) = (dir.join(FILE), dir.join("model"));
    if path.is_dir() && !own.exists() && inner.join(FILE).exists() {
        let (dir, inner) = (dir.display(), inner.display());
        return Err(Error::user(format!("{dir} holds no model, but {inner} does: give that")));
    }
    let path = own;
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

/// The tokenizer of what [`Pretrained::open`] opens: a GGUF file's own, or the one in the folder; `None` if there is none.
/// `missing` says what happens to separator and score token where the model was not trained with them.
///
/// # Errors
/// The user's: a tokenizer that is damaged or not supported.
pub fn tokenizer(path: &Path, missing: Missing) -> Result<Option<Tokenizer>> {
    let path = &resolve(path);
    if let Some(own) = vocabulary(path, missing)? {
        return Ok(Some(own));
    }
    let dir = folder_of(path)?;
    tokenizer::exists(&dir).then(|| Tokenizer::load(&dir, missing)).transpose()
}

/// The folder with the configuration and the tokenizer of the model at `path`: its own, that of the file, or that of
/// the run of a checkpoint.
///
/// # Errors
/// The user's, for a checkpoint without its run.
pub fn folder_of(path: &Path) -> Result<PathBuf> {
    Ok(match RunCheckpoint::at(path)? {
        Some(checkpoint) => checkpoint.start(),
        None if path.is_dir() => path.to_path_buf(),
        None => files::parent(path).to_path_buf(),
    })
}

/// [`tokenizer()`], where one is needed.
///
/// # Errors
/// The user's: as there, and none.
pub fn required_tokenizer(path: &Path, missing: Missing) -> Result<Tokenizer> {
    match tokenizer(path, missing)? {
        Some(tokenizer) => Ok(tokenizer),
        None if is_gguf(path) => Err(Error::user(format!(
            "{} has no vocabulary, and there is no tokenizer.json beside it: put the model's there",
            path.display()
        ))),
        None => Tokenizer::load(&folder_of(path)?, missing),
    }
}

/// The tokenizer in a GGUF file itself.
///
/// # Errors
/// As [`tokenizer`].
pub(super) fn vocabulary(path: &Path, missing: Missing) -> Result<Option<Tokenizer>> {
    if !is_gguf(path) {
        return Ok(None);
    }
    let vocabulary = foreign::vocabulary(Tensors::open(path)?.metadata());
    let tokenizer = vocabulary.and_then(|vocabulary| {
        vocabulary.map(|vocabulary| Tokenizer::from_gguf(&vocabulary, tokenizer::Names::default(), missing)).transpose()
    });
    tokenizer.map_err(|e| e.context(path.display()))
}

#[cfg(test)]
mod tests;
