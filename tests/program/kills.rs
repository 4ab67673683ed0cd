//! A hundred kills at random moments, over the kinds of data and the commands that write: the same bits in the end.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use polar_raw::rng;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::data_kinds::{documents, pairs, preferences, trajectories};
use super::resume::{Run, send};
use super::{Folder, output_of, stderr, succeed, tree};

const KILLS: usize = 100;

/// Starts a command and kills it at a random moment within `longest`; whether it was killed before it ended.
fn killed(command: &mut Command, longest: Duration, random: &mut ChaCha8Rng) -> bool {
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    let moment = longest.mul_f64(random.random());
    std::thread::sleep(moment.saturating_sub(begun.elapsed()));
    send(&child, libc::SIGKILL);
    let output = output_of(child);
    let killed = output.status.signal() == Some(libc::SIGKILL);
    assert!(killed || output.status.success(), "{}: {}", output.status, stderr(&output));
    killed
}

/// Kills `command`, which begins or goes on, again and again; `result` is what is left once it has ended, which `clear`
/// takes away. What lies at `whole` is there only once it has all its bits.
fn kill<T: PartialEq>(
    name: &str,
    kills: usize,
    random: &mut ChaCha8Rng,
    command: &dyn Fn() -> Command,
    result: &dyn Fn() -> T,
    clear: &dyn Fn(),
    whole: Option<&Path>,
) {
    let begun = Instant::now();
    succeed(&mut command());
    let longest = begun.elapsed().mul_f64(1.1);
    let expected = result();
    clear();
    let (mut done, mut ended) = (0, 0);
    while done < kills {
        assert!(ended < 20 * kills, "{name}: {done} kills and {ended} runs to the end: the moments come too late");
        if killed(&mut command(), longest, random) {
            done += 1;
            if whole.is_some_and(Path::exists) {
                assert!(result() == expected, "{name}: an output that is not whole after {done} kills");
                clear();
            }
        } else {
            ended += 1;
            assert!(result() == expected, "{name}: another result after {done} kills");
            clear();
        }
    }
    succeed(&mut command());
    assert!(result() == expected, "{name}: another result after {done} kills");
    println!("{name}: {done} kills within {longest:.0?}, {} times to the same end", ended + 1);
    clear();
}

/// The twenty kills of `resume`, over every kind of data and the other commands that write.
#[test]
#[ignore = "takes minutes: cargo test --release --test program -- --ignored --nocapture a_hundred_kills"]
fn a_hundred_kills_at_random_moments() {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut random = rng::stream(seed, "a hundred kills", 0);
    let folder = Folder::new();
    for (name, rows) in [
        ("trajectories.jsonl", trajectories()),
        ("preferences.jsonl", preferences()),
        ("pairs.jsonl", pairs()),
        ("documents.jsonl", documents()),
    ] {
        folder.file(name, rows);
    }
    let first = Run::new(&folder, "first", &["train.steps=5"]);
    succeed(&mut first.command());
    let bpe: &[&str] = &["tokenizer.kind=bpe", "tokenizer.vocab_size=300"];
    let data = |name| ["--data", name, "--eval-data", name];
    let init = ["--init", "first/model", "--data", "preferences.jsonl", "--eval-data", "preferences.jsonl"];
    let kinds: [(&str, &[&str], &[&str]); 6] = [
        ("the zoo", &[], &[]),
        ("trajectories", bpe, &data("trajectories.jsonl")),
        ("preferences", &["objective.loss=focal"], &data("preferences.jsonl")),
        ("pairs of ids", &[], &data("pairs.jsonl")),
        ("documents", &["objective.kind=lm"], &data("documents.jsonl")),
        ("preferences, from a model", &[], &init),
    ];
    const EACH: usize = 12;
    for (name, sets, args) in kinds {
        let sets = [&["train.steps=60", "train.checkpoint_every=7"], sets].concat();
        let mut run = Run::new(&folder, name, &sets);
        run.args = args.to_vec();
        let clear = || fs::remove_dir_all(run.path("")).unwrap();
        kill(name, EACH, &mut random, &|| run.command(), &|| run.result(), &clear, None);
    }
    const OTHERS: usize = (KILLS - 6 * EACH) / 2;
    let row = |i: usize| {
        format!("{{\"prompt\": \"p{i}\", \"reference\": \"r{i}\", \"output\": \"{}\"}}\n", "word ".repeat(i % 60))
    };
    folder.file("rows.jsonl", (0..400).map(row).collect::<String>());
    let out = folder.path("scores.jsonl");
    kill(
        "score",
        OTHERS,
        &mut random,
        &|| {
            let args = ["--model", "first/model", "--input", "rows.jsonl", "--output", "scores.jsonl", "--resume"];
            folder.program(["score"].iter().chain(&args))
        },
        &|| fs::read(&out).unwrap(),
        &|| fs::remove_file(&out).unwrap(),
        Some(&out),
    );
    let converted = folder.path("converted");
    kill(
        "convert",
        OTHERS,
        &mut random,
        &|| folder.program(["convert", "--from", "first/model", "--as", "internlm2-bin", "--to", "converted"]),
        &|| tree(&converted),
        &|| fs::remove_dir_all(&converted).unwrap(),
        Some(&converted),
    );
}
