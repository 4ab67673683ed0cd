//! polar-raw: POLAR reward models on a GPU compute stack written from scratch.

pub mod backend;
pub mod baselines;
pub mod cli;
pub mod config;
pub mod cpu;
pub mod cuda;
pub mod data;
pub mod error;
pub mod eval;
pub mod files;
pub mod formats;
pub mod log;
pub mod model;
pub mod objective;
pub mod ops;
pub mod page;
pub mod passes;
pub mod polar;
pub mod reference;
pub mod rng;
pub mod run;
pub mod serve;
pub mod store;
pub mod tensor;
pub mod tokenizer;
pub mod train;
pub mod wrap;
pub mod zoo;

pub use error::{Error, Result};
