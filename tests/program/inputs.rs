//! How data are named and packed: folders, patterns, standard input, gzip, JSON arrays; and what is no file.

use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Folder, output_of, run, stderr, stdout, succeed};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The output of a command that is given `input`.
fn fed(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // Who has seen enough does not read the rest.
    let feeding = std::thread::spawn(move || stdin.write_all(&input));
    let output = output_of(child);
    let _ = feeding.join().unwrap();
    output
}

fn preferences(range: std::ops::Range<usize>) -> Vec<String> {
    let row = |i| json!({"prompt": format!("p{i}"), "reference": "r", "chosen": format!("c{i}"), "rejected": "no"});
    range.map(|i| row(i).to_string()).collect()
}

fn rows_to_score(range: std::ops::Range<usize>) -> Vec<String> {
    let row = |i| json!({"prompt": format!("p{i}"), "reference": "r", "output": format!("output {i}")}).to_string();
    range.map(row).collect()
}

/// One row in four ways: the rest of a file's content changes nothing.
fn parts(folder: &Folder, rows: &[String]) {
    let piece = rows.len() / 4;
    let lines = |i: usize| rows[i * piece..(i + 1) * piece].join("\n").into_bytes();
    folder.file("parts/0.jsonl", lines(0));
    folder.file("parts/1.jsonl.gz", gzip(&lines(1)));
    folder.file("parts/2.json", format!("[{}]", rows[2 * piece..3 * piece].join(", ")));
    folder.file("parts/3.jsonl.zst", zstd::encode_all(&lines(3)[..], 3).unwrap());
    folder.file("parts/README.md", "no data");
    folder.file("all.jsonl", rows.join("\n"));
}

#[test]
fn rows_to_score_come_from_anywhere() {
    let folder = Folder::new();
    succeed(&mut folder.train(&["train.steps=1"], &["--run", "trained"]));
    parts(&folder, &rows_to_score(0..40));
    let score = |input: &str| folder.program(["score", "--model", "trained/model", "--input", input]);
    let whole = stdout(&succeed(&mut score("all.jsonl")));
    assert_eq!(whole.lines().count(), 40);
    for input in ["parts", "parts/", "parts/[0-3]*", "./pa*s/*.js*"] {
        assert_eq!(stdout(&succeed(&mut score(input))), whole, "{input}");
    }
    let all = fs::read(folder.path("all.jsonl")).unwrap();
    for bytes in [&all, &gzip(&all), &zstd::encode_all(&all[..], 3).unwrap()] {
        let output = fed(&mut score("-"), bytes);
        assert_eq!(stdout(&output), whole, "{}", stderr(&output));
    }
    // A run over several files goes on in the middle of one of them.
    let row = |i: usize| rows_to_score(i..i + 1).remove(0);
    folder.file("many/a.json", format!("[{}]", (0..300).map(row).collect::<Vec<_>>().join(",")));
    folder.file("many/b.jsonl", (300..700).map(row).collect::<Vec<_>>().join("\n\n") + "\n{}\n");
    let to = |more: &[&str]| {
        let mut command = score("many");
        command.args(["--output", "out"]).args(more);
        command
    };
    let output = run(&mut to(&[]));
    assert!(stderr(&output).contains("many/b.jsonl:800: missing key"), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(folder.path("out.partial")).unwrap().lines().count(), 512);
    fs::write(folder.path("many/b.jsonl"), (300..700).map(row).collect::<Vec<_>>().join("\n\n")).unwrap();
    succeed(&mut to(&["--resume"]));
    folder.file("rows.jsonl", (0..700).map(row).collect::<Vec<_>>().join("\n"));
    assert_eq!(fs::read_to_string(folder.path("out")).unwrap(), stdout(&succeed(&mut score("rows.jsonl"))));

    // No output takes the place of a file that a name stands for.
    for name in ["parts", "parts/*.jsonl"] {
        let output = run(score(name).args(["--output", "parts/0.jsonl"]));
        assert!(stderr(&output).contains("--input and --output are the same file"), "{}", stderr(&output));
    }
    for (input, part) in [
        ("none*.jsonl", "none*.jsonl: there is no such file, and none that fits it"),
        ("trained/checkpoints", "there is no file of data in this folder"),
    ] {
        let output = run(&mut score(input));
        assert!(output.status.code() == Some(2) && stderr(&output).contains(part), "{}", stderr(&output));
    }

    let tokenize = |input: &str| folder.program(["tokenize", "--model", "trained/model", "--input", input]);
    let texts: Vec<String> = (0..8).map(|i| json!({"text": format!("text {i}")}).to_string()).collect();
    folder.file("texts.jsonl", texts.join("\n"));
    folder.file("texts/a.jsonl", texts[..4].join("\n"));
    folder.file("texts/b.jsonl.gz", gzip(texts[4..].join("\n").as_bytes()));
    let ids = stdout(&succeed(&mut tokenize("texts.jsonl")));
    assert_eq!(stdout(&succeed(&mut tokenize("texts"))), ids);
    assert_eq!(stdout(&fed(&mut tokenize("-"), texts.join("\n").as_bytes())), ids);
    let back = fed(tokenize("-").arg("--decode"), ids.as_bytes());
    assert_eq!(
        stdout(&back).lines().collect::<Vec<_>>(),
        ["{\"text\":\"text 0\"}"; 8]
            .iter()
            .enumerate()
            .map(|(i, t)| t.replace('0', &i.to_string()))
            .collect::<Vec<_>>()
    );
    folder.file("bad.jsonl", "\"good\"\n\"x \\ud83d\"\n3\n3\n");
    let output = run(&mut tokenize("bad.jsonl"));
    let said = stderr(&output);
    assert!(
        said.contains("3 rows are wrong") && said.contains("bad.jsonl:2: not JSON: found half a surrogate"),
        "{said}"
    );
    assert!(said.contains("bad.jsonl:3: expected a string") && said.contains("bad.jsonl:4: the same"), "{said}");
}

