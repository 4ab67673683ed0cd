//! Rows of data: trajectories, preferences, pairs of token ids, documents, and rows to score; how files of them are read,
//! and how triples are drawn from trajectories.
//!
//! Data stream. A file is read once to find its mistakes; then a row is read when it is wanted, and in memory are the
//! places of the rows alone ([`Rows`]).

mod formats;
mod lines;
#[cfg(test)]
mod reader_tests;
mod records;
mod row;
mod rows;
mod sampling;
mod score_rows;
mod store;
mod triple;

pub use formats::{Document, IdPair};
pub(crate) use lines::Lines;
pub use records::{Records, read, read_all, read_from};
pub use rows::{Rows, Sequences};
pub use sampling::{Summary, TripleSource, split_by_prompt};
pub use score_rows::{ScoreInput, ScoreRow, ScoreRows};
pub use triple::{Trajectory, Triple, Wrapper};
