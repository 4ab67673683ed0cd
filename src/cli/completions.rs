//! `polar-raw completions`: scripts that complete the command line in a shell.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, written};
use crate::error::Result;

/// Print a completion script for a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  polar-raw completions bash > ~/.local/share/bash-completion/completions/polar-raw")]
pub struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Writes the script to standard output.
pub fn run(args: CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "polar-raw", &mut script);
    written(io::stdout().write_all(&script))
}
