//! One id a byte. Byte `b` is id `5 + b`; the special tokens are ids 0 to 4.
//!
//! Saved, it is a byte-level BPE without merges, so that any reader of `tokenizer.json` gets the same ids.

use serde_json::{Map, Value, json};
use std::sync::{Arc, OnceLock};

use super::own::{self, OWN_COUNT, OWN_IDS};
use super::{Codec, Inner, Names, Tokenizer};
use crate::Result;

/// Special tokens and bytes.
const VOCAB_SIZE: u32 = OWN_COUNT + 256;

impl Tokenizer {
    /// One id a byte: 261 ids.
    ///
    /// # Errors
    /// The user's: names that are empty, equal or taken.
    pub fn bytes(names: Names) -> Result<Self> {
        names.check()?;
        let vocab_size = VOCAB_SIZE as usize;
        Ok(Self(Arc::new(Inner {
            codec: Codec::Bytes,
            names,
            specials: OWN_IDS,
            vocab_size,
            read_size: vocab_size,
            spelt: OnceLock::new(),
        })))
    }
}

pub(super) fn encode(text: &str) -> Vec<u32> {
    text.bytes().map(|byte| OWN_COUNT + u32::from(byte)).collect()
}

pub(super) fn decode(ids: &[u32]) -> String {
    let byte = |id: &u32| id.checked_sub(OWN_COUNT).and_then(|byte| u8::try_from(byte).ok());
    let bytes: Vec<u8> = ids.iter().filter_map(byte).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The tokenizer as a `tokenizer.json`.
pub(super) fn to_json(names: &Names) -> Value {
    let mut vocab = Map::new();
    for (id, name) in own::special_names(names).into_iter().enumerate() {
        vocab.insert(name.into(), json!(id));
    }
    for (byte, letter) in alphabet().into_iter().enumerate() {
        vocab.insert(letter.into(), json!(OWN_COUNT as usize + byte));
    }
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": [],
    });
    own::to_json(names, own::byte_level(), model)
}

/// The letter of each byte in a byte-level vocabulary (GPT-2's table): printable Latin-1 stands for itself, the
/// rest follows from U+0100 on.
pub(super) fn alphabet() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| {
        let byte = byte as u8;
        if matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) {
            return char::from(byte);
        }
        next += 1;
        char::from_u32(next - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::pipeline::Pipeline;

    #[test]
    fn bytes_and_back() {
        let text = "a\u{0}é😀";
        let ids = encode(text);
        assert_eq!(ids[..2], [5 + 97, 5]);
        assert_eq!(decode(&ids), text);
        assert_eq!(decode(&[0, 1, 2, 3, 4, 261, u32::MAX]), "", "specials and unknown ids are left out");
        assert_eq!(decode(&ids[..3]), "a\u{0}\u{FFFD}", "half a character");
    }

    #[test]
    fn the_saved_form_gives_the_same_ids_to_any_reader() {
        let pipeline = Pipeline::from_json(to_json(&Names::default())).unwrap();
        let every_byte: String =
            (0..=0x7ffu32).filter_map(char::from_u32).chain("\u{ffff}\u{10ffff}".chars()).collect();
        assert_eq!(pipeline.encode(&every_byte).unwrap(), encode(&every_byte));
        assert_eq!(pipeline.decode(&encode(&every_byte)).unwrap(), every_byte);
    }
}
