//! What is saved is what other programs read, and what a folder names is found or said to be missing.

use polar_raw::tokenizer::{GgufVocabulary, Missing, Names, Tokenizer};
use serde_json::{Value, json};
use std::path::Path;

use super::{added, bpe, byte_level, from_gguf, from_json, unigram, with_scores, words};

fn saved(tokenizer: &Tokenizer) -> (tempfile::TempDir, Value) {
    let dir = tempfile::tempdir().unwrap();
    tokenizer.save(dir.path()).unwrap();
    let config = std::fs::read_to_string(dir.path().join("tokenizer_config.json")).unwrap();
    (dir, serde_json::from_str(&config).unwrap())
}

/// Ids of a text as every program gets them that reads a `tokenizer.json`.
fn elsewhere(dir: &Path, text: &str) -> Vec<u32> {
    let tokenizer = tokenizers::Tokenizer::from_file(dir.join("tokenizer.json")).unwrap();
    tokenizer.encode(text, true).unwrap().get_ids().to_vec()
}

/// Tokenizers that put BOS first for reasons of every kind.
fn with_bos() -> Vec<Tokenizer> {
    let mut without = bpe();
    without["post_processor"] = Value::Null;
    let mut levels = without.clone();
    levels["post_processor"] =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let bos = || Some(json!({"bos_token": "<x>", "eos_token": "<|start|>"}));
    vec![
        Tokenizer::bytes(Names::default()).unwrap(),
        Tokenizer::train(["ab ab"].iter(), 280, 100, Names::default()).unwrap(),
        from_json(&unigram(), None).unwrap(),
        from_json(&words(), None).unwrap(),
        from_json(&bpe(), None).unwrap(),
        from_json(&without, bos()).unwrap(),
        from_json(&levels, bos()).unwrap(),
        from_gguf(&byte_level("llama-bpe")),
        from_gguf(&with_scores()),
    ]
}

#[test]
fn bos_is_put_first_by_the_saved_file_itself() {
    for tokenizer in with_bos() {
        let (dir, config) = saved(&tokenizer);
        let ids: Vec<u32> = tokenizer.specials().bos.into_iter().chain(tokenizer.encode("ab a").unwrap()).collect();
        assert!(tokenizer.specials().bos.is_some());
        assert_eq!(elsewhere(dir.path(), "ab a"), ids, "{config}");
        let again = Tokenizer::load(dir.path(), Missing::Leave).unwrap();
        assert_eq!(again.specials(), tokenizer.specials());
        assert_eq!(saved(&again).1, config);
    }
    let mut none = bpe();
    none["post_processor"] = Value::Null;
    let none = from_json(&none, Some(json!({"bos_token": "<x>", "add_bos_token": false}))).unwrap();
    assert_eq!(elsewhere(saved(&none).0.path(), "ab"), [4]);
}

#[test]
fn the_token_that_fills_up_batches_is_in_the_vocabulary() {
    for tokenizer in with_bos() {
        let specials = tokenizer.specials();
        let name = tokenizer.name(specials.eos.or(specials.bos).unwrap()).unwrap();
        assert_eq!(saved(&tokenizer).1["pad_token"], json!(name));
    }
    let pad = |pad: &str| {
        let config = json!({"bos_token": "<x>", "eos_token": "<|start|>", "pad_token": pad});
        saved(&from_json(&bpe(), Some(config)).unwrap()).1["pad_token"].clone()
    };
    assert_eq!((pad("<x>"), pad("[PAD]")), (json!("<x>"), json!("<|start|>")), "its own, if it is there");
}

#[test]
fn what_the_vocabulary_does_not_have_is_not_saved() {
    let config = json!({
        "bos_token": "<x>", "unk_token": "<unk>", "cls_token": {"content": "<x>"},
        "additional_special_tokens": ["<x>", "<|im_start|>", {"content": "<|start|>"}],
        "extra_special_tokens": {"image_token": "<image>", "think_token": "<think>"},
        "added_tokens_decoder": {
            "5": {"content": "<x>"}, "6": {"content": "<x>"}, "77": {"content": "<new>"}, "7": {"content": "<|start|>"},
        },
    });
    let config = saved(&from_json(&bpe(), Some(config)).unwrap()).1;
    assert_eq!((&config["unk_token"], &config["cls_token"]), (&Value::Null, &json!({"content": "<x>"})));
    assert_eq!(config["additional_special_tokens"], json!(["<x>", {"content": "<|start|>"}]));
    assert_eq!(config["extra_special_tokens"], json!({"think_token": "<think>"}));
    let added: Vec<&String> = config["added_tokens_decoder"].as_object().unwrap().keys().collect();
    assert_eq!(added, ["5", "7"]);
}

