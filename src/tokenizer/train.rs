//! A byte-level BPE trained on the run's own text.

use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::{Arc, OnceLock};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, PreTokenizerWrapper};

use super::merges::Merges;
use super::own::{self, OWN_COUNT, OWN_IDS};
use super::pipeline::Pipeline;
use super::{Codec, Inner, Names, Tokenizer};
use crate::{Error, Result};

/// Where merges stop: words with the space before them, single digits (a number is read digit by digit, as a model
/// that calculates needs it), runs of signs, line ends with the space before them, other space.
const SPLIT: &str = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+";
/// The special tokens and every byte.
const MIN_VOCAB: usize = OWN_COUNT as usize + 256;

impl Tokenizer {
    /// Trains a byte-level BPE of at most `vocab_size` ids, special tokens included, on the first `max_bytes` bytes
    /// of `texts`. The same texts give the same ids.
    ///
    /// # Errors
    /// The user's: a vocabulary without room for every byte, no text, bad names.
    pub fn train<S: AsRef<str>>(
        texts: impl Iterator<Item = S>,
        vocab_size: usize,
        max_bytes: usize,
        names: Names,
    ) -> Result<Self> {
        names.check()?;
        if vocab_size < MIN_VOCAB {
            return Err(Error::user(format!(
                "tokenizer.vocab_size = {vocab_size}: a BPE needs at least {MIN_VOCAB} ids (every byte and {OWN_COUNT} \
                 special tokens); raise it or use tokenizer.kind = \"bytes\""
            )));
        }
        let sample = take_bytes(texts, max_bytes);
        if sample.iter().all(String::is_empty) {
            return Err(Error::user("there is no text to train the tokenizer on; use tokenizer.kind = \"bytes\""));
        }
        let model = train_model(sample, vocab_size, &names)
            .map_err(|error| Error::machine(format!("the training of the tokenizer failed: {error}")))?;
        Self::from_trained(own::to_json(&names, pre_tokenizer(), model), names)
    }

    /// A BPE trained here, from its `tokenizer.json`.
    pub(super) fn from_trained(json: Value, names: Names) -> Result<Self> {
        names.check()?;
        let merges = Merges::new(SPLIT, &json["model"])?;
        // Only the vocabulary and the merges may differ: what encodes is the merges and the split above.
        let mut model = empty_model()?;
        model["vocab"] = json["model"]["vocab"].clone();
        model["merges"] = json["model"]["merges"].clone();
        let json_from_here = own::to_json(&names, pre_tokenizer(), model);
        if json != json_from_here {
            return Err(Error::user("is not the BPE that tokenizer_config.json announces; save the model again"));
        }
        let pipeline = Pipeline::from_json(json.clone())?;
        for (id, name) in own::special_names(&names).into_iter().enumerate() {
            if pipeline.special(name) != Some(id as u32) {
                return Err(Error::user(format!("{name:?} should be a special token with the id {id}")));
            }
        }
        let vocab_size = pipeline.vocab_size();
        let codec = Codec::Trained(Box::new(Trained { merges, pipeline, json }));
        Ok(Self(Arc::new(Inner {
            codec,
            names,
            specials: OWN_IDS,
            vocab_size,
            read_size: vocab_size,
            spelt: OnceLock::new(),
        })))
    }
}

/// A BPE trained here.
#[derive(Debug)]
pub(super) struct Trained {
    merges: Merges,
    /// The same tokenizer in the `tokenizers` crate.
    pub(super) pipeline: Pipeline,
    /// Its `tokenizer.json`.
    pub(super) json: Value,
}

impl Trained {
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.merges.encode(text, &self.pipeline)
    }

    pub(super) fn decode(&self, ids: &[u32]) -> Result<String> {
        self.pipeline.decode(ids)
    }
}

/// A model without vocabulary and merges.
fn empty_model() -> Result<Value> {
    serde_json::to_value(BPE::default()).map_err(|error| Error::machine(error.to_string()))
}

/// The first `max_bytes` bytes of `texts`; the last text is cut at a character.
fn take_bytes<S: AsRef<str>>(texts: impl Iterator<Item = S>, max_bytes: usize) -> Vec<String> {
    let mut left = max_bytes;
    let mut taken = Vec::new();
    for text in texts {
        let text = text.as_ref();
        let cut = text.floor_char_boundary(left);
        taken.push(text[..cut].to_owned());
        left -= cut;
        if cut < text.len() || left == 0 {
            break;
        }
    }
    taken
}

