//! The quick table on the CPU backend, with inputs that no run had before.

use std::time::{SystemTime, UNIX_EPOCH};

use verify::report::{Selection, run};

#[test]
fn cpu_agrees_with_the_reference() {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let selection = Selection { quick: true, seed, ..Selection::default() };
    let backend = verify::backend("cpu").unwrap();
    let outcomes = verify::rows::table().into_iter().map(|row| run(&*backend, "cpu", &row, &selection).unwrap());
    let failed: Vec<String> = outcomes.filter(|o| !o.failures.is_empty()).map(|o| o.to_string()).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
