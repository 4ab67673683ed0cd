//! Kernels that are wrong, and the checks that have to say so.
//!
//! Each mutant is one instruction of the committed PTX changed, as a slip of the pen would: a barrier left out, a wait
//! relaxed, a bound off by one, operands swapped, a wrong stride, an early exit. It runs through a case of
//! `tests/kernels` and must not survive it. The committed kernels must: the same call passes with them.

#[path = "../kernels/attention.rs"]
#[allow(dead_code, reason = "not every case has a mutant")]
mod attention;
#[path = "../kernels/device.rs"]
mod device;
#[path = "../kernels/flat.rs"]
#[allow(dead_code, reason = "not every case has a mutant")]
mod flat;
#[path = "../kernels/gemm.rs"]
#[allow(dead_code, reason = "not every case has a mutant")]
mod gemm;
#[path = "../kernels/heads.rs"]
#[allow(dead_code, reason = "not every case has a mutant")]
mod heads;
mod list;
mod mutation;
#[path = "../kernels/rows.rs"]
#[allow(dead_code, reason = "not every case has a mutant")]
mod rows;
#[path = "../kernels/values.rs"]
mod values;

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io::Write;
use std::panic;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use device::Kernels;
use list::{Case, MUTANTS, Mutant};

thread_local! {
    /// Whether this thread runs a case, whose checks panic.
    static IN_CASE: Cell<bool> = const { Cell::new(false) };
    /// The file and the message of the last panic in one.
    static PANIC: RefCell<Option<(String, String)>> = const { RefCell::new(None) };
}

/// What became of kernels that ran through a case.
enum Fate {
    Passed,
    /// The check that caught them, in words.
    Killed(String),
    /// The emulator or the test itself broke, which proves nothing.
    Broken(String),
}

/// Runs a case.
fn fate(case: Case, kernels: &Kernels) -> Fate {
    PANIC.take();
    IN_CASE.set(true);
    let passed = panic::catch_unwind(panic::AssertUnwindSafe(|| (case.run)(kernels))).is_ok();
    IN_CASE.set(false);
    if passed {
        return Fate::Passed;
    }
    let first = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    match PANIC.take() {
        Some((file, text)) if file.ends_with("kernels/device.rs") => Fate::Killed(first(&text)),
        Some((file, text)) if file.contains("kernels/") => Fate::Killed(format!("wrong result: {}", first(&text))),
        Some((file, text)) => Fate::Broken(format!("{file}: {text}")),
        None => Fate::Broken("a thread of the emulator panicked".into()),
    }
}

/// What there is to say about a mutant, and whether it is as it has to be.
fn judge(mutant: &Mutant) -> (String, bool) {
    let who = format!("{} {}, {}: {}", mutant.target, mutant.kernel, mutant.kind, mutant.what);
    let made = mutation::entry(mutant.target, mutant.kernel)
        .and_then(|entry| Ok((entry, mutation::change(entry, &mutant.place, &mutant.edit)?)));
    let (entry, change) = match made {
        Ok(made) => made,
        Err(why) => return (format!("{who}: cannot be made: {why}"), false),
    };
    match Kernels::with(entry, &change.ptx) {
        Err(why) => (format!("{who}: is no PTX: {why}; {}", change.text), false),
        Ok(kernels) => match fate(mutant.case, &kernels) {
            Fate::Passed => (format!("{who}: SURVIVED; {}", change.text), false),
            Fate::Broken(why) => (format!("{who}: is not caught but breaks the test: {why}; {}", change.text), false),
            Fate::Killed(by) => {
                let by = by.strip_prefix(mutant.kernel).map_or(&*by, |by| by.trim_start_matches(": "));
                (format!("{who} <- {by:.160}"), true)
            }
        },
    }
}

/// Runs `f` for each of `all` on two threads, and returns the lines of those of which it says no.
fn all_are<T: Sync>(all: &[T], f: impl Fn(&T) -> (String, bool) + Sync) -> Vec<String> {
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (line, right) = f(one);
                    // Past the capture of tests' output: the list is worth reading when all is well.
                    let _ = writeln!(std::io::stderr(), "{line}");
                    if !right && let Ok(mut wrong) = wrong.lock() {
                        wrong.push(line);
                    }
                }
            });
        }
    });
    wrong.into_inner().unwrap_or_default()
}

#[test]
fn every_mutant_is_caught_and_the_committed_kernels_are_not() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !IN_CASE.get() {
            return usual(info);
        }
        let file = info.location().map_or_else(String::new, |at| at.file().replace('\\', "/"));
        PANIC.set(Some((file, info.payload_as_str().unwrap_or_default().to_owned())));
    }));
    let mut cases: Vec<Case> = MUTANTS.iter().map(|mutant| mutant.case).collect();
    cases.sort_by_key(|case| case.name);
    cases.dedup_by_key(|case| case.name);
    let unjust = all_are(&cases, |&case| match fate(case, Kernels::committed()) {
        Fate::Passed => (format!("{}: the committed kernels pass", case.name), true),
        Fate::Killed(why) | Fate::Broken(why) => {
            (format!("{}: the committed kernels do not pass: {why}", case.name), false)
        }
    });
    let alive = all_are(MUTANTS, judge);
    assert!(unjust.is_empty(), "{}", unjust.join("\n"));
    assert!(alive.is_empty(), "{} of {} mutants are alive:\n{}", alive.len(), MUTANTS.len(), alive.join("\n"));
}

/// A list that was cut down proves less than it says.
#[test]
fn every_operation_and_every_kind_of_slip_has_mutants() {
    let operations = [
        "adamw",
        "attention_backward_kv",
        "attention_backward_q",
        "attention_forward",
        "bias",
        "embedding",
        "gather",
        "gemm",
        "global_norm",
        "head_rmsnorm",
        "linear_cross_entropy",
        "reward_head",
        "rmsnorm",
        "rope",
        "swiglu",
    ];
    for operation in operations {
        let mutants = MUTANTS.iter().filter(|mutant| mutant.kernel.starts_with(operation)).count();
        assert!(mutants >= 2, "{operation} has {mutants} mutants");
    }
    // So has every target whose PTX is committed.
    for module in polar_raw::cuda::ptx::MODULES {
        let target = module.target.name;
        assert!(MUTANTS.iter().any(|mutant| mutant.target == target), "{target} has no mutants");
    }
    for kind in list::KINDS {
        let mutants = MUTANTS.iter().filter(|mutant| mutant.kind == kind).count();
        assert!(mutants >= 4, "there are {mutants} mutants of the kind: {kind}");
    }
    let different: HashSet<(&str, &str, &str)> =
        MUTANTS.iter().map(|mutant| (mutant.target, mutant.kernel, mutant.what)).collect();
    assert_eq!(different.len(), MUTANTS.len(), "two mutants have one name");
}
