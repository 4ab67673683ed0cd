//! Training: data ahead of the device, the step, schedule, checkpoints, metrics, report.

pub mod checkpoint;
pub mod evaluation;
pub mod feed;
pub mod finish;
pub mod metrics;
pub mod origin;
pub mod plan;
pub mod progress;
pub mod rate;
pub mod report;
pub mod run;
pub mod run_folder;
pub mod schedule;
pub mod setup;
pub mod state;
mod step;
pub mod step_log;
mod step_loop;
pub mod tensorboard;
mod totals;

pub use state::OptimizerState;
pub use step::{Step, Trainer};
pub use totals::Totals;
