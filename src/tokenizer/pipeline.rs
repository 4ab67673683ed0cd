//! A pipeline of the `tokenizers` crate, made safe: what it reads is checked first, it never yields a special
//! token for text, its memory is bounded ([`super::bounds`]), and a panic of the crate on a hostile file becomes an error.

use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;
use tokenizers::AddedToken;

use super::bounds::{self, Growth, guarded};
use super::{bytes, own};
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
    /// The pieces that stand for single bytes, if any do.
    bytes: Vec<String>,
    growth: Growth,
    /// The same, but text that spells a special token becomes it.
    spelt: OnceLock<Box<tokenizers::Tokenizer>>,
}

impl Pipeline {
    /// Reads the content of a `tokenizer.json`; truncation, padding and dropout are taken out.
    pub(super) fn from_json(mut json: Value) -> Result<Self> {
        check(&json)?;
        let growth = bounds::check(&json)?;
        json["truncation"] = Value::Null;
        json["padding"] = Value::Null;
        if json["model"].get("dropout").is_some() {
            json["model"]["dropout"] = Value::Null;
        }
        let (unknown, bytes) = (unknown_token(&json["model"]), byte_pieces(&json));
        let added = json["added_tokens"].as_array().into_iter().flatten();
        let added: Vec<(String, Value)> = added
            .map(|token| (token["content"].as_str().unwrap_or_default().to_owned(), token["id"].clone()))
            .collect();
        // A tree of values takes many times its file: it is not held twice.
        let parsed = guarded("cannot be read", || serde_json::from_value(json))?;
        let mut tokenizer: tokenizers::Tokenizer =
            parsed.map_err(|error| Error::user(format!("not a usable tokenizer.json: {error}")))?;
        tokenizer.set_encode_special_tokens(true);
        let mut pipeline = Self { tokenizer, unknown, reserved: HashSet::new(), bytes, growth, spelt: OnceLock::new() };
        pipeline.refresh()?;
        pipeline.check_added(&added)?;
        pipeline.check_frame()?;
        Ok(pipeline)
    }

    /// Makes `name` a special token: with its own id where the vocabulary knows it, else with a new one at the end.
    pub(super) fn add_special(&mut self, name: &str) -> Result<()> {
        let known = self.tokenizer.get_vocab(true);
        // The crate numbers new tokens by the size of the vocabulary, which is taken when the ids have gaps.
        if !known.contains_key(name) && known.values().any(|id| *id as usize >= known.len()) {
            return Err(Error::user(format!(
                "its ids have gaps, so {name:?} cannot be added at the end: add it to its added_tokens"
            )));
        }
        let token = [AddedToken::from(name, true)];
        self.tokenizer.add_special_tokens(token).map_err(|error| Error::user(error.to_string()))?;
        self.spelt = OnceLock::new();
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
        // No text with that byte could be encoded.
        match self.bytes.iter().find(|piece| self.special(piece).is_some()) {
            Some(piece) => Err(Error::user(format!(
                "{piece:?} stands for a byte of text, so it cannot be a special token too: get the tokenizer again"
            ))),
            None => Ok(()),
        }
    }

    /// The crate gives an added token the id that it sees fit, whatever the file says.
    fn check_added(&self, added: &[(String, Value)]) -> Result<()> {
        for (name, id) in added {
            if id.as_u64() != self.id(name).map(u64::from) {
                return Err(Error::user(format!(
                    "key \"added_tokens\": {name:?} cannot have the id {id}: the vocabulary's ids must be unique and \
                     without gaps"
                )));
            }
        }
        Ok(())
    }

    /// What stands around a text is in the vocabulary, before anything is added that might get its id.
    fn check_frame(&self) -> Result<()> {
        let [before, after] = self.frame()?;
        match before.into_iter().chain(after).find(|id| self.name(*id).is_none()) {
            Some(id) => Err(Error::user(format!(
                "key \"post_processor\": it puts the id {id} around a text, which the vocabulary does not have; correct \
                 it, or get the tokenizer again"
            ))),
            None => Ok(()),
        }
    }

