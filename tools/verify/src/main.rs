//! `verify`: every operation of a backend against the f64 reference.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use polar_raw::{Error, Result};
use verify::power::{Judge, ResultPower, table};
use verify::report::{Outcome, Selection, run};

/// Runs every operation of a backend on fresh random inputs, and compares with the f64 reference.
///
/// Prints one line for an operation, and for a case that fails the command that repeats it alone. Exit status 1 if one
/// does, or if a wrong result would go unnoticed (--power).
#[derive(Parser)]
struct Arguments {
    /// The backend to verify.
    #[arg(long, default_value = verify::BACKENDS[0])]
    backend: String,
    /// Only this operation, `rmsnorm_backward`, or both its passes, `rmsnorm`.
    #[arg(long, value_name = "NAME")]
    op: Option<String>,
    /// Only the case with this label.
    #[arg(long, value_name = "LABEL", requires = "op")]
    case: Option<String>,
    /// Seed of the inputs; the clock's if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// The small table that the tests run.
    #[arg(long)]
    quick: bool,
    /// Spoils each result of each case in the ways in which kernels go wrong, and prints how many cases notice.
    #[arg(long)]
    power: bool,
    /// Writes the outcome as JSON to a file, or with `-` to standard output in place of the lines.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match verify(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn verify(arguments: &Arguments) -> Result<bool> {
    let backend = verify::backend(&arguments.backend)?;
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis() as u64);
    let selection = Selection {
        operation: arguments.op.clone(),
        case: arguments.case.clone(),
        quick: arguments.quick,
        seed: arguments.seed.unwrap_or_else(clock),
    };
    let lines = arguments.json.as_deref() != Some(Path::new("-"));
    if lines {
        println!("{} against the f64 reference, seed {}", backend.name(), selection.seed);
    }
    let mut outcomes: Vec<Outcome> = Vec::new();
    let judge: Option<&Judge> = if arguments.power { Some(&|prepared, i, got| prepared.judge(i, got)) } else { None };
    for row in verify::rows::table() {
        let Some(outcome) = run(&*backend, &arguments.backend, row, &selection, judge) else { continue };
        if lines {
            println!("{outcome}");
        }
        outcomes.push(outcome);
    }
    if outcomes.is_empty() {
        let operations: Vec<&str> = verify::rows::table().iter().map(|row| row.operation).collect();
        return Err(Error::user(format!("--op or --case names nothing: operations are {}", operations.join(", "))));
    }
    if let Some(path) = &arguments.json {
        write_json(path, &selection, &backend.name(), &outcomes)?;
    }
    let failed: usize = outcomes.iter().map(|o| o.failures.len()).sum();
    let cases: usize = outcomes.iter().map(|o| o.cases).sum();
    let power: Vec<_> = outcomes.into_iter().map(|o| (o.operation, o.power)).collect();
    if lines {
        println!("{cases} cases, {failed} failed");
        if arguments.power {
            println!("\n{}", table(&power));
        }
    }
    Ok(failed == 0 && power.iter().flat_map(|(_, results)| results).all(ResultPower::is_whole))
}

fn write_json(path: &Path, selection: &Selection, backend: &str, outcomes: &[Outcome]) -> Result<()> {
    let value = serde_json::json!({ "backend": backend, "seed": selection.seed, "operations": outcomes });
    if path == Path::new("-") {
        println!("{value:#}");
        return Ok(());
    }
    std::fs::write(path, format!("{value:#}\n")).map_err(|e| Error::io("write", path, &e))
}
