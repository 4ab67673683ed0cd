//! Training: data ahead of the device, the step, schedule, checkpoints, metrics, report.

pub mod checkpoint;
pub mod feed;
pub mod finish;
pub mod metrics;
pub mod plan;
pub mod progress;
pub mod report;
pub mod run;
pub mod schedule;
pub mod setup;
mod step;
pub mod tensorboard;

pub use step::{Step, Trainer};
