//! The vocabulary of a GGUF file (keys `tokenizer.ggml.*`) as a tokenizer.
//!
//! `gpt2` is a byte-level BPE and becomes a `tokenizer.json`; `llama` is a SentencePiece BPE and becomes a
//! `tokenizer.model`. A GGUF file names its pre-tokenizer instead of holding it: the known ones are listed here.

use prost::Message;
use serde_json::{Map, Value, json};

use super::sentencepiece::proto::{Kind, ModelProto, NormalizerSpec, Piece, TrainerSpec};
use super::store::CHAT_TEMPLATE;
use super::{Missing, Names, Tokenizer};
use crate::{Error, Result};

/// What a GGUF file says of its tokenizer. Missing arrays are empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufVocabulary {
    /// `tokenizer.ggml.model`: `gpt2` or `llama`.
    pub model: String,
    /// `tokenizer.ggml.pre`: which pre-tokenizer a `gpt2` model has.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`: spelling of each id.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.token_type` of each id: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Vec<i32>,
    /// `tokenizer.ggml.scores` of each id; `llama` merges the highest first.
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.merges`, two tokens with a space between; `gpt2` merges the first first.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unknown: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`.
    pub pad: Option<u32>,
    /// `tokenizer.chat_template`, in Jinja.
    pub chat_template: Option<String>,
    /// `tokenizer.ggml.add_bos_token`; without it `llama` adds BOS, and of `gpt2` only Llama 3's `llama-bpe`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`; without it `llama` adds one. `gpt2` never does.
    pub add_space_prefix: Option<bool>,
}

const NORMAL: i32 = Kind::Normal as i32;
const UNKNOWN: i32 = Kind::Unknown as i32;
const CONTROL: i32 = Kind::Control as i32;
const USER_DEFINED: i32 = Kind::UserDefined as i32;

impl Tokenizer {
    /// The tokenizer of a GGUF file; `missing` says what happens to separator and score token when the vocabulary has
    /// none of these names.
    ///
    /// # Errors
    /// The user's: another model or pre-tokenizer than the known ones, tokens that are not unique, arrays that do not
    /// fit each other.
    pub fn from_gguf(vocabulary: &GgufVocabulary, names: Names, missing: Missing) -> Result<Self> {
        vocabulary.check()?;
        match vocabulary.model.as_str() {
            "gpt2" => Self::from_parts(vocabulary.byte_level()?, Some(vocabulary.config()), names, missing),
            "llama" => Self::from_sentencepiece(vocabulary.sentencepiece(), Some(vocabulary.config()), names, missing),
            model => Err(Error::user(format!(
                "key \"tokenizer.ggml.model\" = {model:?}: read are \"gpt2\" and \"llama\"; use the tokenizer.json of the \
                 original model"
            ))),
        }
    }
}

impl GgufVocabulary {
    fn check(&self) -> Result<()> {
        let count = self.tokens.len();
        if count == 0 {
            return Err(Error::user("key \"tokenizer.ggml.tokens\" is missing or empty"));
        }
        for (key, length) in [("token_type", self.token_types.len()), ("scores", self.scores.len())] {
            if length != 0 && length != count {
                return Err(Error::user(format!(
                    "key \"tokenizer.ggml.{key}\" has {length} entries and \"tokenizer.ggml.tokens\" {count}"
                )));
            }
        }
        let named = [("bos", self.bos), ("eos", self.eos), ("unknown", self.unknown), ("padding", self.pad)];
        for (key, id) in named.into_iter().filter_map(|(key, id)| Some((key, id?))) {
            if id as usize >= count {
                return Err(Error::user(format!(
                    "key \"tokenizer.ggml.{key}_token_id\" = {id}: there are {count} tokens"
                )));
            }
        }
        Ok(())
    }

    fn token_type(&self, id: usize) -> i32 {
        self.token_types.get(id).copied().unwrap_or(NORMAL)
    }

    /// What a `tokenizer_config.json` says of BOS and EOS.
    fn config(&self) -> Map<String, Value> {
        let spelling = |id: Option<u32>| id.map_or(Value::Null, |id| self.tokens[id as usize].as_str().into());
        let mut config = Map::new();
        let usual = self.model == "llama" || self.pre.as_deref() == Some("llama-bpe");
        config.insert("add_bos_token".into(), self.add_bos.unwrap_or(usual).into());
        config.insert("bos_token".into(), spelling(self.bos));
        config.insert("eos_token".into(), spelling(self.eos));
        if self.pad.is_some() {
            config.insert("pad_token".into(), spelling(self.pad));
        }
        if let Some(template) = &self.chat_template {
            config.insert(CHAT_TEMPLATE.into(), template.as_str().into());
        }
        config
    }

