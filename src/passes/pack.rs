//! Packed rows with a shared prefix: `[prefix | candidate | candidate | …]`, many rows to a forward pass.

use crate::backend::Span;

/// Sequences of token ids laid out for one forward pass.
///
/// Positions go on from the prefix in every candidate, and a candidate sees its prefix and itself only: scores, loss
/// and gradients are those of separate sequences, while the prefix is computed once. Buffers are kept when the pack
/// is cleared.
#[derive(Clone, Debug, Default)]
pub struct Pack {
    /// Token ids, `[T]`.
    pub ids: Vec<u32>,
    /// Position of each token in its sequence, `[T]`.
    pub positions: Vec<u32>,
    /// What each run of tokens sees, with a query for each token.
    pub spans: Vec<Span>,
    /// Tokens whose state is needed after the last layer's keys and values, ascending, `[S]`.
    pub selected: Vec<u32>,
    /// The same spans, with queries for the selected tokens alone.
    pub selected_spans: Vec<Span>,
    /// Which of the selected rows is each candidate's score token, `[C]`, in the order of the candidates.
    pub score_rows: Vec<u32>,
    /// Chosen and rejected, as numbers of candidates, `[P]`.
    pub pairs: Vec<[u32; 2]>,
    /// The token that follows each selected one, `[S]`; empty without a next-token loss.
    pub targets: Vec<u32>,
    /// How often each target counts, `[S]`: 0 where none follows, the number of candidates within a shared prefix.
    pub target_weights: Vec<f32>,
    /// Tokens that the same sequences would take one by one.
    pub separate_tokens: usize,
}

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

