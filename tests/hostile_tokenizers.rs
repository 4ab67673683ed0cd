//! Tokenizer files that are made to harm: refused with file and key, or bounded, within two seconds and twenty times
//! their size in memory.

#[path = "../fuzz/src/counting.rs"]
mod counting;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use counting::{Counting, peak};
use polar_raw::Result;
use polar_raw::tokenizer::{GgufVocabulary, Missing, Names, Tokenizer};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What any tokenizer takes, however small its file.
const BASE: usize = 4 << 20;

/// Does `work` on something of `bytes` bytes within two seconds and twenty times their memory.
fn bounded<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let (result, most) = peak(work);
    println!("{bytes} bytes, {most} of memory, {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(most <= (BASE + 20 * bytes) as isize, "{most} bytes of memory for {bytes}");
    result
}

/// Reads the file `name` of these bytes.
fn read(name: &str, bytes: &[u8]) -> Result<Tokenizer> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    bounded(bytes.len(), || Tokenizer::from_file(&path, Names::default()))
}

fn from_json(json: &Value) -> Result<Tokenizer> {
    read("tokenizer.json", json.to_string().as_bytes())
}

/// The reason for which a file is refused, which names the file and every one of `parts`.
fn refused(tokenizer: Result<Tokenizer>, parts: &[&str]) {
    let message = tokenizer.map(drop).unwrap_err().to_string();
    println!("{message}");
    assert!(parts.iter().all(|part| message.contains(part)), "{message} lacks one of {parts:?}");
}

fn added(id: usize, content: &str, normalized: bool) -> Value {
    json!({"id": id, "content": content, "special": false, "single_word": false, "lstrip": false, "rstrip": false,
           "normalized": normalized})
}

/// Whole words, among them `a`.
fn words() -> Value {
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
           "pre_tokenizer": null, "post_processor": null, "decoder": null,
           "model": {"type": "WordLevel", "unk_token": "?", "vocab": {"?": 0, "a": 1, "b": 2}}})
}

fn with(key: &str, value: Value) -> Value {
    let mut json = words();
    json[key] = value;
    json
}

fn replace(pattern: &str, content: &str) -> Value {
    json!({"type": "Replace", "pattern": {"String": pattern}, "content": content})
}

fn sequence(list: &str, steps: Vec<Value>) -> Value {
    json!({"type": "Sequence", list: steps})
}

#[test]
fn normalizers_that_multiply_a_text() {
    // One that puts much in.
    let much = with("normalizer", sequence("normalizers", vec![replace("a", &"a".repeat(1000))]));
    refused(from_json(&much), &["tokenizer.json", "normalizer.normalizers[0].content", "1000 bytes"]);
    let much = with("normalizer", json!({"type": "Prepend", "prepend": "a".repeat(64)}));
    refused(from_json(&much), &["normalizer.prepend", "64 bytes"]);
    // Many that double it: the file is in order, the text is refused.
    let doubling = with("normalizer", sequence("normalizers", vec![replace("a", "aa"); 30]));
    let tokenizer = from_json(&doubling).unwrap();
    for text in ["a".repeat(10), "a".repeat(20_000)] {
        // A byte that is encoded takes some hundred of them in the crate.
        let message = bounded(100 * text.len(), || tokenizer.encode(&text)).unwrap_err().to_string();
        assert!(message.contains("normalizer.normalizers[") && message.contains("bytes of a text of"), "{message}");
        bounded(100 * text.len(), || tokenizer.encode_spelt(&text, true)).unwrap_err();
    }
    assert_eq!(tokenizer.encode("b").unwrap(), [2]);
    // The crate normalizes added tokens when it reads them.
    let mut json = doubling.clone();
    json["added_tokens"] = json!([added(3, "<a>", true)]);
    refused(from_json(&json), &["tokenizer.json", "normalizer.normalizers["]);
    // Too many of them, and too deep.
    let many = with("normalizer", sequence("normalizers", vec![replace("a", "b"); 100]));
    refused(from_json(&many), &["normalizer", "more than 64 steps"]);
    let mut deep = json!({"type": "Lowercase"});
    for _ in 0..20 {
        deep = sequence("normalizers", vec![deep]);
    }
    refused(from_json(&with("normalizer", deep)), &["nested more than 8 times"]);
}

/// What a normalizer puts before every stretch between two tokens is multiplied too.
#[test]
fn a_normalizer_that_multiplies_what_it_puts_before_each_stretch() {
    let steps = [vec![json!({"type": "Prepend", "prepend": "_"})], vec![replace("_", "__"); 12]].concat();
    let mut json = with("normalizer", sequence("normalizers", steps));
    json["added_tokens"] = json!([added(3, "<x>", false)]);
    let tokenizer = from_json(&json).unwrap();
    assert!(tokenizer.encode(&"b".repeat(4096)).is_ok());
    let text = "b<x>".repeat(1000);
    let message = bounded(100 * text.len(), || tokenizer.encode(&text)).unwrap_err().to_string();
    assert!(message.contains("normalizer.normalizers["), "{message}");
}

