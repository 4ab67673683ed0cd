//! Cards by name, for plans without one.

use std::fmt::{self, Display, Formatter};

use crate::config::nearest;
use crate::error::{Error, Result};

/// A card that need not be here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    name: String,
    memory: usize,
}

const GIB: usize = 1 << 30;
/// What a process takes of a card before it takes anything, for the driver's context.
const CONTEXT: usize = 640 << 20;

/// Names, and GiB of memory in tenths as the driver reports them: less than is sold, by what error correction takes.
const CARDS: [(&str, usize); 16] = [
    ("a100", 791),
    ("a100-40", 394),
    ("a10", 221),
    ("a6000", 474),
    ("h100", 791),
    ("h200", 1398),
    ("b200", 1783),
    ("l4", 221),
    ("l40s", 445),
    ("3080", 98),
    ("3090", 236),
    ("4080", 156),
    ("4090", 235),
    ("5080", 156),
    ("5090", 313),
    ("rtx-pro-6000", 950),
];

impl Card {
    /// The card called `text`, or one of so much memory: `24GiB`.
    ///
    /// # Errors
    /// The user's, with the names that are known.
    pub fn parse(text: &str) -> Result<Self> {
        let name = text.trim().to_lowercase();
        if let Some(gib) = name.strip_suffix("gib").or_else(|| name.strip_suffix("gb")) {
            return match gib.trim().parse::<f64>() {
                Ok(gib) if (0.0..=1e6).contains(&gib) => {
                    Ok(Self { name: format!("a card of {gib} GiB"), memory: (gib * GIB as f64) as usize })
                }
                _ => Err(Error::user(format!("--card {text}: expected a number of GiB, as in 24GiB"))),
            };
        }
        if let Some((name, tenths)) = CARDS.iter().find(|(known, _)| *known == name) {
            return Ok(Self { name: name.to_uppercase(), memory: tenths * GIB / 10 });
        }
        let names = CARDS.map(|(known, _)| known);
        let near = nearest(&name, &names).map_or(String::new(), |near| format!(" (did you mean {near}?)"));
        Err(Error::user(format!(
            "--card {text}: not a known card{near}; give {} or its memory, as in 24GiB",
            names.join(", ")
        )))
    }

    /// Bytes that a run can have.
    pub fn free(&self) -> usize {
        self.memory.saturating_sub(CONTEXT)
    }
}

impl Display for Card {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:.1} GiB)", self.name, self.memory as f64 / GIB as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sizes() {
        assert_eq!(Card::parse("H100").unwrap().to_string(), "H100 (79.1 GiB)");
        for size in ["24GiB", "24 GiB", "24gb"] {
            assert_eq!(Card::parse(size).unwrap().free(), 24 * GIB - CONTEXT);
        }
        for (text, said) in [("h10", "did you mean h100?"), ("manyGiB", "a number of GiB"), ("24", "not a known card")]
        {
            let error = Card::parse(text).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains(text), "{error}");
        }
    }
}
