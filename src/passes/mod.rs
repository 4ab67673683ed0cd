//! Passes through the model: what fits one, and what its sequences share.

mod capacity;
mod pack;

pub use capacity::Capacity;
pub use pack::{Pack, Wanted, packed_tokens};
