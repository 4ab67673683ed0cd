//! What a `tokenizer.json` may ask of the `tokenizers` crate, which bounds neither time nor memory by itself: a file of
//! some hundred bytes can make terabytes of a letter. Every step is looked at before the crate sees the file. Public
//! tokenizers are far within all of these bounds.

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokenizers::{AddedVocabulary, NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType};

use crate::{Error, Result};

/// Values of the JSON of a normalizer, pre-tokenizer, post-processor or decoder, at most.
const VALUES: usize = 4096;
/// Values of the JSON of all added tokens, at most: 16 of each.
const ADDED_VALUES: usize = 16 * ADDED;
/// Steps of a normalizer, pre-tokenizer, post-processor or decoder, at most, and how deep they may nest.
const STEPS: usize = 64;
const DEPTH: usize = 8;
/// Bytes that a normalizer makes of one of a text, at most. U+FDFA becomes 11 times its bytes in Unicode's form KC.
const GROWTH: usize = 16;
/// Bytes that it may make of a short text beyond that.
const GROWTH_BASE: usize = 1024;
/// Bytes that one step makes of one, at most, and bytes of a text that a step puts in.
const STEP_GROWTH: usize = 64;
/// Bytes of a pattern, at most; of the longest public ones some hundred are known.
const PATTERN: usize = 2048;
/// Patterns of a tokenizer, at most, and what each takes in memory.
const PATTERNS: usize = 32;
const PATTERN_MEMORY: usize = 1 << 20;
/// Pieces of a template of the post-processor, at most, and ids that it puts around a text.
const TEMPLATE: usize = 64;
/// Tokens that are looked for in a text, at most, the bytes of one, and those of all.
const ADDED: usize = 1 << 16;
const ADDED_BYTES: usize = 4096;
const ADDED_TOTAL: usize = 1 << 20;
/// Characters of a word that a WordPiece model takes apart, at most: its time grows with their square.
const WORD: u64 = 1000;
/// Bytes of a prefix or suffix that marks a part of a word.
const AFFIX: usize = 64;
/// Bytes of a piece of a Unigram model, at most, and nodes of the tree that all pieces make, which take 400 bytes each.
const UNIGRAM_PIECE: usize = 1024;
const UNIGRAM_NODES: usize = 1 << 22;

/// A panic of the crate as an error.
pub(super) fn guarded<T>(what: &str, call: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call))
        .map_err(|_| Error::user(format!("the tokenizer {what}: its tokenizer.json is damaged; use another")))
}

/// Steps of a normalizer that might make more than [`GROWTH`] bytes of one: each text is tried first.
#[derive(Debug, Default)]
pub(super) struct Growth(Vec<(String, NormalizerWrapper)>);

/// Reads the text of a `tokenizer.json`. A value takes many times its text: those that no tokenizer needs are counted
/// before any is made.
///
/// # Errors
/// The user's: what is not JSON, and steps of too many values.
pub(super) fn parse(text: &str) -> Result<Value> {
    let unread = |error| Error::user(format!("not JSON: {error}; get the file again"));
    // What is no object is refused by others, with what they miss.
    let sections = serde_json::from_str(text).unwrap_or(Sections(Vec::new()));
    let most = |key: &str| if key == "added_tokens" { ADDED_VALUES } else { VALUES };
    match sections.0.iter().find(|(key, values)| *values > most(key)) {
        Some((key, _)) => Err(refused(key, format_args!("it has more than {} values", most(key)))),
        None => serde_json::from_str(text).map_err(unread),
    }
}

/// Values under each key but those of the vocabulary.
struct Sections(Vec<(String, usize)>);

impl<'de> Deserialize<'de> for Sections {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = Sections;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Sections, A::Error> {
                let mut sections = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    if key == "model" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        sections.push((key, map.next_value::<Count>()?.0));
                    }
                }
                Ok(Sections(sections))
            }
        }

        deserializer.deserialize_map(Keys)
    }
}

/// How many values a value is made of.
struct Count(usize);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Values;

        impl<'de> Visitor<'de> for Values {
            type Value = Count;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_bool<E>(self, _: bool) -> std::result::Result<Count, E> {
                Ok(Count(1))
            }

            fn visit_i64<E>(self, _: i64) -> std::result::Result<Count, E> {
                Ok(Count(1))
            }

            fn visit_u64<E>(self, _: u64) -> std::result::Result<Count, E> {
                Ok(Count(1))
            }

            fn visit_f64<E>(self, _: f64) -> std::result::Result<Count, E> {
                Ok(Count(1))
            }

            fn visit_str<E>(self, _: &str) -> std::result::Result<Count, E> {
                Ok(Count(1))
            }

            fn visit_unit<E>(self) -> std::result::Result<Count, E> {
                Ok(Count(1))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Count, A::Error> {
                let mut count = 1;
                while let Some(Count(inner)) = seq.next_element()? {
                    count += inner;
                }
                Ok(Count(count))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Count, A::Error> {
                let mut count = 1;
                while let Some((IgnoredAny, Count(inner))) = map.next_entry()? {
                    count += inner;
                }
                Ok(Count(count))
            }
        }

        deserializer.deserialize_any(Values)
    }
}

