//! POLAR ("Pre-Trained Policy Discriminators are General Reward Models", arXiv 2507.05197): trajectories and
//! preferences, templates, triples and packed batches.

mod client;
mod encoded;
mod lines;
pub mod pack;
#[cfg(test)]
mod reader_tests;
mod records;
mod row;
mod sampling;
mod score_rows;
mod template;
mod triple;

pub use client::{ClientEncoder, Cut, CutSide, encode_as_client};
pub use encoded::encode_encoded;
pub(crate) use lines::Lines;
pub use pack::{Pack, Wanted};
pub use records::{Document, IdPair, Records, read, read_all, read_from};
pub use sampling::{Summary, TripleSource, split_by_prompt};
pub use score_rows::{ScoreInput, ScoreRow, ScoreRows};
pub use template::{
    CutReport, EncodedCandidates, EncodedPair, TemplateConfig, encode_candidate, encode_candidates, encode_document,
    encode_triple,
};
pub use triple::{Trajectory, Triple, Wrapper};
