//! Small models that the package `sentencepiece` made, and what it makes of texts; hostile files; models built here.

use proptest::prelude::*;
use prost::Message;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use super::proto::{Kind, ModelProto, NormalizerSpec, Piece, TrainerSpec};
use crate::error;
use crate::tokenizer::{Missing, Names, Tokenizer};

const MODELS: [&str; 4] = ["plain", "prefix", "trimmed", "unknown"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sentencepiece").join(name)
}

fn read(model: &str) -> Vec<u8> {
    std::fs::read(golden(&format!("{model}.model"))).unwrap()
}

fn tokenizer(file: Vec<u8>, config: Value) -> crate::Result<Tokenizer> {
    Tokenizer::from_sentencepiece(file, config.as_object().cloned(), Names::default(), Missing::Add)
}

/// What `change` makes of a model.
fn edited(model: &str, change: impl Fn(&mut ModelProto)) -> Vec<u8> {
    let mut proto = ModelProto::decode(&read(model)[..]).unwrap();
    change(&mut proto);
    proto.encode_to_vec()
}

/// Pieces in the order of their ids: type, spelling, score.
fn built(pieces: &[(Kind, &str, f32)]) -> Vec<u8> {
    let piece = |&(kind, text, score): &(Kind, &str, f32)| Piece {
        piece: Some(text.into()),
        score: Some(score),
        kind: Some(kind as i32),
    };
    let normalizer =
        NormalizerSpec { add_dummy_prefix: Some(false), remove_extra_whitespaces: Some(false), ..Default::default() };
    ModelProto {
        pieces: pieces.iter().map(piece).collect(),
        trainer: Some(TrainerSpec { model_type: Some(2), ..Default::default() }),
        normalizer: Some(normalizer),
        denormalizer: None,
    }
    .encode_to_vec()
}

static ALL: LazyLock<Vec<Tokenizer>> =
    LazyLock::new(|| MODELS.iter().map(|model| tokenizer(read(model), json!({})).unwrap()).collect());

#[test]
fn ids_and_text_are_those_of_the_package() {
    let cases: Value = serde_json::from_slice(&std::fs::read(golden("golden.json")).unwrap()).unwrap();
    for (model, tokenizer) in MODELS.iter().zip(ALL.iter()) {
        let cases = cases[model].as_array().unwrap();
        assert!(cases.len() > 30, "{model}");
        for case in cases {
            let ids = tokenizer.encode(case["text"].as_str().unwrap()).unwrap();
            assert_eq!(json!(ids), case["ids"], "{model}: {}", case["text"]);
            assert_eq!(tokenizer.decode(&ids).unwrap(), case["decoded"], "{model}: {}", case["text"]);
        }
    }
}

#[test]
fn equal_scores_are_merged_from_the_left_and_any_two_neighbours_may_be() {
    use Kind::{Normal, Unknown};
    let pieces = [
        (Unknown, "<unk>", 0.0),
        (Normal, "a", -9.0),
        (Normal, "b", -9.0),
        (Normal, "ab", -1.0),
        (Normal, "ba", -1.0),
        (Normal, "aba", -2.0),
        (Normal, "xyz", -5.0),
        (Normal, "xy", -6.0),
    ];
    let tokenizer = tokenizer(built(&pieces), json!({})).unwrap();
    let encode = |text: &str| tokenizer.encode(text).unwrap();
    assert_eq!(encode("abab"), [3, 3]);
    assert_eq!(encode("baba"), [4, 4]);
    assert_eq!(encode("abaa"), [5, 1], "ab + a");
    assert_eq!(encode("aab"), [1, 3]);
    assert_eq!(encode("xyz"), [6], "of characters that are no pieces themselves");
    assert_eq!(encode("xzz1y"), [0], "a run of unknown characters is one token");
    assert_eq!(encode("a?b??"), [1, 0, 2, 0]);
    // Long enough for the heap.
    assert_eq!(encode(&"ab".repeat(500)), vec![3; 500]);
}

#[test]
fn unused_pieces_are_taken_apart() {
    use Kind::{Normal, Unknown, Unused};
    let pieces = [
        (Unknown, "<unk>", 0.0),
        (Normal, "a", -9.0),
        (Normal, "b", -9.0),
        (Unused, "ab", -1.0),
        (Normal, "abb", -2.0),
        (Unused, "c", -9.0),
    ];
    let tokenizer = tokenizer(built(&pieces), json!({})).unwrap();
    assert_eq!(tokenizer.encode("ab").unwrap(), [1, 2]);
    assert_eq!(tokenizer.encode("aabb").unwrap(), [1, 4], "on the way to others they count");
    assert_eq!(tokenizer.encode("ac").unwrap(), [1, 0]);
}

