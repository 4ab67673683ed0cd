//! A tokenizer in a model's folder: `tokenizer.json` or `tokenizer.model`, and `tokenizer_config.json`, as Hugging Face
//! has them.

use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Codec, Inner, Missing, Names, Tokenizer, bounds, bytes};
use crate::config::TokenizerKind;
use crate::{Error, Result, files};

pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const SENTENCEPIECE: &str = "tokenizer.model";
pub(super) const CONFIG: &str = "tokenizer_config.json";
/// A chat template beside the tokenizer, which counts more than the one in [`CONFIG`].
const TEMPLATE: &str = "chat_template.jinja";
/// The key of `tokenizer_config.json` with the chat template.
pub(super) const CHAT_TEMPLATE: &str = "chat_template";
/// The key of `tokenizer_config.json` that holds what this crate needs to know.
const OWN_KEY: &str = "polar";
/// In it: the form of the strings that the model was trained on, [`POLAR`] or null.
const FORM: &str = "form";
/// POLAR's form: the model was trained with separator and score token.
const POLAR: &str = "polar";
/// The largest `chat_template.jinja`.
const MAX_TEMPLATE_BYTES: u64 = 1 << 20;
/// The largest `tokenizer.json`: the largest public ones take 35 MB.
const MAX_BYTES: u64 = 128 << 20;
/// The largest `tokenizer_config.json`: the largest public ones take 1.2 MB.
const MAX_CONFIG_BYTES: u64 = 8 << 20;
/// The largest `tokenizer.model`: public ones take 5 MB, and one that is made to harm takes many times its bytes.
const MAX_MODEL_BYTES: u64 = 32 << 20;

/// Whether a folder holds a tokenizer.
pub fn exists(dir: &Path) -> bool {
    file_in(dir).exists()
}

/// The tokenizer's file in the folder `dir`.
pub(super) fn file_in(dir: &Path) -> PathBuf {
    let (json, model) = (dir.join(TOKENIZER), dir.join(SENTENCEPIECE));
    if model.exists() && !json.exists() { model } else { json }
}

