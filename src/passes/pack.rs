//! What goes through the model in one pass, found to hold together.

use std::ops::Deref;

use crate::backend::Span;
use crate::error::{Error, Result};
use crate::ops::attention::check_spans;

/// Sequences of token ids laid out for one forward pass, as plain data: [`super::Packer`] makes it, [`Pack::new`] finds
/// out whether it holds together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PackParts {
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
    /// Which of the selected rows is each candidate's score token, ascending, `[C]`.
    pub score_rows: Vec<u32>,
    /// Chosen and rejected, as numbers of candidates, `[P]`; one candidate twice where both are equal sequences.
    pub pairs: Vec<[u32; 2]>,
    /// The token that follows each selected one, `[S]`; empty without a next-token loss.
    pub targets: Vec<u32>,
    /// How often each target counts, `[S]`: 0 where none follows, the number of sequences within a shared prefix.
    pub target_weights: Vec<f32>,
    /// Tokens that the same sequences would take one by one.
    pub separate_tokens: usize,
}

impl PackParts {
    /// Number of tokens to compute.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Number of candidates: different sequences that are scored.
    pub fn candidates(&self) -> usize {
        self.score_rows.len()
    }

    /// The sum of the weights of all targets.
    pub fn predicted_tokens(&self) -> f64 {
        self.target_weights.iter().map(|&w| f64::from(w)).sum()
    }
}

/// Sequences of token ids laid out for one forward pass, read-only.
///
/// What it says was checked when it was made: every token id and target is below [`Pack::vocabulary`], every position
/// below the number of tokens, spans cover the tokens in order and see what lies in their row alone, and selected tokens,
/// score rows and pairs name what there is. Backends rely on it: what a kernel reads through an index of a pack lies in
/// its operand, provided that the model has the vocabulary, which it looks at.
#[derive(Clone, Debug)]
pub struct Pack {
    parts: PackParts,
    vocabulary: usize,
}

impl Deref for Pack {
    type Target = PackParts;

    fn deref(&self) -> &PackParts {
        &self.parts
    }
}

impl Pack {
    /// A pack for a model with `vocabulary` token ids.
    ///
    /// # Errors
    /// The user's, for a token id that the vocabulary does not have; else the program's, with what does not hold.
    pub fn new(parts: PackParts, vocabulary: usize) -> Result<Self> {
        parts.check(vocabulary)?;
        Ok(Self { parts, vocabulary })
    }

    /// Token ids and targets are below this.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The data, to be changed and checked again.
    pub fn into_parts(self) -> PackParts {
        self.parts
    }
}

impl PackParts {
    fn check(&self, vocabulary: usize) -> Result<()> {
        let (tokens, selected, candidates) = (self.tokens(), self.selected.len(), self.candidates());
        if tokens == 0 || u32::try_from(tokens).is_err() || selected == 0 {
            return fail(format!("{tokens} tokens, {selected} of them selected, cannot be computed"));
        }
        if let Some(id) = self.ids.iter().chain(&self.targets).find(|&&id| id as usize >= vocabulary) {
            return Err(Error::user(format!("the token id {id} is not below the model's vocab_size = {vocabulary}")));
        }
        self.check_spans()?;
        let [targets, weights] = [self.targets.len(), self.target_weights.len()];
        if targets != weights || (targets != 0 && targets != selected) {
            return fail(format!("{targets} targets and {weights} weights for {selected} selected tokens"));
        }
        if let Some(weight) = self.target_weights.iter().find(|weight| !weight.is_finite() || **weight < 0.0) {
            return fail(format!("the weight {weight} of a target"));
        }
        if !self.score_rows.is_sorted_by(|a, b| a < b) {
            return fail("score rows that do not ascend".into());
        }
        if let Some(row) = self.score_rows.last().filter(|&&row| row as usize >= selected) {
            return fail(format!("the score row {row} of {selected} selected tokens"));
        }
        match self.pairs.iter().flatten().find(|&&candidate| candidate as usize >= candidates) {
            Some(candidate) => fail(format!("candidate {candidate} of {candidates} is compared")),
            None => Ok(()),
        }
    }