#[test]
fn special_tokens_by_configuration() {
    let ids = |config: Value| {
        let specials = tokenizer(read("plain"), config).unwrap().specials();
        (specials.bos, specials.eos)
    };
    assert_eq!(ids(json!({})), (Some(1), Some(2)), "the model's own");
    assert_eq!(ids(json!({"add_bos_token": false})), (None, Some(2)));
    assert_eq!(ids(json!({"bos_token": {"content": "</s>"}, "eos_token": null})), (Some(2), None));
    let error = tokenizer(read("plain"), json!({"bos_token": "nothing"})).unwrap_err().to_string();
    assert!(error.contains("\"bos_token\": \"nothing\" is not in the vocabulary"), "{error}");

    let config = json!({"added_tokens_decoder": {
        "5": {"content": "<|reward|>", "special": true}, "6": {"content": "<tool2>", "special": false},
        "620": {"content": "<new>", "special": true},
    }});
    let tokenizer = tokenizer(read("plain"), config).unwrap();
    assert_eq!(tokenizer.specials().separator, Some(5));
    assert_eq!((tokenizer.name(5), tokenizer.name(620)), (Some("<|reward|>".into()), Some("<new>".into())));
    assert_eq!(tokenizer.encode("<tool2>").unwrap(), [6], "a word that is not special is taken from the text");
    assert!(!tokenizer.encode("<new><|reward|>").unwrap().iter().any(|id| [5, 620].contains(id)));
    assert_eq!(tokenizer.decode(&[5, 6, 620]).unwrap(), "<tool2>");
}