#[test]
fn sets_and_training_data_come_from_several_files() {
    let folder = Folder::new();
    parts(&folder, &preferences(0..40));
    let train = |data: &str, name: &str| {
        let mut command = folder.train(&["train.steps=4"], &["--data", data, "--run", name]);
        succeed(&mut command);
        fs::read(folder.path(name).join("model/model.safetensors")).unwrap()
    };
    let whole = train("all.jsonl", "whole");
    assert!(train("parts", "folder") == whole && train("parts/*.js*", "pattern") == whole);
    // What the names stand for is settled when a run begins, and known by its bytes afterwards.
    let config = fs::read_to_string(folder.path("folder/config.toml")).unwrap();
    assert!(config.contains("parts/3.jsonl.zst") && !config.contains("README"), "{config}");
    folder.file("parts/4.jsonl", preferences(90..91).concat());
    let resume = |args: &[&str]| {
        let mut command = folder.program(["train", "--resume", "--run", "folder", "--set", "train.steps=5"]);
        command.args(args);
        command
    };
    succeed(&mut resume(&[]));
    let output = run(&mut resume(&["--set", "train.steps=6", "--data", "parts"]));
    assert!(stderr(&output).contains("data.train has 5 files, and the run began with 4"), "{}", stderr(&output));
    fs::remove_file(folder.path("parts/4.jsonl")).unwrap();
    fs::rename(folder.path("parts"), folder.path("moved")).unwrap();
    succeed(&mut resume(&["--set", "train.steps=6", "--data", "moved"]));
    fs::rename(folder.path("moved"), folder.path("parts")).unwrap();

    for (args, config) in
        [(&["--data", "-"][..], ""), (&["--data", "all.jsonl", "--eval-data", "-"], ""), (&[], "data.train=['-']")]
    {
        let sets = if config.is_empty() { vec![] } else { vec![config] };
        let output = run(&mut folder.train(&sets, &[args, &["--run", "none"]].concat()));
        let said = stderr(&output);
        assert!(output.status.code() == Some(2) && said.contains("standard input (-) gives them once"), "{said}");
    }

    let eval = |data: &str| folder.program(["eval", "--model", "whole/model", "--data", data, "--json", "out.json"]);
    let result = || -> Value { serde_json::from_slice(&fs::read(folder.path("out.json")).unwrap()).unwrap() };
    succeed(&mut eval("all.jsonl"));
    let whole = result();
    assert_eq!(whole["models"][0]["scores"][0].get("file"), None, "one file is named once");
    for data in ["parts", "parts/?.*"] {
        succeed(&mut eval(data));
        let several = result();
        let scores = |result: &Value| -> Vec<Value> {
            result["models"][0]["scores"].as_array().unwrap().iter().map(|row| row["scores"].clone()).collect()
        };
        assert_eq!((&several["data"]["rows"], scores(&several)), (&json!(40), scores(&whole)), "{data}");
        let last = &several["models"][0]["scores"][39];
        assert_eq!((&last["file"], &last["line"]), (&json!("parts/3.jsonl.zst"), &json!(10)));
    }
    let output = fed(&mut eval("-"), &gzip(&fs::read(folder.path("all.jsonl")).unwrap()));
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(result()["data"]["blake3"], whole["data"]["blake3"]);
    folder.file("parts/4.jsonl", "{\"prompt\": \"p\", \"policy\": \"a\", \"output\": \"o\"}");
    let said = stderr(&run(&mut eval("parts")));
    assert!(
        said.contains("parts/4.jsonl:1: this row is of the kind trajectories, line 1 of parts/0.jsonl of the kind"),
        "{said}"
    );
}

