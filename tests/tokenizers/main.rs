//! All kinds of tokenizer: saved and loaded, hostile text, foreign and damaged files.

mod folders;
mod refused;

use polar_raw::config::{TokenRef, TokenizerKind, TokenizerSection};
use polar_raw::error::ErrorKind;
use polar_raw::tokenizer::{GgufVocabulary, Missing, Names, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::LazyLock;

fn write(dir: &Path, name: &str, json: &Value) {
    std::fs::write(dir.join(name), json.to_string()).unwrap();
}

fn added(id: u32, content: &str, special: bool) -> Value {
    json!({"id": id, "content": content, "special": special, "single_word": false, "lstrip": false,
           "rstrip": false, "normalized": false})
}

fn document(added: Vec<Value>, model: Value) -> Value {
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
           "pre_tokenizer": null, "post_processor": null, "decoder": null, "model": model})
}

/// SentencePiece Unigram whose vocabulary spells its own special tokens, with truncation and padding switched on.
fn unigram() -> Value {
    let pieces: Vec<Value> = ["<unk>", "<s>", "</s>", "<|reward|>", "▁", "<", ">", "s", "/", "a", "b", "ab", "<s"]
        .iter()
        .map(|piece| json!([piece, -1.0]))
        .collect();
    let specials =
        vec![added(0, "<unk>", true), added(1, "<s>", true), added(2, "</s>", true), added(3, "<|reward|>", false)];
    let mut json = document(specials, json!({"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": false}));
    json["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                             "pad_type_id": 0, "pad_token": "<unk>"});
    json["decoder"] = json!({"type": "Fuse"});
    json
}

/// Whole words, special tokens among them.
fn words() -> Value {
    let vocab = json!({"[UNK]": 0, "<|begin_of_text|>": 1, "<|end_of_text|>": 2, "a": 3, "b": 4});
    let specials =
        vec![added(0, "[UNK]", true), added(1, "<|begin_of_text|>", true), added(2, "<|end_of_text|>", true)];
    let mut json = document(specials, json!({"type": "WordLevel", "unk_token": "[UNK]", "vocab": vocab}));
    json["pre_tokenizer"] = json!({"type": "WhitespaceSplit"});
    json
}

/// BPE that takes whole words from the vocabulary first, with dropout, an added word that is not special, and a
/// post-processor that puts a token first.
fn bpe() -> Value {
    let vocab = json!({"a": 0, "b": 1, "<": 2, ">": 3, "ab": 4, "<x>": 5});
    let specials = vec![added(5, "<x>", true), added(6, "<think>", false), added(7, "<|start|>", true)];
    let mut json = document(
        specials,
        json!({"type": "BPE", "dropout": 0.5, "ignore_merges": true, "vocab": vocab, "merges": ["a b"]}),
    );
    json["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|start|>": {"id": "<|start|>", "ids": [7], "tokens": ["<|start|>"]}},
    });
    json
}

fn from_json(json: &Value, config: Option<Value>) -> polar_raw::Result<Tokenizer> {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "tokenizer.json", json);
    if let Some(config) = config {
        write(dir.path(), "tokenizer_config.json", &config);
    }
    Tokenizer::from_file(dir.path(), Names::default())
}

static ALL: LazyLock<Vec<Tokenizer>> = LazyLock::new(|| {
    let texts = ["<s> </s> <|reward|> [UNUSED_TOKEN_130] abc abc <unk>"; 20];
    let mut all = vec![
        Tokenizer::bytes(Names::default()).unwrap(),
        Tokenizer::train(texts.iter(), 300, 1 << 20, Names::default()).unwrap(),
    ];
    all.extend([unigram(), words(), bpe()].iter().map(|json| from_json(json, None).unwrap()));
    all
});

/// Ids that no text may yield.
fn framing(tokenizer: &Tokenizer) -> Vec<u32> {
    let specials = tokenizer.specials();
    specials.bos.into_iter().chain(specials.eos).chain(specials.separator).chain(specials.score).collect()
}