#[test]
fn decoders_and_pre_tokenizers_that_multiply_a_text() {
    let doubling = with("decoder", sequence("decoders", vec![replace("a", "aa"); 40]));
    refused(from_json(&doubling), &["decoder.decoders[6]", "128 bytes of one"]);
    let metaspace =
        |char: &str| json!({"type": "Metaspace", "replacement": char, "prepend_scheme": "always", "split": true});
    let twice = with("pre_tokenizer", sequence("pretokenizers", vec![metaspace("_"), metaspace("-")]));
    refused(from_json(&twice), &["pre_tokenizer.pretokenizers[1]", "pre_tokenizer.pretokenizers[0]"]);
}

#[test]
fn a_template_of_many_pieces() {
    let template = |single: Vec<Value>| {
        with(
            "post_processor",
            json!({"type": "TemplateProcessing", "single": single, "pair": [],
                   "special_tokens": {"a": {"id": "a", "ids": vec![1; 40], "tokens": vec!["a"; 40]}}}),
        )
    };
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let token = json!({"SpecialToken": {"id": "a", "type_id": 0}});
    refused(from_json(&template(vec![text.clone(); 20_000])), &["tokenizer.json", "post_processor", "more than 4096"]);
    refused(from_json(&template(vec![text.clone(); 500])), &["post_processor.single", "500 pieces"]);
    refused(from_json(&template(vec![text.clone(); 2])), &["post_processor.single", "repeats the text"]);
    refused(
        from_json(&template(vec![token.clone(), token.clone(), text.clone()])),
        &["post_processor.single", "80 ids"],
    );
    assert!(from_json(&template(vec![token, text])).is_ok());
}

