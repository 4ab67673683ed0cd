//! Rows of data: trajectories, preferences, pairs of token ids, documents, and rows to score; how they are read, and how
//! triples are drawn from trajectories.

mod lines;
#[cfg(test)]
mod reader_tests;
mod records;
mod row;
mod sampling;
mod score_rows;
mod triple;

pub(crate) use lines::Lines;
pub use records::{Document, IdPair, Records, read, read_all, read_from};
pub use sampling::{Summary, TripleSource, split_by_prompt};
pub use score_rows::{ScoreInput, ScoreRow, ScoreRows};
pub use triple::{Trajectory, Triple, Wrapper};