#[test]
fn a_user_defined_piece_that_is_special_is_not_made_from_text() {
    let names = Names { separator: "<tool>".into(), score: "[UNUSED_TOKEN_13]".into() };
    let tokenizer = Tokenizer::from_sentencepiece(read("plain"), None, names, Missing::Add).unwrap();
    let specials = tokenizer.specials();
    for text in ["<tool>", "a[UNUSED_TOKEN_13]b<tool>"] {
        let ids = tokenizer.encode(text).unwrap();
        assert!(!ids.iter().any(|id| [specials.separator, specials.score].contains(&Some(*id))), "{ids:?}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
    let other = ALL[0].encode("<tool>[UNUSED_TOKEN_13]").unwrap();
    assert_eq!(other, specials.polar().unwrap(), "where it is not special it is one token");
}

#[test]
fn saved_it_is_the_same_and_the_file_is_kept() {
    for (model, tokenizer) in MODELS.iter().zip(ALL.iter()) {
        let dir = tempfile::tempdir().unwrap();
        tokenizer.save(dir.path()).unwrap();
        assert_eq!(std::fs::read(dir.path().join("tokenizer.model")).unwrap(), read(model));
        let loaded = Tokenizer::load(dir.path(), Missing::Leave).unwrap();
        assert_eq!(loaded.specials(), tokenizer.specials());
        // Other readers have the tokenizer.json alone.
        std::fs::remove_file(dir.path().join("tokenizer.model")).unwrap();
        std::fs::remove_file(dir.path().join("tokenizer_config.json")).unwrap();
        let other = Tokenizer::load(dir.path(), Missing::Leave).unwrap();
        assert_eq!(other.vocab_size(), tokenizer.vocab_size());
        for text in ["", "the of and 12 is", "función  für, 这是 一个\n\tx", "[UNUSED_TOKEN_3] no </s>", "😀 é"]
        {
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(loaded.encode(text).unwrap(), ids, "{model}: {text:?}");
            // It does not take unused pieces apart, and puts a space before each stretch between whole tokens.
            if *model != "plain" && !text.contains("UNUSED") {
                assert_eq!(other.encode(text).unwrap(), ids, "{model}: {text:?}");
                let (text, back) = (tokenizer.decode(&ids).unwrap(), other.decode(&ids).unwrap());
                // It leaves unknown characters out, as a special token.
                assert_eq!(back, text.replace(" \u{2047} ", ""), "{model}");
            }
        }
    }
}

#[test]
fn what_cannot_be_encoded_exactly_is_refused() {
    let refused = |file: Vec<u8>, config: Value, part: &str| {
        let error = tokenizer(file, config).unwrap_err();
        assert_eq!(error.kind(), error::ErrorKind::User);
        assert!(error.to_string().contains(part), "{error}");
    };
    let edit = |change: &dyn Fn(&mut ModelProto)| edited("plain", change);
    let none = || json!({});
    refused(edit(&|m| m.trainer.as_mut().unwrap().model_type = Some(1)), none(), "other than BPE");
    refused(edit(&|m| m.trainer = None), none(), "other than BPE");
    refused(edit(&|m| m.trainer.as_mut().unwrap().treat_whitespace_as_suffix = Some(true)), none(), "ends of words");
    refused(edit(&|m| m.normalizer.as_mut().unwrap().precompiled_charsmap = Some(vec![1])), none(), "replacements");
    refused(edit(&|m| m.pieces[400].piece = m.pieces[401].piece.clone()), none(), "pieces 400 and 401");
    refused(edit(&|m| m.pieces[400].piece = None), none(), "piece 400");
    refused(edit(&|m| m.pieces[400].piece = Some("x".repeat(5000))), none(), "5000 bytes");
    refused(edit(&|m| m.pieces[400].kind = Some(9)), none(), "type");
    refused(edit(&|m| m.pieces[400].score = Some(f32::NAN)), none(), "score");
    refused(edit(&|m| m.pieces[0].kind = Some(Kind::Normal as i32)), none(), "unknown");
    refused(edit(&|m| m.pieces[400].kind = Some(Kind::Unknown as i32)), none(), "unknown");
    refused(edit(&|m| m.pieces.clear()), none(), "unknown");
    refused(edit(&|m| m.pieces.retain(|piece| piece.piece() != "<0x80>")), none(), "<0x80>");
    refused(b"{}".to_vec(), none(), "not a SentencePiece model");
    refused(Vec::new(), none(), "other than BPE");
    let added = |id: &str, token: Value| json!({"added_tokens_decoder": {id: token}});
    refused(read("plain"), added("x", json!({})), "not an id");
    refused(read("plain"), added("5", json!({})), "content");
    refused(read("plain"), added("5", json!({"content": "</s>"})), "ids 2 and 5");
    refused(read("plain"), added("9999", json!({"content": "x", "special": true})), "gap");
    refused(read("plain"), added("5", json!({"content": "x", "lstrip": true})), "lstrip");
    let names = Names { separator: "<unk>".into(), ..Names::default() };
    assert!(Tokenizer::from_sentencepiece(read("plain"), None, names, Missing::Add).is_err());
}

fn text() -> impl Strategy<Value = String> {
    let spelt =
        ["<s>", "</s>", "<unk>", "<|reward|>", "[UNUSED_TOKEN_130]", "[UNUSED_TOKEN_1]", "▁", "  ", "the of", "<0x41>"];
    let piece = prop_oneof![
        prop::sample::select(spelt.to_vec()).prop_map(String::from),
        any::<char>().prop_map(String::from),
        "[a-z ]{0,60}",
        "[0-9\\n\\t ]{0,5}",
    ];
    prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn text_comes_back_and_yields_no_special_token(text in text()) {
        for tokenizer in ALL.iter() {
            let ids = tokenizer.encode(&text).unwrap();
            let specials = tokenizer.specials();
            let framing = [specials.bos, specials.eos, specials.separator, specials.score];
            prop_assert!(!ids.iter().any(|id| framing.contains(&Some(*id))), "{ids:?}");
        }
        // Spaces and U+2581 are one to SentencePiece; with a space put first and taken off, nothing else is lost.
        for tokenizer in &ALL[..2] {
            let back = tokenizer.decode(&tokenizer.encode(&text).unwrap()).unwrap();
            prop_assert_eq!(back, text.replace('▁', " "));
        }
    }

    #[test]
    fn words_and_heap_give_the_same(text in text()) {
        // With a piece that has a space inside, words are no longer merged one by one.
        let whole = tokenizer(
            edited("prefix", |model| model.pieces.push(Piece { piece: Some("q▁q▁q".into()), score: Some(-1e6), kind: None })),
            json!({}),
        ).unwrap();
        prop_assert_eq!(whole.encode(&text).unwrap(), ALL[1].encode(&text).unwrap());
    }

    #[test]
    fn a_hostile_file_is_refused_or_safe(
        model in prop::sample::select(MODELS.to_vec()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        cut in prop::option::of(any::<prop::sample::Index>()),
        text in text(),
    ) {
        let mut file = read(model);
        for (at, value) in changes {
            let at = at.index(file.len());
            file[at] = value;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        match tokenizer(file, json!({})) {
            Err(error) => prop_assert_eq!(error.kind(), error::ErrorKind::User),
            Ok(tokenizer) => {
                let ids = tokenizer.encode(&text).unwrap();
                prop_assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
                tokenizer.decode(&ids).unwrap();
            }
        }
    }

    #[test]
    fn bytes_that_are_no_model_are_refused(file in prop::collection::vec(any::<u8>(), 0..200)) {
        let read = tokenizer(file, Value::Null);
        prop_assert!(read.is_err());
    }
}
