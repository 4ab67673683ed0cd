//! Characters to tokens. Comments and white space fall away here.

use crate::error::{Error, Result};

/// One token of PTX; text is borrowed from the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// A directive, opcode, register or other name: letters, digits, `_ $ % .` and `::`.
    Word(&'a str),
    /// A literal as it is written: decimal, hexadecimal, or `0f`/`0d` and the bits.
    Number(&'a str),
    /// What stands between quotes.
    Text(&'a str),
    /// A character that stands for itself.
    Mark(char),
}

/// A token with the line that it begins on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed<'a> {
    pub token: Token<'a>,
    pub line: u32,
}

/// Splits a source into tokens.
pub(crate) fn tokens(source: &str) -> Result<Vec<Placed<'_>>> {
    let bytes = source.as_bytes();
    let mut found = Vec::with_capacity(source.len() / 4);
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let start = at;
        let token = match bytes[at] {
            b'\n' => {
                line += 1;
                at += 1;
                continue;
            }
            b if b.is_ascii_whitespace() || b == 0 => {
                at += 1;
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                at = end_of(bytes, at, |b| b != b'\n');
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let Some(length) = source[at..].find("*/") else {
                    return Err(Error::at(line, "a comment that begins here is never closed"));
                };
                line += source[at..at + length].bytes().filter(|&b| b == b'\n').count() as u32;
                at += length + 2;
                continue;
            }
            b'"' => {
                at = end_of(bytes, at + 1, |b| b != b'"' && b != b'\n');
                if bytes.get(at) != Some(&b'"') {
                    return Err(Error::at(line, "a quoted text that begins here is never closed"));
                }
                at += 1;
                Token::Text(&source[start + 1..at - 1])
            }
            b if b.is_ascii_digit() => {
                at = end_of(bytes, at, |b| b.is_ascii_alphanumeric() || b == b'.');
                let hexadecimal = source[start..at].starts_with("0x") || source[start..at].starts_with("0X");
                if !hexadecimal && matches!(bytes[at - 1], b'e' | b'E') && matches!(bytes.get(at), Some(b'+' | b'-')) {
                    at = end_of(bytes, at + 1, |b| b.is_ascii_digit());
                }
                Token::Number(&source[start..at])
            }
            b if is_word(b) => {
                loop {
                    at = end_of(bytes, at, is_word);
                    if !source[at..].starts_with("::") {
                        break;
                    }
                    at += 2;
                }
                Token::Word(&source[start..at])
            }
            b if b.is_ascii_punctuation() => {
                at += 1;
                Token::Mark(char::from(b))
            }
            _ => return Err(Error::at(line, "a character that PTX does not know")),
        };
        found.push(Placed { token, line });
    }
    Ok(found)
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'%' | b'.')
}

fn end_of(bytes: &[u8], from: usize, inside: impl Fn(u8) -> bool) -> usize {
    bytes[from..].iter().position(|&b| !inside(b)).map_or(bytes.len(), |n| from + n)
}
