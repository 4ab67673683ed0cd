//! Text to token ids and back: one id a byte, a BPE trained on the run's own text, a Hugging Face `tokenizer.json`, a
//! SentencePiece `tokenizer.model`, or the vocabulary of a GGUF file.
//!
//! Whatever the kind, text is data: [`Tokenizer::encode`] never yields a special token, however the text is spelt.
//! Special tokens enter a sequence by their ids alone ([`Tokenizer::specials`]).

mod bytes;
mod file;
mod gguf;
mod merges;
mod own;
mod pipeline;
mod sentencepiece;
mod store;
mod train;

use serde_json::{Map, Value};
use std::sync::Arc;

use crate::config::{TokenRef, TokenizerKind, TokenizerSection};
use crate::{Error, Result};
pub use gguf::GgufVocabulary;
use pipeline::Pipeline;
use sentencepiece::SentencePiece;
pub use store::exists;
use train::Trained;

/// POLAR's separator between reference and candidate, as in the tokenizer of its checkpoints.
pub const SEPARATOR: &str = "<|reward|>";
/// POLAR's score token, as in the tokenizer of its checkpoints.
pub const SCORE: &str = "[UNUSED_TOKEN_130]";

/// The spellings of the two tokens that POLAR adds to a vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Between reference and candidate.
    pub separator: String,
    /// At the end of the sequence, where the score is read.
    pub score: String,
}

impl Default for Names {
    fn default() -> Self {
        Self { separator: SEPARATOR.into(), score: SCORE.into() }
    }
}

impl Names {
    /// Two different names, neither of them empty nor the name of another special token.
    fn check(&self) -> Result<()> {
        let bad = |why: &str| {
            let Self { separator, score } = self;
            Error::user(format!("tokenizer.separator = {separator:?} and tokenizer.score = {score:?}: {why}"))
        };
        if self.separator.is_empty() || self.score.is_empty() {
            return Err(bad("a special token needs a name"));
        }
        if self.separator == self.score {
            return Err(bad("the two need different names"));
        }
        if own::FIRST_SPECIALS.iter().any(|name| *name == self.separator || *name == self.score) {
            return Err(bad("neither may be <unk>, <s> or </s>"));
        }
        Ok(())
    }
}

/// Ids of the tokens that frame a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Specials {
    /// First of every sequence; a `tokenizer.json` may have none.
    pub bos: Option<u32>,
    /// End of a document; a `tokenizer.json` may have none.
    pub eos: Option<u32>,
    /// Between reference and candidate.
    pub separator: u32,
    /// Where the score is read.
    pub score: u32,
}

/// Text to token ids and back. Cheap to clone, shared between threads.
#[derive(Clone, Debug)]
pub struct Tokenizer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    codec: Codec,
    names: Names,
    specials: Specials,
    vocab_size: usize,
    /// Ids of the vocabulary before separator and score token were added to it.
    read_size: usize,
}

#[derive(Debug)]
enum Codec {
    /// One id a byte, after the specials.
    Bytes,
    /// A BPE trained here.
    Trained(Box<Trained>),
    /// Somebody else's `tokenizer.json`, with what its `tokenizer_config.json` said.
    File { pipeline: Box<Pipeline>, config: Map<String, Value> },
    /// Somebody else's `tokenizer.model`, with what its `tokenizer_config.json` said.
    SentencePiece { model: Box<SentencePiece>, config: Map<String, Value> },
}

