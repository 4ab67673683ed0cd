//! `report.html`: one page that says what a run reached, and why to believe it. Nothing outside the file is needed.

mod curves;
mod evaluation;
mod examples;
mod headline;
mod histogram;
mod plot;

use std::path::Path;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::config::Config;
use crate::error::Result;
use crate::eval::{Example, Table};
use crate::files;
use crate::train::metrics::StepMetrics;

const STYLE: &str = include_str!("report/style.css");
/// The page may load nothing, whatever the texts that it shows contain.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// What the page shows.
pub struct Report<'a> {
    /// The run's name.
    pub title: &'a str,
    /// The resolved configuration.
    pub config: &'a Config,
    /// What and its value: parameters, device, tokens computed, duration.
    pub facts: &'a [(String, String)],
    /// Every step of the run.
    pub steps: &'a [StepMetrics],
    /// The evaluation at the end; without rows where none was made.
    pub table: &'a Table,
    /// Scored pairs to read.
    pub examples: &'a [Example],
    /// Whatever else a reader should know, a paragraph each.
    pub notes: &'a [String],
}

/// Writes the page to `path` in one step.
///
/// # Errors
/// When the file cannot be written, or the configuration not be shown.
pub fn write(path: &Path, report: &Report) -> Result<()> {
    let toml = report.config.to_toml()?;
    files::write_atomic(path, page(report, &toml).into_string().as_bytes())
}

fn page(report: &Report, toml: &str) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (report.title) " – polar-raw" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    p.run { "polar-raw · " (report.title) }
                    h1 { (headline::sentence(report)) }
                    (headline::readings(report.table))
                }
                main {
                    (evaluation::section(report.table))
                    (curves::section(report))
                    (histogram::section(report.table))
                    (examples::section(report.examples))
                    (run(report, toml))
                }
            }
        }
    }
}

fn run(report: &Report, toml: &str) -> Markup {
    html! {
        section {
            h2 { "The run" }
            @if !report.facts.is_empty() {
                dl { @for (what, value) in report.facts { dt { (what) } dd { (value) } } }
            }
            @for note in report.notes { p.note { (note) } }
            details {
                summary { "Configuration, every key" }
                pre tabindex="0" { (toml) }
            }
        }
    }
}

#[cfg(test)]
mod tests;