    /// Spans cover the tokens run by run, and their two forms differ in the queries alone.
    fn check_spans(&self) -> Result<()> {
        let mut end = 0;
        for (i, span) in self.spans.iter().enumerate() {
            let run = [span.own_start, span.own, span.query_start, span.queries];
            if span.own == 0 || run != [end, span.own, end, span.own] || span.own as usize > self.tokens() {
                return fail(format!("span {i} does not go on with the tokens at {end}: {span:?}"));
            }
            if span.prefix_start.saturating_add(span.prefix) > span.own_start {
                return fail(format!("span {i} whose prefix does not come before it: {span:?}"));
            }
            end = end.saturating_add(span.own);
        }
        if end as usize != self.tokens() || self.positions.len() != self.tokens() {
            let (tokens, positions) = (self.tokens(), self.positions.len());
            return fail(format!("spans of {end} tokens and {positions} positions for {tokens} tokens"));
        }
        let same = |(all, selected): (&Span, &Span)| {
            *all == Span { query_start: all.query_start, queries: all.queries, ..*selected } && all.reserved == 0
        };
        if self.spans.len() != self.selected_spans.len() || !self.spans.iter().zip(&self.selected_spans).all(same) {
            return fail("spans of the selected tokens that are not those of all tokens".into());
        }
        let every: Vec<u32> = (0..end).collect();
        check_spans(&self.spans, &every, self.tokens())
            .or_else(|what| fail(format!("spans that do not fit: {what}")))?;
        check_spans(&self.selected_spans, &self.selected, self.tokens())
            .or_else(|what| fail(format!("spans that do not fit: {what}")))?;
        let goes_on = |span: &Span| {
            let (start, own) = (span.own_start as usize, span.own as usize);
            self.positions[start..start + own].iter().zip(span.prefix..).all(|(&position, wanted)| position == wanted)
        };
        match self.spans.iter().find(|span| !goes_on(span)) {
            Some(span) => fail(format!("positions that do not go on from the prefix: {span:?}")),
            None => Ok(()),
        }
    }
}

