//! POLAR's string ("Pre-Trained Policy Discriminators are General Reward Models", arXiv 2507.05197): prompt, reference
//! and candidate as one sequence of token ids, and its truncation.

mod chat;
mod client;
mod encoded;
mod form;
mod identity;
mod template;

pub use chat::ChatTemplate;
pub use client::{ClientEncoder, Cut, CutSide, encode_as_client};
pub use encoded::encode_encoded;
pub use form::{Form, OwnForm};
pub use identity::{Identical, is_same_as_reference};
pub use template::{
    CutReport, EncodedCandidates, EncodedPair, TemplateConfig, encode_candidate, encode_candidates, encode_document,
    encode_triple,
};
