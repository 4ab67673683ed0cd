//! What is wrong with rows: one bad row is not to hide which others are bad.

use crate::error::ErrorKind;
use crate::{Error, Result};

/// The mistakes found so far; those shown are the first ones.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    count: usize,
    shown: Vec<String>,
    /// What the last one said, without its place.
    last: String,
}

impl Complaints {
    /// Shown, at most.
    const SHOWN: usize = 10;

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds what is wrong at `place`.
    ///
    /// # Errors
    /// What is not the user's mistake, and so not of the row.
    pub fn add_at(&mut self, place: &str, error: Error) -> Result<()> {
        let message = error.to_string();
        match self.last == message {
            true => self.add(Error::user(format!("{place}: the same"))),
            false => {
                self.last = message;
                self.add(error.context(place))
            }
        }
    }

    /// As [`Self::add_at`], of an error that names its place.
    ///
    /// # Errors
    /// As [`Self::add_at`].
    pub fn add(&mut self, error: Error) -> Result<()> {
        if error.kind() == ErrorKind::Machine {
            return Err(error);
        }
        self.count += 1;
        if self.shown.len() < Self::SHOWN {
            self.shown.push(error.to_string());
        }
        Ok(())
    }

    /// All of them as one error, with `end`, which kept the rest from being read.
    pub fn with(self, end: Error) -> Error {
        match self.count {
            0 => end,
            _ => Error::user(format!("{}\n  and then {end}", self.listed())),
        }
    }

    /// All of them as one error, if there are any.
    ///
    /// # Errors
    /// The user's, with the place of each.
    pub fn finish(self) -> Result<()> {
        match self.count {
            0 => Ok(()),
            _ => Err(Error::user(self.listed())),
        }
    }

    fn listed(&self) -> String {
        let first = if self.count > Self::SHOWN { "; the first of them" } else { "" };
        match self.count {
            1 => self.shown.concat(),
            count => format!("{count} rows are wrong{first}:\n  {}", self.shown.join("\n  ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ten_are_listed_and_all_are_counted() {
        assert!(Complaints::default().finish().is_ok());
        let of = |messages: &[&str]| {
            let mut complaints = Complaints::default();
            for (line, message) in messages.iter().enumerate() {
                complaints.add_at(&format!("f:{}", line + 1), Error::user(*message)).unwrap();
            }
            complaints
        };
        assert_eq!(of(&["bad"]).finish().unwrap_err().to_string(), "f:1: bad");
        let three = of(&["bad", "bad", "worse"]);
        assert_eq!(three.listed(), "3 rows are wrong:\n  f:1: bad\n  f:2: the same\n  f:3: worse");
        let end = three.with(Error::user("cut short"));
        assert!(end.to_string().ends_with("f:3: worse\n  and then cut short"), "{end}");
        let many = of(&["bad"; 12]).listed();
        assert!(many.starts_with("12 rows are wrong; the first of them:\n  f:1: bad\n"), "{many}");
        assert!(many.ends_with("\n  f:10: the same"), "{many}");
        let broken = Complaints::default().add_at("f:1", Error::machine("a full disk")).unwrap_err();
        assert_eq!((broken.exit_code(), broken.to_string().as_str()), (1, "f:1: a full disk"));
    }
}
