use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::data::{Row, Rule};
use crate::eval::judgement::Level;

struct File(tempfile::TempDir);

impl File {
    fn new(bytes: impl AsRef<[u8]>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("rows"), bytes).unwrap();
        Self(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("rows")
    }
}

fn set(rows: &[Value], format: Option<SetFormat>) -> Result<Set> {
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    read(&File::new(lines).path(), format, 1)
}

fn refusal(rows: &[Value], format: Option<SetFormat>) -> String {
    set(rows, format).unwrap_err().to_string()
}

fn reward_bench() -> Value {
    json!({"prompt": "Name a bird.", "chosen": "A wren.", "rejected": "A pike.", "subset": "llmbar-natural", "id": 30})
}

fn reward_bench_2() -> Value {
    json!({"id": "7", "prompt": "Spell it.", "chosen": ["w-r-e-n"], "rejected": ["r-e-n", "w-e-n", "wern"],
        "num_correct": 1, "num_incorrect": 3, "total_completions": 4, "subset": "Precise IF"})
}

fn rm_bench() -> Value {
    json!({"id": "chat/1", "prompt": "How deep?", "chosen": ["two", "two metres", "**two** metres"],
        "rejected": ["six", "six metres", "**six** metres"], "domain": "chat"})
}

fn judge_bench() -> Value {
    json!({"pair_id": "x", "original_id": "y", "source": "mmlu-pro-law", "question": "Which?", "response_model": "m",
        "response_A": "this", "response_B": "that", "label": "B>A"})
}

fn rmb_pair(better: &str, x: f64, worse: &str, y: f64) -> Value {
    let answer = |model: &str, score: f64| json!({"llm_name": model, "answer": format!("by {model}"), "score": score});
    json!({"pair_uid": format!("{better}-{worse}"), "conversation_input": [{"role": "user", "content": "Help?", "language": "en"}],
        "chosen": answer(better, x), "reject": answer(worse, y), "category_path": "Pairwise_set/Helpfulness/Code/Repair"})
}

fn rmb_list() -> Value {
    json!({"bon_uid": "b", "conversation_input": [{"role": "user", "content": "Help?"}],
        "bon_best": {"llm_name": "a", "answer": "yes"}, "category_path": "BoN_set/Harmlessness/S1",
        "loser_list": [{"llm_name": "b", "answer": "no"}, {"llm_name": "c", "answer": "never"}]})
}

/// Text and gain of every candidate.
fn candidates(set: &Set) -> Vec<(String, f64)> {
    first(set).candidates.iter().map(|c| (c.answer.text().unwrap().to_string(), c.gain)).collect()
}

fn first(set: &Set) -> Group {
    set.groups.get(0).unwrap()
}

fn named(expected: &[(&str, f64)]) -> Vec<(String, f64)> {
    expected.iter().map(|&(text, gain)| (text.to_string(), gain)).collect()
}