#[test]
fn kinds_sizes_and_special_ids() {
    let kinds: Vec<TokenizerKind> = ALL.iter().map(Tokenizer::kind).collect();
    use TokenizerKind::{Bpe, Bytes, File};
    assert_eq!(kinds, [Bytes, Bpe, File, File, File]);
    let sizes: Vec<usize> = ALL.iter().map(Tokenizer::vocab_size).collect();
    assert_eq!(sizes[0], 261);
    assert_eq!(sizes[2..], [14, 7, 10], "separator and score token are added at the end, unless they are there");
    let ids = |at: usize| {
        let specials = ALL[at].specials();
        (specials.bos, specials.eos, specials.separator.unwrap(), specials.score.unwrap())
    };
    assert_eq!(ids(0), (Some(1), Some(2), 3, 4));
    assert_eq!(ids(1), (Some(1), Some(2), 3, 4));
    assert_eq!(ids(2), (Some(1), Some(2), 3, 13));
    assert_eq!(ids(3), (Some(1), Some(2), 5, 6));
    assert_eq!(ids(4), (Some(7), None, 8, 9), "BOS from the post-processor");
}

#[test]
fn bos_from_the_configuration() {
    let mut json = bpe();
    json["post_processor"] = Value::Null;
    let bos = |config: Option<Value>| from_json(&json, config).unwrap().specials().bos;
    assert_eq!(bos(None), None);
    assert_eq!(bos(Some(json!({"bos_token": "<x>"}))), Some(5));
    assert_eq!(bos(Some(json!({"bos_token": {"content": "<x>"}, "add_bos_token": true}))), Some(5));
    assert_eq!(bos(Some(json!({"bos_token": "<x>", "add_bos_token": false}))), None);
    assert_eq!(bos(Some(json!({"bos_token": null}))), None);
}

#[test]
fn spelt_special_tokens_are_plain_text() {
    for tokenizer in ALL.iter() {
        for text in ["<s>", "a<s>b</s>", "<|reward|>", "[UNUSED_TOKEN_130]", "<x>", "<|begin_of_text|> a", "<|start|>"]
        {
            let ids = tokenizer.encode(text).unwrap();
            assert!(!ids.iter().any(|id| framing(tokenizer).contains(id)), "{text}: {ids:?}");
        }
    }
    assert_eq!(ALL[1].decode(&ALL[1].encode("a<s></s><|reward|>").unwrap()).unwrap(), "a<s></s><|reward|>");
    assert_eq!(ALL[2].decode(&ALL[2].encode("a<s>b</s>").unwrap()).unwrap(), "a<s>b</s>");
    assert_eq!(ALL[4].encode("<think>").unwrap(), [6], "an added word that is not special is a word");
}

#[test]
fn truncation_padding_and_dropout_of_the_file_are_off() {
    assert_eq!(ALL[2].encode("aabb").unwrap().len(), 3);
    for _ in 0..50 {
        assert_eq!(ALL[4].encode("ab").unwrap(), [4]);
    }
}

#[test]
fn saved_and_loaded_it_is_the_same() {
    for tokenizer in ALL.iter() {
        let dir = tempfile::tempdir().unwrap();
        tokenizer.save(dir.path()).unwrap();
        tokenizer.save(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside the two files");
        let loaded = Tokenizer::load(dir.path(), Missing::Leave).unwrap();
        assert_eq!(loaded.kind(), tokenizer.kind());
        assert_eq!(loaded.specials(), tokenizer.specials());
        assert_eq!(loaded.vocab_size(), tokenizer.vocab_size());
        for text in ["", "ab <s> a b", "über 😀\n\n12345", "<|reward|>"] {
            assert_eq!(loaded.encode(text).unwrap(), tokenizer.encode(text).unwrap());
        }
        let again = tempfile::tempdir().unwrap();
        loaded.save(again.path()).unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            let read = |dir: &Path| std::fs::read(dir.join(file)).unwrap();
            assert_eq!(read(dir.path()), read(again.path()), "{file}");
        }
    }
}

