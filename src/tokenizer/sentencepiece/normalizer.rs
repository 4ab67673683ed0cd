//! Text before it is split: a space put first, spaces taken out, spaces made visible, as SentencePiece's `Normalizer`
//! does when it has no table of replacements.

use aho_corasick::{AhoCorasick, Match};
use serde_json::{Value, json};

use super::SPACE;
use super::proto::NormalizerSpec;

#[derive(Debug)]
pub(super) struct Normalizer {
    pub(super) add_dummy_prefix: bool,
    pub(super) remove_extra_whitespaces: bool,
    pub(super) escape_whitespaces: bool,
}

impl Normalizer {
    pub(super) fn new(spec: &NormalizerSpec) -> Self {
        Self {
            add_dummy_prefix: spec.add_dummy_prefix(),
            remove_extra_whitespaces: spec.remove_extra_whitespaces(),
            escape_whitespaces: spec.escape_whitespaces(),
        }
    }

    fn space(&self) -> &'static str {
        if self.escape_whitespaces { SPACE } else { " " }
    }

    /// `text` as it is split. Spaces within what `user_defined` matches stay.
    pub(super) fn normalize(&self, text: &str, user_defined: Option<&AhoCorasick>) -> String {
        let mut normalized = String::with_capacity(text.len() + text.len() / 2);
        if self.remove_extra_whitespaces {
            self.without_extra_spaces(text, user_defined, &mut normalized);
        } else if !text.is_empty() {
            if self.add_dummy_prefix {
                normalized.push_str(self.space());
            }
            self.push(text, &mut normalized);
        }
        normalized
    }

    fn push(&self, text: &str, normalized: &mut String) {
        let mut parts = text.split(' ');
        normalized.push_str(parts.next().unwrap_or_default());
        for part in parts {
            normalized.push_str(self.space());
            normalized.push_str(part);
        }
    }

    fn without_extra_spaces(&self, text: &str, user_defined: Option<&AhoCorasick>, normalized: &mut String) {
        // What is matched at the start may begin with a space; only spaces that are not part of a match fall away.
        let units = units(text, user_defined).skip_while(|unit| *unit == " ");
        let mut after_space = true;
        let mut begun = false;
        for unit in units {
            if !begun && self.add_dummy_prefix {
                normalized.push_str(self.space());
            }
            begun = true;
            let kept = if after_space { unit.trim_start_matches(' ') } else { unit };
            if !kept.is_empty() {
                self.push(kept, normalized);
                after_space = kept.ends_with(' ');
            }
        }
        while let Some(shorter) = normalized.strip_suffix(self.space()) {
            normalized.truncate(shorter.len());
        }
    }
}

/// The text in pieces: matches of `user_defined`, single spaces, and what lies between.
fn units<'a>(text: &'a str, user_defined: Option<&'a AhoCorasick>) -> impl Iterator<Item = &'a str> {
    let mut at = 0;
    let mut matches = user_defined.into_iter().flat_map(move |finder| finder.find_iter(text)).peekable();
    std::iter::from_fn(move || {
        let rest = &text[at..];
        let first = rest.chars().next()?;
        let matched = matches.peek().map_or(text.len(), Match::start);
        let end = if matched == at && matches.peek().is_some() {
            matches.next()?.end()
        } else if first == ' ' {
            at + 1
        } else {
            matched.min(rest.find(' ').map_or(text.len(), |space| at + space))
        };
        let unit = &text[at..end];
        at = end;
        Some(unit)
    })
}

/// As steps of a `tokenizer.json`.
impl Normalizer {
    pub(super) fn to_json(&self) -> Value {
        let replace =
            |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
        let mut steps = Vec::new();
        if self.remove_extra_whitespaces {
            steps.push(replace(json!({"Regex": "^ +| +$"}), ""));
            steps.push(replace(json!({"Regex": " {2,}"}), " "));
        }
        if self.add_dummy_prefix {
            steps.push(json!({"type": "Prepend", "prepend": self.space()}));
        }
        if self.escape_whitespaces {
            steps.push(replace(json!({"String": " "}), SPACE));
        }
        json!({"type": "Sequence", "normalizers": steps})
    }

    pub(super) fn decoder(&self) -> Value {
        let mut steps = vec![
            json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if self.add_dummy_prefix {
            steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        json!({"type": "Sequence", "decoders": steps})
    }
}
