//! A pipeline of the `tokenizers` crate, made safe: what it reads is checked first, it never yields a special
//! token for text, and a panic of the crate on a hostile file becomes an error.

use serde_json::Value;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokenizers::AddedToken;

use crate::{Error, Result};

/// Ids from here on are refused: no vocabulary is that large, and an embedding has a row for each id.
const MAX_VOCAB: u32 = 1 << 24;

/// An encoder and decoder read from a `tokenizer.json`.
#[derive(Debug)]
pub(super) struct Pipeline {
    tokenizer: tokenizers::Tokenizer,
    /// Name of the token for unknown characters, if there is one.
    unknown: Option<String>,
    /// Ids that no text may yield: all special tokens but the one for unknown characters.
    reserved: HashSet<u32>,
}

impl Pipeline {
    /// Reads the content of a `tokenizer.json`; truncation, padding and dropout are taken out.
    pub(super) fn from_json(mut json: Value) -> Result<Self> {
        check(&json)?;
        json["truncation"] = Value::Null;
        json["padding"] = Value::Null;
        if json["model"].get("dropout").is_some() {
            json["model"]["dropout"] = Value::Null;
        }
        let parsed = guarded("cannot be read", || serde_json::from_value(json.clone()))?;
        let mut tokenizer: tokenizers::Tokenizer =
            parsed.map_err(|error| Error::user(format!("not a usable tokenizer.json: {error}")))?;
        tokenizer.set_encode_special_tokens(true);
        let mut pipeline = Self { tokenizer, unknown: unknown_token(&json["model"]), reserved: HashSet::new() };
        pipeline.refresh()?;
        pipeline.check_added(&json)?;
        Ok(pipeline)
    }

    /// Makes each of `names` a special token: with its own id where the vocabulary knows it, else with a new one
    /// at the end.
    pub(super) fn add_specials(&mut self, names: [&str; 2]) -> Result<()> {
        let known = self.tokenizer.get_vocab(true);
        let missing = names.iter().any(|name| !known.contains_key(*name));
        // The crate numbers new tokens by the size of the vocabulary, which is taken when the ids have gaps.
        if missing && known.values().any(|id| *id as usize >= known.len()) {
            return Err(Error::user(format!(
                "its ids have gaps, so {names:?} cannot be added at the end: add them to its added_tokens"
            )));
        }
        let tokens = names.map(|name| AddedToken::from(name, true));
        self.tokenizer.add_special_tokens(tokens).map_err(|error| Error::user(error.to_string()))?;
        self.refresh()
    }