#[test]
fn other_keys_of_the_configuration_are_kept() {
    let tokenizer = from_json(&words(), Some(json!({"chat_template": "x", "bos_token": "<|begin_of_text|>"}))).unwrap();
    let dir = tempfile::tempdir().unwrap();
    tokenizer.save(dir.path()).unwrap();
    let config = std::fs::read_to_string(dir.path().join("tokenizer_config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!((&config["chat_template"], &config["bos_token"]), (&json!("x"), &json!("<|begin_of_text|>")));
    assert_eq!(Tokenizer::load(dir.path(), Missing::Leave).unwrap().specials(), tokenizer.specials());
}

#[test]
fn bad_files_are_the_users_mistake() {
    let refused = |json: Value, part: &str| {
        let error = from_json(&json, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::User);
        let message = error.to_string();
        assert!(message.contains("tokenizer.json") && message.contains(part), "{message}");
    };
    refused(json!({}), "key \"model\"");
    refused(json!([]), "key \"model\"");
    refused(document(vec![], json!({"type": "Magic"})), "not a usable tokenizer.json");
    let with = |key: &str, value: Value| {
        let mut json = bpe();
        json["model"][key] = value;
        json
    };
    refused(with("merges", json!(["a c"])), "merge 0");
    refused(with("merges", json!([["ab", "<x>"]])), "merge 0");
    refused(with("unk_token", json!("?")), "key \"model.unk_token\"");
    refused(with("vocab", json!({"a": 0, "b": 1, "ab": 4_000_000_000u32})), "ids");
    let mut gaps = bpe();
    gaps["added_tokens"][2]["id"] = json!(100);
    refused(gaps, "key \"added_tokens\": \"<|start|>\"");
    refused(document(vec![], json!({"type": "BPE", "vocab": {"a": 0, "b": 7}, "merges": []})), "gaps");

    let dir = tempfile::tempdir().unwrap();
    let error = |content: &[u8]| {
        std::fs::write(dir.path().join("tokenizer.json"), content).unwrap();
        Tokenizer::load(dir.path(), Missing::Leave).unwrap_err().to_string()
    };
    assert!(Tokenizer::load(dir.path(), Missing::Leave).unwrap_err().to_string().contains("tokenizer.json"));
    assert!(error(b"{\"model\": ").contains("not JSON"));
    assert!(error(b"\xff").contains("not UTF-8"));
    write(dir.path(), "tokenizer_config.json", &json!({"polar": {"kind": "bytes", "separator": "x", "score": "y"}}));
    assert!(error(b"{}").contains("byte-level"));
    write(dir.path(), "tokenizer_config.json", &json!({"polar": {"kind": "magic", "separator": "x", "score": "y"}}));
    assert!(error(b"{}").contains("polar.kind"));
    let missing = TokenizerSection { kind: TokenizerKind::File, ..TokenizerSection::default() };
    assert!(Tokenizer::from_config(&missing, [""].iter()).unwrap_err().to_string().contains("tokenizer.path"));
}

/// A byte-level vocabulary as GGUF files have it: three control tokens, a user-defined one, bytes, some merges.
fn byte_level(pre: &str) -> GgufVocabulary {
    let letters = (0x21..=0x7e).chain(0xa1..=0xac).chain(0xae..=0xff).chain(0x100..0x144).filter_map(char::from_u32);
    let named = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>"].map(String::from);
    let merges = ["1 2", "Ġ Ġ", "Ġ a", "a b", "' s", "Ã ©", "Ġ 1"].map(String::from).to_vec();
    let unions = merges.iter().map(|merge| merge.replace(' ', ""));
    let tokens: Vec<String> = named.into_iter().chain(letters.map(String::from)).chain(unions).collect();
    let token_types = (0..tokens.len()).map(|id| [3, 3, 3, 4].get(id).copied().unwrap_or(1)).collect();
    GgufVocabulary {
        model: "gpt2".into(),
        pre: Some(pre.into()),
        tokens,
        token_types,
        merges,
        bos: Some(1),
        eos: Some(2),
        unknown: Some(0),
        ..GgufVocabulary::default()
    }
}

/// A SentencePiece vocabulary as GGUF files have it.
fn with_scores() -> GgufVocabulary {
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let named = ["<unk>", "<s>", "</s>"].map(String::from);
    let words = ["a", "b", "▁", "▁a", "ab", "▁ab", "<tool>"].map(String::from);
    let tokens: Vec<String> = named.into_iter().chain(bytes).chain(words).collect();
    let kind = |id: usize| match id {
        0 => 2,
        1 | 2 => 3,
        265 => 4,
        3..=258 => 6,
        _ => 1,
    };
    GgufVocabulary {
        model: "llama".into(),
        token_types: (0..tokens.len()).map(kind).collect(),
        scores: (0..tokens.len()).map(|id| -(id as f32)).collect(),
        bos: Some(1),
        eos: Some(2),
        unknown: Some(0),
        tokens,
        ..GgufVocabulary::default()
    }
}

fn from_gguf(vocabulary: &GgufVocabulary) -> Tokenizer {
    Tokenizer::from_gguf(vocabulary, Names::default(), Missing::Add).unwrap()
}

#[test]
fn byte_level_vocabularies_of_gguf_files() {
    let pieces = |pre: &str, text: &str| {
        let tokenizer = from_gguf(&byte_level(pre));
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        ids.into_iter().map(|id| tokenizer.name(id).unwrap()).collect::<Vec<_>>()
    };
    // GPT-2 keeps numbers together and with the space before them; the others take digits, or three of them, alone.
    assert_eq!(pieces("gpt-2", "12 1"), ["12", "Ġ1"]);
    assert_eq!(pieces("default", "12 1"), ["12", "Ġ1"]);
    assert_eq!(pieces("smollm", "12 1"), ["1", "2", "Ġ", "1"]);
    assert_eq!(pieces("qwen2", "12 1"), ["1", "2", "Ġ", "1"]);
    assert_eq!(pieces("llama-bpe", "12 1"), ["12", "Ġ", "1"]);
    // Of several spaces the last goes with the word; a digit leaves them whole.
    assert_eq!(pieces("gpt-2", "   ab"), ["ĠĠ", "Ġa", "b"]);
    assert_eq!(pieces("smollm", "  1"), ["ĠĠ", "1"]);
    assert_eq!(pieces("qwen2", "'s"), ["'s"]);
    assert_eq!(pieces("smollm", "<think><|im_end|>")[..2], ["<think>", "<"], "user-defined words are taken whole");
    // Form C, which decoding does not undo.
    let ids = |pre: &str| from_gguf(&byte_level(pre)).encode("e\u{301}").unwrap().len();
    assert_eq!((ids("qwen2"), ids("llama-bpe")), (1, 3));

    let specials = from_gguf(&byte_level("smollm")).specials();
    let size = byte_level("smollm").tokens.len() as u32;
    assert_eq!((specials.bos, specials.eos), (None, Some(2)), "no BOS unless the file asks for it");
    assert_eq!((specials.separator, specials.score), (Some(size), Some(size + 1)));
    assert_eq!(from_gguf(&byte_level("llama-bpe")).specials().bos, Some(1));
    let asks = GgufVocabulary { add_bos: Some(false), ..byte_level("llama-bpe") };
    assert_eq!(from_gguf(&asks).specials().bos, None);
    let asks = GgufVocabulary { add_bos: Some(true), ..byte_level("smollm") };
    assert_eq!(from_gguf(&asks).specials().bos, Some(1));
}

#[test]
fn sentencepiece_vocabularies_of_gguf_files() {
    let tokenizer = from_gguf(&with_scores());
    let specials = tokenizer.specials();
    assert_eq!((specials.bos, specials.eos), (Some(1), Some(2)));
    assert_eq!(tokenizer.encode("ab a").unwrap(), [264, 262], "a space first; the best score first");
    assert_eq!(tokenizer.encode("<tool>\n").unwrap(), [261, 265, 3 + 10]);
    assert_eq!(tokenizer.decode(&[1, 262, 260, 262, 2]).unwrap(), "ab a");
    let without = GgufVocabulary { add_space_prefix: Some(false), add_bos: Some(false), ..with_scores() };
    assert_eq!(from_gguf(&without).encode("a").unwrap(), [259]);
    assert_eq!(from_gguf(&without).specials().bos, None);
}

#[test]
fn vocabularies_of_gguf_files_are_saved_as_files_of_their_kind() {
    for (vocabulary, file) in [(byte_level("qwen2"), "tokenizer.json"), (with_scores(), "tokenizer.model")] {
        let tokenizer = from_gguf(&vocabulary);
        let dir = tempfile::tempdir().unwrap();
        tokenizer.save(dir.path()).unwrap();
        assert!(dir.path().join(file).exists() && dir.path().join("tokenizer.json").exists());
        let loaded = Tokenizer::load(dir.path(), Missing::Leave).unwrap();
        assert_eq!(loaded.specials(), tokenizer.specials());
        for text in ["", " ab 12  a", "<s><|im_start|><think>é😀\n"] {
            assert_eq!(loaded.encode(text).unwrap(), tokenizer.encode(text).unwrap());
        }
    }
}

#[test]
fn bad_vocabularies_of_gguf_files_are_the_users_mistake() {
    let refused = |vocabulary: GgufVocabulary, part: &str| {
        let error = Tokenizer::from_gguf(&vocabulary, Names::default(), Missing::Add).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::User);
        assert!(error.to_string().contains(part), "{error}");
    };
    let good = || byte_level("smollm");
    refused(GgufVocabulary::default(), "tokens");
    refused(GgufVocabulary { model: "bert".into(), ..good() }, "\"bert\"");
    refused(byte_level("magic"), "\"magic\"");
    refused(GgufVocabulary { token_types: vec![1], ..good() }, "token_type");
    refused(GgufVocabulary { scores: vec![1.0], ..good() }, "scores");
    refused(GgufVocabulary { bos: Some(9999), ..good() }, "bos_token_id");
    refused(GgufVocabulary { merges: vec!["a ?".into()], ..good() }, "merge 0");
    let mut twice = good();
    twice.tokens[9] = twice.tokens[8].clone();
    refused(twice, "occurs twice");
    refused(
        GgufVocabulary { unknown: None, token_types: vec![1; with_scores().tokens.len()], ..with_scores() },
        "unknown",
    );
}

#[test]
fn special_tokens_by_id() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "tokenizer.json", &bpe());
    let section = |separator, score| TokenizerSection {
        kind: TokenizerKind::File,
        path: Some(dir.path().to_owned()),
        separator,
        score,
        ..TokenizerSection::default()
    };
    let read = |section: &TokenizerSection| Tokenizer::from_config(section, [""].iter());
    let tokenizer = read(&section(TokenRef::Id(5), TokenRef::Id(6))).unwrap();
    assert_eq!(
        (tokenizer.specials().separator, tokenizer.specials().score, tokenizer.vocab_size()),
        (Some(5), Some(6), 8)
    );
    assert!(!tokenizer.encode("<x><think>").unwrap().iter().any(|id| [5, 6].contains(id)));
    let error = read(&section(TokenRef::Id(99), TokenRef::Id(6))).unwrap_err();
    assert!(error.to_string().contains("tokenizer.separator = 99"), "{error}");
    assert!(read(&section(TokenRef::Id(5), TokenRef::Name("<x>".into()))).is_err(), "the same token");
}

