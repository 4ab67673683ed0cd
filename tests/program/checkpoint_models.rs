//! The folder of a run's checkpoint given as a model.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use super::{Folder, copy, run, stderr, stdout, succeed};

/// A run with two checkpoints, and rows to score and to evaluate.
fn trained(sets: &[&str]) -> Folder {
    let folder = Folder::new();
    let row = |i| format!("{{\"prompt\":\"p{i}\",\"reference\":\"r\",\"chosen\":\"r{i}\",\"rejected\":\"s\"}}\n");
    folder.file("pairs.jsonl", (0..20).map(row).collect::<String>());
    folder.file("rows.jsonl", "{\"prompt\":\"p\",\"reference\":\"r\",\"output\":\"some\"}\n");
    let sets =
        [&["train.steps=6", "train.checkpoint_every=3", "data.max_length=300", "data.wrapper=pretrain"], sets].concat();
    succeed(&mut folder.train(&sets, &["--run", "run"]));
    folder
}

const FIRST: &str = "run/checkpoints/step-00000003";
const LAST: &str = "run/checkpoints/step-00000006";

/// Every command takes it, and computes with it what it computes with the model that was saved from the same weights.
#[test]
fn a_checkpoint_is_a_model() {
    for sets in [&[][..], &["objective.lm_weight=1.0"]] {
        let folder = trained(sets);
        let said = |args: &[&str]| stdout(&succeed(&mut folder.program(args)));
        let score = |model: &str| said(&["score", "--model", model, "--input", "rows.jsonl"]);
        assert_eq!(score(LAST), score("run/model"));
        assert!(score(FIRST) != score(LAST));

        // Lengths and wrapper are the run's.
        let inspected = said(&["inspect", LAST]);
        for part in ["checkpoint of a run, 1 file", "pretrain wrapper, at most 300 tokens", "v_head.weight"] {
            assert!(inspected.contains(part), "{part} in {inspected}");
        }
        let said_of = |model: &str| {
            let table = said(&["eval", "--model", model, "--data", "pairs.jsonl"]);
            table.lines().find(|line| line.starts_with("margin: ")).unwrap().to_string()
        };
        assert_eq!(said_of(LAST), said_of("run/model"));

        said(&["convert", "--from", LAST, "--to", "converted"]);
        assert_eq!(score("converted"), score(LAST));
        assert!(said(&["inspect", "converted"]).contains("pretrain wrapper, at most 300 tokens"));
        let notes = said(&["convert", "--from", LAST, "--to", "model.gguf", "--as", "gguf"]);
        assert!(notes.contains("polar_raw.json"), "{notes}");

        let args = ["train", "--config", "small.toml", "--init", FIRST, "--run", "tuned", "--set", "train.steps=1"];
        let begun = stderr(&succeed(folder.program(args).args(["--set", "train.checkpoint_every=0"])));
        assert!(begun.contains("weights: from") && begun.contains("step-00000003"), "{begun}");
        assert!(!begun.contains("starts at zero"), "the reward head is there: {begun}");
    }
}

#[test]
fn a_checkpoint_is_served() {
    let folder = trained(&[]);
    let mut command = folder.program(["serve", "--device", "cpu", "--port", "0", "--model", FIRST]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    // A server that refuses its model ends, and with it the lines.
    let (mut said, mut ready) = (String::new(), None);
    for line in lines {
        said += &line;
        if line.starts_with("ready: ") {
            ready = Some(line);
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let ready = ready.unwrap_or_else(|| panic!("{said}"));
    assert!(ready.contains("step-00000003") && ready.contains("sequences of up to 318 tokens"), "{ready}");
}

#[test]
fn a_checkpoint_that_cannot_be_one_says_why() {
    let folder = trained(&[]);
    let refused = |model: &str, parts: &[&str]| {
        let output = run(&mut folder.program(["score", "--model", model, "--input", "rows.jsonl"]));
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{parts:?} in {said}");
    };
    copy(&folder.path(LAST), &folder.path("alone/by/itself"));
    refused("alone/by/itself", &["architecture and tokenizer are those of its run", "RUN/checkpoints/step-NUMBER"]);
    let params = folder.path(LAST).join("params-0.bin");
    let whole = fs::read(&params).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::write(&params, flipped).unwrap();
    refused(LAST, &["params-0.bin does not have its checksum"]);
    fs::write(&params, &whole[..whole.len() - 4]).unwrap();
    refused(LAST, &["params-0.bin has"]);
    fs::remove_file(&params).unwrap();
    refused(LAST, &["params-0.bin"]);
    // No output takes the place of a file of it.
    let output = format!("{FIRST}/state.json");
    let output = run(&mut folder.program(["score", "--model", FIRST, "--input", "rows.jsonl", "--output", &output]));
    assert!(stderr(&output).contains("are the same file"), "{}", stderr(&output));
}

/// What is exported is the best checkpoint's, adapters merged; a checkpoint alone lacks what they are adapters of.
#[test]
fn adapters_are_kept_at_their_best_and_are_no_model() {
    let folder = trained(&[]);
    let sets = ["train.lora.rank=2", "train.steps=4", "eval.every=1", "train.keep_best=true", "optimizer.lr=0.5"];
    let args = ["--init", LAST, "--run", "tuned"];
    succeed(&mut folder.train(&sets, &args));
    let lines = fs::read_to_string(folder.path("tuned/metrics.jsonl")).unwrap();
    let losses: Vec<f64> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["eval_loss"].as_f64().unwrap())
        .collect();
    assert_eq!(losses.len(), 4, "{losses:?}");
    let best = 1 + (0..4).fold(0, |best, i| if losses[i] < losses[best] { i } else { best });
    let checkpoint = format!("tuned/checkpoints/step-{best:08}");
    assert!(folder.path(&checkpoint).is_dir());
    let output = run(&mut folder.program(["score", "--model", &checkpoint, "--input", "rows.jsonl"]));
    let said = stderr(&output);
    assert!(output.status.code() == Some(2) && said.contains("holds adapters (train.lora.rank)"), "{said}");
    succeed(&mut folder.program(["score", "--model", "tuned/model", "--input", "rows.jsonl"]));
}
