//! The baseline that takes the longer answer for the better one, which many a judge does.

use super::Baseline;

/// Scores a candidate by its number of characters. An accuracy below chance says that the shorter one is
/// better, where few are of one length: a tie is wrong, as everywhere.
pub struct Length;

impl Baseline for Length {
    fn name(&self) -> &'static str {
        "length"
    }

    fn score(&self, _: &str, _: &str, candidate: &str) -> f64 {
        candidate.chars().count() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_count_and_not_bytes() {
        assert!(Length.score("p", "r", "äöü") == 3.0 && Length.score("", "", "abcd") == 4.0);
    }
}
