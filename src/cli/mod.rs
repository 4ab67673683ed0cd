//! The command line: one file per subcommand.

pub mod completions;
pub mod convert;
pub mod device;
pub mod eval;
pub mod inspect;
pub mod man;
mod model;
mod places;
pub mod schema;
pub mod score;
pub mod serve;
mod signals;
pub mod tokenize;
mod trace;
pub mod train;
pub mod zoo;

use std::fmt::Display;
use std::io::{self, Write};

use clap::{Parser, Subcommand};
use tracing::level_filters::LevelFilter;

use crate::error::{Error, Result};
use crate::files;
use crate::log::{self, LogFormat};

/// Train, evaluate and use POLAR reward models, from scratch.
///
/// A POLAR reward model reads a prompt, a reference answer and a candidate, and says how close the policy that wrote
/// the candidate is to the one that wrote the reference ("Pre-Trained Policy Discriminators are General Reward
/// Models", arXiv 2507.05197).
#[derive(Debug, Parser)]
#[command(
    name = "polar-raw",
    version,
    propagate_version = true,
    after_help = "\
Start here:
  polar-raw train
      a real experiment in a few minutes, on built-in data
  polar-raw train --data preferences.jsonl
      your own trajectories or preferences
  polar-raw eval --model runs/quickstart/model --data preferences.jsonl
      how often a trained model ranks pairs rightly
  polar-raw score --model runs/quickstart/model --input rows.jsonl
      one score a row
  polar-raw serve --model runs/quickstart/model
      scores over HTTP, for POLAR's client and others
From the sources, write `cargo run --release --` for `polar-raw`.

Exit status: 0 done, 1 the machine failed (disk, memory, driver), 2 something given was wrong."
)]
pub struct Cli {
    #[command(flatten)]
    said: Said,
    #[command(subcommand)]
    command: Command,
}

/// What is written to the standard error.
#[derive(Debug, clap::Args)]
struct Said {
    /// Say nothing but warnings and errors.
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Messages")]
    quiet: bool,
    /// Say what is done and how long it takes; twice for all there is. RUST_LOG says it by module.
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Messages")]
    verbose: u8,
    /// How messages are written to the standard error.
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text", help_heading = "Messages")]
    log_format: LogFormat,
}

impl Said {
    /// The lowest level that is written, where an option says it.
    fn level(&self) -> Option<LevelFilter> {
        match (self.quiet, self.verbose) {
            (true, _) => Some(LevelFilter::WARN),
            (false, 0) => None,
            (false, 1) => Some(LevelFilter::DEBUG),
            (false, _) => Some(LevelFilter::TRACE),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(train::TrainArgs),
    Eval(eval::EvalArgs),
    Score(score::ScoreArgs),
    Serve(serve::ServeArgs),
    Tokenize(tokenize::TokenizeArgs),
    Convert(convert::ConvertArgs),
    Inspect(inspect::InspectArgs),
    Zoo(zoo::ZooArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
    Schema(schema::SchemaArgs),
}

impl Cli {
    /// Does what was asked for.
    pub fn run(self) -> Result<()> {
        log::init(self.said.level(), self.said.log_format)?;
        files::allow_many_open();
        match self.command {
            Command::Train(args) => train::run(args),
            Command::Eval(args) => eval::run(args),
            Command::Score(args) => score::run(args),
            Command::Serve(args) => serve::run(args),
            Command::Tokenize(args) => tokenize::run(args),
            Command::Convert(args) => convert::run(args),
            Command::Inspect(args) => inspect::run(args),
            Command::Zoo(args) => zoo::run(args),
            Command::Completions(args) => completions::run(args),
            Command::Man(args) => man::run(args),
            Command::Schema(args) => schema::run(args),
        }
    }
}

/// A count of at least one, for clap.
fn positive(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "must be a whole number above 0".into())
}

/// Writes a text and a line end to standard output.
fn print(text: impl Display) -> Result<()> {
    written(writeln!(io::stdout(), "{text}"))
}

/// What writing to standard output came to. A reader that has gone away has seen what it wanted.
fn written(result: io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::machine(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}
