use super::*;
use crate::data::{Candidate, Group, ReferenceSource, Rule, SetFormat};
use crate::eval::judge::Judge;
use crate::eval::reference::{References, trials};
use crate::eval::result::{Task, measure};
use crate::eval::sets::Set;
use approx::abs_diff_eq;

/// Subset and candidates, each a text and its gain.
type TestRow<'a> = (&'a str, &'a [(&'a str, f64)]);

fn set(format: SetFormat, rule: Rule, rows: &[TestRow]) -> Set {
    let group = |(i, (subset, candidates)): (usize, &TestRow)| Group {
        file: None,
        line: i + 1,
        id: None,
        prompt: format!("prompt {i}"),
        reference: Some(format!("reference {i}")),
        candidates: candidates.iter().map(|&(text, gain)| Candidate::new(text, gain)).collect(),
        subset: (*subset).into(),
        rule,
        wrapper: None,
    };
    let groups: Vec<Group> = rows.iter().enumerate().map(group).collect();
    Set { format, rows: groups.len(), files: 0, groups: groups.into(), notes: Vec::new(), blake3: String::new() }
}

fn questions(set: &Set, trials: &Trials) -> Vec<Question> {
    trials.questions(set).map(Result::unwrap).collect()
}

fn judgements(set: &Set, trials: &Trials) -> Vec<Judged> {
    let questions = questions(set, trials);
    judged(&questions, &number.scores(&questions).unwrap(), &[]).collect()
}

/// The number that a text is.
fn number(_: &str, _: &str, text: &str) -> f32 {
    text.parse().unwrap_or(f32::NAN)
}

#[test]
fn the_table_has_all_then_subsets_and_a_tie_is_wrong() {
    let rows: [(&str, &[(&str, f64)]); 4] = [
        ("b", &[("2", 1.0), ("1", 0.0)]),
        ("b", &[("1", 1.0), ("1.0", 0.0)]),
        ("a", &[("3", 1.0), ("x", 0.0)]),
        ("", &[("5", 1.0), ("4", 0.0)]),
    ];
    let set = set(SetFormat::Preferences, Rule::Pairs, &rows);
    let trials = trials(&set, ReferenceSource::Field, References::default()).unwrap();
    let task = Task { name: "numbers", set: &set, trials: &trials, baselines: Vec::new(), seed: 1 };
    let mut seen = 0;
    let measured = measure(&task, &mut number, |_, scores| {
        seen += scores.len();
        Ok(())
    });
    let measured = measured.unwrap();
    let rows: Vec<(&str, usize, usize)> =
        measured.table.rows.iter().map(|r| (r.name.as_str(), r.accuracies[0].right, r.accuracies[0].pairs)).collect();
    assert_eq!(rows, [("numbers", 2, 4), ("(no subset)", 1, 1), ("a", 0, 1), ("b", 1, 2)]);
    assert_eq!(measured.table.columns, ["model", "shuffled reference"]);
    assert_eq!(measured.table.rows[0].accuracies[1], measured.table.rows[0].accuracies[0], "it minds no reference");
    assert!(measured.table.rows.iter().all(|row| row.chance == 0.5) && seen == 8);
    assert_eq!(measured.table.rows[0].chosen, [2.0, 1.0, 3.0, 5.0]);
}

/// A judge that only minds the reference: right with its own, and at a loss with another one's.
#[test]
fn the_control_finds_a_judge_that_compares() {
    let texts: Vec<[String; 2]> = (0..40).map(|i| [format!("reference {i}!"), format!("other {i}")]).collect();
    let rows: Vec<Vec<(&str, f64)>> = texts.iter().map(|[a, b]| vec![(a.as_str(), 1.0), (b.as_str(), 0.0)]).collect();
    let rows: Vec<(&str, &[(&str, f64)])> = rows.iter().map(|row| ("", &row[..])).collect();
    let set = set(SetFormat::Preferences, Rule::Pairs, &rows);
    let trials = trials(&set, ReferenceSource::Field, References::default()).unwrap();
    let mut judge = |_: &str, reference: &str, text: &str| f32::from(u8::from(text == format!("{reference}!")));
    let task = Task { name: "set", set: &set, trials: &trials, baselines: Vec::new(), seed: 3 };
    let table = measure(&task, &mut judge, |_, _| Ok(())).unwrap().table;
    assert_eq!((table.rows[0].accuracies[0].right, table.rows[0].accuracies[1].right), (40, 0));
    assert_eq!((table.rows.len(), table.rows[0].accuracies[1].pairs), (1, 40));
}

