use super::*;
use proptest::prelude::*;
use serde::Serializer;
use serde_json::json;
use tempfile::TempDir;

const LENGTH: usize = PIECE + 3;

/// A buffer that differs in every step and place.
fn buffer(step: u64) -> Vec<f32> {
    (0..LENGTH).map(|i| f32::from_bits((i as u32).wrapping_mul(2_654_435_761) ^ step as u32)).collect()
}

/// Reads what is saved from `values`.
fn from(values: &[f32]) -> impl FnMut(usize, &mut [f32]) -> Result<()> {
    |at, out| {
        out.copy_from_slice(&values[at..][..out.len()]);
        Ok(())
    }
}

fn save(checkpoints: &Checkpoints, step: u64) -> Result<()> {
    let values = buffer(step);
    let mut parts = [
        SavedRange { name: "params", range: 0..LENGTH, read: &mut from(&values) },
        SavedRange { name: "m", range: 0..LENGTH - 1, read: &mut from(&values[1..]) },
        SavedRange { name: "v", range: 0..0, read: &mut from(&[]) },
    ];
    checkpoints.save(step, &mut parts, &json!({ "seed": u64::MAX, "step": step }))
}

/// Elements `range` of a buffer of `elements`.
fn read(checkpoint: &Checkpoint, name: &str, elements: usize, range: Range<usize>) -> Result<Vec<f32>> {
    let mut values = Vec::new();
    checkpoint.read(name, elements, range.clone(), &mut |at, piece| {
        assert_eq!(at, range.start + values.len());
        values.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(values)
}

fn open(run: &TempDir, keep: usize) -> Checkpoints {
    Checkpoints::open(&RunLock::acquire(run.path()).unwrap(), keep).unwrap()
}

fn names(checkpoints: &Checkpoints) -> Vec<String> {
    let mut names = checkpoints.names().unwrap();
    names.sort();
    names
}

/// The step of the newest whole checkpoint, whose content is checked, and the warnings.
fn latest(checkpoints: &Checkpoints) -> (Option<u64>, Vec<String>) {
    let latest = checkpoints.latest().unwrap();
    if let Some(checkpoint) = &latest.checkpoint {
        let expected = buffer(checkpoint.step);
        let params = read(checkpoint, "params", LENGTH, 0..LENGTH).unwrap();
        let m = read(checkpoint, "m", LENGTH - 1, 0..LENGTH - 1).unwrap();
        assert!(read(checkpoint, "v", 0, 0..0).unwrap().is_empty());
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!((bits(&params), bits(&m)), (bits(&expected), bits(&expected[1..])));
        assert_eq!(checkpoint.state, json!({ "seed": u64::MAX, "step": checkpoint.step }));
    }
    (latest.checkpoint.map(|c| c.step), latest.warnings)
}

#[test]
fn the_last_ones_are_kept_bit_for_bit() {
    let run = tempfile::tempdir().unwrap();
    let checkpoints = open(&run, 2);
    assert_eq!(latest(&checkpoints), (None, vec![]));
    for step in [5, 10, 15, 20] {
        save(&checkpoints, step).unwrap();
        assert_eq!(latest(&checkpoints), (Some(step), vec![]));
    }
    assert_eq!(names(&checkpoints), ["step-00000015", "step-00000020"]);
    // A run that was resumed at 15 replaces what was beyond.
    save(&checkpoints, 16).unwrap();
    assert_eq!(names(&checkpoints), ["step-00000015", "step-00000016"]);
    save(&checkpoints, 16).unwrap();
    assert_eq!((names(&checkpoints).len(), latest(&checkpoints).0), (2, Some(16)));
}

#[test]
fn a_buffer_of_another_model_is_refused() {
    let run = tempfile::tempdir().unwrap();
    let checkpoints = open(&run, 1);
    save(&checkpoints, 1).unwrap();
    let checkpoint = checkpoints.latest().unwrap().checkpoint.unwrap();
    let error = read(&checkpoint, "params", 7, 0..7).unwrap_err();
    assert!(error.to_string().contains(&format!("holds {LENGTH} values, but this run has 7")), "{error}");
    assert!(read(&checkpoint, "absent", 7, 0..7).is_err());
}

/// Ranges are written by whoever has them; any range is read, from whichever files it lies in.
#[test]
fn ranges_come_together() {
    let run = tempfile::tempdir().unwrap();
    let checkpoints = open(&run, 2);
    let values = buffer(1);
    let written = |ranges: &[Range<usize>], step: u64| {
        let mut readers: Vec<_> = ranges.iter().map(|_| from(&values)).collect();
        let part = |(range, read): (&Range<usize>, _)| SavedRange { name: "m", range: range.clone(), read };
        let mut parts: Vec<_> = ranges.iter().zip(readers.iter_mut().map(|r| r as _)).map(part).collect();
        checkpoints.save(step, &mut parts, &json!({})).unwrap();
        checkpoints.latest().unwrap().checkpoint.unwrap()
    };
    // In any order; the names of files do not sort as their numbers do.
    let checkpoint = written(&[1000..LENGTH, 0..96, 96..1000], 1);
    for range in [0..LENGTH, 90..1001, 96..1000, 500..501, LENGTH - 2..LENGTH] {
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let found = read(&checkpoint, "m", LENGTH, range.clone()).unwrap();
        assert_eq!(bits(&found), bits(&values[range]));
    }
    let gap = written(&[0..96, 100..LENGTH], 2);
    assert!(read(&gap, "m", LENGTH, 0..10).is_err());
}

/// What the version before wrote, a file a buffer, can be gone on with.
#[test]
fn the_format_before_is_read() {
    let run = tempfile::tempdir().unwrap();
    let checkpoints = open(&run, 1);
    save(&checkpoints, 3).unwrap();
    let folder = checkpoints.place(3);
    for name in ["params", "m", "v"] {
        fs::rename(folder.join(format!("{name}-0.bin")), folder.join(format!("{name}.bin"))).unwrap();
    }
    let manifest = fs::read_to_string(folder.join(COMPLETE)).unwrap();
    assert!(manifest.contains("\"format\": 2"), "{manifest}");
    let manifest = manifest.replace("\"format\": 2", "\"format\": 1").replace("-0.bin", ".bin");
    fs::write(folder.join(COMPLETE), manifest).unwrap();
    assert_eq!(latest(&checkpoints), (Some(3), vec![]));
}

#[test]
fn damage_is_named_and_the_one_before_is_used() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 6] = [
        ("params-0.bin has 0 bytes instead of", |f| fs::write(f.join("params-0.bin"), "").unwrap()),
        ("m-0.bin: No such file", |f| fs::remove_file(f.join("m-0.bin")).unwrap()),
        ("COMPLETE: No such file", |f| fs::remove_file(f.join(COMPLETE)).unwrap()),
        ("EOF while parsing", |f| fs::write(f.join(COMPLETE), "{").unwrap()),
        ("state.json does not have its checksum", |f| {
            let text = fs::read_to_string(f.join(STATE)).unwrap();
            fs::write(f.join(STATE), text.replace("20", "30")).unwrap();
        }),
        ("is of step 10", |f| {
            fs::remove_dir_all(f).unwrap();
            fs::rename(f.with_file_name("step-00000010"), f).unwrap();
        }),
    ];
    for (reason, damage) in damages {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = open(&run, 3);
        [5, 10, 20].into_iter().for_each(|step| save(&checkpoints, step).unwrap());
        damage(&checkpoints.place(20));
        let (step, warnings) = latest(&checkpoints);
        assert_eq!(step, Some(if reason.starts_with("is of") { 5 } else { 10 }));
        let [warning] = &warnings[..] else { panic!("{warnings:?}") };
        assert!(warning.contains("step-00000020 is damaged: ") && warning.contains(reason), "{reason}: {warning}");
        // The damaged one does not count as kept, and disappears with the next save.
        save(&checkpoints, 15).unwrap();
        assert_eq!(latest(&checkpoints), (Some(15), vec![]));
    }
}

