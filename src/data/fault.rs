//! What is wrong with a text that is no JSON, in words: where it is, by key, and what was found there.

use std::fmt::Write;

/// Steps of a path that are shown, at most.
const MOST_STEPS: usize = 8;

/// What is wrong in `text`, which `error` was said of: the key, and what was found, if it is something that programs often
/// write.
pub(crate) fn fault(text: &str, error: &serde_json::Error) -> String {
    let (place, found) = look(text, error);
    // The message ends with the place, which is said otherwise.
    let message = || error.to_string().split(" at line ").next().unwrap_or_default().to_string();
    format!("{place}{}", found.unwrap_or_else(message))
}

/// As [`fault`], if it is something that programs often write.
pub(crate) fn known_fault(text: &str, error: &serde_json::Error) -> Option<String> {
    let (place, found) = look(text, error);
    Some(format!("{place}{}", found?))
}

/// The key that `error` is of, as messages begin with it, and what was found there, if that is known.
fn look(text: &str, error: &serde_json::Error) -> (String, Option<String>) {
    let lines = text.split_inclusive('\n').take(error.line().saturating_sub(1));
    let at = lines.map(str::len).sum::<usize>() + error.column().saturating_sub(1);
    let (path, start) = find(text.as_bytes(), at.min(text.len()));
    let place = match path.as_str() {
        "" => String::new(),
        path => format!("key \"{path}\": "),
    };
    (place, text.get(start..).and_then(known))
}

/// What a value is that is none, and what to do.
fn known(value: &str) -> Option<String> {
    for number in ["NaN", "Infinity", "-Infinity"] {
        if value.starts_with(number) {
            return Some(format!("found {number}, which is no number of JSON; write null, or leave the key out"));
        }
    }
    if value.starts_with('\u{feff}') {
        return Some(
            "found a byte order mark (U+FEFF) before the row: files that begin with one were joined; take it out"
                .into(),
        );
    }
    let half = half_surrogate(value.strip_prefix('"')?)?;
    Some(format!(
        "found half a surrogate pair ({half}), which is no character: a text was cut inside of one; write \\ufffd for it, \
         in Python text.encode(\"utf-16\", \"surrogatepass\").decode(\"utf-16\", \"replace\")"
    ))
}

/// The first escape of a string that is half of a surrogate pair.
fn half_surrogate(string: &str) -> Option<&str> {
    let code = |at: usize| u16::from_str_radix(string.get(at + 2..at + 6)?, 16).ok().filter(|_| escapes(string, at));
    let mut at = 0;
    loop {
        match string.as_bytes().get(at)? {
            b'"' => return None,
            b'\\' => match code(at) {
                Some(0xD800..=0xDBFF) if matches!(code(at + 6), Some(0xDC00..=0xDFFF)) => at += 12,
                Some(0xD800..=0xDFFF) => return string.get(at..at + 6),
                _ => at += 2,
            },
            _ => at += 1,
        }
    }
}

fn escapes(string: &str, at: usize) -> bool {
    string.as_bytes().get(at..at + 2) == Some(b"\\u")
}

/// One level of nesting.
enum Level {
    /// With the key that was read last.
    Object(Option<String>),
    /// With the index of the element.
    Array(usize),
}

