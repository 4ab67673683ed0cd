//! SentencePiece's BPE (`tokenizer.model`), id for id: Kudo and Richardson, "SentencePiece", arXiv 1808.06226.
//!
//! The `tokenizers` crate cannot stand in for it: it ranks merges where SentencePiece scores unions, puts a space before
//! every stretch between user-defined pieces, and does not take unused pieces apart.

mod decode;
mod json;
mod merges;
mod normalizer;
pub(super) mod proto;
#[cfg(test)]
mod tests;
mod vocabulary;

use aho_corasick::AhoCorasick;
use prost::Message;
use serde_json::{Map, Value};
use std::sync::{Arc, OnceLock};

use super::bounds;
use super::file::{configured_name, not_in_vocabulary};
use super::{Codec, Inner, Missing, Names, Specials, Tokenizer};
use crate::{Error, Result};
use merges::{Merges, Scratch};
use normalizer::Normalizer;
use proto::{Kind, ModelProto};
use vocabulary::Vocabulary;

/// What a space becomes in pieces: U+2581.
const SPACE: &str = "\u{2581}";
/// Pieces that are taken out of a text before any merge, as messages call them.
const USER_DEFINED: &str = "user-defined pieces";
/// Ids from here on are refused, as in a `tokenizer.json`.
const MAX_VOCAB: usize = 1 << 24;

/// An encoder and decoder read from a `tokenizer.model`.
#[derive(Debug)]
pub(super) struct SentencePiece {
    /// The file as it was read.
    file: Vec<u8>,
    vocabulary: Vocabulary,
    normalizer: Normalizer,
    merges: Merges,
    /// Finds user-defined pieces, the longest at each place.
    user_defined: Option<AhoCorasick>,
    unknown: u32,
    unknown_surface: String,
    /// The id of each byte, if what no piece covers is spelt in bytes.
    bytes: Option<[u32; 256]>,
}

impl Tokenizer {
    /// A tokenizer from the content of a `tokenizer.model` and of the `tokenizer_config.json` beside it.
    ///
    /// Tokens of the configuration's `added_tokens_decoder` replace pieces at their ids. BOS and EOS are the
    /// configuration's `bos_token` and `eos_token`, else the model's own; there is no BOS if `add_bos_token` is false.
    /// `missing` says what happens to separator and score token when the vocabulary has none of these names.
    pub(super) fn from_sentencepiece(
        file: Vec<u8>,
        config: Option<Map<String, Value>>,
        names: Names,
        missing: Missing,
    ) -> Result<Self> {
        names.check()?;
        let config = config.unwrap_or_default();
        let proto = ModelProto::decode(&file[..])
            .map_err(|error| Error::user(format!("not a SentencePiece model: {error}; get the file again")))?;
        let trainer = proto.trainer.clone().unwrap_or_default();
        let mut vocabulary = check(&proto)?;
        vocabulary.apply(&config)?;
        let read_size = vocabulary.len() as usize;
        let mut polar = |name: &String| {
            let known = missing == Missing::Add || vocabulary.id(name).is_some();
            known.then(|| vocabulary.reserve(name)).transpose()
        };
        let (separator, score) = (polar(&names.separator)?, polar(&names.score)?);
        let framing = |key: &str, default: &str| match configured_name(&config, key)? {
            Some(name) => vocabulary.id(name).map(Some).ok_or_else(|| not_in_vocabulary(key, name)),
            None if config.contains_key(key) => Ok(None),
            None => Ok(vocabulary.id(default)),
        };
        let bos = match config.get("add_bos_token") {
            Some(Value::Bool(false)) => None,
            _ => framing("bos_token", trainer.bos_piece())?,
        };
        let eos = framing("eos_token", trainer.eos_piece())?;
        let specials = Specials { bos, eos, separator, score };
        for id in [bos, eos].into_iter().flatten() {
            if let Some(name) = vocabulary.get(id).filter(|piece| piece.kind != Kind::Unknown) {
                let name = name.text.clone();
                vocabulary.reserve(&name)?;
            }
        }
        let vocab_size = vocabulary.len() as usize;
        let model = SentencePiece::new(file, &proto, vocabulary)?;
        let codec = Codec::SentencePiece { model: Box::new(model), config };
        Ok(Self(Arc::new(Inner { codec, names, specials, vocab_size, read_size, spelt: OnceLock::new() })))
    }
}

