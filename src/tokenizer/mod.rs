//! Text to token ids and back: one id a byte, a BPE trained on the run's own text, a Hugging Face `tokenizer.json`, a
//! SentencePiece `tokenizer.model`, or the vocabulary of a GGUF file.
//!
//! Whatever the kind, text is data: [`Tokenizer::encode`] never yields a special token, however the text is spelt.
//! Special tokens enter a sequence by their ids alone ([`Tokenizer::specials`]), but for strings that are a model's own
//! ([`Tokenizer::encode_spelt`]).

mod bounds;
mod bytes;
mod file;
mod gguf;
mod merges;
mod own;
mod pipeline;
mod sentencepiece;
mod store;
mod train;

use aho_corasick::AhoCorasick;
use serde_json::{Map, Value};
use std::sync::{Arc, OnceLock};

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
        if [&self.separator, &self.score].into_iter().any(|name| name.chars().nth(1).is_none()) {
            return Err(bad("a single character is a piece of text, so a special token needs a longer name"));
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Specials {
    /// First of every sequence; a `tokenizer.json` may have none.
    pub bos: Option<u32>,
    /// End of a document; a `tokenizer.json` may have none.
    pub eos: Option<u32>,
    /// Between reference and candidate; none in a vocabulary that does not know POLAR's form.
    pub separator: Option<u32>,
    /// Where the score is read; none in a vocabulary that does not know POLAR's form.
    pub score: Option<u32>,
}

impl Specials {
    /// Separator and score token.
    ///
    /// # Errors
    /// The user's: the vocabulary lacks one of them, so no model that came with it knows POLAR's form.
    pub fn polar(&self) -> Result<[u32; 2]> {
        self.separator.zip(self.score).map(<[u32; 2]>::from).ok_or_else(|| {
            Error::user(format!(
                "the vocabulary has no separator ({SEPARATOR:?}) and score token ({SCORE:?}): its model was not \
                 trained on POLAR's form"
            ))
        })
    }
}

/// What happens to separator and score token where the vocabulary lacks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// They stay away: no model that came with the vocabulary knows them.
    Leave,
    /// They are added at its end, for a model that is to be trained.
    Add,
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
    /// Finds special tokens, the longest at each place; none where there are too many.
    spelt: OnceLock<Option<AhoCorasick>>,
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

    /// Ids of a string that spells its special tokens, as models of other families are given them: what spells one is
    /// that token. `framed` by what the tokenizer itself puts around a text.
    ///
    /// # Errors
    /// The user's, when a `tokenizer.json` cannot represent the text at all.
    pub fn encode_spelt(&self, text: &str, framed: bool) -> Result<Vec<u32>> {
        if let Codec::File { pipeline, .. } = &self.0.codec {
            let [before, after] = if framed { self.frame()? } else { Default::default() };
            return Ok([before, pipeline.encode_spelt(text)?, after].concat());
        }
        let [before, after] = if framed { self.frame()? } else { Default::default() };
        Ok([before, self.encode_parts(text, |part| self.encode(part))?, after].concat())
    }

    /// What the tokenizer itself puts before and after a text: what its post-processor does, or BOS where its files ask
    /// for that in another way.
    ///
    /// # Errors
    /// The user's, when a `tokenizer.json` is damaged.
    pub fn frame(&self) -> Result<[Vec<u32>; 2]> {
        let bos = || self.0.specials.bos.into_iter().collect();
        let Codec::File { pipeline, config } = &self.0.codec else { return Ok([bos(), Vec::new()]) };
        let [before, after] = pipeline.frame()?;
        let asks = before.is_empty() && config.get("add_bos_token") == Some(&Value::Bool(true));
        Ok([if asks { bos() } else { before }, after])
    }

    /// What fills up batches: the configured `pad_token` if the vocabulary has it, else EOS, else BOS.
    pub fn pad(&self) -> Option<u32> {
        let Specials { bos, eos, .. } = self.0.specials;
        self.configured("pad_token").and_then(|name| self.id(&name)).or(eos).or(bos)
    }

    /// How the token is spelt that its `tokenizer_config.json` has under `key`, such as `bos_token`.
    pub(crate) fn configured(&self, key: &str) -> Option<String> {
        if let Codec::File { config, .. } | Codec::SentencePiece { config, .. } = &self.0.codec
            && config.contains_key(key)
        {
            return file::configured_name(config, key).ok().flatten().map(String::from);
        }
        let Specials { bos, eos, .. } = self.0.specials;
        let id = match key {
            "bos_token" => bos,
            "eos_token" => eos,
            _ => None,
        };
        id.and_then(|id| self.name(id))
    }

    /// Ids of what `encode` makes of the stretches between special tokens that `text` spells, and of these tokens.
    pub(crate) fn encode_parts(&self, text: &str, encode: impl Fn(&str) -> Result<Vec<u32>>) -> Result<Vec<u32>> {
        let (mut ids, mut end) = (Vec::new(), 0);
        for found in self.spelt()?.find_iter(text) {
            ids.extend(encode(&text[end..found.start()])?);
            ids.extend(self.id(&text[found.range()]));
            end = found.end();
        }
        ids.extend(encode(&text[end..])?);
        Ok(ids)
    }

    /// Finds what spells a special token.
    pub(crate) fn spelt(&self) -> Result<&AhoCorasick> {
        let finder = || {
            let mut names = match &self.0.codec {
                Codec::Bytes | Codec::Trained(_) => own::special_names(&self.0.names).map(String::from).to_vec(),
                Codec::File { pipeline, .. } => pipeline.special_names(),
                Codec::SentencePiece { model, .. } => model.special_names(),
            };
            // A single character is text.
            names.retain(|name| name.chars().nth(1).is_some());
            bounds::finder("special tokens", &names).ok()
        };
        self.0.spelt.get_or_init(finder).as_ref().ok_or_else(|| {
            Error::user("the tokenizer has too many special tokens to look for them in a text; give token ids")
        })
    }

    /// The id of the token that is spelt so.
    fn id(&self, name: &str) -> Option<u32> {
        match &self.0.codec {
            Codec::Bytes => {
                own::special_names(&self.0.names).iter().position(|known| *known == name).map(|id| id as u32)
            }
            Codec::Trained(trained) => trained.pipeline.id(name),
            Codec::File { pipeline, .. } => pipeline.id(name),
            Codec::SentencePiece { model, .. } => model.id(name),
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
        [separator, score].into_iter().flatten().filter(|id| *id as usize >= self.0.read_size).collect()
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