#[test]
fn best_of_four_is_strict_and_chance_is_a_quarter() {
    let rows: [(&str, &[(&str, f64)]); 3] = [
        ("Math", &[("4", 1.0), ("1", 0.0), ("2", 0.0), ("3", 0.0)]),
        ("Math", &[("3", 1.0), ("1", 0.0), ("2", 0.0), ("3.0", 0.0)]),
        ("Ties", &[("3", 1.0), ("9", 1.0), ("2", 0.0), ("4", 0.0)]),
    ];
    let set = set(SetFormat::RewardBench2, Rule::BestOfN, &rows);
    let mut references = tempfile::NamedTempFile::new().unwrap();
    for i in 0..3 {
        std::io::Write::write_all(
            &mut references,
            format!("{{\"prompt\": \"prompt {i}\", \"reference\": \"r\"}}\n").as_bytes(),
        )
        .unwrap();
    }
    let references = References::read(references.path()).unwrap();
    let trials = trials(&set, ReferenceSource::File, references).unwrap();
    let judged = judgements(&set, &trials);
    assert_eq!(judged.iter().map(Judged::right).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!((judged[0].chance, judged[1].margin(), judged[2].margin()), (0.25, 0.0, -1.0));
    let averages = averages(set.format, &trials, &judged);
    assert_eq!((averages.by_pairs, averages.by_section), (1.0 / 3.0, Some(0.25)));
}

/// In Reasoning, mathematics and code count half each, however many they are.
#[test]
fn sections_average_their_parts() {
    let right: &[(&str, f64)] = &[("1", 1.0), ("0", 0.0)];
    let wrong: &[(&str, f64)] = &[("0", 1.0), ("1", 0.0)];
    let rows = [("math-prm", right), ("hep-go", wrong), ("hep-cpp", wrong), ("hep-go", wrong), ("donotanswer", right)];
    let set = set(SetFormat::Preferences, Rule::Pairs, &rows);
    let trials = trials(&set, ReferenceSource::Field, References::default()).unwrap();
    let judged = judgements(&set, &trials);
    let averages = averages(SetFormat::RewardBench, &trials, &judged);
    let sections: Vec<_> = averages.sections.iter().map(|s| (s.name.as_str(), s.pairs, s.accuracy)).collect();
    assert_eq!(sections, [("Safety", 1, 1.0), ("Reasoning", 4, 0.5)], "sections without judgements are left out");
    assert_eq!((averages.by_pairs, averages.by_section), (0.4, Some(0.75)));
}

#[test]
fn spearman_of_known_cases() {
    let near = |x: &[f64], y: &[f64], wanted: f64| {
        let found = spearman(x, y).unwrap();
        assert!(abs_diff_eq!(found, wanted, epsilon = 1e-12), "{found}");
    };
    near(&[1.0, 2.0, 9.0], &[10.0, 20.0, 21.0], 1.0);
    near(&[1.0, 2.0], &[5.0, 1.0], -1.0);
    // Ranks 1 2.5 2.5 4 against 1 2 3 4: 4.5 / sqrt(4.5 * 5).
    near(&[1.0, 2.0, 2.0, 3.0], &[1.0, 2.0, 3.0, 4.0], 4.5 / 22.5f64.sqrt());
    assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]), None);
    assert_eq!(spearman(&[f64::NAN, 1.0], &[1.0, 2.0]), None);
}

#[test]
fn lengths_say_what_the_judge_and_what_the_data_prefer() {
    let rows: [(&str, &[(&str, f64)]); 3] =
        [("", &[("1", 1.0), ("2", 0.0)]), ("", &[("4", 1.0), ("3", 0.0)]), ("", &[("6", 1.0), ("5", 0.0)])];
    let set = set(SetFormat::Preferences, Rule::Pairs, &rows);
    let trials = trials(&set, ReferenceSource::Field, References::default()).unwrap();
    let tally = |tokens: [[usize; 2]; 3]| {
        let (questions, mut tally) = (questions(&set, &trials), LengthTally::default());
        let scores = number.scores(&questions).unwrap();
        questions.iter().zip(&scores).zip(&tokens).for_each(|((q, scores), tokens)| tally.add(q, scores, tokens));
        tally.finish()
    };
    let found = tally([[5, 9], [9, 5], [7, 7]]);
    assert_eq!((found.spearman, found.trials, found.pairs), (Some(1.0), 2, 2));
    assert_eq!((found.longer_wins, found.longer_is_better), (Some(1.0), Some(0.5)));
    let alike = tally([[5, 5], [5, 5], [7, 7]]);
    assert_eq!(alike, Lengths::default());
}

#[test]
fn margins_of_finite_scores() {
    let one = |better: f32, worse: f32| Judged {
        group: 0,
        subset: 0,
        better,
        worse,
        chance: 0.5,
        level: None,
        identical: false,
    };
    let judged: Vec<Judged> = (0..5).map(|i| one(i as f32, 0.0)).chain([one(f32::NAN, 0.0)]).collect();
    let found = margins(&judged).unwrap();
    assert_eq!((found.mean, found.ties), (2.0, 1));
    assert!(
        abs_diff_eq!(found.quantiles[0], 0.2, epsilon = 1e-12) && found.quantiles[1..4] == [1.0, 2.0, 3.0],
        "{found:?}"
    );
    assert_eq!(margins(&judged[5..]), None);
}
