//! The limits of a pass, and what sequences take of them.

use std::ops::{Add, AddAssign};

use super::Wanted;

/// The most that one pack may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Tokens to compute.
    pub tokens: usize,
    /// Tokens that are needed after the last layer's keys and values.
    pub selected: usize,
    /// Candidates, each with a score.
    pub candidates: usize,
}

/// What sequences take of a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Tokens to compute.
    pub tokens: usize,
    /// Candidates, each with a score.
    pub candidates: usize,
}

impl Capacity {
    /// What is planned for passes of at most `tokens` tokens.
    pub fn new(tokens: usize, wanted: Wanted) -> Self {
        let candidates = Self::candidates_for(tokens);
        Self { tokens, selected: if wanted.next_tokens { tokens } else { candidates }, candidates }
    }

    /// The most candidates planned for in a pass of `tokens` tokens: shorter ones than 8 tokens are rare.
    pub fn candidates_for(tokens: usize) -> usize {
        (tokens / 8).max(2)
    }

    /// The same for packs of `tokens` tokens.
    pub fn with_tokens(self, tokens: usize) -> Self {
        let candidates = Self::candidates_for(tokens);
        let selected = if self.selected == self.tokens { tokens } else { candidates };
        Self { tokens, selected, candidates }
    }

    /// Whether a pass holds so much.
    pub fn holds(&self, load: Load) -> bool {
        load.tokens <= self.tokens && load.candidates <= self.candidates
    }
}

impl Add for Load {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { tokens: self.tokens + other.tokens, candidates: self.candidates + other.candidates }
    }
}

impl AddAssign for Load {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}
