//! The elements of one JSON array as rows, each read when it is wanted.

use super::{BYTE_ORDER_MARK, Lines};
use crate::{Error, Result};

/// How far an array was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Array {
    /// Nothing stands before.
    Start,
    /// An element stands before.
    Between,
    /// Its end was read.
    Ended,
}

impl Lines {
    /// Passes over what may stand before the first row, and sees whether the rows are the elements of an array.
    pub(super) fn find_array(&mut self) -> Result<()> {
        let mut marked = 0;
        let before = |byte: u8| {
            let mark = BYTE_ORDER_MARK.get(marked) == Some(&byte);
            marked += usize::from(mark);
            mark || byte.is_ascii_whitespace()
        };
        if self.take_while(false, before)? == Some(b'[') {
            self.take_one()?;
            self.array = Some(Array::Start);
        }
        (self.start, self.number) = (self.at, self.newlines);
        Ok(())
    }

    /// Reads the next element into `self.line`; false after the last one.
    pub(super) fn fill_element(&mut self, array: Array) -> Result<bool> {
        let next = self.take_while(false, |byte| byte.is_ascii_whitespace())?;
        match (array, next) {
            (Array::Ended, _) => return Ok(false),
            (Array::Start | Array::Between, Some(b']')) => return self.end_of_array(),
            (Array::Start, _) => {}
            (Array::Between, Some(b',')) => {
                self.take_one()?;
                self.take_while(false, |byte| byte.is_ascii_whitespace())?;
            }
            (Array::Between, _) => {
                return Err(self.broken("after this row there is neither a comma nor the end of the array"));
            }
        }
        (self.start, self.number) = (self.at, self.newlines + 1);
        self.line.clear();
        self.take_while(true, value())?;
        self.array = Some(Array::Between);
        match self.line.is_empty() {
            true => Err(self.broken("there is no row here")),
            false => self.check_length("row", "is it an array of rows?").map(|()| true),
        }
    }

    fn end_of_array(&mut self) -> Result<bool> {
        self.take_one()?;
        self.array = Some(Array::Ended);
        if self.take_while(false, |byte| byte.is_ascii_whitespace())?.is_some() {
            self.number = self.newlines + 1;
            return Err(self.broken("text after the array"));
        }
        Ok(false)
    }

    fn broken(&self, what: &str) -> Error {
        Error::user(format!("{}: {what}; expected a JSON array of objects", self.place()))
    }
}

/// Takes the bytes of one JSON value, be it well formed or not: up to the bracket that closes it.
fn value() -> impl FnMut(u8) -> bool {
    let (mut depth, mut string, mut escaped, mut ended) = (0_usize, false, false, false);
    move |byte| {
        if ended {
            return false;
        }
        if string {
            string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            ended = !string && depth == 0;
            return true;
        }
        match byte {
            b'"' => string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                ended = depth == 0;
            }
            b',' | b']' | b'}' if depth == 0 => return false,
            _ if depth == 0 && byte.is_ascii_whitespace() => return false,
            _ => {}
        }
        true
    }
}
