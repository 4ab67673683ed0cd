//! One line of JSON: its kind, known by its keys, and its values by key.

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

use super::Wrapper;
use crate::{Error, Result};

/// The kinds of row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowKind {
    Pair,
    Preference,
    Trajectory,
    ScoreIds,
    Score,
    BestOf,
    Text,
    Document,
}

/// A kind of row, what users call it, the keys that tell it from the kinds below, and the keys that it must have.
struct Shape {
    kind: RowKind,
    name: &'static str,
    marks: &'static [&'static str],
    keys: &'static [&'static str],
}

const fn shape(
    kind: RowKind,
    name: &'static str,
    marks: &'static [&'static str],
    keys: &'static [&'static str],
) -> Shape {
    Shape { kind, name, marks, keys }
}

const SHAPES: [Shape; 8] = [
    shape(RowKind::Pair, "pre-tokenised pairs", &["chosen_ids", "rejected_ids"], &["chosen_ids", "rejected_ids"]),
    shape(RowKind::Preference, "preferences", &["chosen", "rejected"], &["prompt", "reference", "chosen", "rejected"]),
    shape(RowKind::Trajectory, "trajectories", &["policy"], &["prompt", "policy", "output"]),
    shape(RowKind::ScoreIds, "pre-tokenised rows to score", &["input_ids"], &["input_ids"]),
    shape(RowKind::BestOf, "rows to score", &["outputs"], &["prompt", "reference", "outputs"]),
    shape(RowKind::Score, "rows to score", &["reference"], &["prompt", "reference", "output"]),
    shape(RowKind::Text, "texts", &["text"], &["text"]),
    shape(RowKind::Document, "documents", &["output"], &["prompt", "output"]),
];

/// Every key that means something.
const KEYS: [&str; 12] = [
    "prompt",
    "reference",
    "output",
    "outputs",
    "chosen",
    "rejected",
    "wrapper",
    "policy",
    "text",
    "chosen_ids",
    "rejected_ids",
    "input_ids",
];

impl RowKind {
    fn shape(self) -> &'static Shape {
        &SHAPES[SHAPES.iter().position(|shape| shape.kind == self).unwrap_or_default()]
    }

    /// The kind that rows of this kind are read together with.
    pub(super) fn group(self) -> Self {
        if self == Self::Text { Self::Document } else { self }
    }

    /// What users call such rows.
    pub(super) fn name(self) -> &'static str {
        self.shape().name
    }
}

/// A row: the keys that mean something with their values, and the names of some of the others.
#[derive(Debug, Default)]
pub(super) struct Row {
    values: Map<String, Value>,
    others: Vec<String>,
}

impl Row {
    /// Parses a line.
    pub(super) fn parse(line: &str) -> Result<Self> {
        serde_json::from_str(line).map_err(|error| {
            // The message ends with a place in the line, which is always "line 1".
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or_default();
            Error::user(format!(
                "column {}: not a row of JSON: {message}; each line must be one JSON object",
                error.column()
            ))
        })
    }

    /// What kind of row it is.
    pub(super) fn kind(&self) -> Result<RowKind> {
        let has = |key: &&str| self.values.contains_key(*key);
        let shape = SHAPES.iter().find(|shape| shape.marks.iter().any(has)).ok_or_else(|| {
            let known: Vec<String> =
                SHAPES.iter().map(|shape| format!("{} {}", shape.name, list(shape.keys))).collect();
            let keys: Vec<&str> = self.values.keys().chain(&self.others).map(String::as_str).collect();
            Error::user(format!(
                "a row with the keys {} is of no known kind; known are {}",
                list(&keys),
                known.join(", ")
            ))
        })?;
        Ok(shape.kind)
    }

    /// All keys of `kind` are there.
    pub(super) fn check(&self, kind: RowKind) -> Result<()> {
        let shape = kind.shape();
        match shape.keys.iter().find(|key| !self.values.contains_key(**key)) {
            None => Ok(()),
            Some(key) => Err(Error::user(format!("missing key {key:?}: {} need {}", shape.name, list(shape.keys)))),
        }
    }

    /// Takes the text of `key`: a string, or a list of messages, whose contents are joined by newlines.
    pub(super) fn text(&mut self, key: &str) -> Result<String> {
        let value = self.take(key);
        text(value, key)
    }

