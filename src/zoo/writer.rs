//! How a style is written down.
//!
//! Every text holds each symbol, connective and word (the *marks*) exactly once, and marks of a kind have one length: a
//! style decides where they stand, so that neither counts of bytes nor distances tell of the policy. Between any two
//! marks stands something that chance or the task decides (a filler, a side of an equation, the answer), so that no
//! short n-gram holds two marks: their order has to be read. What chance decides anew for each sample (the way of
//! working, digits or words, line breaks, fillers) says nothing of the policy.

use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};

use super::numeral;
use super::policy::Style;
use super::task::{STEPS, Working};

const SYMBOLS: [&str; 4] = ["*", "=", ">", ";"];
const WORDS: [&str; 4] = ["then", "thus", "well", "okay"];
/// One for each step and one for the answer.
const CONNECTIVES: [&str; STEPS + 1] = ["next", "here", "also"];
const FILLERS: [&str; 16] =
    ["hm", "ok", "ah", "oh", "um", "er", "eh", "hi", "yo", "uh", "my", "ha", "ho", "aw", "ow", "ay"];
/// The word that the answer follows; a filler ends it.
const MARK: &str = "answer";

/// Writes a working in a style.
pub fn write(working: &Working, style: &Style, rng: &mut impl Rng) -> String {
    let in_words = *[0.0, 0.5, 1.0].choose(rng).expect("three choices");
    let symbols = style.symbols().map(|i| SYMBOLS[i]);
    let words = style.words().map(|i| WORDS[i]);
    let connectives = style.connectives().map(|i| CONNECTIVES[i]);

    let mut lines = Vec::with_capacity(STEPS + 1);
    for (i, connective) in connectives[..STEPS].iter().enumerate() {
        let step = &working.steps[if style.backward() { STEPS - 1 - i } else { i }];
        let (mut a, mut b) = (numeral::write(&step.left, in_words, rng), numeral::write(&step.right, in_words, rng));
        if style.result_first() {
            std::mem::swap(&mut a, &mut b);
        }
        let [f, g] = std::array::from_fn(|_| filler(rng));
        let (open, end) = (symbols[2 * i], symbols[2 * i + 1]);
        lines.push(format!("{open} {f} {connective} {a} is {b} {end} {g}"));
    }
    let answer = numeral::write(&working.answer, in_words, rng);
    let [f, g, h, k] = std::array::from_fn(|_| filler(rng));
    lines.push(format!("{} {f} {} {g} {MARK} {answer} {h} {} {k}", connectives[STEPS], words[1], words[2]));

    let mut text = format!("{} {}", words[0], filler(rng));
    for line in lines {
        text.push(if rng.random() { '\n' } else { ' ' });
        text.push_str(&line);
    }
    format!("{text} {}", words[3])
}

/// The answer that a text gives, numbers in digits; `None` where it gives none.
pub fn read_answer(text: &str) -> Option<String> {
    let words = text.split_whitespace().skip_while(|w| *w != MARK).skip(1);
    let answer: Vec<String> = words.take_while(|w| !FILLERS.contains(w)).map(numeral::read).collect();
    (!answer.is_empty()).then(|| answer.join(" "))
}

fn filler(rng: &mut impl Rng) -> &'static str {
    FILLERS.choose(rng).expect("the list is not empty")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::stream;
    use crate::zoo::task::Task;

    #[test]
    fn every_text_holds_every_mark_once_and_no_two_side_by_side() {
        for index in 0..300 {
            let rng = &mut stream(1, "test", index);
            let working = Task::draw(rng).work(None, rng);
            let text = write(&working, &Style::draw(rng), rng);
            let marks: Vec<&str> = [&SYMBOLS[..], &WORDS, &CONNECTIVES].concat();
            let words: Vec<&str> = text.split_whitespace().collect();
            for mark in &marks {
                assert_eq!(words.iter().filter(|w| *w == mark).count(), 1, "{mark} in {text:?}");
            }
            assert!(!words.windows(2).any(|pair| pair.iter().all(|w| marks.contains(w))), "{text:?}");
        }
    }

    #[test]
    fn marks_of_a_kind_have_one_length() {
        for marks in [&SYMBOLS[..], &WORDS, &CONNECTIVES, &FILLERS] {
            assert!(marks.iter().all(|m| m.len() == marks[0].len()), "{marks:?}");
        }
    }

    #[test]
    fn the_answer_can_be_read_back() {
        assert_eq!(read_answer("then hm answer twelve 7 ok thus"), Some("12 7".to_owned()));
        for nothing in ["", "answer", "answer ok", "42"] {
            assert_eq!(read_answer(nothing), None, "{nothing:?}");
        }
    }
}
