//! Mistakes of the user: a message with file, line, key or value and what to do, exit status 2, nothing written.

use std::ffi::{CString, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::{Folder, run, stderr, succeed, tree};

/// Runs a command that must be refused with a message that holds all of `parts`, and without a change to a file.
fn refused(folder: &Folder, command: &mut Command, parts: &[&str]) {
    let before = tree(folder.0.path());
    let output = run(command);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{command:?}\n{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    assert!(tree(folder.0.path()) == before, "{command:?} wrote something");
    assert!(!folder.path("run").exists() && !folder.path("runs").exists(), "{command:?} made a folder");
}

/// As [`refused`], without reading the folder's files: one of them is a pipe.
fn refused_beside(folder: &Folder, command: &mut Command, parts: &[&str]) {
    let names = || fs::read_dir(folder.0.path()).unwrap().count();
    let before = names();
    let output = run(command);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{command:?}\n{said}");
    assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    assert_eq!(names(), before, "{command:?} wrote something");
}

fn c_name(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

/// Rows of preferences enough to train on.
fn preferences() -> String {
    let row = |i| json!({"prompt": format!("p{i}"), "reference": "r", "chosen": "r", "rejected": "s"}).to_string();
    (0..20).map(row).collect::<Vec<_>>().join("\n")
}

#[test]
fn data() {
    let folder = Folder::new();
    let trajectory = r#"{"prompt": "p", "policy": "a", "output": "o"}"#;
    let pairs = "{\"chosen_ids\": [1, 5, 4], \"rejected_ids\": [1, 6, 4]}\n\n{\"chosen_ids\": [1, 5, 4], \"rejected_ids\": [1, 70000, 4]}\n";
    let packed = zstd::encode_all(preferences().repeat(100).as_bytes(), 3).unwrap();
    let cases: [(&[u8], &[&str]); 13] = [
        (b"{\"prompt\": \"p\",\n", &["rows.jsonl:1", "one JSON object"]),
        (
            b"{\"prompt\": \"p\", \"chosen\": \"c\", \"rejected\": \"d\"}\n",
            &["rows.jsonl:1", "missing key \"reference\""],
        ),
        (b"{\"prompt\": \"p\", \"policy\": \"a\", \"output\": 7}\n", &["rows.jsonl:1", "\"output\"", "the number 7"]),
        (b"{\"question\": \"p\"}\n", &["rows.jsonl:1", "no known kind", "{prompt, policy, output}"]),
        (b"", &["rows.jsonl", "nothing in it"]),
        (b"\n \n", &["rows.jsonl", "nothing in it"]),
        (b"{\"prompt\": \"\xff\"}\n", &["rows.jsonl:1", "not UTF-8"]),
        (&packed[..packed.len() / 2], &["rows.jsonl:", "zstd data is damaged or cut short"]),
        (trajectory.as_bytes(), &["rows.jsonl", "no triple can be made", "two samples of one policy"]),
        (b"{\"prompt\": \"p\", \"output\": \"o\"}\n", &["rows.jsonl", "objective.kind=lm"]),
        (b"{\"input_ids\": [1]}\n", &["rows.jsonl:1", "polar-raw score"]),
        (pairs.as_bytes(), &["rows.jsonl:3", "rejected_ids has 70000", "vocab_size = 261"]),
        (b"{\"chosen_ids\": [1], \"rejected_ids\": []}\n", &["rows.jsonl:1", "rejected_ids", "empty list"]),
    ];
    for (content, parts) in cases {
        folder.file("rows.jsonl", content);
        refused(&folder, &mut folder.train(&[], &["--data", "rows.jsonl", "--run", "run"]), parts);
        folder.file("good.jsonl", preferences());
        let args = ["--data", "good.jsonl", "--eval-data", "rows.jsonl", "--run", "run"];
        let parts: Vec<_> = parts.iter().map(|part| part.trim_end_matches(".jsonl")).collect();
        refused(&folder, &mut folder.train(&[], &args), &parts);
    }
    let data = ["--data", "good.jsonl", "--run", "run"];
    refused(&folder, &mut folder.train(&["objective.kind=lm"], &data), &["good.jsonl", "{prompt, output}"]);
    refused(&folder, &mut folder.train(&["data.pack_length=8"], &data), &["data.pack_length = 8", "data.max_length"]);
    let other = ["--data", "good.jsonl", "--data", "other.jsonl", "--run", "run"];
    folder.file("other.jsonl", trajectory);
    refused(&folder, &mut folder.train(&[], &other), &["other.jsonl", "good.jsonl", "one kind"]);
    refused(
        &folder,
        &mut folder.train(&[], &["--data", "none.jsonl", "--run", "run"]),
        &["cannot read ", "none.jsonl: "],
    );
    refused(&folder, &mut folder.train(&[], &["--eval-data", "good.jsonl", "--run", "run"]), &["--data"]);
    let all = "data.eval_fraction=1.0";
    refused(&folder, &mut folder.train(&[all], &data), &["data.eval_fraction = 1", "every prompt"]);
    // A name that TOML, and so the run's configuration, cannot hold.
    let name = OsStr::from_bytes(b"\xff.jsonl");
    fs::copy(folder.path("good.jsonl"), folder.0.path().join(name)).unwrap();
    refused(&folder, folder.train(&[], &["--run", "run", "--data"]).arg(name), &["cannot be saved as TOML"]);
    folder.file("ids.jsonl", "{\"chosen_ids\": [1, 5, 4], \"rejected_ids\": [1, 6, 4]}\n");
    let ids = ["--data", "ids.jsonl", "--run", "run"];
    refused(&folder, &mut folder.train(&["tokenizer.kind=bpe"], &ids), &["token ids", "--init", "tokenizer.kind=file"]);
    let few = ["model.max_position_embeddings=8", "data.max_length=8", "data.max_response_length=8"];
    folder.file("ids.jsonl", "{\"chosen_ids\": [1,2,3,1,2,3,1,2,4], \"rejected_ids\": [1, 4]}\n");
    refused(&folder, &mut folder.train(&few, &ids), &["ids.jsonl:1: chosen_ids has 9 ids", "at most"]);
}

#[test]
fn configuration() {
    let folder = Folder::new();
    let run = ["--run", "run"];
    let sets: [(&str, &[&str]); 22] = [
        ("optimizer.lrr=1", &["--set optimizer.lrr=1", "did you mean `lr`"]),
        ("optimiser.lr=1", &["did you mean `optimizer`"]),
        ("train.lr=1", &["did you mean `optimizer.lr`"]),
        ("lr=1", &["--set lr=1", "section.key=value"]),
        ("optimizer.lr", &["--set optimizer.lr", "section.key=value"]),
        ("train.steps=many", &["train.steps", "many"]),
        ("optimizer.lr=nan", &["optimizer.lr = NaN", "above 0"]),
        ("optimizer.lr=inf", &["optimizer.lr = inf", "above 0"]),
        ("optimizer.lr=-1e-3", &["optimizer.lr = -0.001", "above 0"]),
        ("optimizer.betas=[0.9,1.0]", &["optimizer.betas"]),
        ("objective.kind=rank", &["objective.kind", "`polar`"]),
        ("train.batch_size=0", &["train.batch_size = 0", "between 1 and"]),
        ("train.steps=0", &["train.steps = 0", "zoo"]),
        ("model.hidden_size=0", &["model.hidden_size = 0"]),
        ("model.num_hidden_layers=0", &["model.num_hidden_layers = 0"]),
        ("model.num_attention_heads=3", &["model.num_attention_heads = 3", "hidden_size = 16"]),
        ("model.num_key_value_heads=0", &["model.num_key_value_heads = 0"]),
        ("data.max_length=0", &["data.max_length = 0"]),
        ("data.pack_length=0", &["data.pack_length = 0"]),
        ("data.max_length=5000", &["data.max_length = 5000", "max_position_embeddings = 4096"]),
        ("tokenizer.kind=file", &["tokenizer.path is missing"]),
        ("eval.pairs=0", &["eval.pairs = 0"]),
    ];
    for (set, parts) in sets {
        refused(&folder, &mut folder.train(&[set], &run), parts);
    }
    let program = |args: &[&str]| folder.program(["train", "--run", "run"].iter().chain(args));
    refused(&folder, &mut program(&["--preset", "quikstart"]), &["`quikstart`", "did you mean `quickstart`"]);
    refused(&folder, &mut program(&["--device", "tpu"]), &["'tpu'", "--device", "cpu"]);
    refused(&folder, &mut program(&["--config", "none.toml"]), &["cannot read none.toml"]);
    let files: [(&str, &[&str]); 4] = [
        ("[train]\nsteps = \n", &["bad.toml:2"]),
        ("[train]\nsteps = 1\nstep = 2\n", &["bad.toml:3", "train.step", "did you mean `steps`"]),
        ("[train]\n\nsteps = \"1\"\n", &["bad.toml:3", "train.steps"]),
        ("[optimizer]\nlr = 0.0\n", &["bad.toml", "optimizer.lr = 0"]),
    ];
    for (content, parts) in files {
        folder.file("bad.toml", content);
        refused(&folder, &mut program(&["--config", "bad.toml"]), parts);
    }
    folder.file("bad.toml", b"[train]\n# \xff\n");
    refused(&folder, &mut program(&["--config", "bad.toml"]), &["bad.toml:2", "UTF-8"]);
}

#[test]
fn folders_of_runs() {
    let folder = Folder::new();
    folder.file("file", "");
    refused(&folder, &mut folder.train(&[], &["--run", "file/run"]), &["file/run", "Not a directory"]);
    refused(&folder, &mut folder.train(&[], &["--run", "file"]), &["file"]);
    refused(
        &folder,
        &mut folder.train(&[], &["--run", "/proc/no such folder"]),
        &["cannot create /proc/no such folder"],
    );
    refused(&folder, &mut folder.program(["train", "--resume"]), &["--run"]);
    refused(&folder, &mut folder.program(["train", "--resume", "--run", "run"]), &["run holds no run to resume"]);
    for name in [
        "notes.txt",
        "start/thesis.txt",
        "start/manifest.json",
        "checkpoints/step-00000001/COMPLETE",
        ".git/config",
        "model/config.json",
    ] {
        let folder = Folder::new();
        folder.file(&format!("mine/{name}"), "");
        let holds = format!("mine holds {}", name.split('/').next().unwrap());
        refused(&folder, &mut folder.train(&[], &["--run", "mine"]), &[&holds, "--run"]);
        refused(&folder, &mut folder.train(&[], &["--run", "mine", "--resume"]), &[&holds, "--run"]);
    }

    succeed(&mut folder.train(&["train.steps=2"], &["--run", "begun"]));
    refused(&folder, &mut folder.train(&["train.steps=2"], &["--run", "begun"]), &["already holds a run", "--resume"]);
    let args = ["--run", "begun", "--resume"];
    let parts = ["begun belongs to another configuration", "train.seed: 3 instead of 1", "--run"];
    refused(&folder, &mut folder.train(&["train.steps=2", "train.seed=3"], &args), &parts);
    folder.file("begun/config.toml", "[train]\nsteps = 2\n");
    let parts = ["begun/config.toml is not what the run wrote", "--resume --set"];
    refused(&folder, &mut folder.program(["train"].iter().chain(&args)), &parts);
}

/// A safetensors file of `header` and `data` bytes.
fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + data, 0);
    file
}

#[test]
fn models() {
    let folder = Folder::new();
    succeed(&mut folder.train(&["train.steps=1"], &["--run", "trained"]));
    folder.file("rows.jsonl", preferences());
    folder.file("score.jsonl", r#"{"prompt": "p", "reference": "r", "output": "o"}"#);
    let model = |file: &str| folder.path("trained/model").join(file);
    let weights = fs::read(model("model.safetensors")).unwrap();
    let config: Value = serde_json::from_slice(&fs::read(model("config.json")).unwrap()).unwrap();
    // Everything that opens a model refuses a bad one alike.
    let bad = |file: &str, content: &[u8], parts: &[&str]| {
        let good = fs::read(model(file)).unwrap();
        fs::write(model(file), content).unwrap();
        let dir = "trained/model";
        refused(&folder, &mut folder.train(&[], &["--init", dir, "--run", "run"]), parts);
        refused(&folder, &mut folder.program(["eval", "--model", dir, "--data", "rows.jsonl", "--json", "out"]), parts);
        let mut score = folder.program(["score", "--model", dir, "--input", "score.jsonl", "--output", "out"]);
        refused(&folder, &mut score, parts);
        fs::write(model(file), good).unwrap();
    };
    let huge = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    let entry = |begin, end| json!({"dtype": "F32", "shape": [16], "data_offsets": [begin, end]});
    let overlap = json!({"a": entry(0, 64), "b": entry(32, 96)}).to_string();
    let beyond = json!({"a": entry(0, 1_u64 << 60)}).to_string();
    let overflow = json!({"a": {"dtype": "F32", "shape": [u64::MAX, 4], "data_offsets": [0, 64]}}).to_string();
    let cases: [(&[u8], &[&str]); 9] = [
        (b"", &["0 bytes"]),
        (&huge, &["the header claims"]),
        (&weights[..weights.len() - 4], &["claims bytes"]),
        (&weights[..100], &["the header claims"]),
        (&safetensors("{\"a\": ", 0), &["the header is malformed"]),
        (&safetensors(&overlap, 96), &["inconsistent"]),
        (&safetensors(&beyond, 64), &["`a` claims bytes"]),
        (&safetensors(&overflow, 64), &["inconsistent"]),
        (&safetensors("{}", 0), &["`model.tok_embeddings.weight` is missing"]),
    ];
    for (content, parts) in cases {
        bad("model.safetensors", content, &[&["model.safetensors"], parts].concat());
    }
    let changed = |key: &str, value: Value| {
        let mut config = config.clone();
        config[key] = value;
        config.to_string().into_bytes()
    };
    bad("config.json", &changed("hidden_size", json!(32)), &["model.safetensors", "has shape [261, 16]", "[261, 32]"]);
    bad("config.json", &changed("num_hidden_layers", json!(3)), &["`model.layers.2.attention_norm.weight` is missing"]);
    bad("config.json", &changed("vocab_size", json!(0)), &["config.json", "vocab_size = 0"]);
    bad("config.json", &changed("hidden_size", json!("16")), &["config.json", "hidden_size"]);
    bad("config.json", &changed("model_type", json!("gpt2")), &["config.json", "model_type = \"gpt2\""]);
    bad("config.json", b"{", &["config.json"]);
    for file in ["config.json", "model.safetensors"] {
        let good = fs::read(model(file)).unwrap();
        fs::remove_file(model(file)).unwrap();
        refused(&folder, &mut folder.train(&[], &["--init", "trained/model", "--run", "run"]), &[file]);
        fs::write(model(file), good).unwrap();
    }
    refused(&folder, &mut folder.train(&[], &["--init", "none", "--run", "run"]), &["none"]);
}

#[test]
fn rows_to_evaluate_and_to_score() {
    let folder = Folder::new();
    succeed(&mut folder.train(&["train.steps=1"], &["--run", "trained"]));
    let dir = "trained/model";
    let eval = |content: &str, parts: &[&str]| {
        folder.file("rows.jsonl", content);
        refused(&folder, &mut folder.program(["eval", "--model", dir, "--data", "rows.jsonl", "--json", "out"]), parts);
    };
    eval("{\"text\": \"t\"}", &["rows.jsonl", "documents", "trajectories or preferences"]);
    eval("{\"chosen_ids\": [1, 4], \"rejected_ids\": [261, 4]}", &["rows.jsonl:1", "rejected_ids has 261"]);
    eval("{\"chosen_ids\": [1, 4], \"rejected_ids\": [1, 5]}", &["rows.jsonl:1", "rejected_ids does not end", "4"]);
    eval("\n{", &["rows.jsonl:2"]);
    eval("", &["rows.jsonl", "nothing in it"]);
    eval(r#"{"prompt": "p", "policy": "a", "output": "o"}"#, &["rows.jsonl", "no triple"]);
    let args = ["eval", "--model", "trained", "--data", "rows.jsonl"];
    refused(&folder, &mut folder.program(args), &["trained holds no model", "trained/model does"]);
    let score = |content: &str, parts: &[&str]| {
        folder.file("rows.jsonl", content);
        let args = ["score", "--model", dir, "--input", "rows.jsonl", "--output", "out"];
        refused(&folder, &mut folder.program(args), parts);
    };
    let good = r#"{"prompt": "p", "reference": "r", "output": "o"}"#;
    score(&format!("{good}\n{good}\nnot json\n"), &["rows.jsonl:3", "one JSON object"]);
    score(&format!("{}{{}}\n", format!("{good}\n").repeat(200)), &["rows.jsonl:201", "missing key"]);
    score(&format!("{good}\n\n{{\"input_ids\": [1, 9999]}}"), &["rows.jsonl:3", "9999", "vocab_size = 261"]);
    score(&format!("{{\"input_ids\": [{}4]}}", "1,".repeat(5000)), &["rows.jsonl:1", "5001 ids", "at most 4096"]);
    score("{\"input_ids\": [1, 4, 5]}", &["rows.jsonl:1", "does not end with the score token, 4"]);
    let many = format!(r#"{{"prompt": "p", "reference": "r", "outputs": [{}"o"]}}"#, "\"o\",".repeat(1 << 20));
    score(&many, &["rows.jsonl:1", "1048577 outputs", "at most"]);
    score("", &["rows.jsonl", "nothing in it"]);
    folder.file("rows.jsonl", good);
    let args = ["score", "--model", dir, "--input", "rows.jsonl", "--output"];
    for output in ["none/out", "trained", "/proc/out"] {
        refused(&folder, folder.program(args).arg(output), &[output]);
    }
    refused(&folder, &mut folder.program(["score", "--model", "none", "--input", "rows.jsonl"]), &["none"]);
    // What is not a regular file is never replaced, and a link is written through.
    let pipe = folder.path("pipe");
    // SAFETY: the name ends in a zero.
    assert_eq!(unsafe { libc::mkfifo(c_name(&pipe).as_ptr(), 0o600) }, 0);
    refused_beside(&folder, folder.program(args).arg("pipe"), &["pipe", "not a regular file"]);
    refused_beside(
        &folder,
        &mut folder.train(&[], &["--run", "run", "--data", "pipe"]),
        &["pipe", "not a regular file"],
    );
    fs::remove_file(&pipe).unwrap();
    folder.file("scores", "");
    std::os::unix::fs::symlink("scores", folder.path("link")).unwrap();
    succeed(folder.program(args).arg("link"));
    assert!(fs::read_to_string(folder.path("scores")).unwrap().contains("score"));
    assert!(fs::symlink_metadata(folder.path("link")).unwrap().is_symlink());
    let pack = ["eval", "--model", dir, "--data", "rows.jsonl", "--pack-length", "18446744073709551615"];
    refused(&folder, &mut folder.program(pack), &["--pack-length"]);
    // What lies beside the weights is as hostile as any other file.
    let companion = folder.path(dir).join("polar_raw.json");
    let whole = fs::read_to_string(&companion).unwrap();
    for (max_length, part) in [("0", "max_length = 0"), ("99999", "max_length = 99999")] {
        folder.file(
            "trained/model/polar_raw.json",
            whole.replace("\"max_length\":512", &format!("\"max_length\":{max_length}")),
        );
        let args = ["score", "--model", dir, "--input", "rows.jsonl"];
        refused(&folder, &mut folder.program(args), &["polar_raw.json", part]);
    }
}

/// Adapters that cannot be: each with the key, the value and what to do.
#[test]
fn adapters() {
    let folder = Folder::new();
    succeed(&mut folder.train(&["train.steps=1"], &["--run", "base"]));
    let cases: [(&[&str], &[&str], &[&str]); 7] = [
        (&["train.lora.rank=4"], &[], &["train.lora.rank = 4", "--init DIR"]),
        // Keys have one head of 8.
        (&["train.lora.rank=9"], &["--init", "base/model"], &["train.lora.rank = 9", "k_proj", "[8, 16]", "at most 8"]),
        (&["train.lora.targets=['q','w_proj']"], &[], &["train.lora.targets", "`w_proj`", "did you mean", "`q_proj`"]),
        (&["train.lora.targets=['q','q_proj']"], &[], &["train.lora.targets = [q_proj, q_proj]", "each named once"]),
        (&["train.lora.targets=[]"], &[], &["train.lora.targets = []"]),
        (&["train.lora.alpha=0"], &[], &["train.lora.alpha = 0", "above 0"]),
        (
            &["train.lora.rank=4", "objective.lm_weight=0.5"],
            &["--init", "base/model"],
            &["train.lora.rank = 4", "objective.lm_weight", "set that to 0"],
        ),
    ];
    for (sets, args, parts) in cases {
        refused(&folder, &mut folder.train(sets, &[args, &["--run", "run"]].concat()), parts);
    }
    let args = ["--init", "base/model", "--run", "run", "--dry-run"];
    let said = String::from_utf8(succeed(&mut folder.train(&["train.lora.rank=4"], &args)).stdout).unwrap();
    assert!(said.contains("of them: the head, and adapters of rank 4 on q_proj, k_proj"), "{said}");
}