#[test]
fn a_folder_that_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let error = ALL[0].save(&dir.path().join("missing")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::User);
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
}

/// Puts `value` at a place of `json` that `path` leads to.
fn mutate(json: &mut Value, path: &[usize], value: &Value) {
    let Some((step, rest)) = path.split_first() else {
        *json = value.clone();
        return;
    };
    match json {
        Value::Array(items) if !items.is_empty() => {
            let at = step % items.len();
            mutate(&mut items[at], rest, value);
        }
        Value::Object(items) if !items.is_empty() => {
            let at = step % items.len();
            if let Some((_, item)) = items.iter_mut().nth(at) {
                mutate(item, rest, value);
            }
        }
        leaf => *leaf = value.clone(),
    }
}

fn hostile() -> impl Strategy<Value = Value> {
    let fixed = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1),
        json!(1e99),
        json!(u32::MAX),
        json!(""),
        json!("a"),
        json!("<s>"),
        json!([]),
        json!({}),
        json!([["a", "b"]]),
        json!({"type": "ByteLevel"}),
        json!("(a*)*b"),
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}),
        json!({"type": "FixedLength", "length": 0}),
        json!({"type": "Prepend", "prepend": "<s>"}),
        json!({"type": "Replace", "pattern": {"Regex": "(?=b)|"}, "content": "<s>"}),
        json!({"type": "Lowercase"}),
    ];
    prop_oneof![
        prop::sample::select(fixed.to_vec()),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,6}".prop_map(Value::from)
    ]
}

