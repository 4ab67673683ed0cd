//! A run that was interrupted, however and whenever, ends with the bits of one that was not.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use polar_raw::cpu::Cpu;
use polar_raw::model::{Model, ModelConfig, TensorSpec};
use polar_raw::rng;
use polar_raw::store::Pretrained;
use polar_raw::store::weights::{self, WriteOptions};
use rand::RngExt;
use serde_json::Value;

use super::{Folder, copy, output_of, stderr, succeed, tree, wait_until};

/// One run's folder with the command that begins it.
pub(super) struct Run<'a> {
    folder: &'a Folder,
    name: &'a str,
    sets: Vec<&'a str>,
    pub(super) args: Vec<&'a str>,
}

impl<'a> Run<'a> {
    pub(super) fn new(folder: &'a Folder, name: &'a str, sets: &[&'a str]) -> Self {
        Self { folder, name, sets: sets.to_vec(), args: Vec::new() }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path(self.name).join(name)
    }

    /// Begins the run or, where it has begun, goes on with it.
    pub(super) fn command(&self) -> Command {
        if self.path("config.toml").exists() {
            return self.folder.program(["train", "--resume", "--run", self.name]);
        }
        self.folder.train(&self.sets, &[&self.args[..], &["--run", self.name]].concat())
    }

    fn start(&self) -> Child {
        self.command().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// How many times a process has begun to train here: each begins an event file once it has settled where it goes on.
    fn sessions(&self) -> usize {
        fs::read_dir(self.path("tensorboard")).map_or(0, Iterator::count)
    }

    /// Steps that `metrics.jsonl` tells of.
    fn steps(&self) -> usize {
        fs::read(self.path("metrics.jsonl")).map_or(0, |log| log.iter().filter(|&&byte| byte == b'\n').count())
    }

    /// Starts it and sends it `signal` once it has done `steps` steps; its exit status and what it said.
    fn interrupt(&self, steps: usize, signal: i32) -> (std::process::ExitStatus, String) {
        let mut child = self.command().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        assert!(wait_until(&mut child, || self.steps() >= steps), "the run ended before step {steps}");
        send(&child, signal);
        let output = output_of(child);
        (output.status, stderr(&output))
    }

    fn checkpoints(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("checkpoints")).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// What must not depend on interruptions: the model with all that lies beside it, the evaluation, what each step
    /// computed, and what evaluations while training found and kept.
    pub(super) fn result(&self) -> Outcome {
        let model = self.path("model");
        let files = tree(&model).into_iter();
        let metrics = fs::read_to_string(self.path("metrics.jsonl")).unwrap();
        Outcome {
            model: files.map(|(path, content)| (path.strip_prefix(&model).unwrap().to_path_buf(), content)).collect(),
            evaluation: fs::read(self.path("evaluation.json")).unwrap(),
            steps: metrics.lines().map(computed).collect(),
            examples: fs::read(self.path("examples.jsonl")).ok(),
            standing: self.standing(),
            best: self.best(),
        }
    }

    /// What the last checkpoint knows of evaluations while training, without what the clock decides.
    fn standing(&self) -> Value {
        let last = self.checkpoints().pop().unwrap();
        let state = fs::read(self.path("checkpoints").join(last).join("state.json")).unwrap();
        let mut standing = serde_json::from_slice::<Value>(&state).unwrap()["standing"].take();
        if let Some(last) = standing["last"].as_object_mut() {
            last.shift_remove("eval_seconds");
        }
        standing
    }

    /// The buffers of the best checkpoint, where that is kept.
    fn best(&self) -> Vec<Vec<u8>> {
        if !fs::read_to_string(self.path("config.toml")).unwrap().contains("keep_best = true") {
            return Vec::new();
        }
        let step = self.standing()["best"]["step"].as_u64().unwrap();
        let folder = self.path("checkpoints").join(format!("step-{step:08}"));
        ["params-0.bin", "m-0.bin", "v-0.bin"].map(|name| fs::read(folder.join(name)).unwrap()).into()
    }

    /// Runs it to the end and compares it with `expected`.
    fn ends_as(&self, expected: &Outcome) -> String {
        let output = succeed(&mut self.command());
        let result = self.result();
        let numbers: Vec<_> = result.steps.iter().map(|step| step["step"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (1..=expected.steps.len() as u64).collect::<Vec<_>>(), "each step is there once");
        assert!(result == *expected, "{}: another result than without interruption", self.name);
        stderr(&output)
    }
}

#[derive(PartialEq)]
pub(super) struct Outcome {
    model: Vec<(PathBuf, Vec<u8>)>,
    evaluation: Vec<u8>,
    steps: Vec<Value>,
    examples: Option<Vec<u8>>,
    standing: Value,
    best: Vec<Vec<u8>>,
}

/// A line of metrics without what the clock decides.
fn computed(line: &str) -> Value {
    let mut line: Value = serde_json::from_str(line).unwrap();
    let keys = line.as_object_mut().unwrap();
    assert!(keys["seconds"].as_f64().unwrap() > 0.0);
    ["seconds", "tokens_per_s", "rate_share", "eval_seconds"].iter().for_each(|key| {
        keys.shift_remove(*key);
    });
    line
}

pub(super) fn send(child: &Child, signal: i32) {
    // SAFETY: the child has not been waited for, so its number is its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

/// The result of a run of its own that nobody interrupts.
fn uninterrupted(folder: &Folder, sets: &[&str], args: &[&str]) -> Outcome {
    let mut run = Run::new(folder, "uninterrupted", sets);
    run.args = args.to_vec();
    succeed(&mut run.command());
    run.result()
}

#[test]
fn one_seed_gives_one_model() {
    let folder = Folder::new();
    let first = uninterrupted(&folder, &[], &[]);
    Run::new(&folder, "again", &[]).ends_as(&first);
    let other = Run::new(&folder, "other seed", &["train.seed=2"]);
    succeed(&mut other.command());
    assert!(other.result().model != first.model);
}

/// When to kill.
#[derive(Debug)]
enum Moment {
    /// So long after the start.
    Starting(Duration),
    /// So long after so many steps.
    Stepping(usize, Duration),
    /// While the first checkpoint after so many steps is written, or soon after if it was too quick to be seen.
    Saving(usize),
    /// So long after the last step.
    Finishing(Duration),
}

/// Steps between checkpoints of the runs that are killed.
const EVERY: usize = 7;
const KILLS: usize = 20;

#[test]
fn killed_at_twenty_random_moments() {
    let expected = killed_at_random_moments(&["train.steps=120", "train.checkpoint_every=7"]);
    assert_eq!(expected.steps.len(), 120);
}

/// The best checkpoint, what is known of it and the scored examples are those of a run that nobody interrupts, and it ends
/// for the same reason.
#[test]
fn killed_at_twenty_random_moments_with_evaluations() {
    let expected = killed_at_random_moments(&[
        "train.steps=400",
        "train.checkpoint_every=7",
        "train.keep_checkpoints=1",
        "eval.every=5",
        "eval.every_pairs=3",
        "train.keep_best=true",
        "train.patience=12",
    ]);
    let last = expected.steps.last().unwrap();
    assert!(last["ended"].as_str().unwrap().contains("train.patience = 12"), "{last}");
    assert!(expected.best.len() == 3 && expected.examples.is_some());
}

/// Kills a run of `sets` again and again, and compares its end with that of one that nobody interrupts.
fn killed_at_random_moments(sets: &[&str]) -> Outcome {
    let folder = Folder::new();
    let expected = uninterrupted(&folder, sets, &[]);
    let steps = expected.steps.len();
    let run = Run::new(&folder, "killed", sets);
    let mut random = rng::stream(u64::from(std::process::id()), "moments to kill at", 0);
    let mut kills = 0;
    for start in 0.. {
        assert!(start < 10 * KILLS, "{kills} of {start} runs were killed before they ended: the moments come too late");
        let mut up_to = |milliseconds: u64| Duration::from_micros(random.random_range(0..1000 * milliseconds));
        // Three quarters of the kills fall while it trains, further on each time, the last ones in the evaluation.
        let reached = steps * kills / (KILLS - 4);
        let moment = match kills {
            KILLS.. => break,
            16.. => Moment::Finishing(up_to(60)),
            _ if kills % 4 == 0 => Moment::Starting(up_to(500)),
            _ if kills % 4 == 2 => Moment::Saving(reached),
            _ => Moment::Stepping(reached, up_to(20)),
        };
        let sessions = run.sessions();
        let mut child = run.start();
        // What `metrics.jsonl` tells is of the process before until this one has begun to train.
        let at = |step: usize| run.sessions() > sessions && run.steps() >= step;
        let saving = || run.path("checkpoints").exists() && run.checkpoints().iter().any(|c| c.starts_with(".tmp-"));
        let (alive, delay) = match moment {
            Moment::Starting(delay) => (true, delay),
            Moment::Stepping(step, delay) => (wait_until(&mut child, || at(step)), delay),
            Moment::Saving(step) => {
                let passed = || at(step + EVERY) || at(step) && saving();
                (wait_until(&mut child, passed), Duration::ZERO)
            }
            Moment::Finishing(delay) => (wait_until(&mut child, || at(steps)), delay),
        };
        if alive {
            std::thread::sleep(delay);
            send(&child, libc::SIGKILL);
        }
        let output = output_of(child);
        let status = output.status;
        if status.signal() == Some(libc::SIGKILL) {
            kills += 1;
            eprintln!("killed: {moment:?}, {} steps in metrics.jsonl", run.steps());
        } else {
            // It was done before the signal came: right, but no kill. The next ones need a run that goes on.
            assert!(status.success(), "{moment:?}: {status}\n{}", stderr(&output));
            assert!(run.result() == expected, "another result than without interruption, after {kills} kills");
            fs::remove_dir_all(run.path("")).unwrap();
        }
    }
    run.ends_as(&expected);
    assert!(run.checkpoints().iter().all(|name| name.starts_with("step-")), "{:?}", run.checkpoints());
    let half_written = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().contains(".tmp");
    let left: Vec<_> = tree(&folder.path("killed")).into_keys().filter(half_written).collect();
    assert!(left.is_empty(), "{left:?}");
    expected
}

#[test]
fn signals_save_and_stop() {
    let folder = Folder::new();
    let sets = ["train.steps=300", "train.checkpoint_every=0"];
    let expected = uninterrupted(&folder, &sets, &[]);
    let signals = [("term", libc::SIGTERM), ("int", libc::SIGINT), ("hup", libc::SIGHUP), ("usr1", libc::SIGUSR1)];
    for (name, signal) in signals {
        let run = Run::new(&folder, name, &sets);
        let (status, said) = run.interrupt(5, signal);
        assert!(status.success(), "{status}: {said}");
        assert!(said.contains("stopped and saved after step"), "{said}");
        assert!(said.contains(&format!("--run {name} --resume")), "{said}");
        let saved = run.steps();
        assert_eq!(run.checkpoints(), [format!("step-{saved:08}")]);
        assert!(!run.path("model").exists());
        let said = run.ends_as(&expected);
        assert!(said.contains(&format!("going on after step {saved}")), "{said}");
    }
}

/// Neither a closed pipe nor a full disk behind the standard error ends a run.
#[test]
fn a_run_outlives_its_standard_error() {
    let folder = Folder::new();
    let (reader, closed) = std::io::pipe().unwrap();
    drop(reader);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    for (name, said) in [("closed", Stdio::from(closed)), ("full", full.into())] {
        let mut command = folder.train(&["train.steps=3"], &["--run", name]);
        let status = command.stdout(Stdio::null()).stderr(said).status().unwrap();
        assert!(status.success(), "{name}: {status}");
        assert!(folder.path(name).join("report.html").exists());
    }
}

/// A run that has come to its end says so when it is resumed, and not a byte of its folder changes.
#[test]
fn a_finished_run_stays_as_it_is() {
    let folder = Folder::new();
    let run = Run::new(&folder, "finished", &[]);
    succeed(&mut run.command());
    let before = tree(&folder.path("finished"));
    let times = |tree: &std::collections::BTreeMap<PathBuf, Vec<u8>>| -> Vec<_> {
        tree.keys().map(|path| path.metadata().unwrap().modified().unwrap()).collect()
    };
    let modified = times(&before);
    let said = String::from_utf8(succeed(&mut run.command()).stdout).unwrap();
    assert!(said.contains("finished before") && said.contains("finished/report.html"), "{said}");
    let after = tree(&folder.path("finished"));
    assert!(after == before && times(&after) == modified);
    // Without its report it has not finished: it evaluates again, to the same.
    fs::remove_file(run.path("report.html")).unwrap();
    succeed(&mut run.command());
    assert_eq!(fs::read(run.path("evaluation.json")).unwrap(), before[&run.path("evaluation.json")]);
    assert!(run.path("report.html").exists());
}

#[test]
fn damaged_checkpoints_are_named_and_passed_over() {
    type Damage = fn(&Path);
    let flip: Damage = |checkpoint| {
        let path = checkpoint.join("params-0.bin");
        let mut content = fs::read(&path).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 0x10;
        fs::write(path, content).unwrap();
    };
    let shorten: Damage = |checkpoint| {
        let file = fs::OpenOptions::new().write(true).open(checkpoint.join("v-0.bin")).unwrap();
        file.set_len(1000).unwrap();
    };
    let lose: Damage = |checkpoint| fs::remove_file(checkpoint.join("state.json")).unwrap();
    let no_manifest: Damage = |checkpoint| fs::remove_file(checkpoint.join("COMPLETE")).unwrap();

    let folder = Folder::new();
    let sets = ["train.steps=300", "train.checkpoint_every=20"];
    let expected = uninterrupted(&folder, &sets, &[]);
    let stopped = Run::new(&folder, "stopped", &sets);
    stopped.interrupt(50, libc::SIGTERM);
    let [before, newest] = &stopped.checkpoints()[..] else { panic!("{:?}", stopped.checkpoints()) };
    let step = |name: &str| name.trim_start_matches("step-").parse::<u64>().unwrap();
    for (name, damage) in [("flipped", flip), ("shortened", shorten), ("lost", lose), ("no manifest", no_manifest)] {
        let run = Run::new(&folder, name, &sets);
        copy(&folder.path("stopped"), &folder.path(name));
        damage(&run.path("checkpoints").join(newest));
        let said = run.ends_as(&expected);
        assert!(said.contains("warning: ") && said.contains(&format!("{newest} is damaged")), "{said}");
        assert!(said.contains(&format!("going on after step {}", step(before))), "{said}");
    }
    // With none left that is whole it begins again.
    let run = Run::new(&folder, "all", &sets);
    copy(&folder.path("stopped"), &folder.path("all"));
    [before, newest].iter().for_each(|name| flip(&run.path("checkpoints").join(name)));
    let said = run.ends_as(&expected);
    assert!([before, newest].iter().all(|name| said.contains(&format!("{name} is damaged"))), "{said}");
}

#[test]
fn leftovers_of_killed_processes_are_removed() {
    let folder = Folder::new();
    let run = Run::new(&folder, "run", &["train.steps=300", "train.checkpoint_every=0"]);
    run.interrupt(5, libc::SIGTERM);
    let left = [".metrics.jsonl.tmp-123", ".report.html.tmp-99", ".config.toml.tmp-7"].map(|name| run.path(name));
    left.iter().for_each(|path| fs::write(path, "half").unwrap());
    succeed(&mut run.command());
    assert!(left.iter().all(|path| !path.exists()));
}

#[test]
fn the_last_checkpoints_are_kept() {
    let folder = Folder::new();
    let sets = ["train.steps=22", "train.checkpoint_every=4", "train.keep_checkpoints=3"];
    let run = Run::new(&folder, "run", &sets);
    succeed(&mut run.command());
    assert_eq!(run.checkpoints(), ["step-00000016", "step-00000020", "step-00000022"]);
}

/// Adapters: the same bits of them and of the model that they are merged into, and checkpoints that hold them, the head
/// and no other weight.
#[test]
fn adapters_killed_twice() {
    let folder = Folder::new();
    succeed(&mut folder.train(&["train.steps=3"], &["--run", "base"]));
    let sets = ["train.steps=60", "train.checkpoint_every=7", "train.lora.rank=4", "train.lora.targets=['q','down']"];
    let args = ["--init", "base/model"];
    let expected = uninterrupted(&folder, &sets, &args);
    let mut run = Run::new(&folder, "killed", &sets);
    run.args = args.to_vec();
    for steps in [10, 40] {
        let (status, said) = run.interrupt(steps, libc::SIGKILL);
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{said}");
    }
    let said = run.ends_as(&expected);
    assert!(said.contains("going on after step"), "{said}");
    let read = |name: &str| {
        ["adapter_config.json", "adapter_model.safetensors"]
            .map(|file| fs::read(folder.path(name).join("adapter").join(file)).unwrap())
    };
    assert!(read("killed") == read("uninterrupted"));
    // In each of two layers of 16 and 24 columns: 4 rows and columns of a query's factors, and of the down projection's.
    let trained = 16 + 2 * 4 * (16 + 16 + 24 + 16);
    for file in ["params-0.bin", "m-0.bin", "v-0.bin"] {
        let path = run.path("checkpoints").join("step-00000060").join(file);
        assert_eq!(fs::metadata(path).unwrap().len(), 4 * trained, "{file}");
    }
    let stored = |name: &str| {
        let model = Pretrained::open(&folder.path(name)).unwrap();
        let mut values = Vec::new();
        let heads = model.heads();
        let mut push = |spec: &TensorSpec, tensor: &[f32]| {
            values.push((spec.name.clone(), tensor.to_vec()));
            Ok(())
        };
        model.read_into(heads, &mut push).unwrap();
        values
    };
    for ((name, before), (_, after)) in stored("base/model").iter().zip(&stored("killed/model")) {
        let changes = ["wqkv", "w2", "v_head"].iter().any(|part| name.contains(part));
        assert_eq!(before != after, changes, "{name}");
    }
}

/// A small disk of its own.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf) -> Result<Self, String> {
        fs::create_dir(&at).unwrap();
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(&at).output();
        match output {
            Ok(output) if output.status.success() => Ok(Self(at)),
            Ok(output) => Err(stderr(&output)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Fills the disk but for `room` bytes; the file that takes the space.
    fn fill(&self, room: u64) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = fs::File::create(&path).unwrap();
        while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
        file.set_len(file.metadata().unwrap().len() - room).unwrap();
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
#[ignore = "mounts a file system: as root, cargo test --release --test program -- --ignored full_disk"]
fn a_full_disk_stops_it_with_the_last_checkpoint_whole() {
    let folder = Folder::new();
    let disk = SmallDisk::mount(folder.path("disk")).unwrap();
    let sets = ["train.steps=300", "train.checkpoint_every=20"];
    let expected = uninterrupted(&folder, &sets, &[]);
    // No room at all: a line of metrics does not fit. Some room: a checkpoint of a hundred kilobytes does not.
    for (name, room, what) in [("disk/full", 0, ""), ("disk/nearly full", 1 << 16, "checkpoint of step")] {
        let run = Run::new(&folder, name, &sets);
        let mut child = run.command().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        assert!(wait_until(&mut child, || run.steps() >= 30));
        // It stands still while the disk is filled, and not in the middle of a checkpoint, whose end would free some of
        // it.
        let filler = loop {
            send(&child, libc::SIGSTOP);
            if run.checkpoints().iter().all(|name| name.starts_with("step-")) {
                break disk.fill(room);
            }
            send(&child, libc::SIGCONT);
            std::thread::sleep(Duration::from_millis(1));
        };
        send(&child, libc::SIGCONT);
        let output = output_of(child);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("No space left on device") && said.contains(what), "{said}");
        assert!(run.checkpoints().iter().all(|name| name.starts_with("step-")), "{:?}", run.checkpoints());
        fs::remove_file(filler).unwrap();
        let said = run.ends_as(&expected);
        assert!(!said.contains("damaged") && said.contains("going on after step"), "{said}");
        fs::remove_dir_all(folder.path(name)).unwrap();
    }
}

#[test]
fn every_objective_resumes() {
    let rows = |n: usize| {
        (0..n)
            .map(|i| {
                format!(
                    "{{\"prompt\":\"p{i}\",\"reference\":\"{i} {i}\",\"chosen\":\"{i} {i}!\",\"rejected\":\"{}\"}}\n",
                    i * 7
                )
            })
            .collect::<String>()
    };
    let steps = ["train.steps=150", "train.checkpoint_every=11"];
    let cases: [(&str, &[&str], &[&str]); 4] = [
        ("several packs a step", &["train.batch_size=6", "data.pack_length=600"], &[]),
        ("next token", &["objective.kind=lm"], &[]),
        ("ranking and next token", &["objective.lm_weight=0.1", "objective.penalty=log_barrier"], &[]),
        ("several epochs of a file", &["train.batch_size=3"], &["--data", "rows.jsonl"]),
    ];
    for (name, sets, args) in cases {
        let folder = Folder::new();
        folder.file("rows.jsonl", rows(50));
        let sets = [&steps[..], sets].concat();
        let expected = uninterrupted(&folder, &sets, args);
        if name == "several packs a step" {
            assert!(expected.steps.iter().all(|step| step["tokens"].as_u64().unwrap() > 600));
        }
        let run = Run { args: args.to_vec(), ..Run::new(&folder, name, &sets) };
        let (status, said) = run.interrupt(40, libc::SIGKILL);
        // On a fast machine it may be done before the signal comes.
        assert!(status.signal() == Some(libc::SIGKILL) || status.success(), "{name}: {status}\n{said}");
        run.ends_as(&expected);
    }
}

#[test]
fn a_run_from_another_model_resumes_before_its_first_checkpoint() {
    let folder = Folder::new();
    succeed(&mut Run::new(&folder, "model", &["train.seed=7"]).command());
    let sets = ["train.steps=300", "train.checkpoint_every=0"];
    let args = ["--init", "model/model"];
    let expected = uninterrupted(&folder, &sets, &args);
    let run = Run { args: args.to_vec(), ..Run::new(&folder, "run", &sets) };
    run.interrupt(5, libc::SIGKILL);
    assert!(run.checkpoints().is_empty());
    fs::remove_dir_all(folder.path("model")).unwrap();
    run.ends_as(&expected);
}

#[test]
fn a_run_of_a_model_with_biases_resumes() {
    let folder = Folder::new();
    succeed(&mut Run::new(&folder, "model", &["train.steps=1"]).command());
    let dir = folder.path("model/model");
    let config = ModelConfig { bias: true, ..ModelConfig::read(&dir).unwrap() };
    let model = Model::new(Rc::new(Cpu::new()), config.clone(), config.architecture.heads()).unwrap();
    model.initialise(3).unwrap();
    config.write(&dir).unwrap();
    let mut get = |spec: &_| model.get(model.params(), spec);
    let target = WriteOptions::safetensors(config.dtype, 1 << 30);
    weights::write(&dir, &config, model.outputs(), target, &mut get).unwrap();

    let sets = ["train.steps=300", "train.checkpoint_every=10"];
    let args = ["--init", "model/model"];
    let expected = uninterrupted(&folder, &sets, &args);
    let run = Run { args: args.to_vec(), ..Run::new(&folder, "run", &sets) };
    run.interrupt(25, libc::SIGKILL);
    run.ends_as(&expected);
    // The biases began as zeros, and were trained.
    let trained = Pretrained::open(&run.path("model")).unwrap();
    assert!(trained.config().bias);
    trained
        .read_into(trained.heads(), &mut |spec, values| {
            assert!(values.iter().any(|&value| value != 0.0), "{}", spec.name);
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_run_goes_on_only_with_what_it_began_with() {
    let folder = Folder::new();
    succeed(&mut Run::new(&folder, "model", &["train.seed=7"]).command());
    let row = |i| format!("{{\"prompt\":\"p{i}\",\"reference\":\"r\",\"chosen\":\"r\",\"rejected\":\"s\"}}\n");
    let rows: String = (0..40).map(row).collect();
    folder.file("rows.jsonl", &rows);
    let sets = ["train.steps=400", "train.checkpoint_every=0"];
    let args = ["--data", "rows.jsonl", "--init", "model/model"];
    let run = Run { args: args.to_vec(), ..Run::new(&folder, "run", &sets) };
    run.interrupt(5, libc::SIGTERM);
    let refused = |command: &mut Command, part: &str| {
        let output = super::run(command);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(part), "{said}");
    };
    folder.file("rows.jsonl", rows.replace("p7", "p77"));
    refused(&mut run.command(), "rows.jsonl is not what it was");
    folder.file("rows.jsonl", &rows);
    let with = |args: &[&str]| folder.train(&sets, &[args, &["--run", "run", "--resume"]].concat());
    refused(&mut with(&["--data", "rows.jsonl", "--init", "./other/model"]), "train.init");
    refused(&mut with(&["--data", "rows.jsonl"]), "train.init");
    // The command that began it, and --resume.
    succeed(&mut with(&args));
}

#[test]
fn the_last_run_of_a_name_is_resumed() {
    let folder = Folder::new();
    for run in ["runs/small", "runs/small-2", "runs/small-4", "runs/smaller-9"] {
        succeed(&mut folder.train(&["train.steps=1"], &["--run", run]));
    }
    let said = stderr(&succeed(&mut folder.program([
        "train",
        "--config",
        "small.toml",
        "--resume",
        "--set",
        "train.steps=1",
    ])));
    assert!(said.contains("run folder: runs/small-4"), "{said}");
    let said = stderr(&succeed(&mut folder.train(&["train.steps=1"], &[])));
    assert!(said.contains("run folder: runs/small-5"), "{said}");
}