    /// Takes the texts of `key`, at least one, each as [`Self::text`] has them.
    pub(super) fn texts(&mut self, key: &str) -> Result<Vec<String>> {
        match self.take(key) {
            Value::Array(values) if !values.is_empty() => {
                values.into_iter().enumerate().map(|(i, value)| text(value, &format!("{key}[{i}]"))).collect()
            }
            other => Err(unexpected(key, "a list of texts, at least one", &other)),
        }
    }

    /// Takes the string of `key`, which may not be empty.
    pub(super) fn name(&mut self, key: &str) -> Result<String> {
        match self.take(key) {
            Value::String(text) if !text.is_empty() => Ok(text),
            other => Err(unexpected(key, "a string that is not empty", &other)),
        }
    }

    /// Takes the token ids of `key`, at least one.
    pub(super) fn ids(&mut self, key: &str) -> Result<Vec<u32>> {
        let values = match self.take(key) {
            Value::Array(values) if !values.is_empty() => values,
            other => return Err(unexpected(key, "a list of token ids", &other)),
        };
        let id = |(i, value): (usize, &Value)| {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| unexpected(&format!("{key}[{i}]"), "a token id (0 to 4294967295)", value))
        };
        values.iter().enumerate().map(id).collect()
    }

    /// Takes the row's own wrapper, if it names one.
    pub(super) fn wrapper(&mut self) -> Result<Option<Wrapper>> {
        match self.take("wrapper") {
            Value::Null => Ok(None),
            Value::String(name) if name == "sft" => Ok(Some(Wrapper::Sft)),
            Value::String(name) if name == "pretrain" => Ok(Some(Wrapper::Pretrain)),
            other => Err(unexpected("wrapper", "\"sft\" or \"pretrain\"", &other)),
        }
    }

    /// Whether the row has the key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    fn take(&mut self, key: &str) -> Value {
        self.values.get_mut(key).map_or(Value::Null, Value::take)
    }
}

/// A string, or the contents of messages, joined by newlines.
fn text(value: Value, key: &str) -> Result<String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Array(messages) if !messages.is_empty() => {
            let contents: Result<Vec<String>> =
                messages.into_iter().enumerate().map(|(i, message)| content(message, key, i)).collect();
            Ok(contents?.join("\n"))
        }
        other => Err(unexpected(key, "a string or a list of messages {\"role\", \"content\"}", &other)),
    }
}

/// The content of a message. Roles are dropped, as POLAR's client and training code do.
fn content(message: Value, key: &str, index: usize) -> Result<String> {
    match message {
        Value::Object(mut message) => match message.get_mut("content").map(Value::take) {
            Some(Value::String(content)) => Ok(content),
            Some(other) => Err(unexpected(&format!("{key}[{index}].content"), "a string", &other)),
            None => Err(Error::user(format!("missing key \"{key}[{index}].content\": a message needs a content"))),
        },
        other => Err(unexpected(&format!("{key}[{index}]"), "a message {\"role\", \"content\"}", &other)),
    }
}

fn unexpected(key: &str, wanted: &str, found: &Value) -> Error {
    let found = match found {
        Value::Null => "null".into(),
        Value::Bool(_) => "true or false".into(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) if text.len() <= 40 => format!("{text:?}"),
        Value::String(_) => "a string".into(),
        Value::Array(list) if list.is_empty() => "an empty list".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    };
    Error::user(format!("key \"{key}\": expected {wanted}, found {found}"))
}

fn list(keys: &[&str]) -> String {
    format!("{{{}}}", keys.join(", "))
}

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RowVisitor;
        impl<'de> Visitor<'de> for RowVisitor {
            type Value = Row;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
                /// Other keys that a message about the row names, at most.
                const NAMED: usize = 8;
                let mut row = Row::default();
                while let Some(key) = map.next_key::<String>()? {
                    if !KEYS.contains(&key.as_str()) {
                        map.next_value::<IgnoredAny>()?;
                        if row.others.len() < NAMED {
                            row.others.push(key);
                        }
                    } else if row.values.contains_key(&key) {
                        return Err(A::Error::custom(format_args!("the key {key:?} is there twice")));
                    } else {
                        row.values.insert(key, map.next_value()?);
                    }
                }
                Ok(row)
            }
        }
        deserializer.deserialize_map(RowVisitor)
    }
}