/// Checks the content of a `tokenizer.json`.
///
/// # Errors
/// The user's, with key and value: what takes more memory or time than any tokenizer needs.
pub(super) fn check(json: &Value) -> Result<Growth> {
    let mut patterns = Patterns::default();
    let growth = normalizer(&json["normalizer"], &mut patterns)?;
    pre_tokenizer(&json["pre_tokenizer"], &mut patterns)?;
    post_processor(&json["post_processor"])?;
    decoder(&json["decoder"], &mut patterns)?;
    added_tokens(&json["added_tokens"], &growth)?;
    model(&json["model"])?;
    Ok(growth)
}

fn refused(key: &str, why: impl std::fmt::Display) -> Error {
    Error::user(format!("key {key:?}: {why}; get the tokenizer again, or use another"))
}

/// The steps of which `step` is made, each with its key; lists of steps stand under `list`.
fn steps<'a>(step: &'a Value, key: &str, list: &str) -> Result<Vec<(String, &'a Value)>> {
    fn add<'a>(
        step: &'a Value,
        key: String,
        list: &str,
        depth: usize,
        all: &mut Vec<(String, &'a Value)>,
    ) -> Result<()> {
        if step.is_null() {
            return Ok(());
        }
        if step["type"].as_str().is_none() {
            return Err(refused(&key, "a step without a \"type\""));
        }
        let Some(inner) = step[list].as_array() else {
            if all.len() == STEPS {
                return Err(refused(&key, format_args!("more than {STEPS} steps")));
            }
            all.push((key, step));
            return Ok(());
        };
        if depth == DEPTH || inner.len() > STEPS {
            return Err(refused(&key, format_args!("more than {STEPS} steps, or nested more than {DEPTH} times")));
        }
        for (index, inner) in inner.iter().enumerate() {
            add(inner, format!("{key}.{list}[{index}]"), list, depth + 1, all)?;
        }
        Ok(())
    }
    let mut all = Vec::new();
    add(step, key.into(), list, 0, &mut all)?;
    Ok(all)
}

/// The patterns of a tokenizer so far.
#[derive(Default)]
struct Patterns(usize);

impl Patterns {
    /// Checks a `pattern`, `{"String": text}` or `{"Regex": expression}`; the fewest bytes that it matches.
    fn check(&mut self, key: &str, pattern: &Value) -> Result<usize> {
        let Some((kind, text)) = ["String", "Regex"].iter().find_map(|kind| Some((kind, pattern[*kind].as_str()?)))
        else {
            return Ok(0);
        };
        self.0 += 1;
        if self.0 > PATTERNS {
            return Err(refused(key, format_args!("more than {PATTERNS} patterns in all")));
        }
        if text.len() > PATTERN {
            let length = text.len();
            return Err(refused(key, format_args!("a pattern of {length} bytes; at most {PATTERN} are read")));
        }
        if *kind == "String" {
            return Ok(text.len());
        }
        fancy_regex::RegexBuilder::new(text)
            .delegate_size_limit(PATTERN_MEMORY)
            .build()
            .map_err(|error| refused(key, format_args!("the pattern {text:?} cannot be used: {error}")))?;
        Ok(0)
    }
}

/// Bytes that a `Replace` makes of one.
fn replaced(key: &str, step: &Value, patterns: &mut Patterns) -> Result<usize> {
    let content = text(key, step, "content")?;
    Ok(match patterns.check(key, &step["pattern"])? {
        _ if content == 0 => 1,
        // It may match before every character.
        0 => 1 + content,
        matched => content.div_ceil(matched).max(1),
    })
}

/// Bytes of the text that a step puts in.
fn text(key: &str, step: &Value, name: &str) -> Result<usize> {
    let length = step[name].as_str().map_or(0, str::len);
    if length >= STEP_GROWTH {
        return Err(refused(
            &format!("{key}.{name}"),
            format_args!("a text of {length} bytes, which a step puts in; at most {} are read", STEP_GROWTH - 1),
        ));
    }
    Ok(length)
}

