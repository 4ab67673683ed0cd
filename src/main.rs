//! Parses the command line and hands over.

use std::process::ExitCode;

use clap::Parser;
use polar_raw::cli::Cli;

fn main() -> ExitCode {
    polar_raw::cpu::keep_freed_memory();
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}
