//! Vocabularies in which text would become a special token, or a special token something else.

use polar_raw::tokenizer::{GgufVocabulary, Missing, Names, Tokenizer};
use serde_json::{Value, json};

use super::{added, bpe, byte_level, from_json, unigram, with_scores, words, write};

/// The reason for which a `tokenizer.json` is refused, which names every one of `parts`.
fn refused(json: &Value, parts: &[&str]) {
    let message = from_json(json, None).unwrap_err().to_string();
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
}

#[test]
fn two_pieces_of_one_id() {
    for (mut json, [one, other]) in [(bpe(), ["a", "ab"]), (words(), ["a", "[UNK]"])] {
        json["model"]["vocab"][one] = json["model"]["vocab"][other].clone();
        refused(&json, &[&format!("{one:?}"), &format!("{other:?}"), "have both the id"]);
    }
    for mut json in [bpe(), unigram(), words()] {
        json["added_tokens"].as_array_mut().unwrap().push(added(1, "<new>", true));
        refused(&json, &["\"<new>\"", "have both the id 1"]);
    }
    let mut twice = bpe();
    twice["added_tokens"][2]["id"] = json!(6);
    refused(&twice, &["\"<think>\"", "\"<|start|>\"", "have both the id 6"]);
}

/// A BPE trained here in which the first byte of "é" has the separator's id: "café" held it.
#[test]
fn a_byte_with_the_id_of_the_separator() {
    let dir = tempfile::tempdir().unwrap();
    Tokenizer::train(["café"; 20].iter(), 300, 1 << 20, Names::default()).unwrap().save(dir.path()).unwrap();
    let text = std::fs::read_to_string(dir.path().join("tokenizer.json")).unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    json["model"]["vocab"]["Ã"] = json!(3);
    write(dir.path(), "tokenizer.json", &json);
    let message = Tokenizer::load(dir.path(), Missing::Leave).unwrap_err().to_string();
    assert!(message.contains("\"<|reward|>\" and \"Ã\" have both the id 3"), "{message}");
}

#[test]
fn a_byte_that_is_a_special_token() {
    let gguf = |vocabulary: &GgufVocabulary| {
        Tokenizer::from_gguf(vocabulary, Names::default(), Missing::Leave).unwrap_err().to_string()
    };
    // Byte-level: as BOS, and by its type.
    let mut vocabulary = byte_level("smollm");
    let letter = vocabulary.tokens.iter().position(|token| token == "Ã").unwrap();
    let message = gguf(&GgufVocabulary { bos: Some(letter as u32), ..vocabulary.clone() });
    assert!(message.contains("\"Ã\" stands for a byte"), "{message}");
    vocabulary.token_types[letter] = 3;
    assert!(gguf(&vocabulary).contains("\"Ã\" stands for a byte"));
    // SentencePiece.
    let mut vocabulary = with_scores();
    let byte = vocabulary.token_types.iter().position(|kind| *kind == 6).unwrap();
    let message = gguf(&GgufVocabulary { eos: Some(byte as u32), ..vocabulary.clone() });
    assert!(message.contains("is a byte"), "{message}");
    vocabulary.token_types[byte] = 3;
    assert!(gguf(&vocabulary).contains("no piece for the byte"));
    // BPE that falls back to bytes.
    let mut json = bpe();
    json["model"]["byte_fallback"] = json!(true);
    json["model"]["vocab"]["<0x41>"] = json!(6);
    json["added_tokens"] = json!([added(5, "<x>", true), added(6, "<0x41>", true)]);
    json["post_processor"] = Value::Null;
    refused(&json, &["\"<0x41>\" stands for a byte"]);
    // The names of the two tokens.
    let names = Names { separator: "é".into(), ..Names::default() };
    assert!(Tokenizer::bytes(names).unwrap_err().to_string().contains("single character"));
}

/// Ids that a model has no rows for.
#[test]
fn a_post_processor_that_puts_ids_around_a_text_that_are_not_there() {
    for (sep, cls, wrong) in [(8, 5, 8), (5, 9, 9)] {
        let mut json = bpe();
        json["post_processor"] = json!({
            "type": "RobertaProcessing", "sep": ["<x>", sep], "cls": ["<x>", cls], "trim_offsets": true,
            "add_prefix_space": true,
        });
        refused(&json, &["\"post_processor\"", &format!("the id {wrong} around")]);
    }
}

#[test]
fn no_character_is_lost_without_a_word() {
    // The only piece of "é" is a special token.
    let mut json = unigram();
    json["model"]["vocab"].as_array_mut().unwrap().push(json!(["é", -1.0]));
    json["added_tokens"].as_array_mut().unwrap().push(added(13, "é", true));
    assert_eq!(from_json(&json, None).unwrap().encode("é").unwrap(), [0], "what no other piece covers is unknown");
}
