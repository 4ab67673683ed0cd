//! One row of JSON, of training data, of sets to evaluate on and to score alike: its values by key.

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

use super::fault::{fault, known_fault};
use super::{Message, Wrapper};
use crate::{Error, Result};

/// A row: the keys that mean something with their values, and the names of some of the others.
#[derive(Debug, Default)]
pub(crate) struct Row {
    values: Map<String, Value>,
    others: Vec<String>,
}

impl Row {
    /// Parses the text of a row; the keys that are `known` are those that mean something.
    ///
    /// # Errors
    /// The user's: what is no object of JSON, or has a known key twice.
    pub(crate) fn parse(text: &str, known: fn(&str) -> bool) -> Result<Self> {
        let mut json = serde_json::Deserializer::from_str(text);
        Known(known).deserialize(&mut json).and_then(|row| json.end().map(|()| row)).map_err(|error| {
            // A row of an array may have several lines.
            let line = if error.line() > 1 { format!("line {} of the row, ", error.line()) } else { String::new() };
            let column = error.column();
            Error::user(match known_fault(text, &error) {
                Some(found) => format!("{line}column {column}: {found}"),
                None => {
                    let fault = fault(text, &error);
                    format!("{line}column {column}: not a row of JSON: {fault}; each line must be one JSON object")
                }
            })
        })
    }

    /// The names of its keys; of those that mean nothing some.
    pub(super) fn keys(&self) -> Vec<&str> {
        self.values.keys().chain(&self.others).map(String::as_str).collect()
    }

    /// Whether the row has the key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Whether the row has all of `keys`, and none of them is null.
    pub(super) fn has_values(&self, keys: &[&str]) -> bool {
        keys.iter().all(|key| self.value(&[*key]).is_some())
    }

    /// Whether the value of `key` is a list with a text in it.
    pub(super) fn has_texts(&self, key: &str) -> bool {
        self.value(&[key]).and_then(Value::as_array).is_some_and(|list| list.iter().any(Value::is_string))
    }

    /// The value of the first of `keys` that the row has and that is not null.
    pub(crate) fn value(&self, keys: &[&str]) -> Option<&Value> {
        keys.iter().filter_map(|key| self.values.get(*key)).find(|value| !value.is_null())
    }

    /// The first of `keys` that the row has and that is not null.
    ///
    /// # Errors
    /// The user's: there is none.
    pub(crate) fn one_of<'a>(&self, keys: &[&'a str]) -> Result<&'a str> {
        keys.iter().copied().find(|key| self.value(&[*key]).is_some()).ok_or_else(|| missing(keys))
    }

    /// A string that is not empty, or a number, of the first of `keys` that has a value.
    pub(crate) fn label(&self, keys: &[&str]) -> Option<String> {
        match self.value(keys)? {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// The messages of `key` with their roles, a string as one of `role`. Whoever speaks in a message without a role is
    /// `role` too.
    pub(crate) fn messages(&self, key: &str, role: &str) -> Result<Vec<Message>> {
        let value = self.values.get(key).cloned().unwrap_or_default();
        let messages = match value {
            Value::Array(messages) => messages,
            Value::Object(_) => vec![value],
            _ => return Ok(vec![Message { role: role.into(), content: text(value, key)? }]),
        };
        let message = |(i, message): (usize, Value)| {
            let role = match &message["role"] {
                Value::Null => role.to_owned(),
                Value::String(role) => role.clone(),
                other => return Err(unexpected(&format!("{key}[{i}].role"), "a string", other)),
            };
            Ok(Message { role, content: content(message, || format!("{key}[{i}]"))? })
        };
        messages.into_iter().enumerate().map(message).collect()
    }

    /// Takes the text of `key`: a string, a message's content, or those of a list of messages, joined by newlines.
    pub(crate) fn text(&mut self, key: &str) -> Result<String> {
        text(self.take(key)?, key)
    }

    /// Takes the texts of `key`, at least one, each as [`Self::text`] has them.
    pub(super) fn texts(&mut self, key: &str) -> Result<Vec<String>> {
        match self.take(key)? {
            Value::Array(values) if !values.is_empty() => {
                values.into_iter().enumerate().map(|(i, value)| text(value, &format!("{key}[{i}]"))).collect()
            }
            other => Err(unexpected(key, "a list of texts, at least one", &other)),
        }
    }

    /// As [`Self::texts`], but one string may stand for a list of one.
    pub(super) fn text_or_texts(&mut self, key: &str) -> Result<Vec<String>> {
        match self.values.get(key) {
            Some(Value::String(_)) => Ok(vec![self.text(key)?]),
            _ => self.texts(key),
        }
    }

    /// Takes the string of `key`, which may not be empty.
    pub(super) fn name(&mut self, key: &str) -> Result<String> {
        match self.take(key)? {
            Value::String(text) if !text.is_empty() => Ok(text),
            other => Err(unexpected(key, "a string that is not empty", &other)),
        }
    }

    /// Takes the token ids of `key`, at least one.
    pub(super) fn ids(&mut self, key: &str) -> Result<Vec<u32>> {
        let values = match self.take(key)? {
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
        match self.values.get_mut("wrapper").map_or(Value::Null, Value::take) {
            Value::Null => Ok(None),
            Value::String(name) if name == "sft" => Ok(Some(Wrapper::Sft)),
            Value::String(name) if name == "pretrain" => Ok(Some(Wrapper::Pretrain)),
            other => Err(unexpected("wrapper", "\"sft\" or \"pretrain\"", &other)),
        }
    }

    fn take(&mut self, key: &str) -> Result<Value> {
        self.values.get_mut(key).map(Value::take).ok_or_else(|| missing(&[key]))
    }
}

/// A string, or the contents of messages, joined by newlines.
pub(super) fn text(value: Value, key: &str) -> Result<String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Object(_) => content(value, || key.into()),
        Value::Array(messages) if !messages.is_empty() => {
            let content = |(i, message)| content(message, || format!("{key}[{i}]"));
            Ok(messages.into_iter().enumerate().map(content).collect::<Result<Vec<String>>>()?.join("\n"))
        }
        other => Err(unexpected(key, "a string or a list of messages {\"role\", \"content\"}", &other)),
    }
}

