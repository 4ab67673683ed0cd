//! What lies in a run's folder, as far as others than the run itself read it: its configuration, the manifest of a
//! checkpoint, and a checkpoint as a model.

pub mod checkpoint;
pub mod config;
pub mod manifest;

pub use checkpoint::RunCheckpoint;

/// What the run began with: tokenizer, architecture, the weights of `--init`, and hashes of all that and of the data.
pub const START: &str = "start";
/// Where checkpoints lie.
pub const CHECKPOINTS: &str = "checkpoints";
/// The manifest of a checkpoint, written last.
pub const COMPLETE: &str = "COMPLETE";
/// The counters of a checkpoint.
pub const STATE: &str = "state.json";
/// What is trained, in full precision, as a part of a checkpoint.
pub const PARAMS: &str = "params";
