//! Evaluation while training, the best checkpoint, runs that end early, and epochs.

use std::fs;

use approx::abs_diff_eq;
use serde_json::Value;

use super::{Folder, run, stderr, stdout, succeed};

/// What each step left in `metrics.jsonl`.
fn metrics(folder: &Folder, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(folder.path(name).join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The steps that were evaluated.
fn evaluated(lines: &[Value]) -> Vec<u64> {
    lines.iter().filter(|line| !line["eval_loss"].is_null()).map(|line| line["step"].as_u64().unwrap()).collect()
}

/// Rows of different lengths.
fn rows(n: usize) -> String {
    let row = |i| {
        let text = "ab".repeat(i);
        format!("{{\"prompt\":\"p{i} {text}\",\"reference\":\"r\",\"chosen\":\"r{i}\",\"rejected\":\"s{i}\"}}\n")
    };
    (0..n).map(row).collect()
}

/// The same with the worse answer as the better one: the more is learnt of [`rows`], the higher the loss on these.
fn contrary_rows(n: usize) -> String {
    rows(n).replace("chosen", "better").replace("rejected", "chosen").replace("better", "rejected")
}

fn refused(folder: &Folder, sets: &[&str], args: &[&str], parts: &[&str]) {
    let output = run(&mut folder.train(sets, &[args, &["--run", "refused"]].concat()));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{sets:?}: {said}");
    assert!(parts.iter().all(|part| said.contains(part)), "{parts:?} in {said}");
    assert!(!folder.path("refused").exists());
}

#[test]
fn evaluating_changes_no_bit_of_what_is_trained() {
    for (kind, count) in [("polar", 9), ("lm", 3)] {
        let folder = Folder::new();
        let kind = format!("objective.kind={kind}");
        succeed(&mut folder.train(&[&kind], &["--run", "plain"]));
        let sets = [&kind, "eval.every=8", "eval.every_pairs=3"];
        let said = stderr(&succeed(&mut folder.train(&sets, &["--run", "evaluated"])));
        assert!(said.contains("evaluated while training: every 8 steps on"), "{said}");
        assert!(said.contains("      16 | held out: loss "), "{said}");
        let weights = |name: &str| fs::read(folder.path(name).join("model/model.safetensors")).unwrap();
        assert!(weights("plain") == weights("evaluated"));
        let (plain, lines) = (metrics(&folder, "plain"), metrics(&folder, "evaluated"));
        assert_eq!(evaluated(&lines), [8, 16, 24, 30]);
        assert!(evaluated(&plain).is_empty());
        let learnt = |line: &Value| [line["loss"].clone(), line["grad_norm"].clone(), line["tokens"].clone()];
        assert!(plain.iter().map(learnt).eq(lines.iter().map(learnt)));
        let at = &lines[7];
        assert!(at["eval_pairs"] == count, "{at}");
        assert_eq!(at["eval_accuracy"].is_null(), kind.ends_with("lm"), "{at}");
        let events = fs::read_dir(folder.path("evaluated/tensorboard")).unwrap().next().unwrap().unwrap().path();
        let events = fs::read(events).unwrap();
        assert_eq!(events.windows(9).filter(|window| window == b"eval/loss").count(), 4);
        let page = fs::read_to_string(folder.path("evaluated/report.html")).unwrap();
        assert!(page.contains("<h2>Evaluation while training</h2>") && page.contains("<b>held-out loss</b>"));
    }
}

/// The file has the same few pairs at every evaluation, with scores that say what the metrics say.
#[test]
fn examples_are_logged_with_their_scores() {
    let folder = Folder::new();
    let long =
        format!("{{\"prompt\":\"{}\",\"reference\":\"r\",\"chosen\":\"c\",\"rejected\":\"d\"}}\n", "x".repeat(600));
    folder.file("rows.jsonl", rows(30));
    folder.file("held-out.jsonl", long);
    let data = ["--data", "rows.jsonl", "--eval-data", "held-out.jsonl", "--run", "run"];
    succeed(&mut folder.train(&["train.steps=6", "eval.every=2", "train.checkpoint_every=2"], &data));
    let text = fs::read_to_string(folder.path("run/examples.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps = metrics(&folder, "run");
    assert_eq!(lines.len(), 3);
    for line in &lines {
        let examples = line["examples"].as_array().unwrap();
        let [example] = &examples[..] else { panic!("{line}") };
        // As the model gave it, in f32.
        let score = |place: usize| f64::from(example["scores"][place].as_f64().unwrap() as f32);
        assert_eq!((&example["row"], &example["chosen"]), (&Value::from("held-out"), &Value::from("c")));
        let prompt = example["prompt"].as_str().unwrap();
        assert!(prompt.len() < 420 && prompt.ends_with("x [...]"), "{prompt}");
        let found = &steps[line["step"].as_u64().unwrap() as usize - 1];
        let margin = score(0) - score(1);
        assert!(abs_diff_eq!(found["eval_margin"].as_f64().unwrap(), margin, epsilon = 1e-12), "{found}");
        let loss = (1.0 + (-margin).exp()).ln();
        assert!(abs_diff_eq!(found["eval_loss"].as_f64().unwrap(), loss, epsilon = 1e-12), "{found}");
    }
    assert!(lines[0]["examples"][0]["scores"] != lines[2]["examples"][0]["scores"]);

    // Where the run goes on from an earlier step, what lies beyond is dropped, and written again.
    fs::remove_dir_all(folder.path("run/checkpoints/step-00000006")).unwrap();
    fs::remove_file(folder.path("run/report.html")).unwrap();
    let said = stderr(&succeed(&mut folder.program(["train", "--resume", "--run", "run"])));
    assert!(said.contains("going on after step 4"), "{said}");
    assert_eq!(fs::read_to_string(folder.path("run/examples.jsonl")).unwrap(), text);
}

/// What is evaluated on is drawn by the seed from all that is held out, and is the same in every run.
#[test]
fn the_same_part_is_evaluated_in_every_run() {
    let folder = Folder::new();
    folder.file("rows.jsonl", rows(30));
    folder.file("held-out.jsonl", rows(60));
    let data = ["--data", "rows.jsonl", "--eval-data", "held-out.jsonl"];
    let sets = ["train.steps=2", "eval.pairs=60", "eval.every=1", "eval.every_pairs=5"];
    let found = |name: &str, more: &[&str]| {
        succeed(&mut folder.train(&[&sets[..], more].concat(), &[&data[..], &["--run", name]].concat()));
        metrics(&folder, name)[0]["eval_loss"].as_f64().unwrap()
    };
    let first = found("first", &[]);
    assert_eq!(first, found("again", &[]));
    assert!(first != found("others", &["eval.every_pairs=6"]));
}

/// A large set is measured in part: by chance, and not by its beginning.
#[test]
fn a_part_of_a_large_set_is_drawn_and_said() {
    let folder = Folder::new();
    folder.file("rows.jsonl", rows(30));
    folder.file("held-out.jsonl", rows(60));
    let args = ["--data", "rows.jsonl", "--eval-data", "held-out.jsonl", "--run"];
    let shown = |name: &str, seed: &str| {
        let sets = ["train.steps=2", "eval.pairs=20", "eval.every=1", "eval.every_pairs=20", seed];
        let said = stderr(&succeed(&mut folder.train(&sets, &[&args[..], &[name]].concat())));
        assert!(said.contains("held-out: evaluated on 20 of 60 pairs (eval.pairs), drawn by train.seed"), "{said}");
        let text = fs::read_to_string(folder.path(name).join("examples.jsonl")).unwrap();
        let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        line["examples"].as_array().unwrap().iter().map(|e| e["chosen"].to_string()).collect::<Vec<_>>()
    };
    let first = shown("first", "train.seed=1");
    assert!(first != ["\"r0\"", "\"r1\""] && first != shown("other", "train.seed=2"), "{first:?}");
}

/// Token ids do not say what their prompt is; their file is known by its bytes.
#[test]
fn evaluating_on_what_is_trained_on_is_warned_of() {
    let folder = Folder::new();
    let pairs = |of: u32| -> String {
        let row = |i| format!("{{\"chosen_ids\":[1,{},4],\"rejected_ids\":[1,{of},4]}}\n", i + 10);
        (0..8).map(row).collect()
    };
    folder.file("ids.jsonl", pairs(30));
    folder.file("copy.jsonl", pairs(30));
    folder.file("other.jsonl", pairs(31));
    let said = |data: &str| {
        let args = ["--data", "ids.jsonl", "--eval-data", data, "--run", &format!("run-{data}")];
        stderr(&succeed(&mut folder.train(&["train.steps=1"], &args)))
    };
    let copy = said("copy.jsonl");
    assert!(copy.contains("warning: copy: the file has the bytes of") && copy.contains("ids.jsonl"), "{copy}");
    assert!(!said("other.jsonl").contains("has the bytes of"));
    folder.file("rows.jsonl", rows(8));
    let args = ["--data", "rows.jsonl", "--eval-data", "rows.jsonl", "--run", "rows"];
    let rows = stderr(&succeed(&mut folder.train(&["train.steps=1"], &args)));
    assert!(rows.contains("warning: rows: 8 of its 8 prompts are trained on too"), "{rows}");
}

/// What gets worse on the held-out data from the first evaluation on ends with the weights of that one, which were kept.
#[test]
fn the_best_checkpoint_is_kept_and_is_what_the_run_ends_with() {
    let folder = Folder::new();
    folder.file("rows.jsonl", rows(40));
    folder.file("held-out.jsonl", contrary_rows(50));
    let data = ["--data", "rows.jsonl", "--eval-data", "held-out.jsonl"];
    let sets = [
        "train.steps=40",
        "optimizer.lr=0.01",
        "train.checkpoint_every=4",
        "train.keep_checkpoints=1",
        "eval.every=3",
        "train.keep_best=true",
    ];
    let output = succeed(&mut folder.train(&sets, &[&data[..], &["--run", "best"]].concat()));
    let lines = metrics(&folder, "best");
    let loss = |line: &Value| line["eval_loss"].as_f64().unwrap();
    let lowest = lines.iter().filter(|line| !line["eval_loss"].is_null()).min_by(|a, b| loss(a).total_cmp(&loss(b)));
    let lowest = lowest.unwrap();
    let step = lowest["step"].as_u64().unwrap();
    assert!(step < 40, "it got worse");
    let last_best = lines.iter().rfind(|line| line["eval_best"] == true).unwrap();
    assert_eq!(last_best["step"], lowest["step"]);
    let mut names: Vec<_> = fs::read_dir(folder.path("best/checkpoints"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, [format!("step-{step:08}"), "step-00000040".into()]);
    let said = stdout(&output);
    assert!(said.contains(&format!("the model: is that of step {step}, of the lowest held-out loss")), "{said}");
    let page = fs::read_to_string(folder.path("best/report.html")).unwrap();
    assert!(page.contains(&format!("is that of step {step}, of the lowest held-out loss")));
    for text in [&said, &page] {
        assert!(
            text.contains("train.keep_best = true: the model was chosen by evaluations on a part of the sets"),
            "{text}"
        );
    }

    // The model scores as that checkpoint does, and not as the last one.
    folder.file("score.jsonl", "{\"prompt\":\"p\",\"reference\":\"r\",\"output\":\"some\"}\n");
    let score =
        |model: &str| stdout(&succeed(&mut folder.program(["score", "--model", model, "--input", "score.jsonl"])));
    let best = score("best/model");
    assert_eq!(best, score(&format!("best/checkpoints/step-{step:08}")));
    assert!(best != score("best/checkpoints/step-00000040"));

    // Without it the last one is.
    let plain: Vec<_> = sets.iter().filter(|set| !set.starts_with("train.keep_best")).copied().collect();
    succeed(&mut folder.train(&plain, &[&data[..], &["--run", "last"]].concat()));
    assert_eq!(score("last/model"), score("best/checkpoints/step-00000040"));
}

#[test]
fn a_run_out_of_patience_has_finished_and_may_go_on() {
    let folder = Folder::new();
    folder.file("rows.jsonl", rows(40));
    folder.file("held-out.jsonl", contrary_rows(50));
    let data = ["--data", "rows.jsonl", "--eval-data", "held-out.jsonl", "--run", "run"];
    let sets = ["train.steps=60", "optimizer.lr=0.01", "eval.every=2", "train.patience=3"];
    let output = succeed(&mut folder.train(&sets, &data));
    let lines = metrics(&folder, "run");
    let (done, why) = (lines.len(), lines.last().unwrap()["ended"].as_str().unwrap().to_string());
    assert!(done < 60 && why.starts_with("no lower held-out loss in 3 evaluations (train.patience = 3)"), "{why}");
    assert!(lines[done - 7]["eval_best"] == true && lines.iter().filter(|line| !line["ended"].is_null()).count() == 1);
    assert!(
        stderr(&output).contains(&format!("ended after step {done} of 60: {why}. To go on all the same: --run run"))
    );
    assert!(stdout(&output).contains(&format!("ended early: {why}")), "{}", stdout(&output));
    assert!(fs::read_to_string(folder.path("run/report.html")).unwrap().contains("The run ended early"));

    let resume =
        |args: &[&str]| stdout(&succeed(&mut folder.program(["train", "--resume", "--run", "run"].iter().chain(args))));
    assert!(resume(&[]).contains("the run had finished before"));
    resume(&["--set", "train.patience=0", "--set", "train.steps=62"]);
    assert_eq!(metrics(&folder, "run").len(), 62);
    assert!(!fs::read_to_string(folder.path("run/report.html")).unwrap().contains("The run ended early"));
}

#[test]
fn what_goes_by_evaluations_needs_them() {
    let folder = Folder::new();
    let parts = ["eval.every = 0 makes none", "--set eval.every=100"];
    refused(&folder, &["train.keep_best=true"], &[], &[&["train.keep_best = true"], &parts[..]].concat());
    refused(&folder, &["train.patience=2"], &[], &[&["train.patience = 2"], &parts[..]].concat());
    folder.file("rows.jsonl", rows(10));
    let nothing = ["eval.every=2", "train.patience=2", "data.eval_fraction=0"];
    refused(
        &folder,
        &nothing,
        &["--data", "rows.jsonl"],
        &["train.patience = 2: there are no held-out pairs", "--eval-data"],
    );
    // A preset may ask for evaluations; where nothing is held out the run says so and goes on.
    let sets = ["train.steps=2", "eval.every=2", "data.eval_fraction=0"];
    let said = stderr(&succeed(&mut folder.train(&sets, &["--data", "rows.jsonl", "--run", "run"])));
    assert!(said.contains("there are no held-out pairs"), "{said}");
}

/// Pairs without a difference are left out as in training, and a step of nothing but such is evaluated like any other.
#[test]
fn pairs_that_are_cut_to_the_same_tokens_count_nowhere() {
    let folder = Folder::new();
    let same = |n: usize| -> String {
        let row = |i| {
            format!("{{\"prompt\":\"q{i}\",\"reference\":\"r\",\"chosen\":\"the one\",\"rejected\":\"the other\"}}\n")
        };
        (0..n).map(row).collect()
    };
    folder.file("rows.jsonl", rows(1) + &same(3));
    folder.file("held-out.jsonl", rows(3) + &same(2));
    let sets = [
        "train.batch_size=1",
        "train.steps=4",
        "eval.every=1",
        "eval.pairs=9",
        "data.max_response_length=4",
        "train.checkpoint_every=1",
    ];
    let data = ["--data", "rows.jsonl", "--eval-data", "held-out.jsonl", "--run", "run"];
    let said = stderr(&succeed(&mut folder.train(&sets, &data)));
    assert!(said.contains("on 3 held-out pairs"), "{said}");
    assert!(
        said.contains("of those evaluated on while training: 2 pairs whose chosen and rejected are the same"),
        "{said}"
    );
    let lines = metrics(&folder, "run");
    assert_eq!(evaluated(&lines), [1, 2, 3, 4]);
    assert!(lines.iter().all(|line| line["eval_pairs"] == 3));
    assert_eq!(lines.iter().filter(|line| line["empty"] == true).count(), 3);

    // A run that was stopped at such a step has the same lines.
    fs::remove_dir_all(folder.path("run/checkpoints/step-00000004")).unwrap();
    fs::remove_file(folder.path("run/report.html")).unwrap();
    let said = stderr(&succeed(&mut folder.program(["train", "--resume", "--run", "run"])));
    assert!(said.contains("going on after step 3"), "{said}");
    let again = metrics(&folder, "run");
    let kept = |line: &Value| ["step", "eval_loss", "eval_best", "empty"].map(|key| line[key].clone());
    assert!(again.iter().map(kept).eq(lines.iter().map(kept)), "{again:?}");

    // What is changed is said in the next line, whatever the step is of.
    let resume = ["train", "--resume", "--run", "run", "--set", "train.steps=8", "--set", "eval.every=0"];
    succeed(&mut folder.program(resume));
    let lines = metrics(&folder, "run");
    assert_eq!(lines[4]["step"], 5);
    assert!(lines[4]["changed"].to_string().contains("train.steps = 8, was 4"), "{}", lines[4]);
}

/// Evaluations on other data do not compare with those before.
#[test]
fn other_held_out_data_begin_anew() {
    let folder = Folder::new();
    succeed(&mut folder.train(&["eval.every=10", "eval.every_pairs=3"], &["--run", "run"]));
    let resume = |sets: &[&str]| {
        let sets = sets.iter().flat_map(|set| ["--set", set]);
        stderr(&succeed(folder.program(["train", "--resume", "--run", "run"]).args(sets)))
    };
    let said = resume(&["train.steps=40", "eval.every_pairs=2"]);
    assert!(said.contains("no longer counts: evaluation while training is on other data now"), "{said}");
    let last = &metrics(&folder, "run")[39];
    assert!(last["eval_best"] == true && last["eval_first"] == true, "{last}");
    let page = fs::read_to_string(folder.path("run/report.html")).unwrap();
    assert!(page.contains("1 evaluations took"), "{page}");
}

/// The last step of an epoch has what is left, and nothing of the next epoch.
#[test]
fn epochs_count_every_row_as_often() {
    let folder = Folder::new();
    folder.file("rows.jsonl", rows(10));
    let train = |name: &str, sets: &[&str]| {
        let sets = [&["train.batch_size=4", "data.eval_fraction=0"], sets].concat();
        succeed(&mut folder.train(&sets, &["--data", "rows.jsonl", "--run", name]));
        let lines = metrics(&folder, name);
        let of = |key: &str| lines.iter().map(|line| line[key].as_u64().unwrap()).collect::<Vec<_>>();
        (of("pairs"), of("tokens").iter().sum::<u64>())
    };
    let (pairs, tokens) = train("one", &["train.epochs=1"]);
    assert_eq!(pairs, [4, 4, 2]);
    assert_eq!(train("none", &["train.steps=0"]), (vec![4, 4, 2], tokens));
    let (pairs, of_three) = train("three", &["train.epochs=3"]);
    assert_eq!(pairs, [4, 4, 4, 4, 4, 4, 4, 2]);
    assert_eq!(of_three, 3 * tokens);
    // So many steps are whole ones.
    assert_eq!(train("steps", &["train.steps=3"]).0, [4, 4, 4]);
    // A whole step would have had two rows of the next epoch, and going on would leave them out.
    let resume = |name: &str, set: &str| run(&mut folder.program(["train", "--resume", "--run", name, "--set", set]));
    for set in ["train.epochs=2", "train.steps=5"] {
        let output = resume("one", set);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        let key = set.replace('=', " = ");
        assert!(
            said.contains(&key) && said.contains("leave out 2 rows") && said.contains("--init one/model"),
            "{said}"
        );
        assert_eq!(metrics(&folder, "one").len(), 3);
    }
    // Where the last step was a whole one, it goes on.
    train("even", &["train.epochs=2"]);
    assert!(resume("even", "train.epochs=4").status.success());
    let lines = metrics(&folder, "even");
    assert_eq!((lines.len(), lines.iter().map(|line| line["pairs"].as_u64().unwrap()).sum::<u64>()), (10, 40));
}

#[test]
fn epochs_and_steps_are_one_or_the_other() {
    let folder = Folder::new();
    folder.file("rows.jsonl", rows(10));
    let data = ["--data", "rows.jsonl"];
    let both = ["train.epochs = 2 and train.steps = 7", "give one of them"];
    refused(&folder, &["train.epochs=2", "train.steps=7"], &data, &both);
    folder.file("small.toml", super::SMALL.replace("steps = 30", "steps = 7\nepochs = 2"));
    refused(&folder, &[], &data, &both);
    // One of them in a file takes the place of the default of the other.
    folder.file("small.toml", super::SMALL.replace("steps = 30", "epochs = 2"));
    succeed(&mut folder.train(&["data.eval_fraction=0"], &["--data", "rows.jsonl", "--run", "run"]));
    assert_eq!(metrics(&folder, "run").len(), 10);
    refused(&folder, &[], &[], &["train.epochs = 2", "the policy zoo, which has no end", "--set train.steps=N"]);
}
