//! Hand-made features of a text, and what two texts have of them.

/// Punctuation that has a feature of its own; groups of bytes that play one part.
const PUNCTUATION: [&[u8]; 12] =
    [b".", b",", b":", b";", b"!?", b"-", b"*#", b"=", b"+/<>", b"()[]{}", b"\"'`", b"$%&@\\^_|~"];

/// Which features a comparison has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum FeatureSet {
    /// Layout and surface: lengths, lines, punctuation, digits, capitals, first and last character, where numbers
    /// stand.
    Hand,
    /// The same, and the count of every byte value.
    HandAndBytes,
}

impl FeatureSet {
    /// The features of a comparison: for every feature of a text, the absolute difference between reference and
    /// candidate (closeness), then the candidate's own value (what is preferred whatever the reference is).
    pub fn compare(self, reference: &str, candidate: &str) -> Vec<f64> {
        let (a, b) = (self.of(reference), self.of(candidate));
        let apart = a.iter().zip(&b).map(|(a, b)| (a - b).abs());
        apart.chain(b.iter().copied()).collect()
    }

    /// Number of features of a comparison.
    pub fn count(self) -> usize {
        self.compare("", "").len()
    }

    fn of(self, text: &str) -> Vec<f64> {
        let mut features = hand(text);
        if self == Self::HandAndBytes {
            let mut counts = vec![0.0; 256];
            for byte in text.bytes() {
                counts[usize::from(byte)] += 1.0;
            }
            features.extend(counts);
        }
        features
    }
}

/// The hand-made features of a text.
fn hand(text: &str) -> Vec<f64> {
    let bytes = text.as_bytes();
    let words: Vec<&str> = text.split_whitespace().collect();
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    let numbers = numbers(bytes);
    let length = bytes.len() as f64;
    let share = |count: usize| count as f64 / length.max(1.0);
    let count = |f: fn(&u8) -> bool| bytes.iter().filter(|b| f(b)).count();

    let mut features = vec![
        // Size.
        length,
        length.ln_1p(),
        words.len() as f64,
        length / words.len().max(1) as f64,
        words.iter().map(|w| w.len()).max().unwrap_or(0) as f64,
        // Layout.
        lines.len() as f64,
        text.lines().filter(|l| l.trim().is_empty()).count() as f64,
        length / lines.len().max(1) as f64,
        lines.first().map_or(0.0, |l| l.len() as f64),
        lines.last().map_or(0.0, |l| l.len() as f64),
        lines.iter().map(|l| l.len()).max().unwrap_or(0) as f64,
        lines.iter().filter(|l| l.starts_with(|c: char| !c.is_alphanumeric())).count() as f64,
        lines.iter().filter(|l| l.trim_start().starts_with(|c: char| c.is_ascii_digit())).count() as f64,
        lines.iter().filter(|l| l.ends_with(|c: char| c.is_ascii_punctuation())).count() as f64,
        // Kinds of characters.
        share(count(u8::is_ascii_digit)),
        share(count(u8::is_ascii_uppercase)),
        share(count(u8::is_ascii_punctuation)),
        share(count(u8::is_ascii_whitespace)),
        share(count(|b| !b.is_ascii())),
        words.iter().filter(|w| w.starts_with(char::is_uppercase)).count() as f64,
        // Numbers, and where they stand: the answer is often the first or the last one.
        numbers.len() as f64,
        numbers.iter().map(|(start, end)| end - start).max().unwrap_or(0) as f64,
        numbers.first().map_or(1.0, |(start, _)| share(*start)),
        numbers.last().map_or(0.0, |(start, _)| share(*start)),
        numbers.last().map_or(0.0, |(_, end)| (bytes.len() - end) as f64),
        // Where the weight of the text lies.
        centre(bytes, u8::is_ascii_digit),
        centre(bytes, u8::is_ascii_punctuation),
        centre(bytes, |b| *b == b'\n'),
    ];
    features.extend(PUNCTUATION.map(|group| bytes.iter().filter(|b| group.contains(b)).count() as f64));
    features.extend(class(bytes.first()));
    features.extend(class(bytes.last()));
    features
}

/// Start and end of every run of digits.
fn numbers(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (i, _) in bytes.iter().enumerate().filter(|(_, b)| b.is_ascii_digit()) {
        match runs.last_mut() {
            Some((_, end)) if *end == i => *end = i + 1,
            _ => runs.push((i, i + 1)),
        }
    }
    runs
}

/// Mean position of the bytes of a kind, from 0 at the start of the text to 1 at its end; the middle if there is none.
fn centre(bytes: &[u8], is: impl Fn(&u8) -> bool) -> f64 {
    let (sum, count) = (0..bytes.len()).filter(|i| is(&bytes[*i])).fold((0, 0), |(s, n), i| (s + i, n + 1));
    if count == 0 { 0.5 } else { sum as f64 / count as f64 / bytes.len() as f64 }
}

/// One of lower case, upper case, digit and punctuation as 1; all 0 for anything else.
fn class(byte: Option<&u8>) -> [f64; 4] {
    let is = |f: fn(&u8) -> bool| f64::from(u8::from(byte.is_some_and(f)));
    [is(u8::is_ascii_lowercase), is(u8::is_ascii_uppercase), is(u8::is_ascii_digit), is(u8::is_ascii_punctuation)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_differs_from_itself_in_nothing() {
        for set in [FeatureSet::Hand, FeatureSet::HandAndBytes] {
            for text in ["", "\n\n", "é", "The answer is 42.\nDone!", "7"] {
                let features = set.compare(text, text);
                assert!(features.iter().all(|f| f.is_finite()), "{text:?}: {features:?}");
                assert!(features[..features.len() / 2].iter().all(|f| *f == 0.0), "{text:?}");
            }
        }
    }

    #[test]
    fn numbers_are_runs_of_digits() {
        assert_eq!(numbers(b"12 and 7, 105"), [(0, 2), (7, 8), (10, 13)]);
        assert_eq!(numbers(b""), []);
    }

    #[test]
    fn centres_lie_where_the_bytes_are() {
        assert_eq!(centre(b"1ab1", u8::is_ascii_digit), 0.375);
        assert_eq!(centre(b"abc", u8::is_ascii_digit), 0.5);
    }
}