fn fail(what: String) -> Result<()> {
    Err(Error::machine(format!("a pack with {what}")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::passes::{Packer, Wanted};

    const VOCABULARY: u32 = 12;

    /// Groups of sequences that share much or little, packed in every way.
    fn valid() -> impl Strategy<Value = Pack> {
        let sequence = prop::collection::vec(0..VOCABULARY, 1..7);
        let group = (prop::collection::vec(0..2u32, 0..6), prop::collection::vec(sequence, 1..4));
        (prop::collection::vec(group, 1..4), any::<[bool; 3]>()).prop_filter_map(
            "nothing to compute",
            |(groups, flags)| {
                let [scores, next_tokens, share_prefix] = flags;
                let mut packer = Packer::new(Wanted { scores: scores || !next_tokens, next_tokens, share_prefix });
                for (prefix, rests) in groups {
                    let whole: Vec<Vec<u32>> = rests.iter().map(|rest| [&prefix[..], rest].concat()).collect();
                    let places = packer.push(&whole.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
                    if scores && places.len() > 1 {
                        packer.compare([places[0], places[1]]);
                    }
                }
                packer.finish(VOCABULARY as usize).ok()
            },
        )
    }

    /// All that an operation does with an index, with bounds that are asserted here and not in a kernel.
    fn walk(parts: &PackParts) -> std::result::Result<(), TestCaseError> {
        let (t, s) = (parts.tokens() as u32, parts.selected.len() as u32);
        prop_assert!(parts.ids.iter().chain(&parts.targets).all(|&id| id < VOCABULARY));
        prop_assert!(parts.positions.len() == t as usize && parts.positions.iter().all(|&position| position < t));
        prop_assert!(parts.selected.iter().all(|&token| token < t));
        prop_assert!(parts.score_rows.iter().all(|&row| row < s));
        prop_assert!(parts.pairs.iter().flatten().all(|&candidate| (candidate as usize) < parts.candidates()));
        prop_assert!(parts.targets.is_empty() || parts.targets.len() == s as usize);
        prop_assert_eq!(parts.targets.len(), parts.target_weights.len());
        let every: Vec<u32> = (0..t).collect();
        for (spans, queries) in [(&parts.spans, &every), (&parts.selected_spans, &parts.selected)] {
            let mut asked = vec![0; queries.len()];
            for span in spans {
                for query in span.query_start..span.query_start + span.queries {
                    asked[query as usize] += 1;
                    let token = queries[query as usize];
                    prop_assert!((span.own_start..span.own_start + span.own).contains(&token));
                }
                prop_assert!(span.own_start + span.own <= t && span.prefix_start + span.prefix <= t);
            }
            prop_assert!(asked.iter().all(|&times| times == 1), "every query is computed once");
        }
        Ok(())
    }

    /// Changes one number somewhere, or the length of one list.
    fn mutate(parts: &mut PackParts, list: usize, place: prop::sample::Index, field: usize, value: u32) {
        fn at<T>(list: &mut [T], place: prop::sample::Index) -> Option<&mut T> {
            (!list.is_empty()).then(|| place.get_mut(list))
        }
        fn put<T>(list: &mut [T], place: prop::sample::Index, value: T) {
            if let Some(element) = at(list, place) {
                *element = value;
            }
        }
        let set = |numbers: &mut Vec<u32>| match field {
            0 => numbers.truncate(numbers.len().saturating_sub(1)),
            1 => numbers.push(value),
            2 if numbers.len() > 1 => {
                let other = place.index(numbers.len());
                numbers.swap(0, other);
            }
            _ => put(numbers, place, value),
        };
        let set_span = |spans: &mut Vec<Span>| {
            if field == 8 {
                spans.truncate(spans.len().saturating_sub(1));
            } else if let Some(span) = at(spans, place) {
                let fields: &mut [u32] = bytemuck::cast_slice_mut(std::slice::from_mut(span));
                fields[field % 8] = value;
            }
        };
        match list {
            0 => set(&mut parts.ids),
            1 => set(&mut parts.positions),
            2 => set(&mut parts.selected),
            3 => set(&mut parts.score_rows),
            4 => set(&mut parts.targets),
            5 => set_span(&mut parts.spans),
            6 => set_span(&mut parts.selected_spans),
            7 => {
                // Both forms of a span at once.
                set_span(&mut parts.spans);
                set_span(&mut parts.selected_spans);
            }
            8 => put(bytemuck::cast_slice_mut::<_, u32>(&mut parts.pairs), place, value),
            9 => put(&mut parts.target_weights, place, f32::from_bits(value)),
            _ => parts.target_weights.push(1.0),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        /// Whatever is changed: the pack is refused, or every index in it names what there is.
        #[test]
        fn a_damaged_pack_is_refused_or_valid(
            pack in valid(),
            changes in prop::collection::vec((
                0..11usize,
                any::<prop::sample::Index>(),
                0..9usize,
                prop_oneof![0..30u32, Just(u32::MAX), any::<u32>()],
            ), 1..4),
        ) {
            walk(&pack)?;
            let mut parts = pack.into_parts();
            for (list, place, field, value) in changes {
                mutate(&mut parts, list, place, field, value);
            }
            if let Ok(pack) = Pack::new(parts, VOCABULARY as usize) {
                walk(&pack)?;
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let mut packer = Packer::new(Wanted { next_tokens: true, ..Wanted::SCORES });
        packer.push_pair(&[1, 2, 3, 9], &[1, 2, 4, 9]).unwrap();
        let pack = packer.finish(10).unwrap();
        assert_eq!(pack.vocabulary(), 10);
        let refused = |change: &dyn Fn(&mut PackParts)| {
            let mut parts = pack.clone().into_parts();
            change(&mut parts);
            Pack::new(parts, 10).unwrap_err().to_string()
        };
        type Change<'a> = &'a dyn Fn(&mut PackParts);
        let cases: [(Change, &str); 13] = [
            (&|parts| parts.ids[2] = 10, "token id 10 is not below"),
            (&|parts| parts.targets[0] = 17, "token id 17 is not below"),
            (&|parts| parts.positions[1] = 7, "positions that do not go on"),
            (&|parts| parts.spans[2].prefix = 3, "are not those of all tokens"),
            (&|parts| parts.spans[2].prefix_start = u32::MAX, "does not come before it"),
            (&|parts| parts.spans[1].own = 9, "does not go on with the tokens"),
            (&|parts| parts.selected[0] = 6, "query"),
            (&|parts| parts.score_rows[1] = 7, "the score row 7 of 7"),
            (&|parts| parts.score_rows.swap(0, 1), "do not ascend"),
            (&|parts| parts.pairs[0][1] = 2, "candidate 2 of 2"),
            (&|parts| parts.target_weights[0] = f32::NAN, "the weight NaN"),
            (&|parts| parts.targets.truncate(6), "6 targets and 7 weights"),
            (&|parts| *parts = PackParts::default(), "0 tokens"),
        ];
        for (change, part) in cases {
            let message = refused(change);
            assert!(message.contains(part), "{message} has no {part:?}");
        }
    }
}