    /// A `llama` model as a `tokenizer.model`. GGUF files have SentencePiece's types of pieces, and say nothing of the
    /// normalisation but the space at the start.
    fn sentencepiece(&self) -> Vec<u8> {
        let piece = |(id, token): (usize, &String)| Piece {
            piece: Some(token.clone()),
            score: Some(self.scores.get(id).copied().unwrap_or_default()),
            kind: Some(if self.unknown.is_some_and(|unknown| unknown as usize == id) {
                UNKNOWN
            } else {
                self.token_type(id)
            }),
        };
        let byte_fallback = self.token_types.contains(&(Kind::Byte as i32));
        let model = ModelProto {
            pieces: self.tokens.iter().enumerate().map(piece).collect(),
            trainer: Some(TrainerSpec {
                model_type: Some(2),
                byte_fallback: Some(byte_fallback),
                ..Default::default()
            }),
            normalizer: Some(NormalizerSpec {
                add_dummy_prefix: Some(self.add_space_prefix.unwrap_or(true)),
                remove_extra_whitespaces: Some(false),
                ..Default::default()
            }),
            denormalizer: None,
        };
        model.encode_to_vec()
    }

    /// A `gpt2` model as a `tokenizer.json`.
    fn byte_level(&self) -> Result<Value> {
        let split = Split::of(self.pre.as_deref().unwrap_or("default"))?;
        let mut vocab = Map::new();
        let mut added = Vec::new();
        for (id, token) in self.tokens.iter().enumerate() {
            if vocab.insert(token.clone(), json!(id)).is_some() {
                return Err(Error::user(format!("key \"tokenizer.ggml.tokens\": {token:?} occurs twice")));
            }
            let framing = [self.bos, self.eos].contains(&u32::try_from(id).ok());
            let special = framing || matches!(self.token_type(id), UNKNOWN | CONTROL);
            if special || self.token_type(id) == USER_DEFINED {
                added.push(json!({
                    "id": id, "content": token, "special": special,
                    "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                }));
            }
        }
        let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
        let pre_tokenizer = match split.before {
            Some(step) => json!({"type": "Sequence", "pretokenizers": [step, byte_level(split.use_regex)]}),
            None => byte_level(split.use_regex),
        };
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": if split.nfc { json!({"type": "NFC"}) } else { Value::Null },
            "pre_tokenizer": pre_tokenizer,
            "post_processor": null,
            "decoder": byte_level(true),
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": split.ignore_merges, "vocab": vocab, "merges": self.merges,
            },
        }))
    }
}

/// What happens to text before the merges of a byte-level BPE.
struct Split {
    /// A step before the byte-level one.
    before: Option<Value>,
    /// Whether the byte-level step splits as GPT-2 does.
    use_regex: bool,
    /// Whether text is brought into Unicode's form C.
    nfc: bool,
    /// Whether a word that is a token is not taken apart.
    ignore_merges: bool,
}

impl Split {
    /// The pre-tokenizer that `tokenizer.ggml.pre` names, as the `tokenizer.json` of its first model has it.
    fn of(name: &str) -> Result<Self> {
        let gpt2 = Self { before: None, use_regex: true, nfc: false, ignore_merges: false };
        let regex = |digits: &str| {
            let pattern = format!(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            );
            Some(json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}))
        };
        match name {
            "default" | "gpt-2" => Ok(gpt2),
            "smollm" => Ok(Self { before: Some(json!({"type": "Digits", "individual_digits": true})), ..gpt2 }),
            "qwen2" => Ok(Self { before: regex(r"\p{N}"), use_regex: false, nfc: true, ignore_merges: false }),
            "llama-bpe" => Ok(Self { before: regex(r"\p{N}{1,3}"), use_regex: false, nfc: false, ignore_merges: true }),
            _ => Err(Error::user(format!(
                "key \"tokenizer.ggml.pre\" = {name:?}: known are \"default\", \"gpt-2\", \"smollm\", \"qwen2\" and \
                 \"llama-bpe\"; use the tokenizer.json of the original model"
            ))),
        }
    }
}
