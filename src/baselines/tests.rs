use super::*;
use crate::config::ZooSection;
use crate::zoo::{Split, Zoo};

fn triple(reference: &str, chosen: &str, rejected: &str) -> Triple {
    let [prompt, reference, chosen, rejected] = ["p", reference, chosen, rejected].map(str::to_owned);
    Triple { prompt, reference, chosen, rejected, wrapper: None }
}

/// Policies that a child can tell apart: one writes in capitals and bullets, one in plain lower case.
fn separable(count: usize) -> Vec<Triple> {
    (0..count)
        .map(|i| {
            let loud = |n: usize| format!("* ITEM {n}!\n* TOTAL {}!", 3 * n);
            let plain = |n: usize| format!("item {n} and the total {}", 3 * n);
            if i % 2 == 0 {
                triple(&loud(i), &loud(i + 1), &plain(i))
            } else {
                triple(&plain(i), &plain(i + 1), &loud(i))
            }
        })
        .collect()
}

#[test]
fn every_baseline_tells_separable_policies_apart() {
    let (train, test) = (separable(400), separable(1000));
    for baseline in Baselines::fit(&train, 1).unwrap().iter() {
        assert_eq!(baseline.accuracy(&test[400..]), 1.0, "{}", baseline.name());
    }
}

#[test]
fn what_is_preferred_whatever_the_reference_is_learnt_too() {
    let text = |length: usize| "word ".repeat(length);
    let train: Vec<Triple> = (0..200).map(|i| triple(&text(5 + i % 7), &text(20 + i % 5), &text(3 + i % 4))).collect();
    assert_eq!(hand(&train, 1).unwrap().accuracy(&train), 1.0);
}

#[test]
fn a_tie_is_not_right() {
    let tie = [triple("so it is", "the same", "the same"), triple("", "", "")];
    for baseline in Baselines::fit(&separable(100), 1).unwrap().iter() {
        assert_eq!(baseline.accuracy(&tie), 0.0, "{}", baseline.name());
        assert!(baseline.score("p", "", "").is_finite());
    }
}

#[test]
fn nothing_to_learn_from_is_the_users_error() {
    assert_eq!(Baselines::fit(&[], 1).err().map(|e| e.exit_code()), Some(2));
    assert_eq!(Baselines::fit(&separable(1), 1).unwrap().iter().count(), 3);
    assert_eq!(hand(&[], 1).unwrap_err().exit_code(), 2);
}

#[test]
fn fitting_depends_on_triples_and_seed_only() {
    let train: Vec<Triple> = (0..600).map(|i| zoo(1).triple(Split::Train, i)).collect();
    let scores = |threads: usize| -> Vec<f64> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let fitted = pool.install(|| Baselines::fit(&train, 7)).unwrap();
        fitted.iter().map(|b| b.score("p", &train[0].reference, &train[0].chosen)).collect()
    };
    assert_eq!(scores(1), scores(3));
}

fn zoo(seed: u64) -> Zoo {
    Zoo::new(&ZooSection { seed, ..ZooSection::default() }).unwrap()
}

/// Fits all baselines on the zoo and prints and returns their accuracies on held-out prompts, held-out policies and
/// preferences.
fn zoo_figures(seed: u64, train: u64, eval: u64) -> Vec<[f64; 3]> {
    let zoo = zoo(seed);
    let train: Vec<Triple> = (0..train).map(|i| zoo.triple(Split::Train, i)).collect();
    let rows: [Vec<Triple>; 3] = [
        (0..eval).map(|i| zoo.triple(Split::HeldOutPrompts, i)).collect(),
        (0..eval).map(|i| zoo.triple(Split::HeldOutPolicies, i)).collect(),
        (0..eval).map(|i| zoo.preference(Split::HeldOutPolicies, i)).collect(),
    ];
    let figures = |baseline: &dyn Baseline| {
        let accuracies = rows.each_ref().map(|row| baseline.accuracy(row));
        println!(
            "seed {seed} {:5} {accuracies:.3?} (held-out prompts, held-out policies, preferences)",
            baseline.name()
        );
        accuracies
    };
    Baselines::fit(&train, seed).unwrap().iter().map(figures).collect()
}

#[test]
fn the_zoo_is_no_gift_to_baselines() {
    let [hand, bag, ngram] = zoo_figures(1, 3000, 2000)[..] else { panic!("three baselines") };
    for split in 0..2 {
        assert!(hand[split] < 0.65 && bag[split] < 0.67 && ngram[split] < 0.75, "{hand:?} {bag:?} {ngram:?}");
        // They find something all the same: a baseline at chance would be a broken one.
        assert!(ngram[split] > 0.6, "{ngram:?}");
    }
}

/// Prints the numbers that are worth quoting.
#[test]
#[ignore = "takes a minute: cargo test --release --lib -- --ignored --nocapture figures_over_seeds"]
fn figures_over_seeds() {
    for seed in 1..=3 {
        zoo_figures(seed, 20_000, 4000);
    }
}