impl Pack {
    /// Empties the pack and keeps its memory.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.positions.clear();
        self.spans.clear();
        self.selected.clear();
        self.selected_spans.clear();
        self.score_rows.clear();
        self.pairs.clear();
        self.targets.clear();
        self.target_weights.clear();
        self.separate_tokens = 0;
    }

    /// Number of tokens to compute.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Number of candidates.
    pub fn candidates(&self) -> usize {
        self.score_rows.len()
    }

    /// The sum of the weights of all targets.
    pub fn predicted_tokens(&self) -> f64 {
        self.target_weights.iter().map(|&w| f64::from(w)).sum()
    }

    /// Adds sequences that may share their beginning. None may be empty.
    pub fn push(&mut self, sequences: &[&[u32]], wanted: Wanted) {
        if !wanted.share_prefix || sequences.len() < 2 {
            sequences.iter().for_each(|sequence| self.push_row(&[], &[sequence], wanted));
            return;
        }
        let prefix = shared_prefix(sequences, wanted);
        let rests: Vec<&[u32]> = sequences.iter().map(|s| &s[prefix..]).collect();
        self.push_row(&sequences[0][..prefix], &rests, wanted);
    }

    /// Adds a chosen and a rejected sequence that are compared.
    pub fn push_pair(&mut self, chosen: &[u32], rejected: &[u32], wanted: Wanted) {
        let first = self.candidates() as u32;
        self.push(&[chosen, rejected], wanted);
        self.pairs.push([first, first + 1]);
    }

    fn push_row(&mut self, prefix: &[u32], candidates: &[&[u32]], wanted: Wanted) {
        let row = self.spans.last().map_or(0, |span| span.row + 1);
        let prefix_start = self.ids.len() as u32;
        if !prefix.is_empty() {
            let next = candidates[0].first().copied();
            self.push_run(prefix, 0, [prefix_start, 0], row, candidates.len() as f32, next, wanted);
        }
        for candidate in candidates {
            let span = [prefix_start, prefix.len() as u32];
            self.push_run(candidate, prefix.len(), span, row, 1.0, None, wanted);
            self.separate_tokens += prefix.len() + candidate.len();
            if wanted.scores {
                self.score_rows.push(self.selected.len() as u32 - 1);
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
        wanted: Wanted,
    ) {
        let own_start = self.ids.len() as u32;
        let own = ids.len() as u32;
        self.ids.extend_from_slice(ids);
        self.positions.extend((position..position + ids.len()).map(|p| p as u32));
        let span =
            Span { query_start: own_start, queries: own, own_start, own, prefix_start, prefix, row, reserved: 0 };
        self.spans.push(span);

        let query_start = self.selected.len() as u32;
        let is_candidate = next.is_none();
        for (i, token) in (own_start..own_start + own).enumerate() {
            let target = ids.get(i + 1).copied().or(next).filter(|_| wanted.next_tokens);
            if target.is_none() && !(wanted.scores && is_candidate && i + 1 == ids.len()) {
                continue;
            }
            self.selected.push(token);
            if wanted.next_tokens {
                self.targets.push(target.unwrap_or(0));
                self.target_weights.push(if target.is_some() { weight } else { 0.0 });
            }
        }
        let queries = self.selected.len() as u32 - query_start;
        self.selected_spans.push(Span { query_start, queries, ..span });
    }
}

/// Tokens that [`Pack::push`] computes for these sequences.
pub fn packed_tokens(sequences: &[&[u32]], wanted: Wanted) -> usize {
    let total: usize = sequences.iter().map(|s| s.len()).sum();
    if wanted.share_prefix && sequences.len() > 1 {
        total - (sequences.len() - 1) * shared_prefix(sequences, wanted)
    } else {
        total
    }
}

/// How many tokens all sequences begin with alike; every one keeps at least its last token to itself. With a
/// next-token loss the last common token is computed in each, because different tokens follow it.
fn shared_prefix(sequences: &[&[u32]], wanted: Wanted) -> usize {
    let first = sequences[0];
    let shortest = sequences.iter().map(|s| s.len()).min().unwrap_or(0);
    let common = (0..shortest).take_while(|&i| sequences.iter().all(|s| s[i] == first[i])).count();
    common.min(shortest - 1).saturating_sub(usize::from(wanted.next_tokens))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCORES: Wanted = Wanted { scores: true, next_tokens: false, share_prefix: true };

    #[test]
    fn a_pair_shares_what_it_has_in_common() {
        let mut pack = Pack::default();
        pack.push_pair(&[1, 2, 3, 4, 9], &[1, 2, 3, 5, 6, 9], SCORES);
        pack.push_pair(&[1, 7, 9], &[1, 8, 9], SCORES);
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
    fn equal_sequences_keep_a_token_each() {
        let mut pack = Pack::default();
        pack.push_pair(&[1, 2, 9], &[1, 2, 9], SCORES);
        assert_eq!(pack.ids, [1, 2, 9, 9]);
        assert_eq!(pack.selected, [2, 3]);
    }

    #[test]
    fn next_tokens_of_a_shared_prefix_count_once_for_each_candidate() {
        let mut pack = Pack::default();
        let wanted = Wanted { next_tokens: true, ..SCORES };
        pack.push_pair(&[1, 2, 3, 9], &[1, 2, 4, 5, 9], wanted);
        assert_eq!(pack.ids, [1, 2, 3, 9, 2, 4, 5, 9]);
        assert_eq!(pack.targets, [2, 3, 9, 0, 4, 5, 9, 0]);
        assert_eq!(pack.target_weights, [2.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0]);
        assert_eq!(pack.predicted_tokens(), 3.0 + 4.0);
        assert_eq!(pack.score_rows, [3, 7]);
    }

    #[test]
    fn documents_predict_every_next_token() {
        let mut pack = Pack::default();
        let wanted = Wanted { scores: false, next_tokens: true, share_prefix: true };
        pack.push(&[&[1, 5, 6, 2]], wanted);
        assert_eq!(pack.selected, [0, 1, 2]);
        assert_eq!(pack.targets, [5, 6, 2]);
        assert!(pack.score_rows.is_empty());
    }
}
