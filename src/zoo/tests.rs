use std::collections::HashSet;

use super::policy::SIZES;
use super::task::KINDS;
use super::*;

const SPLITS: [Split; 3] = [Split::Train, Split::HeldOutPrompts, Split::HeldOutPolicies];

fn zoo(seed: u64) -> Zoo {
    Zoo::new(&ZooSection { seed, ..ZooSection::default() }).unwrap()
}

#[test]
fn everything_follows_from_seed_split_and_index() {
    let (a, b) = (zoo(3), zoo(3));
    for split in SPLITS {
        // In another order, too: nothing remembers what came before.
        let forward: Vec<Triple> = (0..20).map(|i| a.triple(split, i)).collect();
        let mut backward: Vec<Triple> = (0..20).rev().map(|i| b.triple(split, i)).collect();
        backward.reverse();
        assert_eq!(forward, backward);
        assert_eq!(a.preference(split, 7), b.preference(split, 7));
        assert_eq!(a.trajectories(split, 7, 3, 2), b.trajectories(split, 7, 3, 2));
        assert_ne!(a.triple(split, 0), zoo(4).triple(split, 0));
    }
}

#[test]
fn held_out_prompts_are_never_trained_on() {
    let zoo = zoo(1);
    let prompts = |split: Split| -> HashSet<String> {
        let triples = (0..4000).map(|i| zoo.triple(split, i).prompt);
        let preferences = (0..500).map(|i| zoo.preference(split, i).prompt);
        triples
            .chain(preferences)
            .chain((0..500).map(|i| zoo.trajectories(split, i, 1, 1)[0].trajectory.prompt.clone()))
            .collect()
    };
    let train = prompts(Split::Train);
    assert!(train.len() > 3500, "only {} prompts", train.len());
    // The proof: which side a prompt falls on is a function of its text, whatever the seed and the amount.
    assert!(train.iter().all(|p| !is_held_out(p)));
    for split in [Split::HeldOutPrompts, Split::HeldOutPolicies] {
        let held_out = prompts(split);
        assert!(held_out.iter().all(|p| is_held_out(p)));
        assert!(held_out.is_disjoint(&train));
    }
}

#[test]
fn policies_are_many_and_held_out_ones_are_new() {
    let zoo = zoo(1);
    let habits = |split| zoo.policies(split).iter().map(|p| p.habits.values()).collect::<HashSet<_>>();
    assert!(zoo.policies(Split::Train).len() >= 184);
    assert!(habits(Split::Train).len() > 180);
    let new = habits(Split::HeldOutPolicies).difference(&habits(Split::Train)).count();
    assert!(new * 10 >= zoo.policies(Split::HeldOutPolicies).len() * 9, "{new} new combinations of habits");
}

#[test]
fn triples_are_what_they_say() {
    let zoo = zoo(2);
    for split in SPLITS {
        for index in 0..500 {
            let [reference, chosen, rejected] = zoo.triple_samples(split, index);
            assert_eq!(reference.trajectory.policy, chosen.trajectory.policy);
            assert_ne!(reference.trajectory.policy, rejected.trajectory.policy);
            let t = zoo.triple(split, index);
            assert_eq!((&t.reference, &t.chosen), (&reference.trajectory.output, &chosen.trajectory.output));
            assert!(t.reference != t.chosen && t.chosen != t.rejected);
        }
    }
}

#[test]
fn preferences_set_a_right_answer_against_a_wrong_one() {
    let zoo = zoo(2);
    for split in SPLITS {
        for index in 0..500 {
            let t = zoo.preference(split, index);
            assert!(t.reference != t.chosen && t.chosen != t.rejected);
            let right = |text: &str| solve(&t.prompt).is_none_or(|answer| writer::read_answer(text) == Some(answer));
            assert!(right(&t.reference) && right(&t.chosen), "{t:?}");
            assert!(solve(&t.prompt).is_none_or(|a| writer::read_answer(&t.rejected) != Some(a)), "{t:?}");
        }
    }
}

#[test]
fn what_a_sample_says_of_its_answer_is_what_the_checker_finds() {
    let zoo = zoo(5);
    let (mut right, mut wrong) = (0, 0);
    for index in 0..1000 {
        let task = zoo.task(Split::Train, index);
        for sample in zoo.trajectories(Split::Train, index, 2, 2) {
            assert_eq!(sample.trajectory.prompt, task.prompt());
            assert_eq!(is_right(&task, &sample.trajectory.output), sample.correct, "{sample:?}");
            *(if sample.correct { &mut right } else { &mut wrong }) += 1;
        }
        assert!(!is_right(&task, "") && !is_right(&task, "answer so") && !is_right(&task, "so answer"));
    }
    assert!(right > 2000 && wrong > 500, "{right} right, {wrong} wrong");
}

