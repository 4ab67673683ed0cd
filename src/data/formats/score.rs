//! Rows for `polar-raw score`: `{prompt, reference, output}`, `{prompt, reference, outputs}` and `{input_ids}`, which
//! `score_rows.rs` reads.

use super::RowFormat;
use crate::data::row::Row;

/// Rows that are scored and nothing else.
pub struct RowsToScore {
    name: &'static str,
    called: &'static str,
    mark: &'static str,
    keys: &'static [&'static str],
}

/// Rows {input_ids}.
pub const IDS: RowsToScore =
    RowsToScore { name: "score-ids", called: "pre-tokenised rows to score", mark: "input_ids", keys: &["input_ids"] };

/// Rows {prompt, reference, outputs}.
pub const BEST_OF: RowsToScore = RowsToScore {
    name: "score-best-of",
    called: "rows to score",
    mark: "outputs",
    keys: &["prompt", "reference", "outputs"],
};

/// Rows {prompt, reference, output}.
pub const ONE: RowsToScore =
    RowsToScore { name: "score", called: "rows to score", mark: "reference", keys: &["prompt", "reference", "output"] };

impl RowFormat for RowsToScore {
    fn name(&self) -> &'static str {
        self.name
    }

    fn called(&self) -> &'static str {
        self.called
    }

    fn keys(&self) -> &'static [&'static str] {
        self.keys
    }

    fn other_keys(&self) -> &'static [&'static str] {
        &["wrapper"]
    }

    fn knows(&self, row: &Row) -> bool {
        row.has(self.mark)
    }
}