#[test]
fn an_interrupted_save_leaves_the_last_checkpoint() {
    let run = tempfile::tempdir().unwrap();
    let checkpoints = open(&run, 1);
    save(&checkpoints, 1).unwrap();
    // While writing: whatever stands in the temporary folder, even all of it.
    let temporary = checkpoints.folder.join(".tmp-00000002");
    let values = buffer(2);
    let mut parts = [SavedRange { name: "params", range: 0..LENGTH, read: &mut from(&values) }];
    write_folder(&temporary, 2, &mut parts, &json!({})).unwrap();
    assert_eq!(latest(&checkpoints).0, Some(1));
    assert_eq!(names(&open(&run, 1)), ["step-00000001"]);
    // Between the two renames of a replacement.
    fs::rename(checkpoints.place(1), checkpoints.folder.join(".replaced-step-00000001")).unwrap();
    assert_eq!(latest(&open(&run, 1)).0, Some(1));
    // After them, before the replaced one is removed.
    write_folder(&checkpoints.folder.join(".replaced-step-00000001"), 1, &mut [], &json!({})).unwrap();
    assert_eq!(latest(&open(&run, 1)).0, Some(1));
    assert_eq!(names(&checkpoints), ["step-00000001"]);
}

/// State that cannot be written.
struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("no"))
    }
}

