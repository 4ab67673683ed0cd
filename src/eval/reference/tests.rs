use super::*;
use crate::data::{Candidate, Rule};

fn group(rule: Rule, prompt: &str, candidates: &[(&str, f64)]) -> Group {
    Group {
        file: None,
        line: 1,
        id: None,
        prompt: prompt.into(),
        reference: None,
        candidates: candidates.iter().map(|&(text, gain)| Candidate::new(text, gain)).collect(),
        subset: String::new(),
        rule,
        wrapper: None,
    }
}

fn set(format: SetFormat, groups: Vec<Group>) -> Set {
    Set { format, rows: groups.len(), files: 0, groups: groups.into(), notes: Vec::new(), blake3: String::new() }
}

fn questions(set: &Set, trials: &Trials) -> Vec<Question> {
    trials.questions(set).map(Result::unwrap).collect()
}

/// Reference, and the texts asked to be above and below, question by question.
fn asked(set: &Set, trials: &Trials) -> Vec<(String, Vec<(String, String)>)> {
    let text = |q: &Question, place: usize| q.group.candidates[q.candidates[place]].answer.text().unwrap().to_string();
    let join =
        |q: &Question, places: &[usize]| places.iter().map(|&place| text(q, place)).collect::<Vec<_>>().join(" ");
    let of = |q: &Question| {
        let judgements = q.judgements.iter().map(|j| (join(q, &j.better), join(q, &j.worse)));
        (q.reference.clone(), judgements.collect())
    };
    questions(set, trials).iter().map(of).collect()
}

/// References by prompt.
fn references(rows: &[(&str, &str)]) -> References {
    let file = tempfile::NamedTempFile::new().unwrap();
    let lines: Vec<String> =
        rows.iter().map(|(p, r)| serde_json::json!({"prompt": p, "reference": r}).to_string()).collect();
    std::fs::write(file.path(), lines.join("\n")).unwrap();
    References::read(file.path()).unwrap()
}

fn question(better: &str, worse: &str) -> (String, String) {
    (better.into(), worse.into())
}

#[test]
fn best_is_the_reference_and_is_not_judged() {
    let ranked = [("first", 9.0), ("third", 3.0), ("second", 5.0), ("last", 1.0)];
    let set = set(SetFormat::RmbRanked, vec![group(Rule::FirstTwo, "p", &ranked)]);
    let found = trials(&set, ReferenceSource::Best, References::default()).unwrap();
    assert_eq!(asked(&set, &found), [("first".into(), vec![question("second", "third")])]);
    assert_eq!((found.left_out_candidates, found.left_out_groups), (0, 0));
}

#[test]
fn leave_one_out_asks_only_what_is_not_better_than_the_reference() {
    let candidates = [("good", 1.0), ("fine", 1.0), ("bad", 0.0), ("worse", 0.0)];
    let set = set(SetFormat::RmBench, vec![group(Rule::Pairs, "p", &candidates)]);
    let found = trials(&set, ReferenceSource::LeaveOneOut, References::default()).unwrap();
    let of =
        |reference: &str, other: &str| (reference.to_string(), vec![question(other, "bad"), question(other, "worse")]);
    assert_eq!(asked(&set, &found), [of("good", "fine"), of("fine", "good")]);
}

#[test]
fn a_candidate_with_the_references_text_is_left_out_and_counted() {
    let twins = [("same", 1.0), ("same", 1.0), ("other", 1.0), ("bad", 0.0)];
    let groups = vec![group(Rule::BestOfN, "p", &twins), group(Rule::BestOfN, "q", &[("x", 1.0), ("y", 0.0)])];
    let set = set(SetFormat::RewardBench2, groups);
    let found = trials(&set, ReferenceSource::Best, References::default()).unwrap();
    assert_eq!(asked(&set, &found), [("same".into(), vec![question("other", "bad")])]);
    assert_eq!((found.left_out_candidates, found.left_out_groups), (1, 1));

    let same = references(&[("p", "bad"), ("q", "y")]);
    let message = trials(&set, ReferenceSource::File, same).unwrap_err().to_string();
    assert!(
        message.contains("nothing to judge in any of 2 groups") && message.contains("other references"),
        "{message}"
    );
    let same = references(&[("p", "bad"), ("q", "y")]);
    assert!(trials_if_any(&set, ReferenceSource::File, same).unwrap().is_none());
    // Nothing to judge is no error there, and all else is one.
    let error = trials_if_any(&set, ReferenceSource::File, References::default()).unwrap_err().to_string();
    assert!(error.contains("has nothing for 2 of 2 rows"), "{error}");
    let other = references(&[("p", "bad"), ("q", "x and more")]);
    let found = trials(&set, ReferenceSource::File, other).unwrap();
    assert_eq!(asked(&set, &found), [("x and more".into(), vec![question("x", "y")])]);
    assert_eq!((found.left_out_candidates, found.left_out_groups), (1, 1));
}

