//! Rows of JSON with all their keys, each with its line.

use serde_json::{Map, Value};

use crate::data::Raw;
use crate::error::{Error, Result};

/// A row with its line, from 1.
#[derive(Clone, Debug)]
pub struct JsonRow {
    /// Its line in the file, from 1.
    pub line: usize,
    values: Map<String, Value>,
}

impl JsonRow {
    /// Parses what stands in a file.
    ///
    /// # Errors
    /// The user's, with file and line: what is not JSON, or not an object.
    pub(crate) fn read(raw: Raw) -> Result<Self> {
        Self::parse(raw.line, raw.text()?).map_err(|e| e.context(raw.place()))
    }

    /// Parses the text of a row that begins at `line`.
    ///
    /// # Errors
    /// The user's: what is not JSON, or not an object.
    pub fn parse(line: usize, text: &str) -> Result<Self> {
        match serde_json::from_str(text) {
            Ok(Value::Object(values)) => Ok(Self { line, values }),
            Ok(_) => Err(Error::user("a row must be one JSON object")),
            Err(e) => {
                // serde's own place counts from the row's beginning.
                let message = e.to_string();
                let message = message.split(" at line ").next().unwrap_or_default();
                Err(Error::user(format!("not a row of JSON: {message}")))
            }
        }
    }

    /// The names of the keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// The value of the first of `keys` that the row has and that is not null.
    pub fn get(&self, keys: &[&str]) -> Option<&Value> {
        keys.iter().filter_map(|key| self.values.get(*key)).find(|value| !value.is_null())
    }

    /// Whether there is such a value.
    pub fn has(&self, key: &str) -> bool {
        self.get(&[key]).is_some()
    }

    /// Whether there is a value for each of `keys`.
    pub fn has_all(&self, keys: &[&str]) -> bool {
        keys.iter().all(|key| self.has(key))
    }

    /// Whether the value of `key` is a list with a text in it.
    pub fn has_texts(&self, key: &str) -> bool {
        self.get(&[key]).and_then(Value::as_array).is_some_and(|list| list.iter().any(Value::is_string))
    }

    /// A text: a string, or a list of messages, whose contents are joined by newlines.
    ///
    /// # Errors
    /// The user's, with the key.
    pub fn text(&self, keys: &[&str]) -> Result<String> {
        let value = self.get(keys).ok_or_else(|| missing(keys))?;
        as_text(value).ok_or_else(|| wrong(keys, "a string or a list of messages {\"role\", \"content\"}"))
    }

    /// A list of at least one text; one text alone is a list of one.
    ///
    /// # Errors
    /// The user's, with the key.
    pub fn texts(&self, keys: &[&str]) -> Result<Vec<String>> {
        let value = self.get(keys).ok_or_else(|| missing(keys))?;
        let texts: Option<Vec<String>> = match value {
            Value::Array(list) if !list.is_empty() => list.iter().map(as_text).collect(),
            Value::String(text) => Some(vec![text.clone()]),
            _ => None,
        };
        texts.ok_or_else(|| wrong(keys, "a list of strings"))
    }

    /// A name: a string or a number. `None` where there is no such key.
    pub fn name(&self, keys: &[&str]) -> Option<String> {
        match self.get(keys)? {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }
}

/// A string, the `content` of a message, or the contents of messages.
pub fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(message) => message.get("content")?.as_str().map(String::from),
        Value::Array(messages) if !messages.is_empty() => {
            let contents: Option<Vec<&str>> = messages.iter().map(|m| m.get("content")?.as_str()).collect();
            Some(contents?.join("\n"))
        }
        _ => None,
    }
}

fn missing(keys: &[&str]) -> Error {
    Error::user(format!("missing key \"{}\"", keys.join("\" or \"")))
}

/// The error of a value of another type.
pub fn wrong(keys: &[&str], wanted: &str) -> Error {
    Error::user(format!("key \"{}\": expected {wanted}", keys.join("\" or \"")))
}
