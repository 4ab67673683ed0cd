//! Where the program's events go: to the standard error, as lines to read or as JSON.
//!
//! Events are `tracing`'s. A program that uses the library installs a subscriber of its own, or none; [`init`] installs the
//! command line's. A line that cannot be written (a closed pipe, a full disk, a terminal that is gone) is lost: that is no
//! reason to end a run or a server.

use std::fmt::{self, Debug};
use std::io::{IsTerminal, stderr};
use std::sync::atomic::{AtomicBool, Ordering};

use anstream::{AutoStream, ColorChoice};
use clap::builder::styling::{AnsiColor, Style};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::error::{Error, Result};

/// The variable that says which events are written, as `info` or `polar_raw::serve=debug,warn`.
const VARIABLE: &str = "RUST_LOG";
/// Whether progress may be drawn.
static DRAWS: AtomicBool = AtomicBool::new(true);

/// How the standard error is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines to read.
    Text,
    /// A JSON object a line, with the time, the level and the event's fields.
    Json,
}

/// Sends events to the standard error: those of `level` and above, or, without one, those that `RUST_LOG` names, or
/// information and above.
///
/// # Errors
/// The user's, when `RUST_LOG` cannot be read.
pub fn init(level: Option<LevelFilter>, format: LogFormat) -> Result<()> {
    let named = match (level, std::env::var(VARIABLE)) {
        (Some(level), _) => Ok(ours(level)),
        (None, Ok(text)) if !text.trim().is_empty() => parse(&text),
        (None, _) => Ok(ours(LevelFilter::INFO)),
    };
    // What was wrong is to be read, too.
    let (targets, outcome) = match named {
        Ok(targets) => (targets, Ok(())),
        Err(error) => (ours(LevelFilter::INFO), Err(error)),
    };
    let quiet = !targets.would_enable(env!("CARGO_CRATE_NAME"), &Level::INFO);
    DRAWS.store(format == LogFormat::Text && !quiet && stderr().is_terminal(), Ordering::Relaxed);
    let layer = tracing_subscriber::fmt::layer().with_writer(stderr).log_internal_errors(false);
    let layer = match format {
        LogFormat::Text => {
            let coloured = AutoStream::choice(&stderr()) != ColorChoice::Never;
            layer.event_format(Lines { coloured }).boxed()
        }
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    // Where a subscriber stands already, as in a test, it stays.
    let _ = tracing_subscriber::registry().with(layer.with_filter(targets)).try_init();
    outcome
}

/// Whether a bar may be drawn on the standard error: it is a terminal, and nobody asked for silence or JSON.
pub fn draws_progress() -> bool {
    DRAWS.load(Ordering::Relaxed) && stderr().is_terminal()
}

/// What this crate says from `level` on, and the warnings of the others.
fn ours(level: LevelFilter) -> Targets {
    Targets::new().with_default(level.min(LevelFilter::WARN)).with_target(env!("CARGO_CRATE_NAME"), level)
}

/// Other crates than those that are named have their warnings written, unless a level for all is named.
fn parse(text: &str) -> Result<Targets> {
    let with_default = |targets: Targets| match targets.default_level() {
        Some(_) => targets,
        None => targets.with_default(LevelFilter::WARN),
    };
    let refused = |why: String| {
        Error::user(format!(
            "{VARIABLE}={text}: {why}; write a level (error, warn, info, debug, trace, off), or modules with levels, as \
             in warn,polar_raw::serve=debug"
        ))
    };
    // A word alone would be taken for a module, and everything else would be silent.
    let unknown = |part: &&str| !part.contains(['=', ':']) && part.parse::<LevelFilter>().is_err();
    if let Some(part) = text.split(',').map(str::trim).filter(|part| !part.is_empty()).find(unknown) {
        return Err(refused(format!("there is no level `{part}`")));
    }
    // Crates have names with `_`, packages with `-`.
    text.replace(env!("CARGO_PKG_NAME"), env!("CARGO_CRATE_NAME"))
        .parse()
        .map(with_default)
        .map_err(|error: tracing_subscriber::filter::ParseError| refused(error.to_string()))
}

/// An event as a line: its message, after `error:`, `warning:` or `debug:` where it is no plain information.
struct Lines {
    coloured: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let bold = |colour: AnsiColor| colour.on_default().bold();
        let (name, style) = match *event.metadata().level() {
            Level::ERROR => ("error: ", bold(AnsiColor::Red)),
            Level::WARN => ("warning: ", bold(AnsiColor::Yellow)),
            Level::INFO => ("", Style::new()),
            Level::DEBUG => ("debug: ", Style::new().dimmed()),
            Level::TRACE => ("trace: ", Style::new().dimmed()),
        };
        if self.coloured {
            write!(writer, "{style}{name}{style:#}")?;
        } else {
            writer.write_str(name)?;
        }
        let mut message = Message { writer: &mut writer, written: Ok(()) };
        event.record(&mut message);
        message.written?;
        writeln!(writer)
    }
}

/// Writes an event's message. Its other fields are for the JSON form: the message holds what a reader needs.
struct Message<'a, 'w> {
    writer: &'a mut Writer<'w>,
    written: fmt::Result,
}

impl Visit for Message<'_, '_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.written = write!(self.writer, "{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(targets: Targets, coloured: bool) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
        let layer = layer.event_format(super::Lines { coloured }).with_filter(targets);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::error!("a");
            tracing::warn!(n = 3, "b {}", 1);
            tracing::info!("c");
            tracing::debug!("d");
            tracing::info!(target: "hyper", "of another crate");
        });
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn levels_name_the_lines() {
        assert_eq!(written(ours(LevelFilter::DEBUG), false), "error: a\nwarning: b 1\nc\ndebug: d\n");
        assert_eq!(written(ours(LevelFilter::INFO), false), "error: a\nwarning: b 1\nc\n");
        assert_eq!(written(ours(LevelFilter::WARN), false), "error: a\nwarning: b 1\n");
        assert_eq!(written(parse("polar_raw::log=error").unwrap(), false), "error: a\n");
        assert!(written(parse("info").unwrap(), false).ends_with("c\nof another crate\n"));
    }

    #[test]
    fn colours_are_those_of_the_command_line() {
        let lines = written(ours(LevelFilter::WARN), true);
        assert_eq!(lines, "\u{1b}[1m\u{1b}[31merror: \u{1b}[0ma\n\u{1b}[1m\u{1b}[33mwarning: \u{1b}[0mb 1\n");
    }

    #[test]
    fn a_variable_that_cannot_be_read_is_named() {
        for text in ["polar_raw=loud", "inof", "warn,polar_raw"] {
            let error = parse(text).unwrap_err();
            let place = format!("RUST_LOG={text}: ");
            assert!(error.exit_code() == 2 && error.to_string().starts_with(&place), "{error}");
        }
        assert_eq!(written(parse("polar-raw=error").unwrap(), false), "error: a\n");
        assert_eq!(written(parse("off").unwrap(), false), "");
    }
}
