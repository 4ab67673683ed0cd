//! What sequences that are computed together have in common.

use std::collections::HashMap;

use super::Load;

/// What a row is packed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The last token of every candidate is scored.
    pub scores: bool,
    /// Every next token is predicted.
    pub next_tokens: bool,
    /// What the candidates have in common at their start is computed once.
    pub share_prefix: bool,
}

impl Wanted {
    /// Scores alone, with shared prefixes.
    pub const SCORES: Self = Self { scores: true, next_tokens: false, share_prefix: true };
}

/// Sequences, each once, in the order in which they came.
pub(super) struct Distinct<'a> {
    pub sequences: Vec<&'a [u32]>,
    /// For each that was given its place in `sequences`.
    pub places: Vec<usize>,
    /// How often each of `sequences` was given.
    pub copies: Vec<usize>,
}

impl<'a> Distinct<'a> {
    pub fn of(given: &[&'a [u32]]) -> Self {
        let (mut sequences, mut copies, mut known) = (Vec::new(), Vec::new(), HashMap::new());
        let mut place = |ids: &&'a [u32]| {
            let place = *known.entry(*ids).or_insert_with(|| {
                sequences.push(*ids);
                copies.push(0);
                sequences.len() - 1
            });
            copies[place] += 1;
            place
        };
        let places = given.iter().map(&mut place).collect();
        Self { sequences, places, copies }
    }

    /// How many tokens all begin with alike; every one keeps at least its last token to itself. With a next-token loss
    /// the last common token is computed in each, because different tokens follow it. Nothing of one alone.
    pub fn shared_prefix(&self, wanted: Wanted) -> usize {
        let [first, others @ ..] = &self.sequences[..] else { return 0 };
        if !wanted.share_prefix || others.is_empty() {
            return 0;
        }
        let shortest = self.sequences.iter().map(|ids| ids.len()).min().unwrap_or(0);
        let common = (0..shortest).take_while(|&i| others.iter().all(|ids| ids[i] == first[i])).count();
        common.min(shortest.saturating_sub(1)).saturating_sub(usize::from(wanted.next_tokens))
    }

    pub fn load(&self, wanted: Wanted) -> Load {
        let total: usize = self.sequences.iter().map(|ids| ids.len()).sum();
        let saved = self.sequences.len().saturating_sub(1) * self.shared_prefix(wanted);
        Load { tokens: total - saved, candidates: if wanted.scores { self.sequences.len() } else { 0 } }
    }
}

/// What sequences that are pushed together take of a pass.
pub fn load(sequences: &[&[u32]], wanted: Wanted) -> Load {
    Distinct::of(sequences).load(wanted)
}

/// Tokens that are computed for sequences that are pushed together.
pub fn packed_tokens(sequences: &[&[u32]], wanted: Wanted) -> usize {
    load(sequences, wanted).tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sequences_are_one() {
        let given: [&[u32]; 5] = [&[1, 2], &[1], &[1, 2], &[2, 1], &[1]];
        let Distinct { sequences, places, copies } = Distinct::of(&given);
        assert_eq!(sequences, [&[1, 2][..], &[1], &[2, 1]]);
        assert_eq!((places, copies), (vec![0, 1, 0, 2, 1], vec![2, 2, 1]));
        assert_eq!(load(&[&[1, 2, 9], &[1, 2, 9]], Wanted::SCORES), Load { tokens: 3, candidates: 1 });
    }

    #[test]
    fn every_sequence_keeps_its_last_token() {
        let pair: [&[u32]; 2] = [&[1, 2], &[1, 2, 3, 4]];
        assert_eq!(packed_tokens(&pair, Wanted::SCORES), 5);
        assert_eq!(packed_tokens(&pair, Wanted { next_tokens: true, ..Wanted::SCORES }), 6);
        assert_eq!(packed_tokens(&pair, Wanted { share_prefix: false, ..Wanted::SCORES }), 6);
        assert_eq!(packed_tokens(&[], Wanted::SCORES), 0);
    }
}
