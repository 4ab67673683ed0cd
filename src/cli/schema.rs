//! `polar-raw schema`: the configuration's JSON Schema.

use super::print;
use crate::config::Config;
use crate::error::Result;

/// Print the JSON Schema of the configuration, for editors that complete and check TOML.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  polar-raw schema > polar-raw.schema.json
and, for Taplo and its like, as the first line of a configuration:
  #:schema polar-raw.schema.json")]
pub struct SchemaArgs {}

/// Writes the schema to standard output.
pub fn run(_: SchemaArgs) -> Result<()> {
    print(format_args!("{:#}", Config::schema()))
}
