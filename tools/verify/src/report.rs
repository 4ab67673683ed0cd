//! Runs the table and tells what came of it.

use std::time::Instant;

use polar_raw::backend::Backend;
use serde::Serialize;

use crate::case::Spec;
use crate::check::{Prepared, check};
use crate::draw::{Draw, Dtypes};
use crate::power::{Judge, ResultPower, sabotage};
use crate::rows::Row;

/// Which cases to run, and with which inputs.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// An operation of the trait, or the name that its forward and backward pass share; all if none.
    pub operation: Option<String>,
    /// One case of it.
    pub case: Option<String>,
    /// The quick table only.
    pub quick: bool,
    /// Inputs are a function of the seed, the operation and the case.
    pub seed: u64,
}

impl Selection {
    fn takes(&self, operation: &str) -> bool {
        let Some(name) = &self.operation else { return true };
        operation == name || operation.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('_'))
    }
}

/// A case that failed.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// Its label.
    pub case: String,
    /// What is wrong.
    pub error: String,
    /// The command that repeats it alone.
    pub repeat: String,
}

/// What came of one operation's cases.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The operation.
    pub operation: String,
    /// How many cases ran.
    pub cases: usize,
    /// The largest root mean square of a result's errors, of those that passed, as a share of what is allowed.
    pub rms: f64,
    /// The case that it belongs to.
    pub closest: String,
    /// The largest error of an element, as a share of its own bound.
    pub element: f64,
    /// How long they took.
    pub seconds: f64,
    /// Those that failed.
    pub failures: Vec<Failure>,
    /// Of each result, whether it would be noticed if it were wrong; empty if nobody asked.
    pub power: Vec<ResultPower>,
}

/// Runs the selected cases of one row of the table; none if no case is selected. With a `judge`, the results of the
/// cases that passed are sabotaged and judged by it.
pub fn run(
    backend: &dyn Backend,
    name: &str,
    row: &Row,
    selection: &Selection,
    judge: Option<&Judge>,
) -> Option<Outcome> {
    let start = Instant::now();
    let mut outcome = Outcome {
        operation: row.operation.into(),
        cases: 0,
        rms: 0.0,
        closest: String::new(),
        element: 0.0,
        seconds: 0.0,
        failures: Vec::new(),
        power: Vec::new(),
    };
    if !selection.takes(row.operation) {
        return None;
    }
    for spec in (row.cases)() {
        let wanted = match &selection.case {
            Some(label) => *label == spec.label,
            None => spec.quick || !selection.quick,
        };
        if !wanted {
            continue;
        }
        outcome.cases += 1;
        let dtypes = Dtypes::of(backend);
        let case = (spec.draw)(&mut Draw::new(dtypes, selection.seed, row.operation, &spec.label));
        let checked = Prepared::new(&case, dtypes, selection.seed).and_then(|prepared| {
            let (closeness, results) = check(backend, &prepared)?;
            if let Some(judge) = judge {
                sabotage(&prepared, &spec.label, &results, judge, &mut outcome.power);
            }
            Ok(closeness)
        });
        match checked {
            Ok(closeness) => {
                outcome.element = outcome.element.max(closeness.element);
                if closeness.rms >= outcome.rms {
                    (outcome.rms, outcome.closest) = (closeness.rms, spec.label);
                }
            }
            Err(error) => outcome.failures.push(Failure {
                repeat: format!(
                    "cargo run --release -p verify -- --backend {name} --op {} --case '{}' --seed {}",
                    row.operation, spec.label, selection.seed
                ),
                case: spec.label,
                error,
            }),
        }
    }
    outcome.seconds = start.elapsed().as_secs_f64();
    (outcome.cases > 0).then_some(outcome)
}

/// How far a case's model is from the reference where nothing is rounded, relative to the largest element of a result.
pub fn model_error(backend: &dyn Backend, row: &Row, spec: &Spec, seed: u64) -> f64 {
    let dtypes = Dtypes::of(backend);
    let case = (spec.draw)(&mut Draw::new(dtypes, seed, row.operation, &spec.label));
    Prepared::new(&case, dtypes, seed).map_or(f64::INFINITY, |prepared| prepared.model_error())
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verdict = match self.failures.len() {
            0 => "ok".to_owned(),
            n => format!("{n} FAILED"),
        };
        write!(
            f,
            "{:<22} {:>5} cases {:>7.2} s   errors at most {:>5.1} % of what is allowed ({}), of an element {:>5.1} %   \
             {verdict}",
            self.operation,
            self.cases,
            self.seconds,
            100.0 * self.rms,
            self.closest,
            100.0 * self.element,
        )?;
        for failure in &self.failures {
            write!(f, "\n  {}: {}\n    repeat with: {}", failure.case, failure.error, failure.repeat)?;
        }
        Ok(())
    }
}
