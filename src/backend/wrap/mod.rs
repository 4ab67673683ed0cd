//! Backends around backends. Each sees every operation with its description in one function, so that none lists the
//! operations again.

mod rounded;

pub use rounded::Rounded;
