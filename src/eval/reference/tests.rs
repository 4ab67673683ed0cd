use super::*;
use crate::eval::group::{Candidate, Rule};

fn group(rule: Rule, prompt: &str, candidates: &[(&str, f64)]) -> Group {
    Group {
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

fn set(format: Format, groups: Vec<Group>) -> Set {
    Set { format, rows: groups.len(), groups, notes: Vec::new(), blake3: String::new() }
}

/// Reference, and the texts asked to be above and below, trial by trial.
fn asked(set: &Set, trials: &[Trial]) -> Vec<(String, Vec<(String, String)>)> {
    let text = |trial: &Trial, place: usize| {
        set.groups[trial.group].candidates[trial.candidates[place]].answer.text().unwrap().to_string()
    };
    let join =
        |trial: &Trial, places: &[usize]| places.iter().map(|&place| text(trial, place)).collect::<Vec<_>>().join(" ");
    let of = |trial: &Trial| {
        let judgements = trial.judgements.iter().map(|j| (join(trial, &j.better), join(trial, &j.worse)));
        (trial.reference.clone(), judgements.collect())
    };
    trials.iter().map(of).collect()
}

fn question(better: &str, worse: &str) -> (String, String) {
    (better.into(), worse.into())
}

#[test]
fn best_is_the_reference_and_is_not_judged() {
    let ranked = [("first", 9.0), ("third", 3.0), ("second", 5.0), ("last", 1.0)];
    let set = set(Format::RmbRanked, vec![group(Rule::FirstTwo, "p", &ranked)]);
    let found = trials(&set, ReferenceSource::Best, &References::default()).unwrap();
    assert_eq!(asked(&set, &found.trials), [("first".into(), vec![question("second", "third")])]);
    assert_eq!((found.left_out_candidates, found.left_out_groups), (0, 0));
}

#[test]
fn leave_one_out_asks_only_what_is_not_better_than_the_reference() {
    let candidates = [("good", 1.0), ("fine", 1.0), ("bad", 0.0), ("worse", 0.0)];
    let set = set(Format::RmBench, vec![group(Rule::Pairs, "p", &candidates)]);
    let found = trials(&set, ReferenceSource::LeaveOneOut, &References::default()).unwrap();
    let of =
        |reference: &str, other: &str| (reference.to_string(), vec![question(other, "bad"), question(other, "worse")]);
    assert_eq!(asked(&set, &found.trials), [of("good", "fine"), of("fine", "good")]);
}

#[test]
fn a_candidate_with_the_references_text_is_left_out_and_counted() {
    let twins = [("same", 1.0), ("same", 1.0), ("other", 1.0), ("bad", 0.0)];
    let groups = vec![group(Rule::BestOfN, "p", &twins), group(Rule::BestOfN, "q", &[("x", 1.0), ("y", 0.0)])];
    let set = set(Format::RewardBench2, groups);
    let found = trials(&set, ReferenceSource::Best, &References::default()).unwrap();
    assert_eq!(asked(&set, &found.trials), [("same".into(), vec![question("other", "bad")])]);
    assert_eq!((found.left_out_candidates, found.left_out_groups), (1, 1));

    let by_prompt = [("p", "bad"), ("q", "y")].map(|(p, r)| (p.to_string(), r.to_string())).into();
    let mut references = References { by_prompt, ..References::default() };
    let message = trials(&set, ReferenceSource::File, &references).unwrap_err().to_string();
    assert!(
        message.contains("nothing to judge in any of 2 groups") && message.contains("other references"),
        "{message}"
    );
    references.by_prompt.insert("q".into(), "x and more".into());
    let found = trials(&set, ReferenceSource::File, &references).unwrap();
    assert_eq!(asked(&set, &found.trials), [("x and more".into(), vec![question("x", "y")])]);
    assert_eq!((found.left_out_candidates, found.left_out_groups), (1, 1));
}

#[test]
fn a_source_that_a_format_does_not_have_is_refused_with_what_to_choose() {
    for format in [Format::RewardBench, Format::RewardBench2, Format::RmBench, Format::JudgeBench, Format::RmbRanked] {
        let set = set(format, vec![group(Rule::Pairs, "p", &[("a", 1.0), ("b", 0.0)])]);
        let message = trials(&set, ReferenceSource::Field, &References::default()).unwrap_err().to_string();
        assert!(
            message.contains("have no reference of their own; choose") && message.contains("--references"),
            "{message}"
        );
    }
    let pairs = set(Format::RewardBench, vec![group(Rule::Pairs, "p", &[("a", 1.0), ("b", 0.0)])]);
    let message = trials(&pairs, ReferenceSource::Best, &References::default()).unwrap_err().to_string();
    assert!(message.contains("best leaves nothing to judge") && message.contains("choose file"), "{message}");
    let message = trials(&pairs, ReferenceSource::File, &References::default()).unwrap_err().to_string();
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
    assert_eq!(references.of(&with_id("7", "p")), Some("by id"));
    assert_eq!(references.of(&with_id("8", "p")), Some("by prompt"));
    assert_eq!(references.of(&with_id("8", "q")), None);
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
    let set = set(Format::RmBench, (0..10).map(prompt).collect());
    let found = trials(&set, ReferenceSource::LeaveOneOut, &References::default()).unwrap();
    for seed in 0..8 {
        let control = found.shuffled(&set, seed).unwrap();
        for (trial, other) in found.trials.iter().zip(&control) {
            assert_eq!(
                (trial.group, &trial.candidates, &trial.judgements),
                (other.group, &other.candidates, &other.judgements)
            );
            let from =
                set.groups.iter().find(|g| g.candidates.iter().any(|c| c.answer.text() == Some(&other.reference)));
            assert_ne!(from.unwrap().prompt, set.groups[trial.group].prompt);
        }
    }
    let one = Set { groups: set.groups[..1].to_vec(), ..set };
    let found = trials(&one, ReferenceSource::LeaveOneOut, &References::default()).unwrap();
    assert!(found.trials.len() == 2 && found.shuffled(&one, 1).is_none(), "there is no other prompt");
}
