//! Packed rows with a shared prefix: `[prefix | candidate | candidate | …]`, many rows to a forward pass.

use super::sharing::Distinct;
use super::{Load, Pack, PackParts, Wanted};
use crate::backend::Span;
use crate::error::{Error, Result};

/// Lays sequences out for a forward pass.
///
/// Positions go on from the prefix in every candidate, and a candidate sees its prefix and itself only: scores, loss and
/// gradients are those of separate sequences, while the prefix is computed once.
#[derive(Clone, Debug)]
pub struct Packer {
    wanted: Wanted,
    parts: PackParts,
}

impl Packer {
    /// An empty one.
    pub fn new(wanted: Wanted) -> Self {
        Self { wanted, parts: PackParts::default() }
    }

    /// What has been laid out so far.
    pub fn load(&self) -> Load {
        Load { tokens: self.parts.tokens(), candidates: self.parts.candidates() }
    }

    /// Adds sequences that may share their beginning, and says which candidate of the pack each of them is. Equal
    /// sequences are one candidate.
    ///
    /// # Errors
    /// The user's, for an empty sequence; nothing is added then.
    pub fn push(&mut self, sequences: &[&[u32]]) -> Result<Vec<u32>> {
        if let Some(place) = sequences.iter().position(|ids| ids.is_empty()) {
            return Err(Error::user(format!("sequence {place} is empty; it needs at least one token")));
        }
        let first = self.parts.candidates();
        let distinct = Distinct::of(sequences);
        let prefix = distinct.shared_prefix(self.wanted);
        let rests: Vec<(&[u32], usize)> =
            distinct.sequences.iter().zip(&distinct.copies).map(|(ids, &copies)| (&ids[prefix..], copies)).collect();
        match &rests[..] {
            [_, _, ..] if self.wanted.share_prefix => self.push_row(&distinct.sequences[0][..prefix], &rests),
            _ => rests.iter().for_each(|rest| self.push_row(&[], std::slice::from_ref(rest))),
        }
        Ok(distinct.places.iter().map(|place| (first + place) as u32).collect())
    }