/// The content of a message, or its parts put together. Roles are dropped, as POLAR's client and training code do.
fn content(message: Value, key: impl Fn() -> String) -> Result<String> {
    match message {
        Value::Object(mut message) => match message.get_mut("content").map(Value::take) {
            Some(Value::String(content)) => Ok(content),
            Some(Value::Array(parts)) => {
                let part = |(i, value)| part(value, || format!("{}.content[{i}]", key()));
                parts.into_iter().enumerate().map(part).collect()
            }
            Some(other) => Err(unexpected(&format!("{}.content", key()), "a string or a list of parts", &other)),
            None => Err(Error::user(format!("missing key \"{}.content\": a message needs a content", key()))),
        },
        other => Err(unexpected(&key(), "a message {\"role\", \"content\"}", &other)),
    }
}

/// The text of a part of a content.
fn part(mut part: Value, key: impl Fn() -> String) -> Result<String> {
    const WANTED: &str = "a part {\"type\": \"text\", \"text\"}";
    match part.get("type").and_then(Value::as_str) {
        Some("text") => match part.get_mut("text").map(Value::take) {
            Some(Value::String(text)) => Ok(text),
            text => Err(unexpected(&format!("{}.text", key()), "a string", &text.unwrap_or_default())),
        },
        Some(other) => {
            let key = key();
            Err(Error::user(format!(
                "key \"{key}\": expected {WANTED}, found one of the type {other:?}: only texts can be scored; take it out"
            )))
        }
        None => Err(unexpected(&key(), WANTED, &part)),
    }
}

fn missing(keys: &[&str]) -> Error {
    Error::user(format!("missing key \"{}\"", keys.join("\" or \"")))
}

/// The error of a value of another type than `wanted`.
pub(super) fn wrong(keys: &[&str], wanted: &str) -> Error {
    Error::user(format!("key \"{}\": expected {wanted}", keys.join("\" or \"")))
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

/// The names of keys, as messages have them.
pub(super) fn list(keys: &[&str]) -> String {
    const MOST: usize = 40;
    let shown = keys.iter().map(|key| match key.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}[...]", &key[..end]),
        None => (*key).to_string(),
    });
    format!("{{{}}}", shown.collect::<Vec<_>>().join(", "))
}

/// Which keys mean something.
struct Known(fn(&str) -> bool);

impl<'de> DeserializeSeed<'de> for Known {
    type Value = Row;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Row, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Known {
    type Value = Row;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
        /// Other keys that a message about the row names, at most.
        const NAMED: usize = 8;
        let mut row = Row::default();
        while let Some(key) = map.next_key::<String>()? {
            if !(self.0)(&key) {
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
