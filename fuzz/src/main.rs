//! One reader, which `POLAR_RAW_FUZZ_TARGET` names, under libFuzzer. `fuzz/run` builds and runs it.
//!
//! An input that makes the reader panic, takes two seconds of the processor or more memory than the target may is a
//! finding: libFuzzer keeps it in a file. What was seen in all is written to the file `POLAR_RAW_FUZZ_SUMMARY` at the end.

#![no_main]

#[path = "counting.rs"]
mod counting;
#[path = "targets.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

use counting::{Counting, peak};
use libfuzzer_sys::fuzz_target;
use targets::{TARGETS, Target};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Seconds of the processor that one input may take.
const MOST_SECONDS: f64 = 2.0;

/// What was seen of one reader.
struct Seen {
    target: &'static Target,
    folder: PathBuf,
    inputs: u64,
    read: u64,
    /// Panics of others' code that the reader made errors of.
    caught: u64,
    /// Some of their messages.
    messages: BTreeSet<String>,
    seconds: f64,
    /// The most bytes of memory, and the length of that input.
    most: (usize, usize),
    /// The most beyond twenty times the input's length, and that length.
    beyond: (isize, usize),
}

static SEEN: OnceLock<Mutex<Seen>> = OnceLock::new();
static MESSAGES: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn begin() -> Mutex<Seen> {
    let name = std::env::var("POLAR_RAW_FUZZ_TARGET").expect("POLAR_RAW_FUZZ_TARGET names a reader");
    let target = TARGETS.iter().find(|target| target.name == name).expect("a reader of that name");
    let folder = std::env::temp_dir().join(format!("polar-raw-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder for files");
    // libFuzzer's own hook ends the process at every panic, also at those that are caught.
    std::panic::set_hook(Box::new(|info| {
        let mut messages = MESSAGES.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        messages.truncate(7);
        messages.push(info.to_string());
    }));
    // SAFETY: the function takes nothing and does not unwind.
    unsafe { libc::atexit(end) };
    let messages = BTreeSet::new();
    Mutex::new(Seen {
        target,
        folder,
        inputs: 0,
        read: 0,
        caught: 0,
        messages,
        seconds: 0.0,
        most: (0, 0),
        beyond: (0, 0),
    })
}

extern "C" fn end() {
    let Some(Ok(seen)) = SEEN.get().map(Mutex::lock) else { return };
    let _ = fs::remove_dir_all(&seen.folder);
    let Seen { target, inputs, read, caught, messages, seconds, most, beyond, .. } = &*seen;
    messages.iter().for_each(|message| eprintln!("caught: {message}"));
    let summary = format!(
        "| {} | {inputs} | {read} | {caught} | {:.0} | {} of {} | {} of {} |\n",
        target.name,
        1e3 * seconds,
        most.0 / 1024,
        most.1,
        beyond.0 / 1024,
        beyond.1,
    );
    match std::env::var_os("POLAR_RAW_FUZZ_SUMMARY") {
        Some(path) => fs::write(path, summary).unwrap_or_else(|error| eprintln!("{error}")),
        None => print!("{summary}"),
    }
}

/// Seconds of the processor that this thread has had.
fn processor() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is where the call writes.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + 1e-9 * time.tv_nsec as f64
}

fn finding(why: &str) -> ! {
    let messages = MESSAGES.lock().map(|messages| messages.join("\n")).unwrap_or_default();
    eprintln!("{why}\n{messages}");
    // libFuzzer keeps the input.
    std::process::abort()
}

fuzz_target!(|bytes: &[u8]| {
    let mut seen = SEEN.get_or_init(begin).lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let (target, folder) = (seen.target, seen.folder.clone());
    if bytes.len() > target.max_len {
        return;
    }
    MESSAGES.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clear();
    let begun = processor();
    let (outcome, most) = peak(|| catch_unwind(AssertUnwindSafe(|| (target.read)(bytes, &folder))));
    let seconds = processor() - begun;
    let Ok(read) = outcome else { finding("a panic") };
    let most = most.max(0) as usize;
    let beyond = most as isize - 20 * bytes.len() as isize;
    if seconds > MOST_SECONDS {
        finding(&format!("{seconds} seconds"));
    }
    if most > target.base + target.factor * bytes.len() {
        finding(&format!("{most} bytes of memory for {} of input", bytes.len()));
    }
    seen.inputs += 1;
    seen.read += u64::from(read);
    for message in MESSAGES.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).drain(..) {
        seen.caught += 1;
        if seen.messages.len() < 16 {
            seen.messages.insert(message);
        }
    }
    seen.seconds = seen.seconds.max(seconds);
    if most > seen.most.0 {
        seen.most = (most, bytes.len());
    }
    if beyond > seen.beyond.0 {
        seen.beyond = (beyond, bytes.len());
    }
});
