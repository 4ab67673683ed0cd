//! Sequences that are the same by their ids: after cutting, or since a tokenizer takes different texts for the same.

use serde::{Deserialize, Serialize};

use crate::tokenizer::Specials;

/// Whether a sequence `BOS prompt reference SEPARATOR prompt candidate SCORE` has the reference as its candidate. Not
/// where the model has no such tokens.
pub fn is_same_as_reference(ids: &[u32], specials: Specials) -> bool {
    let ids = ids.get(usize::from(specials.bos.is_some())..).unwrap_or_default();
    let Ok([separator, score]) = specials.polar() else { return false };
    let middle = ids.iter().position(|&id| id == separator);
    middle.is_some_and(|at| ids[at + 1..] == [&ids[..at], &[score]].concat())
}

/// Pairs in which sequences are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identical {
    /// Pairs whose better and worse sequence are the same: they teach and tell nothing, and are left out.
    pub pairs: u64,
    /// Of the others, those whose better candidate is the reference.
    pub better_is_reference: u64,
    /// Of the others, those whose worse candidate is the reference.
    pub worse_is_reference: u64,
}

impl Identical {
    /// Counts a pair; whether it is to be left out.
    pub fn add(&mut self, better: &[u32], worse: &[u32], specials: Specials) -> bool {
        let same = better == worse;
        if same {
            self.pairs += 1;
        } else {
            self.better_is_reference += u64::from(is_same_as_reference(better, specials));
            self.worse_is_reference += u64::from(is_same_as_reference(worse, specials));
        }
        same
    }

    /// Adds what was counted elsewhere.
    pub fn add_all(&mut self, other: Self) {
        self.pairs += other.pairs;
        self.better_is_reference += other.better_is_reference;
        self.worse_is_reference += other.worse_is_reference;
    }

    /// A sentence for each count that is not zero, where the sequences of a pair are called `better` and `worse`.
    pub fn sentences(&self, better: &str, worse: &str) -> Vec<String> {
        let sentence = |count: u64, what: String| (count > 0).then(|| format!("{count} pairs {what}"));
        let both = format!("whose {better} and {worse} are the same tokens after cutting: left out");
        let reference = |which: &str| format!("whose {which} is the reference, token by token, after cutting");
        [
            sentence(self.pairs, both),
            sentence(self.better_is_reference, reference(better)),
            sentence(self.worse_is_reference, reference(worse)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Wrapper;
    use crate::polar::{TemplateConfig, encode_candidates};
    use crate::tokenizer::{Names, Tokenizer};

    #[test]
    fn what_differs_only_where_it_was_cut_is_the_same() {
        let tokenizer = Tokenizer::bytes(Names::default()).unwrap();
        for (max_response_length, expected) in [(4, [true, false, false]), (40, [false, false, false])] {
            for wrapper in [Wrapper::Sft, Wrapper::Pretrain] {
                let template = TemplateConfig { wrapper, max_length: 100, max_response_length };
                let candidates = ["a wren", "another", "a"];
                let encoded = encode_candidates(&tokenizer, "Name a bird", "a whale", &candidates, &template).unwrap();
                let same = encoded.sequences.iter().map(|ids| is_same_as_reference(ids, tokenizer.specials()));
                assert_eq!(same.collect::<Vec<_>>(), expected, "{template:?}");
            }
        }
    }

    #[test]
    fn pairs_are_counted_once_and_said() {
        let specials = Tokenizer::bytes(Names::default()).unwrap().specials();
        let [separator, score] = specials.polar().unwrap();
        let bos = specials.bos.unwrap();
        let of = |candidate: u32| [bos, 9, 10, separator, 9, candidate, score];
        let mut found = Identical::default();
        assert!(found.add(&of(10), &of(10), specials) && found.add(&of(11), &of(11), specials));
        assert!(!found.add(&of(10), &of(11), specials) && !found.add(&of(11), &of(12), specials));
        assert!(!found.add(&of(12), &of(10), specials) && !found.add(&of(11), &of(10), specials));
        assert!(!found.add(&[], &[bos], specials), "ids of any kind");
        let mut all = found;
        all.add_all(found);
        let expected = Identical { pairs: 4, better_is_reference: 2, worse_is_reference: 4 };
        assert_eq!(all, expected);
        assert_eq!(
            found.sentences("chosen", "rejected"),
            [
                "2 pairs whose chosen and rejected are the same tokens after cutting: left out",
                "1 pairs whose chosen is the reference, token by token, after cutting",
                "2 pairs whose rejected is the reference, token by token, after cutting"
            ]
        );
        assert!(Identical::default().sentences("a", "b").is_empty());
    }
}