    /// Adds a chosen and a rejected sequence that are compared.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn push_pair(&mut self, chosen: &[u32], rejected: &[u32]) -> Result<()> {
        let candidates = self.push(&[chosen, rejected])?;
        self.compare([candidates[0], candidates[1]]);
        Ok(())
    }

    /// Compares two candidates, the first of which is to score higher.
    pub fn compare(&mut self, pair: [u32; 2]) {
        self.parts.pairs.push(pair);
    }

    /// What was laid out, for a model with `vocabulary` token ids; the packer is empty afterwards.
    ///
    /// # Errors
    /// As [`Pack::new`].
    pub fn finish(&mut self, vocabulary: usize) -> Result<Pack> {
        Pack::new(std::mem::take(&mut self.parts), vocabulary)
    }

    /// A row of candidates with how often each counts. A target in the prefix counts as often as all of them.
    fn push_row(&mut self, prefix: &[u32], candidates: &[(&[u32], usize)]) {
        let row = self.parts.spans.last().map_or(0, |span| span.row + 1);
        let prefix_start = self.parts.ids.len() as u32;
        if !prefix.is_empty() {
            let next = candidates[0].0.first().copied();
            let copies: usize = candidates.iter().map(|(_, copies)| copies).sum();
            self.push_run(prefix, 0, [prefix_start, 0], row, copies as f32, next);
        }
        for &(candidate, copies) in candidates {
            let span = [prefix_start, prefix.len() as u32];
            self.push_run(candidate, prefix.len(), span, row, copies as f32, None);
            self.parts.separate_tokens += copies * (prefix.len() + candidate.len());
            if self.wanted.scores {
                self.parts.score_rows.push(self.parts.selected.len() as u32 - 1);
            }
        }
    }

    /// One run of tokens: a prefix, whose `next` token is known, or a candidate, which ends with its score token.
    fn push_run(
        &mut self,
        ids: &[u32],
        position: usize,
        [prefix_start, prefix]: [u32; 2],
        row: u32,
        weight: f32,
        next: Option<u32>,
    ) {
        let (wanted, parts) = (self.wanted, &mut self.parts);
        let own_start = parts.ids.len() as u32;
        let own = ids.len() as u32;
        parts.ids.extend_from_slice(ids);
        parts.positions.extend((position..position + ids.len()).map(|p| p as u32));
        let span =
            Span { query_start: own_start, queries: own, own_start, own, prefix_start, prefix, row, reserved: 0 };
        parts.spans.push(span);

        let query_start = parts.selected.len() as u32;
        let is_candidate = next.is_none();
        for (i, token) in (own_start..own_start + own).enumerate() {
            let target = ids.get(i + 1).copied().or(next).filter(|_| wanted.next_tokens);
            if target.is_none() && !(wanted.scores && is_candidate && i + 1 == ids.len()) {
                continue;
            }
            parts.selected.push(token);
            if wanted.next_tokens {
                parts.targets.push(target.unwrap_or(0));
                parts.target_weights.push(if target.is_some() { weight } else { 0.0 });
            }
        }
        let queries = parts.selected.len() as u32 - query_start;
        parts.selected_spans.push(Span { query_start, queries, ..span });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::packed_tokens;

    const SCORES: Wanted = Wanted::SCORES;

    fn pack(wanted: Wanted, groups: &[&[&[u32]]]) -> Pack {
        let mut packer = Packer::new(wanted);
        for group in groups {
            match group {
                [chosen, rejected] => packer.push_pair(chosen, rejected).unwrap(),
                _ => drop(packer.push(group).unwrap()),
            }
        }
        packer.finish(100).unwrap()
    }

    #[test]
    fn a_pair_shares_what_it_has_in_common() {
        let pack = pack(SCORES, &[&[&[1, 2, 3, 4, 9], &[1, 2, 3, 5, 6, 9]], &[&[1, 7, 9], &[1, 8, 9]]]);
        assert_eq!(pack.ids, [1, 2, 3, 4, 9, 5, 6, 9, 1, 7, 9, 8, 9]);
        assert_eq!(pack.positions, [0, 1, 2, 3, 4, 3, 4, 5, 0, 1, 2, 1, 2]);
        assert_eq!(pack.selected, [4, 7, 10, 12]);
        assert_eq!(pack.score_rows, [0, 1, 2, 3]);
        assert_eq!(pack.pairs, [[0, 1], [2, 3]]);
        assert_eq!(pack.separate_tokens, 17);
        assert_eq!(pack.spans.iter().map(|s| s.row).collect::<Vec<_>>(), [0, 0, 0, 1, 1, 1]);
        assert_eq!(pack.selected_spans.iter().map(|s| s.queries).collect::<Vec<_>>(), [0, 1, 1, 0, 1, 1]);
        assert_eq!(packed_tokens(&[&[1, 2, 3, 4, 9], &[1, 2, 3, 5, 6, 9]], SCORES), 8);
    }

    #[test]
    fn equal_sequences_are_one_candidate() {
        let pack = pack(SCORES, &[&[&[1, 2, 9], &[1, 2, 9]]]);
        assert_eq!((&pack.ids[..], &pack.selected[..]), (&[1, 2, 9][..], &[2][..]));
        assert_eq!((&pack.pairs[..], pack.candidates(), pack.separate_tokens), (&[[0, 0]][..], 1, 6));
        let mut packer = Packer::new(SCORES);
        assert_eq!(packer.push(&[&[1, 2], &[1, 3], &[1, 2], &[1, 4]]).unwrap(), [0, 1, 0, 2]);
        assert_eq!(packer.push(&[&[1, 2], &[1, 2]]).unwrap(), [3, 3]);
        assert_eq!(packer.finish(10).unwrap().ids, [1, 2, 3, 4, 1, 2]);
    }

    #[test]
    fn next_tokens_of_equal_sequences_count_for_each() {
        let wanted = Wanted { next_tokens: true, ..SCORES };
        let pack = pack(wanted, &[&[&[1, 2, 9], &[1, 2, 9]]]);
        assert_eq!((&pack.targets[..], &pack.target_weights[..]), (&[2, 9, 0][..], &[2.0, 2.0, 0.0][..]));
        let mut packer = Packer::new(wanted);
        packer.push(&[&[1, 2, 3, 9], &[1, 2, 3, 9], &[1, 2, 4, 9]]).unwrap();
        let pack = packer.finish(10).unwrap();
        assert_eq!(pack.ids, [1, 2, 3, 9, 2, 4, 9]);
        assert_eq!(pack.target_weights, [3.0, 2.0, 2.0, 0.0, 1.0, 1.0, 0.0]);
        assert_eq!(pack.predicted_tokens(), 9.0);
    }

    #[test]
    fn next_tokens_of_a_shared_prefix_count_once_for_each_candidate() {
        let pack = pack(Wanted { next_tokens: true, ..SCORES }, &[&[&[1, 2, 3, 9], &[1, 2, 4, 5, 9]]]);
        assert_eq!(pack.ids, [1, 2, 3, 9, 2, 4, 5, 9]);
        assert_eq!(pack.targets, [2, 3, 9, 0, 4, 5, 9, 0]);
        assert_eq!(pack.target_weights, [2.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0]);
        assert_eq!(pack.predicted_tokens(), 3.0 + 4.0);
        assert_eq!(pack.score_rows, [3, 7]);
    }

    #[test]
    fn documents_predict_every_next_token() {
        let pack = pack(Wanted { scores: false, next_tokens: true, share_prefix: true }, &[&[&[1, 5, 6, 2]]]);
        assert_eq!(pack.selected, [0, 1, 2]);
        assert_eq!(pack.targets, [5, 6, 2]);
        assert!(pack.score_rows.is_empty());
    }

    #[test]
    fn an_empty_sequence_is_refused() {
        let mut packer = Packer::new(SCORES);
        assert!(packer.push(&[&[1], &[]]).unwrap_err().to_string().contains("sequence 1 is empty"));
        assert_eq!(packer.load(), Load::default());
    }
}