/// Rows without references, such as TRL's, are trained and evaluated on with a file of references, as if they had them.
#[test]
fn pairs_without_a_reference_get_one_from_a_file() {
    let folder = Folder::new();
    let message = |role: &str, content: String| json!({"role": role, "content": content});
    let trl = |i: usize| {
        let talk = |answer: String| [message("user", format!("p{i}")), message("assistant", answer)];
        json!({"chosen": talk(format!("c{i}")), "rejected": talk("no".into())}).to_string()
    };
    let reference = |i: usize| json!({"prompt": format!("p{i}"), "reference": "r"}).to_string();
    folder.file("own.jsonl", preferences(0..20).join("\n"));
    folder.file("trl/a.jsonl", (0..9).map(trl).collect::<Vec<_>>().join("\n"));
    folder.file("trl/b.jsonl.gz", gzip((9..20).map(trl).collect::<Vec<_>>().join("\n").as_bytes()));
    folder.file("references.jsonl", (0..20).map(reference).collect::<Vec<_>>().join("\n"));
    let given = ["--data", "trl", "--references", "references.jsonl"];
    let sets = ["train.steps=4", "data.eval_fraction=0"];
    let model = |args: &[&str], name: &str| {
        let output = succeed(&mut folder.train(&sets, &[args, &["--run", name]].concat()));
        (fs::read(folder.path(name).join("model/model.safetensors")).unwrap(), stderr(&output))
    };
    let (own, said) = model(&["--data", "own.jsonl", "--eval-data", "own.jsonl"], "own");
    assert!(said.contains("own: 20 of its 20 prompts are trained on too"), "{said}");
    assert!(model(&given, "trl-run").0 == own, "the same rows by other names");
    folder.file("others.jsonl", preferences(15..40).join("\n"));
    let (_, said) = model(&[&given[..], &["--eval-data", "others.jsonl"]].concat(), "others");
    assert!(said.contains("others: 5 of its 25 prompts are trained on too"), "{said}");

    let scores = |data: &[&str]| -> Value {
        let args = [&["eval", "--model", "own/model", "--json", "out.json", "--data"], data].concat();
        succeed(&mut folder.program(args));
        let result: Value = serde_json::from_slice(&fs::read(folder.path("out.json")).unwrap()).unwrap();
        result["models"][0]["table"]["rows"][0]["chosen"].clone()
    };
    let with_file = scores(&["trl", "--reference-source", "file", "--references", "references.jsonl"]);
    assert!(with_file.as_array().unwrap().len() == 20 && with_file == scores(&["own.jsonl"]));

    // The references are of what a run is.
    folder.file("references.jsonl", (0..20).map(reference).collect::<Vec<_>>().join("\n") + "\n");
    let output = run(&mut folder.program(["train", "--resume", "--run", "trl-run", "--set", "train.steps=5"]));
    assert!(stderr(&output).contains("references.jsonl is not what it was"), "{}", stderr(&output));
    folder.file("references.jsonl", (2..20).map(reference).collect::<Vec<_>>().join("\n"));
    let output = run(&mut folder.train(&sets, &[&given[..], &["--run", "none"]].concat()));
    let said = stderr(&output);
    assert!(said.contains("2 rows are wrong:") && said.contains("trl/a.jsonl:2: the same"), "{said}");
    assert!(said.contains("trl/a.jsonl:1: data.references has nothing for this row"), "{said}");
    let output = run(&mut folder.train(&sets, &["--data", "trl", "--run", "none"]));
    assert!(
        stderr(&output).contains("to train on pairs without references give --references FILE"),
        "{}",
        stderr(&output)
    );
}

