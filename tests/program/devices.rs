//! The program on the emulator: trained, stopped, resumed, evaluated and scored through the launchers that drive a card.

use approx::{abs_diff_eq, assert_abs_diff_eq};
use std::fs;
use std::process::Command;

use serde_json::Value;

use super::{Folder, copy, run, stderr, stdout, succeed};

const SETS: [&str; 6] = [
    "train.steps=3",
    "train.checkpoint_every=1",
    "train.keep_checkpoints=3",
    "eval.pairs=2",
    "eval.every=1",
    "objective.lm_weight=0.5",
];

fn losses(folder: &Folder, run: &str) -> Vec<f64> {
    let metrics = fs::read_to_string(folder.path(run).join("metrics.jsonl")).unwrap();
    metrics.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap()).collect()
}

#[test]
fn the_emulator_trains_evaluates_and_scores() {
    let folder = Folder::new();
    let emulator = ["--device", "emulator", "--run"];
    let train = |name: &str| folder.program([&["train", "--config", "small.toml"], &emulator[..], &[name]].concat());
    let sets = SETS.iter().flat_map(|set| ["--set", set]);
    let said = stdout(&succeed(train("run").args(sets.clone())));
    assert!(said.contains("device: PTX emulator") && said.contains("held-out prompts"), "{said}");
    // Resumed after its first step, without the evaluations between the others, it gives the same bits.
    let again = folder.path("again");
    copy(&folder.path("run"), &again);
    for step in ["step-00000002", "step-00000003"] {
        let _ = fs::remove_dir_all(again.join("checkpoints").join(step));
    }
    fs::remove_dir_all(again.join("model")).unwrap();
    let resume = ["train", "--device", "emulator", "--run", "again", "--resume", "--set", "eval.every=0"];
    let output = run(&mut folder.program(resume));
    assert!(output.status.success(), "{}", stderr(&output));
    let weights = |run: &str| fs::read(folder.path(run).join("model/model.safetensors")).unwrap();
    assert_eq!(losses(&folder, "run"), losses(&folder, "again"));
    assert!(weights("run") == weights("again"), "another model than without interruption");
    // On the CPU the same run has nearly the same losses.
    succeed(folder.program(["train", "--config", "small.toml", "--run", "cpu"]).args(sets));
    for (emulated, exact) in losses(&folder, "run").into_iter().zip(losses(&folder, "cpu")) {
        assert!(abs_diff_eq!(emulated, exact, epsilon = 0.01 * exact), "{emulated} and not {exact}");
    }
    folder.file("rows.jsonl", r#"{"prompt": "1 + 2", "reference": "3", "output": "three"}"#);
    let score = |device: &str| {
        let args = ["score", "--model", "run/model", "--input", "rows.jsonl", "--device", device];
        let row: Value = serde_json::from_str(&stdout(&succeed(&mut folder.program(args)))).unwrap();
        row["score"].as_f64().unwrap()
    };
    assert_abs_diff_eq!(score("emulator"), score("cpu"), epsilon = 0.02);
}

/// A machine without a driver: `auto` says so in one line and takes the CPU, `cuda` says so and what to do.
#[test]
#[ignore = "for machines without a CUDA driver: cargo test --release --test program -- --ignored without_a_driver"]
fn without_a_driver_the_program_says_so() {
    let folder = Folder::new();
    let train = |device: &str, run: &str| {
        let mut train = folder.program(["train", "--config", "small.toml", "--device", device, "--run", run]);
        train.args(["--set", "train.steps=1"]);
        train
    };
    let refused = run(&mut train("cuda", "refused"));
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(stderr(&refused), "error: there is no CUDA driver (libcuda) on this machine: use --device cpu\n");
    assert!(!folder.path("refused").exists());
    let said = stderr(&succeed(&mut train("auto", "auto")));
    let of_the_driver: Vec<&str> = said.lines().filter(|line| line.contains("CUDA")).collect();
    assert_eq!(of_the_driver, ["device: the CPU, because this machine has no CUDA driver"]);
    assert!(said.contains("on cpu"), "{said}");
}

/// The emulator's library lies beside the program; one that was copied without it says so.
#[test]
fn without_its_library_there_is_no_emulator() {
    let folder = Folder::new();
    let program = folder.path("polar-raw");
    let built = env!("CARGO_BIN_EXE_polar-raw");
    if fs::hard_link(built, &program).is_err() {
        fs::copy(built, &program).unwrap();
    }
    let args = ["train", "--config", "small.toml", "--device", "emulator", "--run", "run"];
    let output = run(Command::new(&program).current_dir(folder.path("")).args(args));
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(said.starts_with("error: there is no libemulator.so in ") && said.lines().count() == 1, "{said}");
}
