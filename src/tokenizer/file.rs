//! Any Hugging Face `tokenizer.json`, or SentencePiece `tokenizer.model`.

use serde_json::{Map, Value};
use std::path::Path;
use std::sync::Arc;

use super::pipeline::Pipeline;
use super::{Codec, Inner, Names, Specials, Tokenizer, store};
use crate::Result;

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
    /// The user's: a missing or damaged file, ids that are not unique, bad names.
    pub fn from_file(path: &Path, names: Names) -> Result<Self> {
        let path = if path.is_dir() { &store::file_in(path) } else { path };
        let config = store::read_config(&path.with_file_name(store::CONFIG))?;
        if path.extension().is_some_and(|ending| ending == "model") {
            Self::from_sentencepiece(store::read_model(path)?, config, names)
        } else {
            Self::from_parts(store::read_json(path)?, config, names)
        }
        .map_err(|error| error.context(path.display()))
    }

    /// Somebody else's tokenizer from the content of its files.
    pub(super) fn from_parts(json: Value, config: Option<Map<String, Value>>, names: Names) -> Result<Self> {
        names.check()?;
        let mut pipeline = Pipeline::from_json(json)?;
        let read_size = pipeline.vocab_size();
        pipeline.add_specials([&names.separator, &names.score])?;
        let specials = Specials {
            bos: bos(&pipeline, config.as_ref()),
            eos: eos(&pipeline, config.as_ref()),
            separator: pipeline.added_special(&names.separator)?,
            score: pipeline.added_special(&names.score)?,
        };
        let vocab_size = pipeline.vocab_size();
        let codec = Codec::File { pipeline: Box::new(pipeline), config: config.unwrap_or_default() };
        Ok(Self(Arc::new(Inner { codec, names, specials, vocab_size, read_size })))
    }
}

fn bos(pipeline: &Pipeline, config: Option<&Map<String, Value>>) -> Option<u32> {
    let configured = || match config {
        Some(config) if config.get("add_bos_token") == Some(&Value::Bool(false)) => None,
        Some(config) => configured_token(pipeline, config, "bos_token"),
        None => COMMON_BOS.iter().find_map(|name| pipeline.special(name)),
    };
    pipeline.leading_special().or_else(configured)
}

fn eos(pipeline: &Pipeline, config: Option<&Map<String, Value>>) -> Option<u32> {
    match config {
        Some(config) => configured_token(pipeline, config, "eos_token"),
        None => COMMON_EOS.iter().find_map(|name| pipeline.special(name)),
    }
}

/// A token of a `tokenizer_config.json`: a string, or an object with the key `content`.
fn configured_token(pipeline: &Pipeline, config: &Map<String, Value>, key: &str) -> Option<u32> {
    let token = config.get(key)?;
    pipeline.special(token.as_str().or_else(|| token["content"].as_str())?)
}