impl Tokenizer {
    /// Writes `tokenizer.json` and `tokenizer_config.json` into the folder `dir`, each whole or not at all. A tokenizer
    /// that was read from a `tokenizer.model` also leaves that one there, byte for byte; it is what [`Tokenizer::load`]
    /// reads again.
    ///
    /// # Errors
    /// A folder that cannot be written, a full disk.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let json = match &self.0.codec {
            Codec::Bytes => bytes::to_json(&self.0.names).to_string(),
            Codec::Trained(trained) => trained.json.to_string(),
            Codec::File { pipeline, .. } => pipeline.to_json(self.0.specials.bos)?,
            Codec::SentencePiece { model, .. } => {
                files::write_atomic(&dir.join(SENTENCEPIECE), model.file())?;
                model.to_json(self.0.specials).to_string()
            }
        };
        files::write_atomic(&dir.join(TOKENIZER), json.as_bytes())?;
        let config = format!("{:#}\n", Value::Object(self.config()));
        files::write_atomic(&dir.join(CONFIG), config.as_bytes())
    }

    /// Reads what [`Tokenizer::save`] wrote, or the tokenizer of another Hugging Face folder, with POLAR's names for
    /// separator and score token; `missing` says what happens to those that the folder's model was not trained with.
    ///
    /// # Errors
    /// The user's: missing or damaged files.
    pub fn load(dir: &Path, missing: Missing) -> Result<Self> {
        let config = read_config(&dir.join(CONFIG))?;
        let Some(own) = config.as_ref().and_then(|config| config.get(OWN_KEY)).cloned() else {
            return Self::read_file(dir, Names::default(), missing);
        };
        // What was saved with a model belongs to it: the model knows the tokens that were added once. A
        // `tokenizer.model` does not hold them. Folders of earlier versions do not say; all of them were of models in POLAR's form.
        let knows = own.get(FORM).is_none_or(|form| form == POLAR);
        let mut tokenizer = Self::load_own(dir, &own, config, if knows { Missing::Add } else { missing })?;
        if let Some(inner) = Arc::get_mut(&mut tokenizer.0).filter(|_| knows) {
            inner.read_size = inner.vocab_size;
        }
        tokenizer.take_template(dir)?;
        Ok(tokenizer)
    }

    /// Takes a `chat_template.jinja` of the folder `dir` along.
    pub(super) fn take_template(&mut self, dir: &Path) -> Result<()> {
        let path = dir.join(TEMPLATE);
        if !path.exists() {
            return Ok(());
        }
        let template = files::read_text(&path, MAX_TEMPLATE_BYTES)?;
        if let Some(Inner { codec: Codec::File { config, .. } | Codec::SentencePiece { config, .. }, .. }) =
            Arc::get_mut(&mut self.0)
        {
            config.insert(CHAT_TEMPLATE.into(), template.into());
        }
        Ok(())
    }

    /// The chat template that came with it: of several the one that is called `default`.
    ///
    /// # Errors
    /// The user's: a template that is neither a text nor a list of named ones.
    pub fn chat_template(&self) -> Result<Option<&str>> {
        let (Codec::File { config, .. } | Codec::SentencePiece { config, .. }) = &self.0.codec else { return Ok(None) };
        let bad = || {
            Error::user(format!(
                "{CONFIG}, key {CHAT_TEMPLATE:?}: it has to be a text, or a list of {{name, template}} with the name \
                 \"default\""
            ))
        };
        match config.get(CHAT_TEMPLATE) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(template)) => Ok(Some(template)),
            Some(Value::Array(named)) => {
                let default = named.iter().find(|entry| entry["name"] == "default");
                default.and_then(|entry| entry["template"].as_str()).map(Some).ok_or_else(bad)
            }
            Some(_) => Err(bad()),
        }
    }

    /// Reads one file as [`Tokenizer::from_file`] does, with the names that the configuration beside it was saved with,
    /// else POLAR's.
    ///
    /// # Errors
    /// The user's: a missing or damaged file.
    pub fn load_file(path: &Path) -> Result<Self> {
        let dir = files::parent(path);
        let config = read_config(&dir.join(CONFIG))?.unwrap_or_default();
        let Some(own) = config.get(OWN_KEY) else {
            return Self::read_file(path, Names::default(), Missing::Leave);
        };
        let file = if own["file"] == SENTENCEPIECE { SENTENCEPIECE } else { TOKENIZER };
        if path.file_name().is_some_and(|name| name == file) {
            Self::load(dir, Missing::Leave)
        } else {
            Self::read_file(path, own_names(dir, own)?, Missing::Leave)
        }
    }

    fn load_own(dir: &Path, own: &Value, config: Option<Map<String, Value>>, missing: Missing) -> Result<Self> {
        let path = dir.join(TOKENIZER);
        let names = own_names(dir, own)?;
        let kind: TokenizerKind = serde_json::from_value(own["kind"].clone()).map_err(|_| damaged(dir, "kind"))?;
        if own["file"] == SENTENCEPIECE {
            let path = dir.join(SENTENCEPIECE);
            return Self::from_sentencepiece(read_model(&path)?, config, names, missing)
                .map_err(|error| error.context(path.display()));
        }
        let json = read_json(&path)?;
        match kind {
            TokenizerKind::Bytes if json != bytes::to_json(&names) => {
                Err(Error::user("is not the byte-level tokenizer that tokenizer_config.json announces"))
            }
            TokenizerKind::Bytes => Self::bytes(names),
            TokenizerKind::Bpe => Self::from_trained(json, names),
            TokenizerKind::File => Self::from_parts(json, config, names, missing),
        }
        .map_err(|error| error.context(path.display()))
    }

    /// What stands in `tokenizer_config.json`: what was there before, and this tokenizer's tokens.
    fn config(&self) -> Map<String, Value> {
        let inner = &self.0;
        let mut config = match &inner.codec {
            Codec::File { config, .. } | Codec::SentencePiece { config, .. } => config.clone(),
            Codec::Bytes | Codec::Trained(_) => Map::new(),
        };
        let name_of = |id: Option<u32>| id.and_then(|id| self.name(id)).map_or(Value::Null, Value::from);
        config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        // Names of Python files that do not come along.
        config.remove("auto_map");
        config.insert("clean_up_tokenization_spaces".into(), false.into());
        config.insert("add_bos_token".into(), inner.specials.bos.is_some().into());
        config.insert("bos_token".into(), name_of(inner.specials.bos));
        config.insert("eos_token".into(), name_of(inner.specials.eos));
        let Names { separator, score } = &inner.names;
        // Batches are filled up with a token that is there: another program would add the name that it does not find.
        config.insert("pad_token".into(), name_of(self.pad()));
        self.forget_unknown(&mut config);
        let form = inner.specials.polar().is_ok().then_some(POLAR);
        let mut own = json!({"kind": self.kind(), "separator": separator, "score": score, FORM: form});
        if matches!(inner.codec, Codec::SentencePiece { .. }) {
            own["file"] = SENTENCEPIECE.into();
        }
        config.insert(OWN_KEY.into(), own);
        config
    }
}