#[test]
fn a_table_of_replacements_that_announces_more_than_it_has() {
    use base64::Engine;
    let table = |bytes: &[u8]| {
        let packed = base64::engine::general_purpose::STANDARD.encode(bytes);
        from_json(&with("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": packed})))
    };
    let key = "normalizer.precompiled_charsmap";
    refused(table(&0xffff_fff0_u32.to_le_bytes()), &[key, "announces a table of 4294967280 bytes", "holds 0"]);
    refused(table(&[0, 0]), &[key, "2 bytes"]);
    // The replacement is as long as the table has no zero.
    let long = [&4_u32.to_le_bytes()[..], &[0; 4], &[b'a'; 1000]].concat();
    refused(table(&long), &[key, "1000 bytes"]);
    refused(
        from_json(&with("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "%"}))),
        &[key, "base64"],
    );
}

#[test]
fn patterns_that_take_much() {
    let split = |pattern: String| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let one = |pattern: &str| from_json(&with("pre_tokenizer", split(pattern.into())));
    refused(one(r"\w{1000}"), &["pre_tokenizer", r"\\w{1000}"]);
    refused(one(r"(((a{100}){100}){100}){100}"), &["pre_tokenizer", "cannot be used"]);
    refused(one(&"(".repeat(200)), &["pre_tokenizer", "cannot be used"]);
    refused(one(&"a".repeat(10_000)), &["pre_tokenizer", "10000 bytes"]);
    let many = (0..40).map(|_| split(r"\p{L}{20}".into())).collect();
    refused(from_json(&with("pre_tokenizer", sequence("pretokenizers", many))), &["more than 32 patterns"]);
    // The longest of public tokenizers are in order.
    let public = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    assert!(from_json(&with("pre_tokenizer", split(public.into()))).is_ok());
}

#[test]
fn very_many_added_tokens() {
    let tokens = |count: usize, normalized| {
        let tokens: Vec<Value> = (0..count).map(|id| added(id + 3, &format!("<token {id}>"), normalized)).collect();
        with("added_tokens", json!(tokens))
    };
    refused(from_json(&tokens(100_000, false)), &["tokenizer.json", "\"added_tokens\"", "100000 tokens"]);
    refused(from_json(&with("added_tokens", json!([added(3, &"x".repeat(5000), false)]))), &["5000 in one"]);
    let zeros = with("added_tokens", json!(vec![0; 2_000_000]));
    refused(from_json(&zeros), &["added_tokens", "more than 1048576 values"]);
    for normalized in [false, true] {
        let tokenizer = from_json(&tokens(6500, normalized)).unwrap();
        assert_eq!(tokenizer.encode("a<token 6499>b").unwrap(), [1, 6502, 2]);
    }
}

#[test]
fn models_whose_time_or_memory_grows_with_a_square() {
    let mut json = words();
    json["model"] = json!({"type": "WordPiece", "unk_token": "?", "continuing_subword_prefix": "##",
                           "max_input_chars_per_word": 1_000_000_000, "vocab": {"?": 0, "a": 1}});
    refused(from_json(&json), &["model.max_input_chars_per_word", "1000000000"]);
    json["model"]["max_input_chars_per_word"] = json!(100);
    json["model"]["continuing_subword_prefix"] = json!("#".repeat(100));
    refused(from_json(&json), &["model.continuing_subword_prefix", "100 bytes"]);
    let unigram = |pieces: Vec<String>| {
        let pieces: Vec<Value> = pieces.into_iter().map(|piece| json!([piece, -1.0])).collect();
        let mut json = words();
        json["model"] = json!({"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": false});
        json
    };
    refused(from_json(&unigram(vec!["?".into(), "a".repeat(2000)])), &["model.vocab", "2000 bytes"]);
    let long = (0..5000).map(|piece| format!("{piece}{}", "a".repeat(1000))).collect();
    refused(from_json(&unigram(long)), &["model.vocab", "nodes"]);
}

/// A `tokenizer.model` of one unknown piece, one letter and `count` user-defined ones.
fn sentencepiece(count: usize) -> Vec<u8> {
    fn number(mut n: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while n > 127 {
            bytes.push(n as u8 | 0x80);
            n >>= 7;
        }
        bytes.push(n as u8);
        bytes
    }
    let field = |tag: u8, bytes: &[u8]| [&[tag << 3 | 2][..], &number(bytes.len()), bytes].concat();
    let piece = |text: &str, kind: u8| field(1, &[&field(1, text.as_bytes())[..], &[3 << 3, kind]].concat());
    let user_defined = (0..count).flat_map(|id| piece(&format!("<token-{id}>"), 4));
    [piece("<unk>", 2), piece("a", 1)].concat().into_iter().chain(user_defined).chain(field(2, &[3 << 3, 2])).collect()
}

#[test]
fn very_many_user_defined_pieces() {
    refused(
        read("tokenizer.model", &sentencepiece(300_000)),
        &["tokenizer.model", "user-defined pieces", "300000 tokens", "at most 65536"],
    );
    let tokenizer = read("tokenizer.model", &sentencepiece(6500)).unwrap();
    assert_eq!(tokenizer.encode("<token-6499>a").unwrap()[1..], [6501, 1]);
    let vocabulary = |count: usize| {
        let tokens: Vec<String> = (0..count).map(|id| format!("<token {id}>")).collect();
        let model = GgufVocabulary { model: "llama".into(), unknown: Some(0), ..Default::default() };
        let vocabulary = GgufVocabulary { token_types: vec![4; count], tokens, ..model };
        bounded(count * 20, || Tokenizer::from_gguf(&vocabulary, Names::default(), Missing::Leave))
    };
    refused(vocabulary(300_000), &["user-defined pieces", "299999 tokens"]);
    let gpt2 = |count: usize| {
        let tokens: Vec<String> = (0..count).map(|id| format!("<token {id}>")).collect();
        let vocabulary =
            GgufVocabulary { model: "gpt2".into(), token_types: vec![4; count], tokens, ..Default::default() };
        Tokenizer::from_gguf(&vocabulary, Names::default(), Missing::Leave)
    };
    refused(gpt2(100_000), &["\"added_tokens\"", "100000 tokens"]);
}

/// Special tokens are looked for in strings that spell them: where there are too many, the string is refused.
#[test]
fn very_many_control_pieces() {
    let mut file = sentencepiece(0);
    let piece = |id: usize| {
        let text = format!("<control {id:06}>");
        let inner = [&[0x0a, text.len() as u8][..], text.as_bytes(), &[0x18, 3]].concat();
        [&[0x0a, inner.len() as u8][..], &inner].concat()
    };
    file.extend((0..100_000).flat_map(piece));
    let tokenizer = read("tokenizer.model", &file).unwrap();
    let message = bounded(file.len(), || tokenizer.encode_spelt("a<control 000001>", false)).unwrap_err().to_string();
    assert!(message.contains("too many special tokens"), "{message}");
    assert!(tokenizer.encode("a").is_ok());
}

/// The attack of before: a normalizer that makes a thousand letters of one, six times.
#[test]
fn a_thousand_to_the_sixth() {
    let steps = vec![replace("a", &"a".repeat(1000)); 6];
    let folder = tempfile::tempdir().unwrap();
    let path: &Path = &folder.path().join("tokenizer.json");
    fs::write(path, with("normalizer", sequence("normalizers", steps)).to_string()).unwrap();
    refused(Tokenizer::from_file(path, Names::default()), &["tokenizer.json", "normalizers[0].content"]);
}