proptest! {
    #[test]
    fn no_text_yields_a_special_token(
        pieces in prop::collection::vec(prop_oneof![
            prop::sample::select(vec!["<s>", "</s>", "<|reward|>", "[UNUSED_TOKEN_130]", "<x>", "<|start|>", "<|begin_of_text|>", " "]).prop_map(String::from),
            any::<char>().prop_map(String::from),
        ], 0..12),
    ) {
        let text = pieces.concat();
        for tokenizer in ALL.iter() {
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert!(!ids.iter().any(|id| framing(tokenizer).contains(id)));
        }
        for tokenizer in &ALL[..2] {
            prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text).unwrap()).unwrap(), text.as_str());
        }
    }

    #[test]
    fn a_hostile_tokenizer_json_is_refused_or_safe(
        base in 0..3usize,
        changes in prop::collection::vec((prop::collection::vec(any::<usize>(), 1..5), hostile()), 1..4),
    ) {
        let mut json = [unigram(), words(), bpe()][base].clone();
        for (path, value) in &changes {
            mutate(&mut json, path, value);
        }
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "tokenizer.json", &json);
        match Tokenizer::load(dir.path(), Missing::Leave) {
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::User),
            Ok(tokenizer) => for text in ["", "ab <s> é", "<|reward|>aab"] {
                if let Ok(ids) = tokenizer.encode(text) {
                    prop_assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
                    prop_assert!(!ids.iter().any(|id| framing(&tokenizer).contains(id)), "{}", json);
                    let _ = tokenizer.decode(&ids);
                }
            },
        }
    }
}

