//! The program as a whole, started as a user starts it.

mod bad_input;
mod benchmarks;
mod checkpoint_models;
mod data_kinds;
mod devices;
mod evaluating;
mod foreign;
mod going_on;
mod inputs;
mod kills;
mod messages;
mod non_finite;
mod resume;
mod score;
mod trace;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A model that takes milliseconds a step, and a run of thirty of them.
const SMALL: &str = r#"
[model]
hidden_size = 16
intermediate_size = 24
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 1
[tokenizer]
kind = "bytes"
[data]
max_length = 512
max_response_length = 200
pack_length = 1024
[zoo]
train_policies = 4
held_out_policies = 4
[train]
steps = 30
batch_size = 2
[eval]
pairs = 4
baseline_triples = 8
"#;

/// A folder that vanishes with the test, in which the program runs.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.file("small.toml", SMALL);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn program<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut args: Vec<_> = args.into_iter().map(|arg| arg.as_ref().to_os_string()).collect();
        let computes = ["train", "eval", "score"].iter().any(|name| args.first().is_some_and(|first| first == name));
        // The tests are of the program, alike on every machine; a card rounds otherwise.
        if computes && !args.iter().any(|arg| arg == "--device") {
            args.splice(1..1, ["--device", "cpu"].map(Into::into));
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_polar-raw"));
        command.current_dir(self.0.path()).args(args).stdin(Stdio::null());
        command
    }

    /// `polar-raw train` of the small model with `sets` over it, and with `args`.
    fn train(&self, sets: &[&str], args: &[&str]) -> Command {
        let mut command = self.program(["train", "--config", "small.toml"]);
        command.args(sets.iter().flat_map(|set| ["--set", set])).args(args);
        command
    }
}

/// Longer than anything here takes; a program that is still there hangs, and is killed.
const DEADLINE: Duration = Duration::from_secs(300);

/// The output of a started program, which is killed at the deadline.
fn output_of(child: Child) -> Output {
    let pid = child.id() as i32;
    let (done, deadline) = mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        if deadline.recv_timeout(DEADLINE) == Err(mpsc::RecvTimeoutError::Timeout) {
            // SAFETY: the child has not been waited for, or only just now; its number is not given away so soon.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            eprintln!("process {pid} hangs and was killed");
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    guard.join().unwrap();
    output
}

/// The output of a command.
fn run(command: &mut Command) -> Output {
    output_of(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

/// The output of a command that must succeed.
fn succeed(command: &mut Command) -> Output {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, stderr(&output));
    output
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Every file beneath `folder` with its content.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let content = fs::read(&path).unwrap();
                files.insert(path, content);
            }
        }
    }
    files
}

/// Copies every file beneath `from`.
fn copy(from: &Path, to: &Path) {
    for (path, content) in tree(from) {
        let path = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

/// Waits until `ready`; false if the child ends before.
fn wait_until(child: &mut Child, mut ready: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while !ready() {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if begun.elapsed() > DEADLINE {
            child.kill().unwrap();
            panic!("the program hangs");
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    true
}