/// Solves the prompts with numbers from their text alone: a second opinion on [`Task::answer`].
fn solve(prompt: &str) -> Option<String> {
    let numbers: Vec<i64> =
        prompt.split(|c: char| !c.is_ascii_digit()).filter(|w| !w.is_empty()).map(|w| w.parse().unwrap()).collect();
    if prompt.starts_with("Compute") {
        let signs: Vec<char> = prompt.chars().filter(|c| "+-".contains(*c)).collect();
        let signed = |(n, s): (&i64, &char)| if *s == '+' { *n } else { -*n };
        let rest: i64 = numbers[1..].iter().zip(&signs).map(signed).sum();
        Some((numbers[0] + rest).to_string())
    } else if prompt.starts_with("Largest") {
        numbers.iter().max().map(i64::to_string)
    } else if prompt.starts_with("Sort") {
        let mut sorted = numbers;
        sorted.sort_unstable();
        Some(sorted.iter().map(i64::to_string).collect::<Vec<_>>().join(" "))
    } else if let Some(word) = prompt.strip_prefix("Reverse ") {
        Some(word.chars().rev().collect())
    } else if prompt.starts_with("How many cm") {
        Some((numbers[0] * 100 + numbers[1]).to_string())
    } else if prompt.starts_with("How many min") {
        Some((numbers[0] * 60 + numbers[1]).to_string())
    } else {
        None
    }
}

#[test]
fn a_wrong_working_goes_wrong_for_every_kind_of_task() {
    let mut kinds = HashSet::new();
    for index in 0..400 {
        let rng = &mut stream(9, "test", index);
        let task = Task::draw(rng);
        kinds.insert(task.kind());
        assert_eq!(numeral::canonical(&task.work(None, rng).answer), task.answer(), "{task:?}");
        assert_ne!(numeral::canonical(&task.work_wrongly(rng).answer), task.answer(), "{task:?}");
    }
    assert_eq!(kinds.len(), KINDS);
}

#[test]
fn lengths_suit_a_small_model() {
    let zoo = zoo(1);
    let lengths: Vec<usize> = (0..1000)
        .map(|i| {
            let t = zoo.triple(Split::Train, i);
            2 * t.prompt.len() + t.reference.len() + t.chosen.len() + 4
        })
        .collect();
    let mean = lengths.iter().sum::<usize>() / lengths.len();
    assert!((200..=310).contains(&mean), "{mean} bytes a string");
}

#[test]
fn the_oracle_is_nearly_always_right() {
    let zoo = zoo(1);
    for split in SPLITS {
        let (mut known, mut unknown) = (0, 0);
        for index in 0..1000 {
            let [reference, chosen, rejected] = zoo.triple_samples(split, index);
            let policy = zoo
                .policies(split)
                .iter()
                .enumerate()
                .find(|(i, _)| reference.trajectory.policy.ends_with(&format!("-{i}")));
            let policy = policy.unwrap().1;
            let likelier = |f: &dyn Fn(&Style) -> f64| usize::from(f(&chosen.style) > f(&rejected.style));
            known += likelier(&|s| oracle::log_likelihood(policy, s));
            unknown += likelier(&|s| oracle::same_policy(&reference.style, s));
        }
        assert!(known > 980 && unknown > 970, "{split:?}: {known}, {unknown} of 1000");
    }
}

#[test]
fn too_few_policies_are_the_users_error() {
    for section in [
        ZooSection { train_policies: 1, ..ZooSection::default() },
        ZooSection { held_out_policies: 0, ..ZooSection::default() },
        ZooSection { train_policies: usize::MAX, ..ZooSection::default() },
    ] {
        assert_eq!(Zoo::new(&section).unwrap_err().exit_code(), 2);
    }
}

#[test]
fn every_style_is_drawn() {
    let rng = &mut stream(1, "test", 2);
    let mut seen: Vec<HashSet<usize>> = vec![HashSet::new(); SIZES.len()];
    for _ in 0..1000 {
        for (seen, value) in seen.iter_mut().zip(Style::draw(rng).values()) {
            seen.insert(value);
        }
    }
    assert!(seen.iter().zip(SIZES).all(|(seen, size)| seen.len() == size));
}