#[test]
fn a_source_that_a_format_does_not_have_is_refused_with_what_to_choose() {
    for format in [
        SetFormat::RewardBench,
        SetFormat::RewardBench2,
        SetFormat::RmBench,
        SetFormat::JudgeBench,
        SetFormat::RmbRanked,
    ] {
        let set = set(format, vec![group(Rule::Pairs, "p", &[("a", 1.0), ("b", 0.0)])]);
        let message = trials(&set, ReferenceSource::Field, References::default()).unwrap_err().to_string();
        assert!(
            message.contains("have no reference of their own; choose") && message.contains("--references"),
            "{message}"
        );
    }
    let pairs = set(SetFormat::RewardBench, vec![group(Rule::Pairs, "p", &[("a", 1.0), ("b", 0.0)])]);
    let message = trials(&pairs, ReferenceSource::Best, References::default()).unwrap_err().to_string();
    assert!(message.contains("best leaves nothing to judge") && message.contains("choose file"), "{message}");
    let message = trials(&pairs, ReferenceSource::File, References::default()).unwrap_err().to_string();
    assert!(message.contains("1 of 1 rows") && message.contains("line 1"), "{message}");
}

#[test]
fn references_are_joined_by_id_or_else_by_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("references");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        References::read(&path)
    };
    let references =
        read("{\"id\": 7, \"reference\": \"by id\"}\n{\"prompt\": \"p\", \"reference\": \"by prompt\"}\n").unwrap();
    let with_id = |id: &str, prompt: &str| Group { id: Some(id.into()), ..group(Rule::Pairs, prompt, &[]) };
    assert_eq!(references.of(&with_id("7", "p")).unwrap().as_deref(), Some("by id"));
    assert_eq!(references.of(&with_id("8", "p")).unwrap().as_deref(), Some("by prompt"));
    assert_eq!(references.of(&with_id("8", "q")).unwrap(), None);
    for (text, part) in [
        ("{\"reference\": \"r\"}", "references:1"),
        ("{\"id\": 1, \"reference\": \"r\"}\n{\"id\": 1, \"reference\": \"s\"}", "references:2"),
        ("{\"id\": 1}", "missing key \"reference\""),
    ] {
        let message = read(text).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn the_control_has_references_of_other_prompts_that_are_no_candidates() {
    let prompt = |i: usize| {
        let texts: Vec<String> = (0..4).map(|j| format!("{i} {j}")).collect();
        let candidates: Vec<(&str, f64)> =
            texts.iter().zip([1.0, 1.0, 0.0, 0.0]).map(|(t, g)| (t.as_str(), g)).collect();
        group(Rule::Pairs, &format!("prompt {}", i % 5), &candidates)
    };
    let groups: Vec<Group> = (0..10).map(prompt).collect();
    let set = |groups| set(SetFormat::RmBench, groups);
    let all = set(groups.clone());
    let found = trials(&all, ReferenceSource::LeaveOneOut, References::default()).unwrap();
    for seed in 0..8 {
        let control = found.control(&all, seed).unwrap();
        for (at, question) in questions(&all, &found).iter().enumerate() {
            let other = control.question(at, question).unwrap().unwrap();
            assert_eq!(
                (question.at, &question.candidates, &question.judgements),
                (other.at, &other.candidates, &other.judgements)
            );
            let has = |g: &&Group| g.candidates.iter().any(|c| c.answer.text() == Some(&other.reference));
            assert_ne!(groups.iter().find(has).unwrap().prompt, question.group.prompt);
        }
    }
    let one = set(groups[..1].to_vec());
    let found = trials(&one, ReferenceSource::LeaveOneOut, References::default()).unwrap();
    let question = &questions(&one, &found)[0];
    let other = found.control(&one, 1).unwrap().question(0, question).unwrap();
    assert!(found.trials.len() == 2 && other.is_none(), "there is no other prompt");
}
