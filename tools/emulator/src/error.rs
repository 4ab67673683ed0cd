//! Errors of the emulator: what cannot be parsed, decoded or launched.

use std::fmt;

/// What went wrong, as text that names the thing and, where there is one, the line of the PTX.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The line of the PTX, counted from 1, if the error is about one.
    pub line: Option<u32>,
    /// The message.
    pub message: String,
}

/// A result whose error is an [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error about a line of PTX.
    pub fn at(line: u32, message: impl Into<String>) -> Self {
        Self { line: Some(line), message: message.into() }
    }

    /// An error about no line in particular.
    pub fn new(message: impl Into<String>) -> Self {
        Self { line: None, message: message.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "PTX line {line}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Error {}