    fn refresh(&mut self) -> Result<()> {
        let vocab = self.tokenizer.get_vocab(true);
        if let Some((name, id)) = vocab.iter().find(|(_, id)| **id >= MAX_VOCAB) {
            return Err(Error::user(format!("{name:?} has id {id}; ids must be below {MAX_VOCAB}")));
        }
        let added = self.tokenizer.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special && Some(&token.content) != self.unknown.as_ref());
        self.reserved = special.map(|(id, _)| *id).collect();
        Ok(())
    }

    /// The crate gives an added token the id that it sees fit, whatever the file says.
    fn check_added(&self, json: &Value) -> Result<()> {
        for token in json["added_tokens"].as_array().into_iter().flatten() {
            let name = token["content"].as_str().unwrap_or_default();
            let (told, given) = (token["id"].as_u64(), self.id(name).map(u64::from));
            if told != given {
                return Err(Error::user(format!(
                    "key \"added_tokens\": {name:?} cannot have the id {}: the vocabulary's ids must be unique and \
                     without gaps",
                    token["id"]
                )));
            }
        }
        Ok(())
    }

    /// Ids of `text`, none of them reserved.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = guarded("fails to encode", || self.tokenizer.encode_fast(text, false))?
            .map_err(|error| Error::user(format!("the tokenizer cannot encode the text: {error}")))?;
        let ids = encoding.get_ids();
        if !ids.iter().any(|id| self.reserved.contains(id)) {
            return Ok(ids.to_vec());
        }
        // The model's own vocabulary spells the special token (a Unigram piece, a whole word). Cut in two until the
        // spelling is cut too.
        let cut = text.ceil_char_boundary(text.len().div_ceil(2));
        let cut = if cut < text.len() { cut } else { text.floor_char_boundary(text.len() / 2) };
        if cut == 0 {
            return Ok(Vec::new());
        }
        Ok([self.encode(&text[..cut])?, self.encode(&text[cut..])?].concat())
    }

    /// Text of `ids` without special tokens.
    pub(super) fn decode(&self, ids: &[u32]) -> Result<String> {
        guarded("fails to decode", || self.tokenizer.decode(ids, true))?
            .map_err(|error| Error::user(format!("the tokenizer cannot decode: {error}")))
    }

    /// The token that the post-processor puts first, if it is not part of the text.
    pub(super) fn leading_special(&self) -> Option<u32> {
        let framed = guarded("fails to encode", || self.tokenizer.encode_fast("a", true)).ok()?.ok()?;
        framed.get_ids().first().copied().filter(|id| self.reserved.contains(id))
    }

    pub(super) fn id(&self, name: &str) -> Option<u32> {
        self.tokenizer.token_to_id(name)
    }

    /// The id of `name` if it is a special token.
    pub(super) fn special(&self, name: &str) -> Option<u32> {
        self.id(name).filter(|id| self.reserved.contains(id))
    }

    /// The id of a special token that was added.
    pub(super) fn added_special(&self, name: &str) -> Result<u32> {
        self.special(name).ok_or_else(|| Error::user(format!("{name:?} is the token for unknown characters")))
    }

    /// The spelling of `id`.
    pub(super) fn name(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// One more than the largest id.
    pub(super) fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// The content of its `tokenizer.json`.
    pub(super) fn to_json(&self) -> Result<String> {
        self.tokenizer.to_string(false).map_err(|error| Error::machine(format!("cannot write a tokenizer: {error}")))
    }
}

/// The token for unknown characters: named, or for Unigram by its place in the vocabulary.
fn unknown_token(model: &Value) -> Option<String> {
    let named = model["unk_token"].as_str();
    let placed = || model["vocab"][usize::try_from(model["unk_id"].as_u64()?).ok()?][0].as_str();
    named.or_else(placed).map(String::from)
}

/// What the crate takes for granted.
fn check(json: &Value) -> Result<()> {
    let model = &json["model"];
    if !json.is_object() || !model.is_object() {
        return Err(Error::user("not a tokenizer.json: key \"model\" is missing or not an object"));
    }
    let Some(vocab) = model["vocab"].as_object() else {
        return Ok(());
    };
    if let Some(unknown) = model["unk_token"].as_str().filter(|name| !name.is_empty() && !vocab.contains_key(*name)) {
        return Err(Error::user(format!("key \"model.unk_token\": {unknown:?} is not in the vocabulary")));
    }
    let prefix = model["continuing_subword_prefix"].as_str().unwrap_or_default();
    for (rank, merge) in model["merges"].as_array().into_iter().flatten().enumerate() {
        let pair = match merge {
            Value::String(pair) => pair.split_once(' '),
            Value::Array(pair) => match &pair[..] {
                [Value::String(left), Value::String(right)] => Some((left.as_str(), right.as_str())),
                _ => None,
            },
            _ => None,
        };
        let merged = pair.map(|(left, right)| format!("{left}{}", right.strip_prefix(prefix).unwrap_or(right)));
        if !merged.is_some_and(|merged| vocab.contains_key(&merged)) {
            return Err(Error::user(format!(
                "key \"model.merges\": merge {rank}, {merge}, is not a pair whose union is in the vocabulary"
            )));
        }
    }
    Ok(())
}

/// A panic of the crate as an error.
fn guarded<T>(what: &str, call: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call))
        .map_err(|_| Error::user(format!("the tokenizer {what}: its tokenizer.json is damaged; use another")))
}
