//! Any Hugging Face `tokenizer.json`, or SentencePiece `tokenizer.model`.

use serde_json::{Map, Value};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::pipeline::Pipeline;
use super::{Codec, Inner, Missing, Names, Specials, Tokenizer, store};
use crate::{Error, Result, files};

/// Tokens that begin a text, where nothing else says which does.
const COMMON_BOS: [&str; 2] = ["<s>", "<|begin_of_text|>"];
/// Tokens that end a text, where nothing else says which does.
const COMMON_EOS: [&str; 3] = ["</s>", "<|end_of_text|>", "<|endoftext|>"];

impl Tokenizer {
    /// Reads a `tokenizer.json`, or a SentencePiece `tokenizer.model` (known by its ending), and the
    /// `tokenizer_config.json` beside it. In a folder `path` it is the `tokenizer.json`, if there is one.
    ///
    /// Separator and score token are added when the vocabulary has none of these names. BOS is what the
    /// post-processor puts first; else the configuration's `bos_token`, unless `add_bos_token` is false; without a
    /// configuration it is `<s>` or `<|begin_of_text|>`; else there is none.
    ///
    /// # Errors
    /// The user's: a missing or damaged file, ids that are not unique, bad names, a configured token that is not in the
    /// vocabulary.
    pub fn from_file(path: &Path, names: Names) -> Result<Self> {
        Self::read_file(path, names, Missing::Add)
    }

    /// [`Tokenizer::from_file`], where `missing` says what happens to separator and score token.
    pub(super) fn read_file(path: &Path, names: Names, missing: Missing) -> Result<Self> {
        let path = if path.is_dir() { &store::file_in(path) } else { path };
        let config = store::read_config(&path.with_file_name(store::CONFIG))?;
        let mut tokenizer = if path.extension().is_some_and(|ending| ending == "model") {
            Self::from_sentencepiece(store::read_model(path)?, config, names, missing)
        } else {
            Self::from_parts(store::read_json(path)?, config, names, missing)
        }
        .map_err(|error| error.context(path.display()))?;
        tokenizer.take_template(files::parent(path))?;
        Ok(tokenizer)
    }

    /// Somebody else's tokenizer from the content of its files.
    pub(super) fn from_parts(
        json: Value,
        config: Option<Map<String, Value>>,
        names: Names,
        missing: Missing,
    ) -> Result<Self> {
        names.check()?;
        let mut pipeline = Pipeline::from_json(json)?;
        let read_size = pipeline.vocab_size();
        for name in [&names.separator, &names.score] {
            if missing == Missing::Add || pipeline.id(name).is_some() {
                pipeline.add_special(name)?;
            }
        }
        let bos = bos(&mut pipeline, config.as_ref())?;
        let eos = eos(&mut pipeline, config.as_ref())?;
        let specials =
            Specials { bos, eos, separator: pipeline.polar(&names.separator)?, score: pipeline.polar(&names.score)? };
        let vocab_size = pipeline.vocab_size();
        let codec = Codec::File { pipeline: Box::new(pipeline), config: config.unwrap_or_default() };
        Ok(Self(Arc::new(Inner { codec, names, specials, vocab_size, read_size, spelt: OnceLock::new() })))
    }
}

fn bos(pipeline: &mut Pipeline, config: Option<&Map<String, Value>>) -> Result<Option<u32>> {
    if let Some(id) = pipeline.leading()? {
        return Ok(Some(id));
    }
    match config {
        Some(config) if config.get("add_bos_token") == Some(&Value::Bool(false)) => Ok(None),
        Some(config) => configured_token(pipeline, config, "bos_token"),
        None => Ok(COMMON_BOS.iter().find_map(|name| pipeline.special(name))),
    }
}

fn eos(pipeline: &mut Pipeline, config: Option<&Map<String, Value>>) -> Result<Option<u32>> {
    match config {
        Some(config) => configured_token(pipeline, config, "eos_token"),
        None => Ok(COMMON_EOS.iter().find_map(|name| pipeline.special(name))),
    }
}

/// A token of a `tokenizer_config.json`, which becomes special, as in `transformers`: `added_tokens` need not have it.
fn configured_token(pipeline: &mut Pipeline, config: &Map<String, Value>, key: &str) -> Result<Option<u32>> {
    let Some(name) = configured_name(config, key)? else { return Ok(None) };
    if pipeline.id(name).is_none() {
        return Err(not_in_vocabulary(key, name));
    }
    pipeline.add_special(name)?;
    Ok(pipeline.id(name))
}

/// The name under `key` of a `tokenizer_config.json`: a string, or an object with the key `content`.
pub(super) fn configured_name<'a>(config: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(token) => token
            .as_str()
            .or_else(|| token["content"].as_str())
            .map(Some)
            .ok_or_else(|| Error::user(format!("{}, key {key:?}: not the name of a token: {token}", store::CONFIG))),
    }
}

/// A configured token that is none.
pub(super) fn not_in_vocabulary(key: &str, name: &str) -> Error {
    Error::user(format!(
        "{}, key {key:?}: {name:?} is not in the vocabulary; correct the name, or set it to null",
        store::CONFIG
    ))
}