#[test]
fn a_failing_save_leaves_the_last_checkpoint() {
    let run = tempfile::tempdir().unwrap();
    let checkpoints = open(&run, 1);
    save(&checkpoints, 1).unwrap();
    let values = buffer(2);
    let mut parts = [SavedRange { name: "params", range: 0..LENGTH, read: &mut from(&values) }];
    let error = checkpoints.save(2, &mut parts, &Unwritable).unwrap_err();
    assert!(error.to_string().starts_with("checkpoint of step 2 not saved"), "{error}");
    assert_eq!((names(&checkpoints), latest(&checkpoints).0), (vec!["step-00000001".to_string()], Some(1)));

    // What cannot be read is not saved either, and is the error that is told.
    let mut unreadable = |_: usize, _: &mut [f32]| Err(Error::machine("the card is gone"));
    let mut parts = [SavedRange { name: "params", range: 0..LENGTH, read: &mut unreadable }];
    let error = checkpoints.save(2, &mut parts, &json!({})).unwrap_err();
    assert!(error.to_string().contains("the card is gone"), "{error}");
    assert_eq!((names(&checkpoints), latest(&checkpoints).0), (vec!["step-00000001".to_string()], Some(1)));
}

/// A small disk, unmounted when dropped.
#[cfg(target_os = "linux")]
struct SmallDisk(TempDir);

#[cfg(target_os = "linux")]
impl SmallDisk {
    fn mount(bytes: usize) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let output = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(folder.path())
            .output()
            .map_err(|e| e.to_string())?;
        match output.status.success() {
            true => Ok(Self(folder)),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_string()),
        }
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "mounts a file system: as root, cargo test --release --lib -- --ignored full_disk"]
fn a_full_disk_leaves_the_last_checkpoint() {
    // Two buffers of 256 KiB: room for one checkpoint and a half.
    let disk = SmallDisk::mount(800 << 10).unwrap();
    let checkpoints = open(&disk.0, 1);
    save(&checkpoints, 1).unwrap();
    for step in [1, 2] {
        let error = save(&checkpoints, step).unwrap_err();
        assert_eq!(error.exit_code(), 1, "{error}");
        assert!(error.to_string().contains("No space left"), "{error}");
        assert_eq!((names(&checkpoints), latest(&checkpoints).0), (vec!["step-00000001".to_string()], Some(1)));
    }
}

#[test]
fn one_trainer_a_run() {
    let run = tempfile::tempdir().unwrap();
    let lock = RunLock::acquire(run.path()).unwrap();
    let error = RunLock::acquire(run.path()).unwrap_err();
    assert!(
        error.to_string().contains(&format!("in use by another trainer (process {})", std::process::id())),
        "{error}"
    );
    assert_eq!(error.exit_code(), 2);
    drop(lock);
    RunLock::acquire(run.path()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn any_flipped_bit_or_cut_is_noticed(file in 0usize..4, place in any::<prop::sample::Index>(), bit in prop::option::of(0u8..8)) {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = open(&run, 2);
        save(&checkpoints, 1).unwrap();
        save(&checkpoints, 2).unwrap();
        let path = checkpoints.place(2).join(["params-0.bin", "m-0.bin", STATE, COMPLETE][file]);
        let mut bytes = fs::read(&path).unwrap();
        let place = place.index(bytes.len());
        match bit {
            Some(bit) => bytes[place] ^= 1 << bit,
            None => bytes.truncate(place),
        }
        fs::write(&path, bytes).unwrap();
        let (step, warnings) = latest(&checkpoints);
        // In the manifest a flipped bit may only turn one blank into another; then the checkpoint is still whole.
        let harmless = file == 3 && step == Some(2) && warnings.is_empty();
        prop_assert!(harmless || step == Some(1) && warnings.len() == 1);
    }
}

proptest! {
    #[test]
    fn floats_in_a_state_return_bit_for_bit(value in any::<f64>().prop_filter("JSON has no others", |v| v.is_finite())) {
        let text = serde_json::to_string(&json!({ "value": value })).unwrap();
        let state: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(state["value"].as_f64().map(f64::to_bits), Some(value.to_bits()));
    }

    #[test]
    fn any_manifest_is_safe_or_refused(
        name in "params\\.bin|params-[0-9]*\\.bin|\\.\\./params\\.bin|a/b\\.bin|/?\\.?bin|.{0,8}",
        place in any::<prop::sample::Index>(),
        insert in prop::option::of(".{0,3}"),
        cut in any::<bool>(),
    ) {
        let mut text = json!({ "format": 2, "step": 3, "files": [
            { "name": name, "bytes": 3, "blake3": "00" }, { "name": STATE, "bytes": 2, "blake3": "11" },
        ] }).to_string();
        let mut place = place.index(text.len());
        while !text.is_char_boundary(place) {
            place -= 1;
        }
        if let Some(insert) = insert {
            text.insert_str(place, &insert);
        } else if cut {
            text.truncate(place);
        }
        if let Ok(manifest) = Manifest::parse(&text) {
            for file in manifest.files {
                prop_assert!(!file.name.contains(['/', '\\']) && !file.name.starts_with('.'), "{:?}", file.name);
            }
        }
    }
}
