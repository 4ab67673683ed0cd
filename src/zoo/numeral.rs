//! Numbers in digits and in words.

use rand::{Rng, RngExt};

/// Words of the numbers that have a short one.
const WORDS: [&str; 21] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
];

/// A piece of a step: a number, which can be written in two ways, or a text, which cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Atom {
    /// A number.
    Number(i64),
    /// A word, without white space.
    Text(String),
}

impl Atom {
    /// A text.
    pub fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// Writes atoms side by side, each small number in words with probability `in_words`.
pub fn write(atoms: &[Atom], in_words: f64, rng: &mut impl Rng) -> String {
    let words = atoms.iter().map(|atom| match atom {
        Atom::Text(text) => text.clone(),
        Atom::Number(n) => match usize::try_from(*n).ok().and_then(|n| WORDS.get(n)) {
            Some(word) if rng.random_bool(in_words) => (*word).to_owned(),
            _ => n.to_string(),
        },
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Atoms with every number in digits: the form that answers are compared in.
pub fn canonical(atoms: &[Atom]) -> String {
    let words = atoms.iter().map(|atom| match atom {
        Atom::Text(text) => text.clone(),
        Atom::Number(n) => n.to_string(),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Reads a word back: a number's name becomes its digits, anything else stays.
pub fn read(word: &str) -> String {
    WORDS.iter().position(|w| *w == word).map_or_else(|| word.to_owned(), |n| n.to_string())
}
