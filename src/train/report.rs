//! `report.html`: one page that says what a run reached, and why to believe it. Nothing outside the file is needed.

mod curves;
mod evaluations;
mod examples;
mod headline;

use std::path::Path;

use maud::{Markup, html};

use crate::config::Config;
use crate::error::Result;
use crate::eval::sections::{histogram, judges};
use crate::eval::{Example, Table};
use crate::files;
use crate::page::frame;
use crate::train::evaluation::ScoredExamples;
use crate::train::metrics::StepMetrics;

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
    /// Why the run ended before its last step, if it did.
    pub ended: Option<&'a str>,
    /// The evaluation at the end; without rows where none was made.
    pub table: &'a Table,
    /// Why the evaluation at the end flatters the model, if it does.
    pub chosen_by: Option<&'a str>,
    /// Scored pairs to read.
    pub examples: &'a [Example],
    /// Scored pairs of each evaluation while training.
    pub watched: &'a [ScoredExamples],
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
    let header = html! {
        h1 { (headline::sentence(report)) }
        (headline::readings(report.table))
    };
    let main = html! {
        (judges::section(report.table))
        @if let Some(why) = report.chosen_by { p.note { (why) "." } }
        (curves::section(report))
        (evaluations::section(report))
        (histogram::section(report.table))
        (examples::section(report.examples))
        (run(report, toml))
    };
    frame(report.title, &header, &main)
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
