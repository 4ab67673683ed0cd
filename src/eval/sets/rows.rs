//! Rows of JSON: one a line or the elements of one array, plain or zstd, each with its line.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::files;

/// First bytes of a zstd frame.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
/// Bytes of a file when unpacked, at most. The largest published set has some hundred megabytes.
const MAX_BYTES: u64 = 2 << 30;

/// A row with its line, from 1.
#[derive(Clone, Debug)]
pub struct JsonRow {
    /// Its line in the file, from 1.
    pub line: usize,
    values: Map<String, Value>,
}

/// The text of a file, plain or zstd.
///
/// # Errors
/// The user's: what cannot be read, is damaged, too long or not UTF-8.
pub fn text(path: &Path) -> Result<String> {
    let file = File::open(path).map_err(|e| Error::io("read", path, &e))?;
    let mut source = BufReader::new(file);
    let mut bytes = Vec::new();
    source.by_ref().take(4).read_to_end(&mut bytes).map_err(|e| Error::io("read", path, &e))?;
    let compressed = bytes == ZSTD_MAGIC;
    let whole = std::io::Cursor::new(bytes).chain(source);
    let mut bytes = Vec::new();
    if compressed {
        let damaged = |e: std::io::Error| Error::user(format!("{}: the zstd data is damaged: {e}", path.display()));
        let decoder = zstd::Decoder::new(whole).map_err(damaged)?;
        decoder.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(damaged)?;
    } else {
        whole.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| Error::io("read", path, &e))?;
    }
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::user(format!("{} has more than {MAX_BYTES} bytes: split it", path.display())));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let line = files::line_of(e.as_bytes(), e.utf8_error().valid_up_to());
        Error::user(format!("{}:{line}: the file is not valid UTF-8", path.display()))
    })?;
    Ok(text.strip_prefix('\u{feff}').map(String::from).unwrap_or(text))
}

/// Whether a text is one JSON array, and not one object a line.
pub fn is_array(text: &str) -> bool {
    text.trim_start().starts_with('[')
}

/// The rows of `text`.
///
/// # Errors
/// The user's, with file and line: what is not JSON, or not an object.
pub fn parse(path: &Path, text: &str) -> Result<Vec<JsonRow>> {
    let rows = if is_array(text) { elements(path, text)? } else { lines(path, text)? };
    if rows.is_empty() {
        return Err(Error::user(format!(
            "{}: there is nothing in it; give a file with at least one row",
            path.display()
        )));
    }
    Ok(rows)
}

/// The first row of `text` in JSON Lines.
///
/// # Errors
/// As [`parse`].
pub fn first(path: &Path, text: &str) -> Result<Option<JsonRow>> {
    let line = text.lines().enumerate().find(|(_, line)| !line.trim().is_empty());
    line.map(|(i, line)| row(path, i + 1, serde_json::from_str(line))).transpose()
}

fn lines(path: &Path, text: &str) -> Result<Vec<JsonRow>> {
    let filled = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    filled.map(|(i, line)| row(path, i + 1, serde_json::from_str(line))).collect()
}

fn elements(path: &Path, text: &str) -> Result<Vec<JsonRow>> {
    let wrong = |line: usize, what: &str| {
        Error::user(format!("{}:{line}: {what}; expected a JSON array of objects", path.display()))
    };
    let mut rows = Vec::new();
    let (mut at, mut line) = (text.find('[').map_or(0, |i| i + 1), 1);
    let mut counted = 0;
    loop {
        let rest = &text[at..];
        at += rest.len() - rest.trim_start().len();
        line += text[counted..at].matches('\n').count();
        counted = at;
        if rows.is_empty() && text[at..].starts_with(']') {
            break;
        }
        let mut stream = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
        let value = stream.next().unwrap_or_else(|| Ok(Value::Null));
        at += stream.byte_offset();
        rows.push(row(path, line, value)?);
        let rest = text[at..].trim_start();
        at = text.len() - rest.len();
        match rest.chars().next() {
            Some(',') => at += 1,
            Some(']') => break,
            _ => return Err(wrong(line, "after this row there is neither a comma nor the end of the array")),
        }
    }
    let rest = text[at + 1..].trim_start();
    match rest.is_empty() {
        true => Ok(rows),
        false => Err(wrong(1 + text[..text.len() - rest.len()].matches('\n').count(), "text after the array")),
    }
}

fn row(path: &Path, line: usize, value: serde_json::Result<Value>) -> Result<JsonRow> {
    let place = format!("{}:{line}", path.display());
    match value {
        Ok(Value::Object(values)) => Ok(JsonRow { line, values }),
        Ok(_) => Err(Error::user(format!("{place}: a row must be one JSON object"))),
        Err(e) => {
            // serde's own place counts from the row's beginning.
            let message = e.to_string();
            let message = message.split(" at line ").next().unwrap_or_default();
            Err(Error::user(format!("{place}: not a row of JSON: {message}")))
        }
    }
}

impl JsonRow {
    /// The names of the keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// The row as a line of JSON.
    ///
    /// # Errors
    /// The machine's.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(&self.values).map_err(|e| Error::machine(e.to_string()))
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