/// The path to what stands at byte `at` of a text, as in `prompt[0].content`, and the first byte of the value or key.
fn find(text: &[u8], at: usize) -> (String, usize) {
    let mut levels: Vec<Level> = Vec::new();
    let mut here = 0;
    // Whether what comes is a key.
    let mut key = false;
    while here < text.len() {
        let start = here;
        here = match text[here] {
            b'"' => end_of_string(text, here),
            b'{' | b'[' | b'}' | b']' | b',' | b':' => here + 1,
            byte if byte.is_ascii_whitespace() => here + 1,
            _ => {
                here + text[here..]
                    .iter()
                    .position(|byte| b",:{}[]\" \t\r\n".contains(byte))
                    .unwrap_or(text.len())
                    .max(1)
            }
        };
        let is_value = !b":,}] \t\r\n".contains(&text[start]);
        if here > at && (is_value || start >= at) {
            return (path(&levels), start);
        }
        match (text[start], levels.last_mut()) {
            (b'{', _) => {
                levels.push(Level::Object(None));
                key = true;
            }
            (b'[', _) => levels.push(Level::Array(0)),
            (b'}' | b']', _) => {
                levels.pop();
            }
            (b',', Some(Level::Object(last))) => {
                *last = None;
                key = true;
            }
            (b',', Some(Level::Array(index))) => *index += 1,
            (b'"', Some(Level::Object(last))) if key => {
                *last = serde_json::from_slice(&text[start..here]).ok();
                key = false;
            }
            _ => {}
        }
    }
    (path(&levels), text.len())
}

fn end_of_string(text: &[u8], start: usize) -> usize {
    let mut here = start + 1;
    while let Some(byte) = text.get(here) {
        match byte {
            b'"' => return here + 1,
            b'\\' => here += 2,
            _ => here += 1,
        }
    }
    text.len()
}

fn path(levels: &[Level]) -> String {
    let mut path = String::new();
    for level in levels.iter().take(MOST_STEPS) {
        // Writing to a string does not fail.
        let _ = match level {
            Level::Object(None) => Ok(()),
            Level::Object(Some(key)) => write!(path, "{}{key}", if path.is_empty() { "" } else { "." }),
            Level::Array(_) if path.is_empty() => Ok(()),
            Level::Array(index) => write!(path, "[{index}]"),
        };
    }
    if levels.len() > MOST_STEPS {
        path.push_str("[..]");
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> String {
        fault(text, &serde_json::from_str::<serde_json::Value>(text).unwrap_err())
    }

    #[test]
    fn key_and_value_are_named() {
        for (text, expected) in [
            (r#"{"a": 1, "score": NaN}"#, "key \"score\": found NaN, which is no number of JSON; write null"),
            (r#"{"a": [1, -Infinity]}"#, "key \"a[1]\": found -Infinity"),
            (r#"{"a": {"b": Infinity}, "c": 1}"#, "key \"a.b\": found Infinity"),
            ("NaN", "found NaN"),
            (r#"{"p": "x \ud83d y"}"#, "key \"p\": found half a surrogate pair (\\ud83d), which is no character"),
            (r#"{"p": "\\ud83d \ud83d\ude00 \udE00"}"#, "key \"p\": found half a surrogate pair (\\udE00)"),
            (r#"{"p": "\ud83dA"}"#, "key \"p\": found half a surrogate pair (\\ud83d)"),
            (r#"{"p": "\ud83d"#, "key \"p\": found half a surrogate pair (\\ud83d)"),
            (
                "{\"p\": [\n{\"content\": \"é\\ud800é\"}]}",
                "key \"p[0].content\": found half a surrogate pair (\\ud800)",
            ),
            (r#"{"\ud800": 1}"#, "found half a surrogate pair (\\ud800)"),
            ("\u{feff}{}", "found a byte order mark (U+FEFF) before the row"),
            (r#"{"a": 1, "b": tru}"#, "key \"b\": expected ident"),
            (r#"{"a": "x"#, "key \"a\": EOF while parsing a string"),
            (r#"{"a": 1e999}"#, "key \"a\": number out of range"),
            ("{\"a\": \"x\ny\"}", "key \"a\": control character"),
            (r#"{"a" 1}"#, "key \"a\": expected `:`"),
            ("{", "EOF while parsing an object"),
            ("", "EOF while parsing a value"),
        ] {
            assert!(of(text).starts_with(expected), "{text}: {}", of(text));
        }
        let deep = of(&format!("{{\"a\": {}", "[".repeat(1000)));
        assert!(deep.starts_with("key \"a[0][0][0][0][0][0][0][..]\": recursion limit exceeded"), "{deep}");
    }
}
