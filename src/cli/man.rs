//! `polar-raw man`: the manual pages.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_mangen::Man;

use super::{Cli, written};
use crate::error::{Error, Result};

/// Print a manual page.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  polar-raw man > ~/.local/share/man/man1/polar-raw.1
  polar-raw man train > ~/.local/share/man/man1/polar-raw-train.1")]
pub struct ManArgs {
    /// The command that it is of; the program's, if none is given.
    command: Option<String>,
}

/// Writes the page to standard output.
///
/// # Errors
/// The user's, when there is no such command.
pub fn run(args: ManArgs) -> Result<()> {
    let mut program = Cli::command();
    program.build();
    let page = match &args.command {
        None => program,
        Some(name) => find(program, name)?,
    };
    let mut text = Vec::new();
    let page = Man::new(page).source(concat!("polar-raw ", env!("CARGO_PKG_VERSION")));
    page.render(&mut text).map_err(|error| Error::machine(format!("a manual page: {error}")))?;
    written(io::stdout().write_all(&text))
}

/// The command called `name`.
fn find(program: clap::Command, name: &str) -> Result<clap::Command> {
    let page = program.get_subcommands().find(|command| command.get_name() == name).cloned();
    page.ok_or_else(|| {
        let names: Vec<&str> = program.get_subcommands().map(clap::Command::get_name).collect();
        Error::user(format!("there is no command `{name}`; there is {}", names.join(", ")))
    })
}
