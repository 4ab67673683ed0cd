//! Triples are what POLAR trains on: reference and chosen by one policy, rejected by another, for one prompt.

use polar_raw::data::{Rows, Trajectory, TripleSource, split_by_prompt};
use polar_raw::error::ErrorKind;
use proptest::prelude::*;
use std::collections::HashSet;

fn trajectory(prompt: &str, policy: &str, output: &str) -> Trajectory {
    Trajectory { prompt: prompt.into(), policy: policy.into(), output: output.into() }
}

/// Rows whose text tells who wrote it.
fn signed(samples: &[(&str, &str, usize)]) -> Vec<Trajectory> {
    let rows = samples.iter().flat_map(|(prompt, policy, count)| {
        (0..*count).map(move |n| trajectory(prompt, policy, &format!("{prompt} {policy} {n}")))
    });
    rows.collect()
}

fn author(text: &str) -> &str {
    text.rsplit_once(' ').unwrap().0
}

#[test]
fn the_summary_counts_everything() {
    let mut rows = signed(&[("p", "a", 3), ("p", "b", 1), ("q", "a", 2), ("r", "a", 1), ("r", "b", 1)]);
    rows.extend([("a", "same"), ("a", "same"), ("b", "same")].map(|(policy, text)| trajectory("s", policy, text)));
    rows.extend([("a", "greedy"), ("a", "greedy"), ("b", "x")].map(|(policy, text)| trajectory("t", policy, text)));
    let source = TripleSource::new(rows).unwrap();
    let summary = source.summary();
    assert_eq!((summary.trajectories, summary.prompts, summary.policies), (14, 5, 2));
    assert_eq!((summary.triples, source.len()), (2, 2), "p by a and t by a");
    assert_eq!(summary.single_samples, 5, "p by b, r by a and b, s by b, t by b");
    assert_eq!((summary.without_negative, summary.same_as_negative), (1, 1));
    assert_eq!((summary.identical_pairs, summary.pairs), (1, 4), "the greedy pair of t is used");
}

#[test]
fn without_a_triple_the_message_says_what_is_missing() {
    for rows in [vec![], signed(&[("p", "a", 5)]), signed(&[("p", "a", 1), ("p", "b", 1)])] {
        let error = TripleSource::new(rows).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::User);
        assert!(error.to_string().contains("two samples of one policy and a different one of another"), "{error}");
    }
}

#[test]
fn epochs_depend_on_seed_and_number_alone() {
    let rows = signed(&[("p", "a", 4), ("p", "b", 4), ("q", "a", 3), ("q", "c", 2), ("r", "b", 2), ("r", "c", 2)]);
    let source = TripleSource::new(rows.clone()).unwrap();
    let triples = |seed, epoch| source.epoch(seed, epoch).map(Result::unwrap).collect::<Vec<_>>();
    assert_eq!(triples(1, 0), TripleSource::new(rows).unwrap().epoch(1, 0).map(Result::unwrap).collect::<Vec<_>>());
    assert_ne!(triples(1, 0), triples(1, 1));
    assert_ne!(triples(1, 0), triples(2, 0));
    assert_eq!(triples(1, 0).len(), 6);
}

#[test]
fn every_pair_and_every_negative_is_drawn() {
    let source = TripleSource::new(signed(&[("p", "a", 3), ("p", "b", 1), ("p", "c", 2)])).unwrap();
    let mut seen = HashSet::new();
    for epoch in 0..400 {
        let drawn = source
            .epoch(7, epoch)
            .map(Result::unwrap)
            .filter(|triple| author(&triple.reference) == "p a")
            .collect::<Vec<_>>();
        seen.extend(drawn.into_iter().map(|triple| (triple.reference, triple.chosen, triple.rejected)));
    }
    assert_eq!(seen.len(), 3 * 2 * 3, "ordered pairs of three samples, three negatives");
}

#[test]
fn all_rows_of_a_prompt_stay_together() {
    let rows: Vec<(String, usize)> = (0..3000).map(|i| (format!("prompt {}", i / 3), i)).collect();
    let split = |fraction, seed| {
        let (train, eval) = split_by_prompt(rows.clone(), |row| &row.0, fraction, seed).unwrap();
        let all = |rows: Rows<(String, usize)>| rows.iter().map(Result::unwrap).collect::<Vec<_>>();
        (all(train), all(eval))
    };
    let (train, eval) = split(0.2, 1);
    let prompts = |part: &[(String, usize)]| part.iter().map(|row| row.0.clone()).collect::<HashSet<_>>();
    assert!(prompts(&train).is_disjoint(&prompts(&eval)));
    assert_eq!(train.len() + eval.len(), 3000);
    // Four standard deviations of a binomial with n = 1000 and p = 0.2.
    assert!((150..250).contains(&prompts(&eval).len()), "{}", prompts(&eval).len());
    assert_ne!(split(0.2, 2).1, eval);
    assert!(split(0.0, 1).1.is_empty());
    assert!(split(1.0, 1).0.is_empty());
}

proptest! {
    #[test]
    fn triples_are_valid(
        rows in prop::collection::vec((0..4u8, 0..4u8, prop::bool::ANY), 0..40),
        seed: u64,
        epoch: u64,
    ) {
        // Half of the texts are the same for all policies, so that equal texts by different policies occur.
        let rows: Vec<Trajectory> = rows
            .iter()
            .enumerate()
            .map(|(i, (prompt, policy, common))| {
                let text = if *common { "common".into() } else { format!("{policy} {i}") };
                trajectory(&prompt.to_string(), &policy.to_string(), &text)
            })
            .collect();
        let wrote = |prompt: &str, policy: &str, text: &str| {
            rows.iter().any(|row| row.prompt == prompt && row.policy == policy && row.output == text)
        };
        let Ok(source) = TripleSource::new(rows.clone()) else { return Ok(()) };
        for triple in source.epoch(seed, epoch).map(Result::unwrap) {
            prop_assert_ne!(&triple.chosen, &triple.rejected);
            let valid = (0..4u8).any(|policy| {
                let own = policy.to_string();
                let twice = triple.reference != triple.chosen
                    || rows.iter().filter(|r| r.prompt == triple.prompt && r.policy == own && r.output == triple.chosen).count() > 1;
                let pair = wrote(&triple.prompt, &own, &triple.reference) && wrote(&triple.prompt, &own, &triple.chosen);
                let mut others = (0..4u8).filter(|other| *other != policy);
                pair && twice && others.any(|other| wrote(&triple.prompt, &other.to_string(), &triple.rejected))
            });
            prop_assert!(valid, "{triple:?} of {rows:?}");
        }
    }
}
