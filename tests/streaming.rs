//! Data stream: opening files and drawing batches of them takes memory for where the rows lie, not for the rows.
//!
//! Every allocation of the process is counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use polar_raw::config::{Config, ObjectiveKind, TokenizerKind};
use polar_raw::data::{Records, ReferenceSource, read_all};
use polar_raw::eval::reference::{References, trials};
use polar_raw::eval::result::{Task, measure};
use polar_raw::eval::sets;
use polar_raw::train::setup::{Setup, Start};
use serde_json::json;

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(LIVE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: by the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: by the caller's promise.
        unsafe { System.dealloc(address, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that was allocated at once during `work`, beyond what was before.
fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let made = work();
    (made, PEAK.load(Relaxed) - before)
}

const ROWS: usize = 12_000;
/// Readers, decoders, batches ahead and the tokenizer's tables; what they take does not grow with the file.
const SLACK: usize = 6 << 20;
/// A row's place, its hash, its numbers among its prompt's, and what finding them takes.
const PER_ROW: usize = 250;

/// Two or three kilobytes of text that differ from row to row.
fn text(i: usize) -> String {
    format!("{i} {}", "a word and another ".repeat(110 + i % 40))
}

fn write(path: &Path, compressed: bool, row: impl Fn(usize) -> String) -> u64 {
    let file = std::fs::File::create(path).unwrap();
    let mut bytes = 0;
    let mut all = |writer: &mut dyn Write| {
        for i in 0..ROWS {
            let row = row(i);
            bytes += row.len() as u64 + 1;
            writeln!(writer, "{row}").unwrap();
        }
    };
    if compressed {
        let mut encoder = zstd::Encoder::new(std::io::BufWriter::new(file), 1).unwrap();
        all(&mut encoder);
        encoder.finish().unwrap().flush().unwrap();
    } else {
        all(&mut std::io::BufWriter::new(file));
    }
    bytes
}

fn trajectory(i: usize) -> String {
    let policy = ["a", "b", "c"][i % 3];
    json!({"prompt": text(i / 6), "policy": policy, "output": text(i)}).to_string()
}

fn preference(i: usize) -> String {
    json!({"prompt": text(i), "reference": text(i + 1), "chosen": text(i + 2), "rejected": "no"}).to_string()
}

fn pair(i: usize) -> String {
    let ids = |n: usize| (0..700 + n % 50).map(|k| 5 + (k + n) % 250).chain([4]).collect::<Vec<_>>();
    json!({"chosen_ids": ids(i), "rejected_ids": ids(i + 1)}).to_string()
}

fn document(i: usize) -> String {
    json!({"prompt": text(i), "output": text(i + 1)}).to_string()
}

fn config(path: PathBuf, kind: ObjectiveKind) -> Config {
    let mut config = Config::default();
    config.data.train = vec![path];
    config.data.eval_fraction = 0.1;
    config.data.max_length = 1024;
    config.data.pack_length = 8192;
    config.tokenizer.kind = TokenizerKind::Bytes;
    config.objective.kind = kind;
    config.train.batch_size = 4;
    config.eval.pairs = 8;
    config
}

/// One after the other: the counters are the process's.
#[test]
fn data_stream() {
    a_file_need_not_fit_memory();
    rows_are_the_same_however_they_are_stored();
    a_set_need_not_fit_memory();
}

fn a_file_need_not_fit_memory() {
    let folder = tempfile::tempdir().unwrap();
    type Row = fn(usize) -> String;
    let cases: [(&str, Row, ObjectiveKind); 6] = [
        ("trajectories.jsonl", trajectory, ObjectiveKind::Polar),
        ("trajectories.jsonl.zst", trajectory, ObjectiveKind::Polar),
        ("preferences.jsonl", preference, ObjectiveKind::Polar),
        ("pairs.jsonl", pair, ObjectiveKind::Polar),
        ("documents.jsonl", document, ObjectiveKind::Lm),
        ("text.txt", |i| format!("{}\n", text(i)), ObjectiveKind::Lm),
    ];
    for (name, row, kind) in cases {
        let path = folder.path().join(name);
        let bytes = write(&path, name.ends_with(".zst"), row) as usize;
        let bound = SLACK + PER_ROW * ROWS;
        assert!(bytes > 2 * bound, "{name}: {bytes} bytes would fit");
        let (records, taken) = peak(|| read_all(std::slice::from_ref(&path)).unwrap());
        println!("{name}: {bytes} bytes, {taken} taken to open");
        assert!(taken < SLACK / 2 + 40 * ROWS, "{name}: {taken} bytes taken to open {bytes}");
        assert_eq!(records.len(), ROWS);
        drop(records);
        let (setup, taken) = peak(|| {
            let setup = Setup::new(&config(path.clone(), kind), Start::Fresh).unwrap();
            (0..40).for_each(|step| drop(setup.feeder.batch(97 * step).unwrap()));
            setup
        });
        println!("{name}: {bytes} bytes, {taken} taken to train");
        assert!(taken < bound, "{name}: {taken} bytes taken to train on {bytes}");
        assert!(setup.steps > 200, "{} steps", setup.steps);
        std::fs::remove_file(&path).unwrap();
    }
}

/// Sets are read, asked and scored in memory for their judgements, whatever their format and however they are stored.
fn a_set_need_not_fit_memory() {
    /// Of a row: its place, its trial, its judgements by judge and control, and the two scores that the table keeps. An
    /// answer in a ranked list has its place. Vectors that grow have twice that, and while they move three times.
    const PER_ROW: usize = 1000;
    let folder = tempfile::tempdir().unwrap();
    type Case = (&'static str, ReferenceSource, fn(usize) -> String);
    let reward_bench =
        |i: usize| json!({"prompt": text(i), "chosen": text(i + 1), "rejected": text(i + 2), "subset": "s"});
    let cases: [Case; 4] = [
        ("preferences.jsonl", ReferenceSource::Field, preference),
        ("trajectories.jsonl.zst", ReferenceSource::LeaveOneOut, trajectory),
        ("reward-bench.json", ReferenceSource::File, |_| String::new()),
        ("rmb.jsonl", ReferenceSource::Best, |i| {
            let answer = |n: usize| json!({"llm_name": format!("m{}", n % 4), "answer": text(n), "score": n % 7});
            json!({"conversation_input": text(i / 2), "chosen": answer(2 * i), "reject": answer(2 * i + 1)}).to_string()
        }),
    ];
    for (name, source, row) in cases {
        let path = folder.path().join(name);
        let (given, references) = (source == ReferenceSource::File, folder.path().join("references.jsonl"));
        let bytes = match given {
            true => {
                write(&references, false, |i| json!({"prompt": text(i), "reference": text(i + 3)}).to_string());
                let element = |i: usize| if i == 0 { "[" } else { "," }.to_string() + &reward_bench(i).to_string();
                write(&path, false, |i| element(i) + if i + 1 == ROWS { "]" } else { "" })
            }
            false => write(&path, name.ends_with(".zst"), row),
        } as usize;
        let bound = SLACK + PER_ROW * ROWS;
        assert!(bytes > 2 * bound, "{name}: {bytes} bytes would fit");
        let (judged, taken) = peak(|| {
            let set = sets::read(&path, None, 1).unwrap();
            let references = if given { References::read(&references).unwrap() } else { References::default() };
            let trials = trials(&set, source, references).unwrap();
            let task = Task { name, set: &set, trials: &trials, baselines: Vec::new(), seed: 1 };
            let mut longer = |_: &str, _: &str, candidate: &str| candidate.len() as f32;
            measure(&task, &mut longer, |_, _| Ok(())).unwrap().judged.len()
        });
        println!("{name}: {bytes} bytes, {judged} judgements, {taken} taken to evaluate");
        assert!(judged > 1000, "{name}: {judged} judgements");
        assert!(taken < bound, "{name}: {taken} bytes taken to evaluate {bytes}");
        std::fs::remove_file(&path).unwrap();
    }
}

/// What lies in a file, in a zstd file and in several files is the same, row for row, in any order.
fn rows_are_the_same_however_they_are_stored() {
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<String> =
        (0..200).map(|i| json!({"text": format!("é {i}\n{}", "x".repeat(i * 7))}).to_string()).collect();
    let file = |name: &str, content: Vec<u8>| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let joined = |rows: &[String], between: &str| rows.join(between).into_bytes();
    let stored = [
        vec![file("plain", joined(&rows, "\n"))],
        vec![file("windows", ["\u{feff}".as_bytes(), &joined(&rows, "\r\n"), b"\r\n"].concat())],
        vec![file("blank", joined(&rows, "\n\n \n"))],
        vec![file("array", format!("\u{feff}\n[{}\n]\n", rows.join(",\n")).into_bytes())],
        vec![file("packed", zstd::encode_all(&joined(&rows, "\n")[..], 3).unwrap())],
        vec![
            file("first", joined(&rows[..70], "\n")),
            file("second", zstd::encode_all(&joined(&rows[70..90], "\n")[..], 3).unwrap()),
            file("third", joined(&rows[90..], "\n")),
        ],
    ];
    for paths in stored {
        let Records::Documents(found) = read_all(&paths).unwrap() else { panic!("another kind") };
        assert_eq!(found.len(), rows.len());
        for i in (0..rows.len()).rev().chain(0..rows.len()) {
            let output = found.get(i).unwrap().output;
            assert_eq!(output, format!("é {i}\n{}", "x".repeat(i * 7)), "{paths:?}");
        }
        // A file that is changed meanwhile is noticed, be it cut or written again with other rows of the same length.
        if !paths[0].ends_with("packed") {
            let longer = std::fs::read(&paths[0]).unwrap().len();
            for content in [vec![b' '; longer], Vec::new()] {
                std::fs::write(&paths[0], content).unwrap();
                let error = found.get(3).unwrap_err().to_string();
                assert!(error.contains("was changed while it was in use"), "{error}");
            }
        }
    }
}