#[test]
fn a_file_that_is_named_keeps_the_names_that_it_was_saved_with() {
    let dir = tempfile::tempdir().unwrap();
    let names = Names { separator: "<|begin|>".into(), score: "<|end|>".into() };
    for vocabulary in [byte_level("smollm"), with_scores()] {
        let tokenizer = Tokenizer::from_gguf(&vocabulary, names.clone(), Missing::Add).unwrap();
        tokenizer.save(dir.path()).unwrap();
        for file in ["tokenizer.json", "tokenizer.model"].map(|name| dir.path().join(name)) {
            if file.exists() {
                let read = Tokenizer::load_file(&file).unwrap();
                assert_eq!((read.specials(), read.vocab_size()), (tokenizer.specials(), tokenizer.vocab_size()));
            }
        }
    }
}

#[test]
fn long_pieces_are_refused_unless_they_are_given_whole() {
    for (token_type, length, good) in
        [(1, 256, true), (1, 257, false), (5, 257, false), (4, 4096, true), (4, 4097, false)]
    {
        let mut vocabulary = with_scores();
        vocabulary.tokens.push("x".repeat(length));
        vocabulary.token_types.push(token_type);
        vocabulary.scores.push(0.0);
        assert_eq!(
            Tokenizer::from_gguf(&vocabulary, Names::default(), Missing::Add).is_ok(),
            good,
            "{token_type} {length}"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.model");
    std::fs::File::create(&path).unwrap().set_len((32 << 20) + 1).unwrap();
    let refused = Tokenizer::from_file(&path, Names::default()).unwrap_err().to_string();
    assert!(refused.contains("is not a tokenizer: at most"), "{refused}");
}
