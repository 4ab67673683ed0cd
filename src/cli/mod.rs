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

use crate::error::{Error, Result};

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
    #[command(subcommand)]
    command: Command,
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
