//! Passes through the model: what fits one and what its sequences share, decided here for training, scoring and serving.
//!
//! Two rules hold wherever sequences are computed together. Equal ones are one sequence, so that rounding makes no winner
//! of a tie. What the others have in common at their start is computed once.

mod capacity;
mod fill;
mod pack;
mod packer;
mod sharing;

pub use capacity::{Capacity, Load};
pub use fill::{InOrder, Pass, PassRow, best_fit, rows};
pub use pack::{Pack, PackParts};
pub use packer::Packer;
pub use sharing::{Wanted, load, packed_tokens};