#[test]
fn a_token_that_is_in_the_vocabulary_alone_is_found() {
    // As InternLM2's own tokenizer.json, whose added_tokens are empty.
    let mut json = bpe();
    json["added_tokens"] = json!([]);
    json["model"]["vocab"]["<|start|>"] = json!(6);
    json["post_processor"]["special_tokens"]["<|start|>"]["ids"] = json!([6]);
    let config = json!({"bos_token": "<|start|>", "eos_token": "<x>", "add_bos_token": true});
    for with in [None, Some(config.clone())] {
        let tokenizer = from_json(&json, with.clone()).unwrap();
        assert_eq!(tokenizer.specials().bos, Some(6));
        assert_eq!(tokenizer.specials().eos, with.map(|_| 5));
        assert!(!tokenizer.encode("a<|start|>").unwrap().contains(&6), "it is special");
    }
    json["post_processor"]["special_tokens"]["<|start|>"]["ids"] = json!([600]);
    let message = from_json(&json, Some(config)).unwrap_err().to_string();
    assert!(message.contains("post_processor") && message.contains("600"), "{message}");
}

#[test]
fn a_token_that_is_nowhere_is_said() {
    for key in ["bos_token", "eos_token"] {
        for name in [json!("<nowhere>"), json!({"content": "<nowhere>"})] {
            let message = from_json(&words(), Some(json!({key: name}))).unwrap_err().to_string();
            assert!(message.contains(&format!("key {key:?}: \"<nowhere>\" is not in the vocabulary")), "{message}");
        }
        let message = from_json(&words(), Some(json!({key: 7}))).unwrap_err().to_string();
        assert!(message.contains("not the name of a token"), "{message}");
    }
    let unused = json!({"bos_token": "<nowhere>", "add_bos_token": false});
    assert_eq!(from_json(&words(), Some(unused)).unwrap().specials().bos, None, "what is not used need not be there");
}

#[test]
fn separator_and_score_token_are_not_made_up() {
    for vocabulary in [byte_level("smollm"), with_scores()] {
        let read = |missing| Tokenizer::from_gguf(&vocabulary, Names::default(), missing).unwrap();
        let tokenizer = read(Missing::Leave);
        assert!(tokenizer.specials().polar().unwrap_err().to_string().contains("not trained on POLAR's form"));
        assert_eq!(tokenizer.vocab_size(), vocabulary.tokens.len());
        // Saved, the folder says so; for a model that is to be trained they are new.
        let (dir, config) = saved(&tokenizer);
        assert_eq!(config["polar"]["form"], Value::Null);
        let load = |missing| Tokenizer::load(dir.path(), missing).unwrap();
        assert_eq!(load(Missing::Leave).specials(), tokenizer.specials());
        let to_train = load(Missing::Add);
        assert_eq!(to_train.added(), to_train.specials().polar().unwrap());
        // Saved with a model that was trained with them they are known.
        let (dir, config) = saved(&to_train);
        assert_eq!(config["polar"]["form"], json!("polar"));
        let trained = Tokenizer::load(dir.path(), Missing::Leave).unwrap();
        assert_eq!((trained.specials(), trained.added()), (to_train.specials(), Vec::new()));
    }
}

#[test]
fn chat_templates_are_found_and_kept() {
    let template = |tokenizer: &Tokenizer| tokenizer.chat_template().unwrap().map(String::from);
    let named = json!([{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]);
    for (value, right) in [(json!("t"), Some("t")), (named, Some("d")), (Value::Null, None)] {
        let tokenizer = from_json(&words(), Some(json!({"chat_template": value}))).unwrap();
        assert_eq!(template(&tokenizer).as_deref(), right);
        let dir = saved(&tokenizer).0;
        assert_eq!(template(&Tokenizer::load(dir.path(), Missing::Leave).unwrap()).as_deref(), right);
    }
    for bad in [json!(3), json!([{"name": "rag", "template": "r"}])] {
        let tokenizer = from_json(&words(), Some(json!({"chat_template": bad}))).unwrap();
        assert!(tokenizer.chat_template().unwrap_err().to_string().contains("chat_template"));
    }
    let gguf = GgufVocabulary { chat_template: Some("g".into()), ..byte_level("smollm") };
    assert_eq!(template(&from_gguf(&gguf)).as_deref(), Some("g"));
    let dir = saved(&from_gguf(&gguf)).0;
    std::fs::write(dir.path().join("chat_template.jinja"), "j").unwrap();
    let beside = Tokenizer::load(dir.path(), Missing::Leave).unwrap();
    assert_eq!(template(&beside).as_deref(), Some("j"), "the file beside it counts");
    assert_eq!(saved(&beside).1["chat_template"], json!("j"));
}

#[test]
fn strings_that_spell_their_special_tokens() {
    let mut json = bpe();
    json["added_tokens"].as_array_mut().unwrap().push(added(8, "<|start|><|two|>", true));
    let tokenizer = from_json(&json, None).unwrap();
    assert_eq!(tokenizer.encode_spelt("<|start|>ab<|start|><|two|>", false).unwrap(), [7, 4, 8], "the longest");
    assert_eq!(tokenizer.encode_spelt("ab", true).unwrap(), [7, 4]);
    let tokenizer = from_gguf(&with_scores());
    let [bos, eos] = [tokenizer.specials().bos.unwrap(), tokenizer.specials().eos.unwrap()];
    for framed in [false, true] {
        let front = if framed { vec![bos] } else { Vec::new() };
        let right = [&front[..], &[eos], &tokenizer.encode("ab").unwrap(), &[bos]].concat();
        assert_eq!(tokenizer.encode_spelt("</s>ab<s>", framed).unwrap(), right);
    }
}
