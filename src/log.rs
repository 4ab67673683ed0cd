//! The one place that writes to the standard error.

use std::fmt::Display;
use std::io::{self, Write};

/// Writes a line to the standard error. Where it cannot be written (a closed pipe, a full disk, a terminal that is gone)
/// the line is lost: that is no reason to end a run or a server.
pub fn log(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
