//! With what a run that was interrupted may go on, and with what not.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{Folder, copy, run, stderr, succeed, tree};

const ROWS: usize = 40;

fn rows() -> String {
    let row = |i| format!("{{\"prompt\":\"p{i}\",\"reference\":\"r\",\"chosen\":\"r{i}\",\"rejected\":\"s\"}}\n");
    (0..ROWS).map(row).collect()
}

/// The run `run` of four steps on a file of rows, which has come to its end.
fn finished(args: &[&str]) -> Folder {
    let folder = Folder::new();
    folder.file("rows.jsonl", rows());
    let args = [&["--data", "rows.jsonl", "--run", "run"], args].concat();
    succeed(&mut folder.train(&["train.steps=4", "train.checkpoint_every=2"], &args));
    folder
}

/// Turns it into one that was killed after its last step.
fn unfinish(folder: &Folder) {
    fs::remove_file(folder.path("run/report.html")).unwrap();
}

fn resume(folder: &Folder, args: &[&str]) -> Command {
    folder.program(["train", "--resume", "--run", "run"].iter().chain(args))
}

/// The command is refused with all of `parts`, and no file is changed.
fn refused(folder: &Folder, command: &mut Command, parts: &[&str]) {
    let before = tree(folder.0.path());
    let output = run(command);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{command:?}: {said}");
    assert!(parts.iter().all(|part| said.contains(part)), "{parts:?} in {said}");
    let changed: Vec<_> =
        tree(folder.0.path()).into_iter().filter(|(path, now)| before.get(path) != Some(now)).collect();
    let lock = |path: &Path| path.ends_with("run.lock");
    assert!(changed.iter().all(|(path, _)| lock(path)), "{changed:?}");
}