fn normalizer(json: &Value, patterns: &mut Patterns) -> Result<Growth> {
    let steps = steps(json, "normalizer", "normalizers")?;
    let mut most: usize = 1;
    for (key, step) in &steps {
        let growth = match step["type"].as_str().unwrap_or_default() {
            "NFC" | "NFD" => 3,
            "NFKC" | "NFKD" => 11,
            "Lowercase" | "ByteLevel" => 2,
            "Bert" | "BertNormalizer" => 8,
            "Prepend" => 1 + text(key, step, "prepend")?,
            "Replace" => replaced(key, step, patterns)?,
            "Precompiled" => charsmap(key, step)?,
            _ => 1,
        };
        most = most.saturating_mul(growth);
    }
    if most <= GROWTH {
        return Ok(Growth::default());
    }
    let parse = |(key, step): (String, &Value)| {
        let parsed = guarded("cannot be read", || serde_json::from_value(step.clone()))?;
        parsed.map(|step| (key.clone(), step)).map_err(|error| refused(&key, error))
    };
    steps.into_iter().map(parse).collect::<Result<_>>().map(Growth)
}

/// Bytes that a table of replacements makes of one: the crate reserves memory for as many entries as it announces.
fn charsmap(key: &str, step: &Value) -> Result<usize> {
    let key = format!("{key}.precompiled_charsmap");
    let packed = step["precompiled_charsmap"].as_str().unwrap_or_default();
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(packed)
        .map_err(|error| refused(&key, format_args!("it is not base64: {error}")))?;
    let Some((announced, rest)) = bytes.split_first_chunk() else {
        return Err(refused(&key, format_args!("a table of replacements of {} bytes", bytes.len())));
    };
    let announced = u32::from_le_bytes(*announced) as usize;
    let texts = rest.get(announced..).ok_or_else(|| {
        refused(&key, format_args!("it announces a table of {announced} bytes and holds {}", rest.len()))
    })?;
    let longest = texts.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0);
    if longest > STEP_GROWTH {
        return Err(refused(
            &key,
            format_args!("it replaces by a text of {longest} bytes; at most {STEP_GROWTH} are read"),
        ));
    }
    Ok(longest.max(1))
}

impl Growth {
    /// Tries what the normalizer makes of `text` between the tokens of `added`.
    ///
    /// # Errors
    /// The user's: more than [`GROWTH`] times its bytes.
    pub(super) fn check(&self, added: &AddedVocabulary, text: &str) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let sections = added.extract_and_normalize(None::<&NormalizerWrapper>, text);
        let sections = sections.get_splits(OffsetReferential::Original, OffsetType::Byte);
        self.check_sections(
            sections.into_iter().filter(|(.., token)| token.is_none()).map(|(text, ..)| text),
            text.len(),
        )
    }

    fn check_sections<'a>(&self, sections: impl Iterator<Item = &'a str>, bytes: usize) -> Result<()> {
        let most = GROWTH_BASE.saturating_add(GROWTH.saturating_mul(bytes));
        let mut made = 0;
        for section in sections {
            let mut text = NormalizedString::from(section);
            let mut longest = text.get().len();
            for (key, step) in &self.0 {
                // What a step refuses, the crate passes over.
                let _ = step.normalize(&mut text);
                longest = longest.max(text.get().len());
                if made + longest > most {
                    return Err(Error::user(format!(
                        "the tokenizer, key {key:?}: it makes more than {most} bytes of a text of {bytes}; shorten what \
                         the normalizer puts in, or use another tokenizer"
                    )));
                }
            }
            made += longest;
        }
        Ok(())
    }
}

/// One step at most may put characters in: each puts some before every piece of those before it.
fn pre_tokenizer(json: &Value, patterns: &mut Patterns) -> Result<()> {
    let mut first: Option<String> = None;
    for (key, step) in steps(json, "pre_tokenizer", "pretokenizers")? {
        patterns.check(&key, &step["pattern"])?;
        if matches!(step["type"].as_str(), Some("ByteLevel" | "Metaspace"))
            && let Some(first) = first.replace(key.clone())
        {
            return Err(refused(&key, format_args!("a second step, after {first:?}, that puts characters in")));
        }
    }
    Ok(())
}

fn post_processor(json: &Value) -> Result<()> {
    let mut ids = 0;
    for (key, step) in steps(json, "post_processor", "processors")? {
        for template in ["single", "pair"] {
            let key = format!("{key}.{template}");
            let pieces = step[template].as_array().map_or(&[][..], Vec::as_slice);
            if pieces.len() > TEMPLATE {
                let count = pieces.len();
                return Err(refused(&key, format_args!("a template of {count} pieces; at most {TEMPLATE} are read")));
            }
            for sequence in ["A", "B"] {
                if pieces.iter().filter(|piece| piece["Sequence"]["id"] == sequence).count() > 1 {
                    return Err(refused(&key, format_args!("the template repeats the text {sequence:?}")));
                }
            }
            for name in pieces.iter().filter_map(|piece| piece["SpecialToken"]["id"].as_str()) {
                ids += step["special_tokens"][name]["ids"].as_array().map_or(0, Vec::len);
            }
            if ids > TEMPLATE {
                return Err(refused(
                    &key,
                    format_args!("it puts {ids} ids around a text; at most {TEMPLATE} are read"),
                ));
            }
        }
    }
    Ok(())
}