/// A device, a pipe or a socket in the place of a file is refused at once, wherever files are named.
#[test]
fn what_is_no_file_is_refused_at_once() {
    let folder = Folder::new();
    succeed(&mut folder.train(&["train.steps=1"], &["--run", "trained"]));
    folder.file("rows.jsonl", preferences(0..20).join("\n"));
    let pipe = CString::new(folder.path("pipe").as_os_str().as_bytes()).unwrap();
    // SAFETY: the name ends in a zero.
    assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
    let _bound = UnixListener::bind(folder.path("socket")).unwrap();
    let model = "trained/model";
    let places: &[&[&str]] = &[
        &["train", "--run", "none", "--data"],
        &["train", "--run", "none", "--data", "rows.jsonl", "--eval-data"],
        &["train", "--run", "none", "--init"],
        &["train", "--run", "none", "--config"],
        &["train", "--run", "none", "--set", "tokenizer.kind=file", "--set"],
        &["eval", "--model", model, "--data"],
        &["eval", "--data", "rows.jsonl", "--model"],
        &["eval", "--model", model, "--data", "rows.jsonl", "--references"],
        &["score", "--model", model, "--input"],
        &["score", "--input", "rows.jsonl", "--model"],
        &["tokenize", "--model", model, "--input"],
        &["tokenize", "--input", "rows.jsonl", "--model"],
        &["inspect"],
        &["convert", "--to", "none", "--from"],
        &["serve", "--port", "0", "--model"],
    ];
    for args in places {
        for (name, what) in [("/dev/zero", "a device"), ("pipe", "a pipe"), ("socket", "a socket")] {
            let value =
                if args.contains(&"tokenizer.kind=file") { format!("tokenizer.path='{name}'") } else { name.into() };
            let begun = Instant::now();
            let output = run(folder.program(*args).arg(&value));
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{args:?} {name}: {said}");
            assert!(
                said.contains(name) && said.contains(&format!("it is {what} and not a regular file")),
                "{args:?}: {said}"
            );
            assert!(begun.elapsed() < Duration::from_secs(60), "{args:?} {name}: {:?}", begun.elapsed());
        }
    }
    // In a run's and a model's folder too.
    folder.file("score.jsonl", rows_to_score(0..1).concat());
    for file in ["trained/model/config.json", "trained/model/tokenizer.json", "trained/model/polar_raw.json"] {
        let good = fs::read(folder.path(file)).unwrap();
        fs::remove_file(folder.path(file)).unwrap();
        std::os::unix::fs::symlink("/dev/zero", folder.path(file)).unwrap();
        let output = run(&mut folder.program(["score", "--model", model, "--input", "score.jsonl"]));
        assert!(stderr(&output).contains(&format!("{file}: it is a device")), "{file}: {}", stderr(&output));
        fs::remove_file(folder.path(file)).unwrap();
        fs::write(folder.path(file), good).unwrap();
    }
    let args = ["--run", "trained", "--resume", "--set", "train.steps=2"];
    for file in ["metrics.jsonl", "start/manifest.json"] {
        fs::rename(folder.path("trained").join(file), folder.path("kept")).unwrap();
        let pipe = CString::new(folder.path("trained").join(file).as_os_str().as_bytes()).unwrap();
        // SAFETY: the name ends in a zero.
        assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
        let output = run(&mut folder.program(["train"].iter().chain(&args)));
        assert!(stderr(&output).contains(&format!("{file}: it is a pipe")), "{file}: {}", stderr(&output));
        fs::rename(folder.path("kept"), folder.path("trained").join(file)).unwrap();
    }
}

/// Thirty kilobytes that are gigabytes of blank lines.
#[test]
fn a_bomb_is_refused_in_seconds() {
    let folder = Folder::new();
    succeed(&mut folder.train(&["train.steps=1"], &["--run", "trained"]));
    folder.file("bomb", zstd::encode_all(&vec![b'\n'; 1 << 20][..], 3).unwrap().repeat(600));
    assert!(fs::metadata(folder.path("bomb")).unwrap().len() < 1 << 15);
    let begun = Instant::now();
    let commands: [&[&str]; 3] = [
        &["train", "--run", "none", "--data", "bomb"],
        &["eval", "--model", "trained/model", "--data", "bomb"],
        &["score", "--model", "trained/model", "--input", "bomb"],
    ];
    for args in commands {
        let output = run(&mut folder.program(args));
        let said = stderr(&output);
        assert!(
            output.status.code() == Some(2) && said.contains("hold more than 64 MiB and 1000 times as many"),
            "{said}"
        );
    }
    assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
}
