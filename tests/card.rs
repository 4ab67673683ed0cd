//! `tools/card/run`, the first hour on a card, without one: its parts on the emulator, small.
#![cfg(unix)]

use std::path::Path;
use std::process::Command;

/// Every part of it, as its summary names them.
const PARTS: [&str; 10] =
    ["machine", "start", "verify", "power", "steps", "golden", "sanitizer", "benches", "pytorch", "memory"];

#[test]
fn every_part_is_ok_or_says_why_it_was_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let programs = Path::new(env!("CARGO_BIN_EXE_polar-raw")).parent().unwrap();
    let done = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/card/run"))
        .args(["--device", "emulator", "--reduced", "--out"])
        .arg(&out)
        .arg("--bin")
        .arg(programs)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    let summary = std::fs::read_to_string(out.join("summary.md")).unwrap_or_else(|e| panic!("no summary: {e}\n{said}"));
    for part in PARTS.into_iter().chain(["quickstart"]) {
        let line = summary.lines().find(|line| line.starts_with(&format!("| {part} |")));
        let line = line.unwrap_or_else(|| panic!("{part} is not in the summary:\n{summary}"));
        let result = line.split('|').nth(2).unwrap().trim();
        let reason = result.strip_prefix("skipped: ").unwrap_or_default();
        let file = std::fs::read_to_string(out.join(format!("{part}.txt"))).unwrap_or_default();
        assert!(result == "ok" || !reason.is_empty(), "{part} is {result}:\n{file}\n{said}");
    }
    // Training ran on the emulator, whatever else is there: two runs of three steps were compared.
    let steps = std::fs::read_to_string(out.join("steps.txt")).unwrap();
    assert!(steps.contains("3 steps, at most"), "{steps}");
    assert!(done.status.success(), "{said}");
}

/// A part that fails is in the summary, does not stop those behind it, and makes the whole fail.
#[test]
fn a_part_that_fails_does_not_take_the_others_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (out, programs) = (folder.path().join("results"), folder.path().join("bin"));
    std::fs::create_dir(&programs).unwrap();
    let broken = programs.join("polar-raw");
    std::fs::write(&broken, "#!/bin/sh\necho broken >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&broken, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let done = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/card/run"))
        .args(["--device", "emulator", "--reduced", "--out"])
        .arg(&out)
        .arg("--bin")
        .arg(&programs)
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(1));
    let summary = std::fs::read_to_string(out.join("summary.md")).unwrap();
    assert!(summary.contains("| start | failed: status 1 |"), "{summary}");
    assert!(summary.contains("| quickstart | failed: status 1 |"), "{summary}");
    assert!(std::fs::read_to_string(out.join("start.txt")).unwrap().contains("broken"));
}