/// The keys of a `tokenizer_config.json` with the name of a token, but for those that are settled otherwise.
const NAMED: [&str; 4] = ["unk_token", "sep_token", "cls_token", "mask_token"];
/// Those with a list of names.
const LISTED: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

impl Tokenizer {
    /// Takes tokens out that the vocabulary does not have: `transformers` would add them, with ids that the model has no
    /// rows for.
    fn forget_unknown(&self, config: &mut Map<String, Value>) {
        let known = |token: &Value| {
            token.as_str().or_else(|| token["content"].as_str()).is_some_and(|name| self.id(name).is_some())
        };
        for key in NAMED {
            if let Some(token) = config.get_mut(key).filter(|token| !known(token)) {
                *token = Value::Null;
            }
        }
        for key in LISTED {
            match config.get_mut(key) {
                Some(Value::Array(tokens)) => tokens.retain(known),
                Some(Value::Object(tokens)) => tokens.retain(|_, token| known(token)),
                _ => {}
            }
        }
        if let Some(Value::Object(added)) = config.get_mut("added_tokens_decoder") {
            added.retain(|id, token| {
                token["content"].as_str().and_then(|name| self.id(name)).is_some_and(|known| known.to_string() == *id)
            });
        }
    }
}

/// The names in what [`OWN_KEY`] holds.
fn own_names(dir: &Path, own: &Value) -> Result<Names> {
    let name = |key| own[key].as_str().map(String::from).ok_or_else(|| damaged(dir, key));
    Ok(Names { separator: name("separator")?, score: name("score")? })
}

fn damaged(dir: &Path, key: &str) -> Error {
    let place = format!("{}: key \"{OWN_KEY}.{key}\"", dir.join(CONFIG).display());
    Error::user(format!("{place} is missing or damaged; save the model again"))
}

/// A `tokenizer_config.json`, if there is one.
pub(super) fn read_config(path: &Path) -> Result<Option<Map<String, Value>>> {
    if !path.exists() {
        return Ok(None);
    }
    match serde_json::from_str(&read_text(path, MAX_CONFIG_BYTES)?) {
        Ok(Value::Object(config)) => Ok(Some(config)),
        Ok(_) => Err(Error::user(format!("{}: not a JSON object", path.display()))),
        Err(error) => Err(Error::user(format!("{}: not JSON: {error}; get the file again", path.display()))),
    }
}

/// A `tokenizer.json`.
pub(super) fn read_json(path: &Path) -> Result<Value> {
    bounds::parse(&read_text(path, MAX_BYTES)?).map_err(|error| error.context(path.display()))
}

fn read_text(path: &Path, most: u64) -> Result<String> {
    String::from_utf8(read_bytes(path, most)?)
        .map_err(|_| Error::user(format!("{}: not UTF-8; get the file again", path.display())))
}

/// A `tokenizer.model`.
pub(super) fn read_model(path: &Path) -> Result<Vec<u8>> {
    read_bytes(path, MAX_MODEL_BYTES)
}

fn read_bytes(path: &Path, most: u64) -> Result<Vec<u8>> {
    let length = fs::metadata(path).map_or(0, |found| found.len());
    if length > most {
        return Err(Error::user(format!(
            "{}: {length} bytes is not a tokenizer: at most {most} are read",
            path.display()
        )));
    }
    files::read(path, most)
}