impl Tokenizer {
    /// The tokenizer that the configuration asks for; `texts` is what a BPE is trained on.
    ///
    /// # Errors
    /// The user's: bad names, too small a vocabulary, a missing or damaged `tokenizer.json`, no text to train on.
    pub fn from_config<S: AsRef<str>>(section: &TokenizerSection, texts: impl Iterator<Item = S>) -> Result<Self> {
        let name = |token: &TokenRef, key: &str| match token {
            TokenRef::Name(name) => Ok(name.clone()),
            TokenRef::Id(id) => {
                let file = section.path.as_ref().map(|path| Self::from_file(path, Names::default())).transpose()?;
                file.and_then(|file| file.name(*id))
                    .ok_or_else(|| Error::user(format!("tokenizer.{key} = {id}: the tokenizer has no such id")))
            }
        };
        let names = Names { separator: name(&section.separator, "separator")?, score: name(&section.score, "score")? };
        match (section.kind, &section.path) {
            (TokenizerKind::Bytes, _) => Self::bytes(names),
            (TokenizerKind::Bpe, _) => Self::train(texts, section.vocab_size, section.train_bytes, names),
            (TokenizerKind::File, Some(path)) => Self::from_file(path, names),
            (TokenizerKind::File, None) => Err(Error::user(
                "tokenizer.kind = \"file\" needs tokenizer.path: the tokenizer.json or tokenizer.model to read (--set tokenizer.path=FILE)",
            )),
        }
    }

    /// Token ids of `text`, without BOS, and never a special token: text that spells one is encoded as the
    /// characters that it is.
    ///
    /// # Errors
    /// The user's, when a `tokenizer.json` cannot represent the text at all.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match &self.0.codec {
            Codec::Bytes => Ok(bytes::encode(text)),
            Codec::Trained(trained) => trained.encode(text),
            Codec::File { pipeline, .. } => pipeline.encode(text),
            Codec::SentencePiece { model, .. } => model.encode(text),
        }
    }

    /// The text of `ids`. Special tokens and ids outside of the vocabulary are left out; bytes that are not UTF-8
    /// become U+FFFD.
    ///
    /// # Errors
    /// The user's, when the decoder of a `tokenizer.json` fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        match &self.0.codec {
            Codec::Bytes => Ok(bytes::decode(ids)),
            Codec::Trained(trained) => trained.decode(ids),
            Codec::File { pipeline, .. } => pipeline.decode(ids),
            Codec::SentencePiece { model, .. } => Ok(model.decode(ids)),
        }
    }

    /// Ids of the tokens that frame a sequence.
    pub fn specials(&self) -> Specials {
        self.0.specials
    }

    /// The spelling of an id in the vocabulary; a byte of the kind `bytes` has none.
    pub fn name(&self, id: u32) -> Option<String> {
        match &self.0.codec {
            Codec::Bytes => own::special_names(&self.0.names).get(id as usize).map(ToString::to_string),
            Codec::Trained(trained) => trained.pipeline.name(id),
            Codec::File { pipeline, .. } => pipeline.name(id),
            Codec::SentencePiece { model, .. } => model.name(id).map(String::from),
        }
    }

    /// One more than the largest id: the rows that an embedding needs.
    pub fn vocab_size(&self) -> usize {
        self.0.vocab_size
    }

    /// Those of separator and score token that were added to somebody else's vocabulary when it was read: no model that
    /// came with it knows them.
    pub fn added(&self) -> Vec<u32> {
        let Specials { separator, score, .. } = self.0.specials;
        [separator, score].into_iter().filter(|id| *id as usize >= self.0.read_size).collect()
    }

    /// The spellings of separator and score token.
    pub fn names(&self) -> &Names {
        &self.0.names
    }

    /// What it is, in words.
    pub fn description(&self) -> String {
        match self.0.codec {
            Codec::Bytes => "bytes",
            Codec::Trained(_) => "byte-level BPE, trained here",
            Codec::File { .. } => "tokenizer.json",
            Codec::SentencePiece { .. } => "SentencePiece tokenizer.model",
        }
        .into()
    }

    /// Which kind it is.
    pub fn kind(&self) -> TokenizerKind {
        match self.0.codec {
            Codec::Bytes => TokenizerKind::Bytes,
            Codec::Trained(_) => TokenizerKind::Bpe,
            Codec::File { .. } | Codec::SentencePiece { .. } => TokenizerKind::File,
        }
    }
}
