//! The limits of a pass.

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

impl Capacity {
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
}