#[test]
fn every_format_is_known_by_its_keys_and_read_whole() {
    let read = set(&[reward_bench()], None).unwrap();
    let group = &first(&read);
    assert_eq!((read.format, group.rule, group.line), (SetFormat::RewardBench, Rule::Pairs, 1));
    assert_eq!((group.subset.as_str(), group.id.as_deref()), ("llmbar-natural", Some("30")));
    assert_eq!(candidates(&read), named(&[("A wren.", 1.0), ("A pike.", 0.0)]));

    let read = set(&[reward_bench_2()], None).unwrap();
    assert_eq!((read.format, first(&read).rule), (SetFormat::RewardBench2, Rule::BestOfN));
    assert_eq!(candidates(&read), named(&[("w-r-e-n", 1.0), ("r-e-n", 0.0), ("w-e-n", 0.0), ("wern", 0.0)]));

    let read = set(&[judge_bench()], None).unwrap();
    assert_eq!((read.format, first(&read).subset.as_str()), (SetFormat::JudgeBench, "mmlu-pro-law"));
    assert_eq!(candidates(&read), named(&[("this", 0.0), ("that", 1.0)]));
    let mut row = judge_bench();
    row["label"] = json!("A > B");
    assert_eq!(candidates(&set(&[row], None).unwrap()), named(&[("this", 1.0), ("that", 0.0)]));

    let read = set(&[rmb_list()], None).unwrap();
    assert_eq!((read.format, first(&read).rule), (SetFormat::RmbBestOfN, Rule::BestOfN));
    assert_eq!(first(&read).subset, "Harmlessness/S1");
    assert_eq!(candidates(&read), named(&[("yes", 1.0), ("no", 0.0), ("never", 0.0)]));

    let read = set(&[rmb_pair("a", 5.0, "b", 3.0)], Some(SetFormat::RmbPairs)).unwrap();
    assert_eq!((first(&read).subset.as_str(), first(&read).prompt.as_str()), ("Helpfulness/Code", "Help?"));
    assert_eq!(candidates(&read), named(&[("by a", 1.0), ("by b", 0.0)]));

    let own = json!({"prompt": "p", "reference": "r", "chosen": "c", "rejected": "d"});
    let read = set(&[own], None).unwrap();
    assert_eq!((read.format, first(&read).reference.as_deref()), (SetFormat::Preferences, Some("r")));
    assert_eq!(set(&[json!({"chosen_ids": [1, 4], "rejected_ids": [2, 4]})], None).unwrap().format, SetFormat::Pairs);
    let sample = |policy, output| json!({"prompt": "p", "policy": policy, "output": output});
    let read = set(&[sample("a", "x"), sample("a", "y"), sample("b", "z")], None).unwrap();
    assert_eq!((read.format, read.rows, read.groups.len()), (SetFormat::Trajectories, 3, 1));
}

#[test]
fn preferences_keep_line_id_and_subset() {
    let row = |id: Value, subset: Value| json!({"id": id, "prompt": "p", "reference": "r", "chosen": "c", "rejected": "d", "subset": subset});
    let rows = [row(json!("a"), json!("x")), row(json!(7), Value::Null)];
    let marks = |set: Set| -> Vec<(usize, Option<String>, String)> {
        set.groups.iter().map(|group| group.unwrap()).map(|group| (group.line, group.id, group.subset)).collect()
    };
    let wanted = [(2, Some("a".into()), "x".into()), (4, Some("7".into()), String::new())];
    for text in [format!("\n{}\n \n{}", rows[0], rows[1]), format!("[\n{},\n\n{}]", rows[0], rows[1])] {
        assert_eq!(marks(read(&File::new(&text).path(), None, 1).unwrap()), wanted, "{text}");
    }
}