fn pre_tokenizer() -> Value {
    let split = json!({"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": false});
    json!({"type": "Sequence", "pretokenizers": [split, own::byte_level()]})
}

/// The trained model as it stands in a `tokenizer.json`.
fn train_model(sample: Vec<String>, vocab_size: usize, names: &Names) -> tokenizers::Result<Value> {
    let specials = own::special_names(names).map(|name| AddedToken::from(name, true));
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect::<HashSet<char>>())
        .special_tokens(specials.to_vec())
        .build();
    let mut tokenizer = tokenizers::TokenizerImpl::<
        BPE,
        tokenizers::NormalizerWrapper,
        PreTokenizerWrapper,
        tokenizers::PostProcessorWrapper,
        tokenizers::DecoderWrapper,
    >::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(serde_json::from_value::<PreTokenizerWrapper>(pre_tokenizer())?));
    tokenizer.train(&mut trainer, sample.into_iter())?;
    Ok(serde_json::to_value(tokenizer.get_model())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn trained(vocab_size: usize) -> Tokenizer {
        let texts = (0..200).map(|n| format!("The answer to {n} + {n} is {}.\n\nSo 12 345 <s> <|reward|>", 2 * n));
        Tokenizer::train(texts, vocab_size, 1 << 20, Names::default()).unwrap()
    }

    #[test]
    fn the_same_text_gives_the_same_tokenizer() {
        let (one, two) = (trained(280), trained(280));
        let text = "The answer to 17 is 34, so über 😀\n";
        assert_eq!(one.encode(text).unwrap(), two.encode(text).unwrap());
        assert_eq!(one.vocab_size(), 280);
        assert!(one.encode(text).unwrap().len() < text.len());
        assert_eq!(one.decode(&one.encode(text).unwrap()).unwrap(), text);
    }

    #[test]
    fn the_merges_are_those_of_the_crate() {
        let tokenizer = trained(280);
        let Codec::Trained(trained) = &tokenizer.0.codec else { panic!("another codec") };
        proptest!(|(pieces in prop::collection::vec(
            prop_oneof!["(answer|The| is|to){1,30}", "[ \\n\\r\\t]{0,4}", "\\PC{0,5}", any::<char>().prop_map(String::from)],
            0..10,
        ))| {
            let text = pieces.concat();
            prop_assert_eq!(trained.encode(&text).unwrap(), trained.pipeline.encode(&text).unwrap());
        });
    }

    #[test]
    fn digits_stand_alone() {
        let tokenizer = trained(400);
        let ids = tokenizer.encode("12345").unwrap();
        assert_eq!(ids.len(), 5);
        assert_eq!(tokenizer.decode(&ids[1..3]).unwrap(), "23");
    }

    #[test]
    fn a_special_token_that_the_text_spells_often_stays_special() {
        let names = Names { separator: "##".into(), score: "::".into() };
        let text = "## a :: b ####".repeat(100);
        let tokenizer = Tokenizer::train([&text].iter(), 400, 1 << 20, names).unwrap();
        let ids = tokenizer.encode(&text).unwrap();
        assert!(ids.iter().all(|id| *id >= OWN_COUNT), "{ids:?}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        assert!(tokenizer.encode(&"#".repeat(100)).unwrap().iter().all(|id| *id >= OWN_COUNT), "a long word");
    }

    #[test]
    fn the_sample_is_bounded() {
        assert_eq!(take_bytes(["ab", "é", "c"].iter(), 3), ["ab", ""]);
        assert_eq!(take_bytes(["ab", "é", "c"].iter(), 4), ["ab", "é"]);
        assert_eq!(take_bytes(["ab"].iter(), 9), ["ab"]);
    }

    #[test]
    fn what_cannot_be_trained_is_the_users_mistake() {
        let small = Tokenizer::train(["a"].iter(), 260, 10, Names::default()).unwrap_err();
        assert!(small.to_string().contains("tokenizer.vocab_size = 260"), "{small}");
        let empty = Tokenizer::train([""].iter(), 300, 10, Names::default()).unwrap_err();
        assert!(empty.to_string().contains("no text"), "{empty}");
        let names = Names { separator: "<s>".into(), ..Names::default() };
        assert_eq!(Tokenizer::train(["a"].iter(), 300, 10, names).unwrap_err().exit_code(), 2);
    }
}
