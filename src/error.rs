//! Errors as values: a message that names the thing and says what to do, and whose fault it was.

use std::fmt;
use std::path::Path;

/// Who has to act on an [`Error`]. Decides the exit status of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A mistake in what the user gave: a file, a key, a value. Exit status 2.
    User,
    /// A failure of the machine: a full disk, a missing driver, a broken file system. Exit status 1.
    Machine,
}

/// An error with a message fit to be shown as it is.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// The result of everything that can fail in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A mistake of the user. The message names the file, row, key or value and says what to do.
    pub fn user(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::User, message: message.into() }
    }

    /// A failure of the machine or of the program itself.
    pub fn machine(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Machine, message: message.into() }
    }

    /// Classifies an I/O error on `path`: what the user named wrongly is the user's, the rest the machine's.
    pub fn io(action: &str, path: &Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind as E;
        let kind = match error.kind() {
            E::NotFound
            | E::PermissionDenied
            | E::IsADirectory
            | E::NotADirectory
            | E::AlreadyExists
            | E::ReadOnlyFilesystem
            | E::InvalidInput
            | E::InvalidFilename => ErrorKind::User,
            _ => ErrorKind::Machine,
        };
        Self { kind, message: format!("cannot {action} {}: {error}", path.display()) }
    }

    /// Puts a place in front of the message: `context: message`.
    #[must_use]
    pub fn context(self, context: impl fmt::Display) -> Self {
        Self { kind: self.kind, message: format!("{context}: {}", self.message) }
    }

    /// Who has to act.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The exit status of a program that ends with this error: 2 for the user's mistakes, 1 for the machine's.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            ErrorKind::User => 2,
            ErrorKind::Machine => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