#[test]
fn a_null_does_not_hide_the_next_key() {
    let mut row = Row::parse(r#"{"id": 1, "reference": null, "output": "x"}"#, |_| true).unwrap();
    assert_eq!(row.one_of(&["reference", "output"]).and_then(|key| row.text(key)).unwrap(), "x");
}

/// What a file is read as does not hang on the order of its keys, and a format that is given is not guessed at.
#[test]
fn rows_are_of_the_first_format_that_knows_them() {
    let with = |mut row: Value, key: &str, value: Value| {
        row[key] = value;
        row
    };
    let format = |row: Value| set(&[row], None).unwrap().format;
    assert_eq!(format(with(reward_bench(), "reference", json!("r"))), SetFormat::Preferences);
    assert_eq!(format(with(reward_bench(), "reference", Value::Null)), SetFormat::RewardBench);
    assert_eq!(format(with(reward_bench_2(), "reference", json!("r"))), SetFormat::RewardBench2);
    assert_eq!(format(with(rm_bench(), "domain", Value::Null)), SetFormat::RewardBench2);
    assert_eq!(format(with(rmb_list(), "chosen", json!({"score": 1}))), SetFormat::RmbBestOfN);
    let forced = set(&[with(reward_bench(), "reference", json!("r"))], Some(SetFormat::RewardBench)).unwrap();
    assert_eq!((forced.format, first(&forced).reference), (SetFormat::RewardBench, None));

    let own = with(reward_bench(), "reference", json!("r"));
    let message = refusal(std::slice::from_ref(&own), Some(SetFormat::Trajectories));
    assert!(message.ends_with("rows: the rows are preferences, not trajectories"), "{message}");
    let message = refusal(&[reward_bench()], Some(SetFormat::Preferences));
    assert!(message.contains("rows:1: missing key \"reference\""), "{message}");
    let message = refusal(&[own, reward_bench()], None);
    assert!(message.contains("rows:2: missing key \"reference\""), "{message}");
    let message = refusal(&[json!({"prompt": "p", "output": "o"})], None);
    assert!(message.contains("documents, which cannot be ranked"), "{message}");
    let message = refusal(&[json!({"prompt": "p", "reference": "r", "output": "o"})], None);
    assert!(
        message.contains("`polar-raw score`") && message.contains("evaluation also reads judge-bench"),
        "{message}"
    );
}

#[test]
fn a_key_that_is_there_twice_is_refused_if_it_means_something() {
    let row = reward_bench().to_string();
    let twice = |key: &str| row.replacen('{', &format!("{{\"{key}\": 1, \"{key}\": 2, "), 1);
    let message = read(&File::new(twice("num_correct")).path(), None, 1).unwrap_err().to_string();
    assert!(message.contains("\"num_correct\" is there twice"), "{message}");
    assert!(read(&File::new(twice("whatever")).path(), None, 1).is_ok());
}

/// TRL's rows say their prompt in its own key, at the beginning of both conversations, or in both.
#[test]
fn prompts_of_trl_are_found_wherever_they_stand() {
    let message = |role: &str, content: &str| json!({"role": role, "content": content});
    let (user, system) = (message("user", "2 + 2?"), message("system", "Be brief."));
    let (good, bad) = (message("assistant", "4"), message("assistant", "5"));
    let both = |before: &[&Value]| {
        let with = |answer: &Value| before.iter().copied().chain([answer]).cloned().collect::<Vec<_>>();
        json!({"chosen": with(&good), "rejected": with(&bad)})
    };
    let with = |mut row: Value, key: &str, value: Value| {
        row[key] = value;
        row
    };
    for (row, prompt) in [
        (with(both(&[]), "prompt", json!([user])), "2 + 2?"),
        (with(both(&[]), "prompt", json!("2 + 2?")), "2 + 2?"),
        (both(&[&user]), "2 + 2?"),
        (with(both(&[&user]), "prompt", json!("2 + 2?")), "2 + 2?"),
        (with(both(&[&system, &user]), "prompt", json!("2 + 2?")), "Be brief.\n2 + 2?"),
        (with(both(&[&good, &user]), "prompt", json!([system, user])), "Be brief.\n2 + 2?\n4\n2 + 2?"),
        (with(both(&[&user]), "prompt", json!("2?")), "2?\n2 + 2?"),
        // It answers a prompt that is asked once more at the end.
        (with(both(&[&good, &user]), "prompt", json!("2 + 2?")), "2 + 2?\n4\n2 + 2?"),
    ] {
        let read = set(std::slice::from_ref(&row), None).unwrap();
        let group = first(&read);
        assert_eq!((read.format, group.prompt.as_str()), (SetFormat::Trl, prompt), "{row}");
        assert_eq!(candidates(&read), named(&[("4", 1.0), ("5", 0.0)]), "{row}");
    }
    let same = with(both(&[&user]), "rejected", json!([user, good]));
    assert_eq!(candidates(&set(&[same], None).unwrap()), named(&[("4", 1.0), ("4", 0.0)]));
    let row = with(with(both(&[&user]), "prompt_id", json!("x")), "reference", Value::Null);
    assert_eq!(first(&set(&[with(both(&[&user]), "prompt_id", json!("x"))], None).unwrap()).id.as_deref(), Some("x"));
    assert_eq!(set(&[row], None).unwrap().format, SetFormat::Trl);
    let message = refusal(&[both(&[])], None);
    assert!(message.contains("begin with different messages") && message.contains("give the prompt"), "{message}");
}

/// The three by three matrix: below its diagonal the better answer is the plainer one.
#[test]
fn styles_of_rm_bench_make_levels() {
    let read = set(&[rm_bench()], None).unwrap();
    assert_eq!((read.format, first(&read).subset.as_str()), (SetFormat::RmBench, "chat"));
    let judgements = first(&read).judgements(&[0, 1, 2, 3, 4, 5]);
    assert_eq!(judgements.len(), 9);
    let level = |better: usize, worse: usize| {
        judgements.iter().find(|j| j.better == [better] && j.worse == [3 + worse]).unwrap().level.unwrap()
    };
    let matrix: Vec<Vec<Level>> = (0..3).map(|b| (0..3).map(|w| level(b, w)).collect()).collect();
    use Level::{Easy, Hard, Normal};
    assert_eq!(matrix, [[Normal, Hard, Hard], [Easy, Normal, Hard], [Easy, Easy, Normal]]);
}

#[test]
fn scored_pairs_of_rmb_become_ranked_lists() {
    let rows = [
        rmb_pair("b", 4.5, "c", 3.5),
        rmb_pair("a", 5.0, "b", 4.5),
        rmb_pair("a", 5.0, "d", 1.0),
        rmb_pair("b", 4.5, "d", 1.0),
    ];
    let read = set(&rows, None).unwrap();
    assert_eq!((read.format, read.rows, read.groups.len()), (SetFormat::RmbRanked, 4, 1));
    assert_eq!(candidates(&read), named(&[("by a", 5.0), ("by b", 4.5), ("by c", 3.5), ("by d", 1.0)]));
    assert_eq!((first(&read).rule, first(&read).line), (Rule::FirstTwo, 1));
    let mut bare = rmb_pair("a", 1.0, "b", 0.0);
    bare["reject"].as_object_mut().unwrap().remove("score");
    let message = refusal(&[rows[0].clone(), bare], None);
    assert!(message.contains("rows:2") && message.contains("reject") && message.contains("score"), "{message}");
}

#[test]
fn lines_arrays_and_zstd_are_alike_and_keep_their_lines() {
    let (a, b) = (reward_bench().to_string(), reward_bench().to_string());
    let texts = [format!("{a}\n\n{b}\n"), format!("[{a},\n\n{b}]"), format!("\u{feff}{a}\r\n\r\n{b}")];
    for text in texts {
        let mut packed = zstd::Encoder::new(Vec::new(), 3).unwrap();
        packed.write_all(text.as_bytes()).unwrap();
        for bytes in [text.clone().into_bytes(), packed.finish().unwrap()] {
            let read = read(&File::new(bytes).path(), None, 1).unwrap();
            assert_eq!(read.groups.iter().map(|g| g.unwrap().line).collect::<Vec<_>>(), [1, 3], "{text}");
        }
    }
    let own = json!({"prompt": "p", "reference": "r", "chosen": "c", "rejected": "d"});
    let array = read(&File::new(format!("[\n{own},\n{own}]")).path(), None, 1).unwrap();
    assert_eq!((array.format, array.groups.len()), (SetFormat::Preferences, 2));
    let broken = read(&File::new(format!("[\n{own},\n\n{{\"prompt\": 1}}]")).path(), None, 1).unwrap_err().to_string();
    assert!(broken.contains("rows:4"), "{broken}");
}

#[test]
fn a_row_that_fits_nothing_is_named_with_what_was_expected() {
    let message = refusal(&[json!({"question": "?", "answer": "!"})], None);
    assert!(message.contains("rows:1") && message.contains("{question, answer}"), "{message}");
    assert!(
        message.contains("judge-bench {question, response_A") && message.contains("preferences {prompt"),
        "{message}"
    );
    let without = |mut row: Value, key: &str| {
        row.as_object_mut().unwrap().remove(key);
        row
    };
    let with = |mut row: Value, key: &str, value: Value| {
        row[key] = value;
        row
    };
    let cases = [
        (reward_bench(), without(reward_bench(), "rejected"), "missing key \"rejected\""),
        (reward_bench(), with(reward_bench(), "chosen", json!(7)), "key \"chosen\": expected a string"),
        (reward_bench_2(), with(reward_bench_2(), "rejected", json!([])), "key \"rejected\": expected a list"),
        (reward_bench_2(), with(reward_bench_2(), "num_correct", json!(2)), "num_correct = 2, but chosen has 1"),
        (rm_bench(), with(rm_bench(), "chosen", json!(["one", "two"])), "a list of three answers"),
        (judge_bench(), with(judge_bench(), "label", json!("A=B")), "\"A>B\" or \"B>A\""),
        (judge_bench(), without(judge_bench(), "question"), "missing key \"question\""),
        (rmb_list(), with(rmb_list(), "loser_list", json!([{"llm_name": "b"}])), "answers {\"llm_name\", \"answer\"}"),
        (rmb_list(), with(rmb_list(), "bon_best", Value::Null), "bon_best"),
    ];
    for (good, bad, part) in cases {
        let message = refusal(&[good, bad], None);
        assert!(message.contains("rows:2: ") && message.contains(part) && message.contains("expected "), "{message}");
    }
}

#[test]
fn hostile_files_are_refused() {
    let refused = |bytes: &[u8]| read(&File::new(bytes).path(), None, 1).unwrap_err().to_string();
    let good = reward_bench().to_string();
    for (text, part) in [
        ("", "nothing in it"),
        ("[]", "nothing in it"),
        ("[", "rows:1"),
        ("[1, 2]", "one JSON object"),
        (&format!("[{good}"), "neither a comma nor the end"),
        (&format!("[{good} {good}]"), "neither a comma nor the end"),
        (&format!("[{good},]"), "rows:1"),
        (&format!("[{good}]\n\nmore"), "rows:3"),
        (&format!("{good}\n{good}]"), "rows:2"),
        (&format!("{good}\nnull"), "rows:2"),
        (&"[".repeat(100_000), "rows:1"),
    ] {
        let message = refused(text.as_bytes());
        assert!(message.contains(part), "{text:.60}: {message}");
    }
    assert!(refused(b"{\"prompt\": \"\xff\"}").contains("UTF-8"));
    assert!(refused(&[0x28, 0xB5, 0x2F, 0xFD, 1, 2, 3]).contains("zstd"));
    let forced = refusal(&[reward_bench()], Some(SetFormat::JudgeBench));
    assert!(forced.contains("missing key \"label\"") && forced.contains("judge-bench {question"), "{forced}");
}

#[test]
fn sections_are_those_of_the_papers() {
    let part = |format: SetFormat, section: usize, subset: &str| format.sections()[section].part(subset);
    assert_eq!(part(SetFormat::RewardBench, 3, "math-prm"), Some(0));
    assert_eq!(part(SetFormat::RewardBench, 3, "hep-rust"), Some(1));
    assert_eq!(part(SetFormat::RewardBench, 1, "llmbar-adver-GPTOut"), Some(0));
    assert_eq!(part(SetFormat::RewardBench, 0, "mt-bench-hard"), None);
    assert_eq!(part(SetFormat::RmBench, 3, "safety-refuse"), Some(0));
    assert_eq!(part(SetFormat::RmbPairs, 1, "Harmlessness/S1"), Some(0));
}
