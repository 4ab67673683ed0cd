//! The counters of a run.

use serde::{Deserialize, Serialize};

use crate::polar::Identical;
use crate::train::evaluation::Standing;

/// What a checkpoint says besides its buffers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Optimiser steps done; steps whose every pair was too long make no update.
    pub updates: u64,
    /// Tokens computed.
    pub tokens: u64,
    /// Tokens that shared prefixes saved.
    pub tokens_saved: u64,
    /// Pairs or documents left out because they do not fit a pack.
    pub over_long: u64,
    /// Pairs of which something was cut.
    pub cut: u64,
    /// Pairs in which sequences are the same by their tokens.
    #[serde(default)]
    pub identical: Identical,
    /// Seconds spent in steps.
    pub seconds: f64,
    /// What evaluations while training have said.
    #[serde(default)]
    pub standing: Standing,
}