fn decoder(json: &Value, patterns: &mut Patterns) -> Result<()> {
    let mut most: usize = 1;
    for (key, step) in steps(json, "decoder", "decoders")? {
        let growth = match step["type"].as_str().unwrap_or_default() {
            "Replace" => replaced(&key, step, patterns)?,
            "ByteLevel" => 3,
            "WordPiece" | "CTC" | "BPEDecoder" => 2,
            _ => 1,
        };
        most = most.saturating_mul(growth);
        if most > STEP_GROWTH {
            return Err(refused(
                &key,
                format_args!("the steps up to it may make {most} bytes of one; at most {STEP_GROWTH} are read"),
            ));
        }
    }
    Ok(())
}

fn added_tokens(json: &Value, growth: &Growth) -> Result<()> {
    let tokens = json.as_array().map_or(&[][..], Vec::as_slice);
    looked_for("key \"added_tokens\"", tokens.iter().filter_map(|token| token["content"].as_str()))?;
    // The crate normalizes these when it reads them.
    let normalized = tokens.iter().filter(|token| token["normalized"] != false);
    for content in normalized.filter_map(|token| token["content"].as_str()) {
        growth.check_sections(std::iter::once(content), content.len())?;
    }
    Ok(())
}

/// Checks tokens that an automaton is to look for in texts: a byte of them takes a hundred in it. `place` is where they
/// stand.
///
/// # Errors
/// The user's: too many of them.
pub(super) fn looked_for<'a>(place: &str, tokens: impl Iterator<Item = &'a str>) -> Result<()> {
    let (mut count, mut bytes, mut longest) = (0, 0, 0);
    for token in tokens {
        count += 1;
        bytes += token.len();
        longest = longest.max(token.len());
    }
    if count > ADDED || bytes > ADDED_TOTAL || longest > ADDED_BYTES {
        return Err(Error::user(format!(
            "{place}: {count} tokens of {bytes} bytes in all, {longest} in one, to look for in every text; read are at \
             most {ADDED} of {ADDED_TOTAL} bytes in all and {ADDED_BYTES} in one: make them pieces of the vocabulary"
        )));
    }
    Ok(())
}

/// What finds `tokens` in a text, the longest at each place; `place` is where they stand.
///
/// # Errors
/// The user's: too many of them.
pub(super) fn finder<S: AsRef<str>>(place: &str, tokens: &[S]) -> Result<AhoCorasick> {
    looked_for(place, tokens.iter().map(AsRef::as_ref))?;
    AhoCorasick::builder()
        .match_kind(MatchKind::LeftmostLongest)
        .build(tokens.iter().map(AsRef::as_ref))
        .map_err(|error| Error::user(format!("{place}: they cannot be looked for: {error}")))
}

fn model(model: &Value) -> Result<()> {
    for name in ["continuing_subword_prefix", "end_of_word_suffix"] {
        let length = model[name].as_str().map_or(0, str::len);
        if length > AFFIX {
            return Err(refused(
                &format!("model.{name}"),
                format_args!("a text of {length} bytes; at most {AFFIX} are read"),
            ));
        }
    }
    if let Some(most) = model["max_input_chars_per_word"].as_u64().filter(|most| *most > WORD) {
        return Err(refused("model.max_input_chars_per_word", format_args!("{most}; at most {WORD} are read")));
    }
    let Some(pieces) = model["vocab"].as_array() else { return Ok(()) };
    let mut pieces: Vec<&str> = pieces.iter().filter_map(|piece| piece[0].as_str()).collect();
    if let Some(piece) = pieces.iter().find(|piece| piece.len() > UNIGRAM_PIECE) {
        let length = piece.len();
        return Err(refused(
            "model.vocab",
            format_args!("a piece of {length} bytes; at most {UNIGRAM_PIECE} are read"),
        ));
    }
    pieces.sort_unstable();
    let mut nodes = 0;
    let mut before = "";
    for piece in pieces {
        nodes += piece.len() - piece.bytes().zip(before.bytes()).take_while(|(one, other)| one == other).count();
        before = piece;
    }
    if nodes > UNIGRAM_NODES {
        return Err(refused(
            "model.vocab",
            format_args!("its pieces make a tree of {nodes} nodes; at most {UNIGRAM_NODES} are read"),
        ));
    }
    Ok(())
}
