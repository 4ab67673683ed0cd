//! Rows of data: trajectories, preferences, pairs of token ids, documents, sets to evaluate on, and rows to score; their
//! formats, how files of them are read, and how triples are drawn from trajectories.
//!
//! Data stream. A file is read once to find its mistakes; then a row is read when it is wanted, and in memory are the
//! places of the rows alone ([`Rows`]).

mod complaints;
mod fault;
mod formats;
mod group;
mod groups;
mod inputs;
mod items;
mod lines;
mod read;
#[cfg(test)]
mod reader_tests;
mod records;
mod row;
mod rows;
mod sampling;
mod score_rows;
mod store;

pub(crate) use complaints::Complaints;
pub(crate) use fault::{fault, known_fault};
pub(crate) use formats::Reader;
pub use formats::SetFormat;
pub use group::{Answer, Candidate, Group, ReferenceSource, Rule, Section};
pub use groups::Groups;
pub(crate) use inputs::STDIN;
pub use inputs::{files_of, files_to_keep};
pub use items::{Document, IdPair, Message, Trajectory, Triple, Wrapper};
pub(crate) use lines::Lines;
pub(crate) use read::RowFile;
pub use read::{read, read_all, read_from};
pub use records::Records;
pub(crate) use row::Row;
pub use rows::{Rows, Sequences};
pub(crate) use sampling::{Hash as TextHash, hash as text_hash};
pub use sampling::{Summary, TripleSource, split_by_prompt};
pub use score_rows::{ScoreInput, ScoreRow, ScoreRows};
pub(crate) use store::Raw;