/// The pieces of a model that this code encodes as SentencePiece does.
fn check(proto: &ModelProto) -> Result<Vocabulary> {
    let trainer = proto.trainer.clone().unwrap_or_default();
    let refused = |what: &str| {
        Err(Error::user(format!("SentencePiece models {what} are not read; use the tokenizer.json of the same model")))
    };
    if trainer.model_type() != 2 {
        return refused("other than BPE");
    }
    if trainer.treat_whitespace_as_suffix() {
        return refused("with spaces at the ends of words");
    }
    let replaces = |spec: &Option<proto::NormalizerSpec>| {
        spec.as_ref().is_some_and(|spec| !spec.precompiled_charsmap().is_empty())
    };
    if replaces(&proto.normalizer) || replaces(&proto.denormalizer) {
        return refused("with a table of replacements (a normalisation other than \"identity\")");
    }
    if proto.pieces.len() >= MAX_VOCAB {
        return refused("with millions of pieces");
    }
    // Before anything is made of them.
    let user_defined = proto.pieces.iter().filter(|piece| piece.kind == Some(Kind::UserDefined as i32));
    bounds::looked_for(USER_DEFINED, user_defined.map(proto::Piece::piece))?;
    Vocabulary::new(&proto.pieces)
}

impl SentencePiece {
    fn new(file: Vec<u8>, proto: &ModelProto, vocabulary: Vocabulary) -> Result<Self> {
        let trainer = proto.trainer.clone().unwrap_or_default();
        let unknown = vocabulary.pieces().find(|(_, piece)| piece.kind == Kind::Unknown).map_or(0, |(id, _)| id);
        Ok(Self {
            file,
            normalizer: Normalizer::new(&proto.normalizer.clone().unwrap_or_default()),
            merges: Merges::new(&vocabulary),
            user_defined: user_defined(&vocabulary)?,
            unknown,
            unknown_surface: trainer.unk_surface().to_owned(),
            bytes: trainer.byte_fallback().then(|| bytes(&vocabulary)).transpose()?,
            vocabulary,
        })
    }

    /// Ids of `text`, without BOS.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if u32::try_from(text.len().saturating_mul(3)).is_err() {
            return Err(Error::user(format!("a text of {} bytes is too long for the tokenizer", text.len())));
        }
        let normalized = self.normalizer.normalize(text, self.user_defined.as_ref());
        let mut ids = Vec::with_capacity(normalized.len() / 3);
        let whole = self.user_defined.iter().flat_map(|finder| finder.find_iter(&normalized)).map(|found| {
            // What is found is one of the vocabulary's pieces.
            (found.range(), self.vocabulary.id(&normalized[found.range()]).unwrap_or(self.unknown))
        });
        let mut after_unknown = false;
        self.merges.split(&normalized, whole, &mut Scratch::default(), &mut |symbol, text| {
            let known = symbol < self.vocabulary.len() && symbol != self.unknown;
            match &self.bytes {
                _ if known => ids.push(symbol),
                Some(bytes) => ids.extend(text.bytes().map(|byte| bytes[usize::from(byte)])),
                // A run of unknown characters is one token.
                None if after_unknown => {}
                None => ids.push(self.unknown),
            }
            after_unknown = !known;
        });
        Ok(ids)
    }

    /// The spelling of `id`.
    pub(super) fn name(&self, id: u32) -> Option<&str> {
        self.vocabulary.get(id).map(|piece| piece.text.as_str())
    }

    /// The spellings of all pieces that no text becomes.
    pub(super) fn special_names(&self) -> Vec<String> {
        let special = self.vocabulary.pieces().filter(|(_, piece)| piece.kind == Kind::Control);
        special.map(|(_, piece)| piece.text.clone()).collect()
    }

    /// The id of the piece that is spelt so.
    pub(super) fn id(&self, name: &str) -> Option<u32> {
        self.vocabulary.id(name)
    }

    /// The file as it was read.
    pub(super) fn file(&self) -> &[u8] {
        &self.file
    }
}

/// Finds any user-defined piece, the longest first.
fn user_defined(vocabulary: &Vocabulary) -> Result<Option<AhoCorasick>> {
    let pieces = vocabulary.pieces().filter(|(_, piece)| piece.kind == Kind::UserDefined);
    let pieces: Vec<&str> = pieces.map(|(_, piece)| piece.text.as_str()).collect();
    (!pieces.is_empty()).then(|| bounds::finder(USER_DEFINED, &pieces)).transpose()
}

/// The ids of the pieces `<0x00>` to `<0xFF>`.
fn bytes(vocabulary: &Vocabulary) -> Result<[u32; 256]> {
    let mut ids = [0; 256];
    for (byte, id) in ids.iter_mut().enumerate() {
        let name = format!("<0x{byte:02X}>");
        let is_byte = |id: &u32| vocabulary.get(*id).is_some_and(|piece| piece.kind == Kind::Byte);
        *id = vocabulary.id(&name).filter(is_byte).ok_or_else(|| {
            Error::user(format!("the model falls back to bytes, and has no piece for the byte {name}"))
        })?;
    }
    Ok(ids)
}
