//! A loss that is not finite stops a run before the update, and says at which step and in which tensor it began.

use std::fs;

use super::{Folder, run, stderr, succeed, tree};

/// The floats of the safetensors file that a run of one F32 file wrote.
fn floats(file: &[u8]) -> impl Iterator<Item = f32> {
    let header = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    file[8 + header..].as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
}

#[test]
fn a_huge_learning_rate() {
    let folder = Folder::new();
    let sets = ["optimizer.lr=1e30", "schedule.warmup_ratio=0.0", "train.checkpoint_every=1"];
    let output = run(&mut folder.train(&sets, &["--run", "run"]));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("not finite") && said.contains("optimizer.lr"), "{said}");
    // The first steps are fine, the one that is not is named and left out of everything.
    let steps = fs::read_to_string(folder.path("run/metrics.jsonl")).unwrap().lines().count();
    assert!(steps > 0 && said.contains(&format!("at step {}:", steps + 1)), "{steps} steps, {said}");
    assert!(said.contains("has left"), "{said}");
    let newest = folder.path(&format!("run/checkpoints/step-{steps:08}"));
    for (path, content) in tree(&newest).iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "bin")) {
        let finite = content.as_chunks().0.iter().all(|bytes| f32::from_le_bytes(*bytes).is_finite());
        assert!(finite, "{}", path.display());
    }
    assert!(!folder.path("run/model").exists());
    // Resumed, it comes to the same end.
    let again = run(&mut folder.program(["train", "--resume", "--run", "run"]));
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains(&format!("at step {}:", steps + 1)), "{}", stderr(&again));
}

/// The gradient is finite, the update overflows: what came out is never saved.
#[test]
fn an_update_that_overflows() {
    let folder = Folder::new();
    let sets = ["optimizer.lr=3e38", "train.steps=1", "schedule.warmup_ratio=0.0", "optimizer.weight_decay=1.0"];
    let output = run(&mut folder.train(&sets, &["--run", "run"]));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("not finite after update 1") && said.contains("optimizer.lr"), "{said}");
    assert_eq!(fs::read_dir(folder.path("run/checkpoints")).unwrap().count(), 0);
    assert!(!folder.path("run/model").exists());
}

#[test]
fn a_weight_that_is_no_number() {
    let folder = Folder::new();
    succeed(&mut folder.train(&["train.steps=1"], &["--run", "good"]));
    let path = folder.path("good/model/model.safetensors");
    let mut file = fs::read(&path).unwrap();
    assert!(floats(&file).all(f32::is_finite));
    // The last weight of the file is in the reward head.
    let last = file.len() - 4;
    file[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(path, file).unwrap();
    let output = run(&mut folder.train(&[], &["--init", "good/model", "--run", "run"]));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("`v_head.weight` holds a value that is not finite"), "{said}");
    assert!(!folder.path("run").exists());
    folder.file("rows.jsonl", "{\"input_ids\": [1, 2, 4]}");
    let score = run(&mut folder.program(["score", "--model", "good/model", "--input", "rows.jsonl"]));
    assert_eq!(score.status.code(), Some(2), "{}", stderr(&score));
}
