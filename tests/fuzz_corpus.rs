//! The committed inputs of the fuzzing (`fuzz/run`) through every reader: no panic, within two seconds and the memory that
//! the reader may take. It also holds the harness to it: each reader takes some of its inputs and refuses others.

#[path = "../fuzz/src/counting.rs"]
mod counting;
#[path = "../fuzz/src/targets.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use counting::{Counting, peak};
use targets::{TARGETS, Target};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn inputs(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target.name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    files.map(|file| file.unwrap().path()).map(|path| (path.display().to_string(), fs::read(&path).unwrap())).collect()
}

#[test]
fn the_committed_inputs_do_no_harm() {
    let scratch = tempfile::tempdir().unwrap();
    for target in &TARGETS {
        let mut read = 0;
        let inputs = inputs(target);
        let begun = Instant::now();
        for (name, bytes) in &inputs {
            let (taken, most) = peak(|| (target.read)(bytes, scratch.path()));
            assert!(bytes.len() <= target.max_len, "{name}: longer than an input that is made");
            let allowed = target.base + target.factor * bytes.len();
            assert!(most <= allowed as isize, "{name}: {most} bytes of memory, {allowed} are allowed");
            read += usize::from(taken);
        }
        println!("{}: {read} of {} read, {:?}", target.name, inputs.len(), begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(2) * inputs.len() as u32, "{}", target.name);
        assert!(read > 0, "{}: no input is read: the corpus does not go beyond the reader's door", target.name);
        assert!(read < inputs.len(), "{}: no input is refused", target.name);
    }
}

/// `fuzz/run` takes the readers from the folders.
#[test]
fn every_reader_has_its_inputs_and_no_folder_is_left_over() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let folders: BTreeSet<String> =
        fs::read_dir(root).unwrap().map(|folder| folder.unwrap().file_name().into_string().unwrap()).collect();
    let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_string()).collect();
    assert_eq!(folders, names);
    assert!(TARGETS.iter().flat_map(inputs).map(|(_, bytes)| bytes.len()).sum::<usize>() < 1 << 20);
}