fn metrics(folder: &Folder) -> Vec<Value> {
    let text = fs::read_to_string(folder.path("run/metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// `--set` is laid over the run's own configuration: a finished run goes on for more steps, with another learning rate,
/// and says so in both records.
#[test]
fn what_is_still_to_come_may_change() {
    let folder = finished(&[]);
    let lr = |line: &Value| line["lr"].as_f64().unwrap();
    let sets = ["--set", "train.steps=8", "--set", "optimizer.lr=0.05", "--set", "schedule.warmup_ratio=0.0"];
    let said = stderr(&succeed(&mut resume(&folder, &sets)));
    assert!(said.contains("going on after step 4") && said.contains("changed: train.steps = 8, was 4"), "{said}");
    let lines = metrics(&folder);
    assert_eq!(lines.len(), 8);
    assert!(lr(&lines[3]) < 0.01 && lr(&lines[4]) > 0.01);
    let changed = lines[4]["changed"].as_array().unwrap();
    assert!(changed.iter().any(|change| change == "train.steps = 8, was 4"), "{changed:?}");
    assert!(lines.iter().enumerate().all(|(i, line)| line.get("changed").is_some() == (i == 4)));
    let config = fs::read_to_string(folder.path("run/config.toml")).unwrap();
    assert!(config.contains("steps = 8\n") && config.contains("lr = 0.05\n"), "{config}");
    assert!(config.contains(r#"{"after_step":4,"key":"train.steps","from":"4","to":"8"}"#), "{config}");
    assert!(folder.path("run/report.html").exists());
    // It has finished anew, and the change is its own from now on.
    let said = String::from_utf8(succeed(&mut resume(&folder, &[])).stdout).unwrap();
    assert!(said.contains("finished before"), "{said}");

    refused(&folder, &mut resume(&folder, &["--set", "train.steps=7"]), &["train.steps = 7", "has done 8 steps"]);
    for set in ["train.seed=2", "model.hidden_size=32", "train.batch_size=4", "data.pack_length=600"] {
        let key = set.split_once('=').unwrap().0;
        let output = run(&mut resume(&folder, &["--set", set]));
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert_eq!(said.matches(" instead of ").count(), 1, "{said}");
        assert!(said.contains(&format!("another configuration: {key}: ")), "{said}");
    }
}

/// Data are known by their bytes: from another folder, under another name, at another place.
#[test]
fn data_may_move() {
    let folder = finished(&[]);
    unfinish(&folder);
    fs::create_dir(folder.path("elsewhere")).unwrap();
    let run_folder = folder.path("run");
    let mut command = folder.program(["train", "--resume", "--run", run_folder.to_str().unwrap()]);
    succeed(command.current_dir(folder.path("elsewhere")));

    unfinish(&folder);
    fs::rename(folder.path("rows.jsonl"), folder.path("elsewhere/moved.jsonl")).unwrap();
    refused(&folder, &mut resume(&folder, &[]), &["rows.jsonl", "--resume --data FILE"]);
    folder.file("other.jsonl", rows().replace("p7", "p77"));
    refused(&folder, &mut resume(&folder, &["--data", "other.jsonl"]), &["other.jsonl is not what it was"]);
    let moved = "elsewhere/moved.jsonl";
    refused(&folder, &mut resume(&folder, &["--data", moved, "--data", moved]), &["moved.jsonl are one file"]);
    let args = ["--data", moved, "--data", "other.jsonl"];
    refused(&folder, &mut resume(&folder, &args), &["data.train has 2 files"]);
    succeed(&mut resume(&folder, &["--data", moved]));
    // The new place is remembered.
    unfinish(&folder);
    succeed(&mut resume(&folder, &[]));
}

/// One bit of what the run began with, or an edited configuration, would silently make it another run.
#[test]
fn what_a_run_began_with_is_held_by_hashes() {
    let model = finished(&[]);
    let init = model.path("run/model");
    let folder = finished(&["--init", init.to_str().unwrap()]);
    unfinish(&folder);
    let files: Vec<_> = tree(&folder.path("run/start")).into_iter().collect();
    assert!(files.iter().any(|(path, _)| path.ends_with("model.safetensors")));
    for (path, content) in files {
        for at in [0, content.len() / 2, content.len() - 1] {
            let mut flipped = content.clone();
            flipped[at] ^= 1;
            fs::write(&path, flipped).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            let parts = if name == "manifest.json" { vec!["start/"] } else { vec![name, "is not what it was"] };
            refused(&folder, &mut resume(&folder, &[]), &parts);
        }
        fs::write(&path, content).unwrap();
    }
    let config = fs::read_to_string(folder.path("run/config.toml")).unwrap();
    folder.file("run/config.toml", config.replace("steps = 4\n", "steps = 5\n"));
    refused(&folder, &mut resume(&folder, &[]), &["config.toml is not what the run wrote", "--resume --set"]);
    folder.file("run/config.toml", config);
    succeed(&mut resume(&folder, &[]));
}

/// Sums are divided among threads, so that their number decides the last bits.
#[test]
fn another_number_of_threads_is_refused_or_accepted() {
    let folder = Folder::new();
    let begin = folder.train(&["train.steps=4"], &["--run", "run"]).env("RAYON_NUM_THREADS", "1").status();
    assert!(begin.unwrap().success());
    unfinish(&folder);
    let two = |args: &[&str]| {
        let mut command = resume(&folder, args);
        command.env("RAYON_NUM_THREADS", "2");
        command
    };
    refused(&folder, &mut two(&[]), &["threads was 1 and is 2", "RAYON_NUM_THREADS=1", "--accept-other-bits"]);
    succeed(&mut two(&["--accept-other-bits"]));
    unfinish(&folder);
    succeed(&mut two(&[]));
    let config = fs::read_to_string(folder.path("run/config.toml")).unwrap();
    assert!(config.contains(r#"{"after_step":4,"key":"threads","from":"1","to":"2"}"#), "{config}");
}

#[test]
fn damaged_metrics_are_refused_before_the_first_step() {
    let folder = finished(&[]);
    unfinish(&folder);
    let text = fs::read_to_string(folder.path("run/metrics.jsonl")).unwrap();
    folder.file("run/metrics.jsonl", text.replacen("\"loss\":", "\"loss\":\"x", 1));
    refused(&folder, &mut resume(&folder, &["--set", "train.steps=6"]), &["metrics.jsonl: line 1: ", "remove it"]);
    folder.file("run/metrics.jsonl", text);
    succeed(&mut resume(&folder, &[]));
}

#[test]
fn a_trace_takes_the_place_of_no_file_of_the_run() {
    let folder = finished(&[]);
    unfinish(&folder);
    let output = run(&mut resume(&folder, &["--trace", "run/report.html"]));
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("run/report.html exists by now"), "{}", stderr(&output));
    assert!(fs::read_to_string(folder.path("run/report.html")).unwrap().contains("<html"));
}

/// A folder `start` of somebody else is no beginning of a run; one of ours that was interrupted is begun again.
#[test]
fn only_a_beginning_of_ours_is_begun_again() {
    let folder = finished(&[]);
    copy(&folder.path("run/start"), &folder.path("half/start"));
    succeed(&mut folder.train(&["train.steps=1"], &["--run", "half"]));
    copy(&folder.path("run/start"), &folder.path("mine/start"));
    folder.file("mine/start/thesis.txt", "thesis");
    refused(&folder, &mut folder.train(&["train.steps=1"], &["--run", "mine"]), &["mine holds start and no run"]);
}
