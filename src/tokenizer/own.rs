//! What the tokenizers made here have in common: their special tokens and the frame of their `tokenizer.json`.

use serde_json::{Value, json};

use super::{Names, Specials};

/// The first ids, in InternLM2's order; separator and score token follow.
pub(super) const FIRST_SPECIALS: [&str; 3] = ["<unk>", "<s>", "</s>"];
/// The ids of the special tokens.
pub(super) const OWN_IDS: Specials = Specials { bos: Some(1), eos: Some(2), separator: Some(3), score: Some(4) };
/// How many ids the special tokens take.
pub(super) const OWN_COUNT: u32 = 5;

/// The special tokens by id.
pub(super) fn special_names(names: &Names) -> [&str; OWN_COUNT as usize] {
    let [unknown, bos, eos] = FIRST_SPECIALS;
    [unknown, bos, eos, &names.separator, &names.score]
}

/// A byte-level step without a split of its own.
pub(super) fn byte_level() -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false})
}

/// A `tokenizer.json` around a byte-level model. Its post-processor puts BOS first, for readers other than this
/// crate.
pub(super) fn to_json(names: &Names, pre_tokenizer: Value, model: Value) -> Value {
    let special_token = |(id, name): (usize, &str)| {
        json!({
            "id": id, "content": name, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    };
    let added: Vec<Value> = special_names(names).into_iter().enumerate().map(special_token).collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": bos_first("<s>", 1),
        "decoder": byte_level(),
        "model": model,
    })
}

/// A post-processor that puts the token `name` with the id `bos` first.
pub(super) fn bos_first(name: &str, bos: u32) -> Value {
    let token = json!({"SpecialToken": {"id": name, "type_id": 0}});
    let sequence = |id: &str, type_id: u32| json!({"Sequence": {"id": id, "type_id": type_id}});
    json!({
        "type": "TemplateProcessing",
        "single": [token, sequence("A", 0)],
        "pair": [token, sequence("A", 0), sequence("B", 1)],
        "special_tokens": {name: {"id": name, "ids": [bos], "tokens": [name]}},
    })
}
