//! The quick table, with inputs that no run had before, and whether wrong results would be noticed.

use std::time::{SystemTime, UNIX_EPOCH};

use verify::check::{Closeness, Prepared};
use verify::power::{Judge, SABOTAGES, Sabotage, table};
use verify::report::{Outcome, Selection, run};

fn seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

fn outcomes(backend: &str, selection: &Selection, judge: &Judge) -> Vec<Outcome> {
    let on = verify::backend(backend).unwrap();
    let rows = verify::rows::table();
    rows.iter().filter_map(|row| run(&*on, backend, row, selection, Some(judge))).collect()
}

fn rule(prepared: &Prepared, i: usize, got: &[f64]) -> Result<Closeness, String> {
    prepared.judge(i, got)
}

/// Results and sabotages that do not go together, by the name of the operation or of the result.
fn may_be_absent(operation: &str, result: &str, sabotage: Sabotage) -> bool {
    match sabotage {
        // One number, or the same everywhere.
        Sabotage::RowsSwapped => ["loss", "sum", "count"].contains(&result) || operation == "fill",
        // No heads; those of keys are one where there is but one.
        Sabotage::Head => !operation.starts_with("attention") && !operation.starts_with("rope"),
        // Data moves, or an element comes of one other; or the parameters, which are the masters rounded; or a count,
        // which is exact.
        Sabotage::Term => {
            let moves = ["copy", "fill", "bias_forward", "embedding_forward", "rope", "swiglu", "gather"];
            moves.iter().any(|name| operation.starts_with(name)) || ["params", "count"].contains(&result)
        }
        Sabotage::Overwritten => {
            let added = ["dbias", "dtable", "dweight", "loss", "dnorm", "dhead", "master"];
            let also = [("bias_forward", "y"), ("gather_backward", "dx"), ("rmsnorm_backward", "dx"), ("gemm", "out")];
            !added.contains(&result) && !also.contains(&(operation, result))
        }
        _ => false,
    }
}

#[test]
fn the_cpu_agrees_with_the_reference_and_wrong_results_are_noticed() {
    let selection = Selection { quick: true, seed: seed(), ..Selection::default() };
    let outcomes = outcomes("cpu", &selection, &rule);
    let failed: Vec<String> = outcomes.iter().filter(|o| !o.failures.is_empty()).map(|o| o.to_string()).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    for outcome in outcomes {
        for power in &outcome.power {
            let shown = || table(&[(outcome.operation.clone(), vec![power.clone()])]);
            assert!(power.is_whole(), "seed {}\n{}", selection.seed, shown());
            for ((sabotage, _), count) in SABOTAGES.into_iter().zip(power.counts) {
                let absent = may_be_absent(&outcome.operation, &power.result, sabotage);
                assert!(count.cases > 0 || absent, "{sabotage:?} counts nowhere\n{}", shown());
            }
        }
    }
}

/// Heads of 64 and 128 on the kernels, whose bounds an element notice nothing of what is wrong with their gradients.
#[test]
fn the_bounds_of_an_element_are_blind_and_the_rule_is_not() {
    let selection = Selection {
        operation: Some("attention_backward".into()),
        case: Some("0+[17,16] 2+[129] heads 3/1x128 All".into()),
        seed: seed(),
        ..Selection::default()
    };
    let noticed = |judge: &Judge| {
        let outcome = outcomes("emulator", &selection, judge).remove(0);
        assert!(outcome.failures.is_empty(), "{outcome}");
        outcome.power.iter().map(|power| (power.result.clone(), power.is_whole())).collect::<Vec<_>>()
    };
    let results = |dq: bool, dk: bool, dv: bool| {
        [("dq", dq), ("dk", dk), ("dv", dv)].map(|(result, whole)| (result.to_owned(), whole)).to_vec()
    };
    assert_eq!(noticed(&rule), results(true, true, true));
    let bounds = |prepared: &Prepared, i: usize, got: &[f64]| prepared.elements(i, got);
    assert_eq!(noticed(&bounds), results(false, false, true));
    let blind = |_: &Prepared, _: usize, _: &[f64]| Ok(Closeness::default());
    assert_eq!(noticed(&blind), results(false, false, false));
}

#[test]
fn what_goes_unnoticed_is_named_and_counted() {
    let selection = Selection { operation: Some("swiglu_forward".into()), quick: true, ..Selection::default() };
    let blind = |_: &Prepared, _: usize, _: &[f64]| Ok(Closeness::default());
    let outcome = outcomes("cpu", &selection, &blind).remove(0);
    let power = outcome.power[0].clone();
    assert!(!power.is_whole() && power.counts.iter().all(|count| count.noticed == 0));
    let text = table(&[(outcome.operation, vec![power])]);
    assert!(text.contains("0 % of 11") && text.contains("NOT NOTICED: 7x64: y sign"), "{text}");
}

/// A model that is not the operation's formula would explain any error.
#[test]
fn models_are_the_reference_where_nothing_is_rounded() {
    let backend = verify::backend("cpu").unwrap();
    for row in verify::rows::table() {
        for spec in (row.cases)().into_iter().filter(|spec| spec.quick) {
            let off = verify::report::model_error(&*backend, row, &spec, seed());
            assert!(off < 1e-11, "{} {}: {off:e}", row.operation, spec.label);
        }
    }
}