    /// Ids of `text`, none of them reserved.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.check_growth(&self.tokenizer, text)?;
        self.encode_checked(text)
    }

    fn check_growth(&self, tokenizer: &tokenizers::Tokenizer, text: &str) -> Result<()> {
        guarded("fails to encode", || self.growth.check(tokenizer.get_added_vocabulary(), text))?
    }

    fn encode_checked(&self, text: &str) -> Result<Vec<u32>> {
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
            let unknown = self.unknown.as_ref().and_then(|name| self.id(name));
            return unknown.map(|id| vec![id]).ok_or_else(|| {
                Error::user(format!(
                    "the tokenizer has no piece for {text:?} but a special token, which no text becomes"
                ))
            });
        }
        Ok([self.encode_checked(&text[..cut])?, self.encode_checked(&text[cut..])?].concat())
    }

    /// Text of `ids` without special tokens.
    pub(super) fn decode(&self, ids: &[u32]) -> Result<String> {
        guarded("fails to decode", || self.tokenizer.decode(ids, true))?
            .map_err(|error| Error::user(format!("the tokenizer cannot decode: {error}")))
    }

    /// Ids of `text`, in which spelt special tokens are these tokens.
    pub(super) fn encode_spelt(&self, text: &str) -> Result<Vec<u32>> {
        let tokenizer = self.spelt.get_or_init(|| {
            let mut tokenizer = self.tokenizer.clone();
            tokenizer.set_encode_special_tokens(false);
            Box::new(tokenizer)
        });
        self.check_growth(tokenizer, text)?;
        let encoding = guarded("fails to encode", || tokenizer.encode_fast(text, false))?
            .map_err(|error| Error::user(format!("the tokenizer cannot encode the text: {error}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// What the post-processor puts before and after a text.
    pub(super) fn frame(&self) -> Result<[Vec<u32>; 2]> {
        if self.check_growth(&self.tokenizer, "a").is_err() {
            return Ok(Default::default());
        }
        let ids = |framed| guarded("fails to encode", || self.tokenizer.encode_fast("a", framed));
        // What cannot encode a letter says so when it is to encode a text.
        let (Ok(framed), Ok(bare)) = (ids(true)?, ids(false)?) else { return Ok(Default::default()) };
        let (framed, bare) = (framed.get_ids(), bare.get_ids());
        if framed.len() <= bare.len() {
            return Ok(Default::default());
        }
        // A letter without ids leaves open what stands before it: the token that begins a sequence, it is taken to be.
        let at = framed.windows(bare.len().max(1)).position(|window| window == bare).unwrap_or(framed.len());
        let after = framed.get(at + bare.len()..).unwrap_or_default();
        Ok([framed[..at].to_vec(), after.to_vec()])
    }

    /// The token that the post-processor puts before a text. It becomes special: `added_tokens` need not have it.
    pub(super) fn leading(&mut self) -> Result<Option<u32>> {
        let [before, _] = self.frame()?;
        // That they have names was seen when they were read.
        let Some((first, name)) = before.first().and_then(|id| Some((*id, self.name(*id)?))) else { return Ok(None) };
        self.add_special(&name)?;
        Ok(Some(first))
    }

    pub(super) fn id(&self, name: &str) -> Option<u32> {
        self.tokenizer.token_to_id(name)
    }

    /// The id of `name` if it is a special token.
    pub(super) fn special(&self, name: &str) -> Option<u32> {
        self.id(name).filter(|id| self.reserved.contains(id))
    }

    /// The id of separator or score token, if the vocabulary has it.
    pub(super) fn polar(&self, name: &str) -> Result<Option<u32>> {
        match (self.id(name), self.special(name)) {
            (Some(_), None) => Err(Error::user(format!("{name:?} is the token for unknown characters"))),
            (_, special) => Ok(special),
        }
    }

    /// The spellings of all special tokens, and of the one for unknown characters.
    pub(super) fn special_names(&self) -> Vec<String> {
        self.reserved.iter().filter_map(|id| self.name(*id)).chain(self.unknown.clone()).collect()
    }

    /// The spelling of `id`.
    pub(super) fn name(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// One more than the largest id.
    pub(super) fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// The content of its `tokenizer.json`, whose post-processor puts `bos` first, whether it did when it was read or
    /// not: other programs look nowhere else.
    pub(super) fn to_json(&self, bos: Option<u32>) -> Result<String> {
        let failed = |error: String| Error::machine(format!("cannot write a tokenizer: {error}"));
        let text = self.tokenizer.to_string(false).map_err(|error| failed(error.to_string()))?;
        let [before, _] = self.frame()?;
        let first = before.first().copied();
        let Some(bos) = bos.filter(|bos| first != Some(*bos)) else { return Ok(text) };
        let name = self.name(bos).ok_or_else(|| failed(format!("the id {bos} has no name")))?;
        let mut json: Value = serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
        let template = own::bos_first(&name, bos);
        json["post_processor"] = match json["post_processor"].take() {
            Value::Null => template,
            before => serde_json::json!({"type": "Sequence", "processors": [before, template]}),
        };
        Ok(json.to_string())
    }
}

/// The pieces that stand for single bytes: letters of a byte-level vocabulary, or those that BPE falls back to.
fn byte_pieces(json: &Value) -> Vec<String> {
    fn has_byte_level(step: &Value) -> bool {
        let steps = ["pretokenizers", "normalizers"].into_iter().filter_map(|key| step[key].as_array()).flatten();
        step["type"] == "ByteLevel" || steps.into_iter().any(has_byte_level)
    }
    if has_byte_level(&json["pre_tokenizer"]) || has_byte_level(&json["normalizer"]) {
        return bytes::alphabet().map(String::from).to_vec();
    }
    let falls_back = json["model"]["byte_fallback"] == true;
    (0..=u8::MAX).filter(|_| falls_back).map(|byte| format!("<0x{byte:02X}>")).collect()
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
    check_ids(json)?;
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

/// No two pieces have one id: text would become a special token, or be decoded to another text.
fn check_ids(json: &Value) -> Result<()> {
    let mut pieces: HashMap<u64, &str> = HashMap::new();
    let vocab = &json["model"]["vocab"];
    let named = vocab.as_object().into_iter().flatten().filter_map(|(piece, id)| Some((piece.as_str(), id.as_u64()?)));
    let placed = (0..).zip(vocab.as_array().into_iter().flatten());
    let placed = placed.filter_map(|(id, entry)| Some((entry[0].as_str()?, id)));
    let added = json["added_tokens"].as_array().into_iter().flatten();
    let added = added.filter_map(|token| Some((token["content"].as_str()?, token["id"].as_u64()?)));
    for (piece, id) in named.chain(placed).chain(added) {
        if let Some(other) = pieces.insert(id, piece).filter(|other| *other != piece) {
            return Err(Error::user(format!("{other:?} and {piece:?} have both the id {id}: get the tokenizer again")));
        }
    }
    Ok(())
}
