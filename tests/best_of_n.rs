//! Scores do not depend on what is computed together: groups, rows, passes, or a sequence by itself.

use approx::abs_diff_eq;
use std::rc::Rc;

use polar_raw::config::ModelSection;
use polar_raw::cpu::Cpu;
use polar_raw::eval::Scorer;
use polar_raw::model::config::{Architecture, SpecialIds};
use polar_raw::model::{Model, ModelConfig, OutputHeads};
use polar_raw::rng;
use rand::{Rng, RngExt};

const VOCAB: usize = 50;

fn model(random: &mut impl Rng) -> Rc<Model> {
    let kv = random.random_range(1..=2);
    let heads = kv * random.random_range(1..=3);
    let section = ModelSection {
        hidden_size: heads * 8,
        intermediate_size: random.random_range(9..=40),
        num_hidden_layers: random.random_range(1..=3),
        num_attention_heads: heads,
        num_key_value_heads: kv,
        ..ModelSection::default()
    };
    let special = SpecialIds { bos: 1, eos: 2, pad: 2, reward: Some(4) };
    let config = ModelConfig::new(&section, VOCAB, special, Architecture::RewardModel).unwrap();
    let model = Model::new(Rc::new(Cpu::new()), config, OutputHeads { reward: true, lm: false }).unwrap();
    for spec in model.specs() {
        let fan_in = *spec.shape.last().unwrap() as f32;
        let (middle, spread) = match spec.name.as_str() {
            name if name.contains("norm") => (1.0, 0.3),
            name if name.contains("tok_embeddings") => (0.0, 1.0),
            _ => (0.0, (3.0 / fan_in).sqrt()),
        };
        let values: Vec<f32> =
            (0..spec.elements()).map(|_| middle + spread * random.random_range(-1.0f32..1.0)).collect();
        model.set(spec, &values).unwrap();
    }
    Rc::new(model)
}

fn ids(random: &mut impl Rng, length: usize) -> Vec<u32> {
    (0..length).map(|_| random.random_range(5..VOCAB as u32)).collect()
}

#[test]
fn however_batched_the_scores_are_equal() {
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    for round in 0..12 {
        let random = &mut rng::stream(seed, "best of n", round);
        let model = model(random);
        let groups: Vec<Vec<Vec<u32>>> = (0..random.random_range(1..12))
            .map(|_| {
                let length = random.random_range(0..90);
                let prefix = ids(random, length);
                let candidates = random.random_range(1..=20);
                let own = |random: &mut _| {
                    let length = Rng::next_u32(random) as usize % 30;
                    [&prefix[..], &ids(random, length), &[4]].concat()
                };
                (0..candidates).map(|_| own(random)).collect()
            })
            .collect();
        let alone: Vec<Vec<Vec<u32>>> = groups.iter().flatten().map(|ids| vec![ids.clone()]).collect();
        let separate = Scorer::new(model.clone(), 1).unwrap().score(&alone).unwrap();
        assert!(separate.iter().any(|score| score.abs() > 0.1), "{separate:?}");
        // Passes that hold a sequence or less, part of a group, some groups, all of them.
        for tokens in [8, 64, 150, 1000, 20_000] {
            let mut scorer = Scorer::new(model.clone(), tokens).unwrap();
            let shared = scorer.score(&groups).unwrap();
            assert_eq!(shared.len(), separate.len());
            for (a, b) in shared.iter().zip(&separate) {
                assert!(
                    abs_diff_eq!(*a, *b, epsilon = 1e-5),
                    "seed {seed}, round {round}, passes of {tokens}: {a} and {b}"
                );
            }
            assert_eq!(scorer.score(&groups).unwrap(), shared, "the same groups have the same bits");
        }
    }
}

#[test]
fn a_group_larger_than_a_pass_is_split_and_its_beginning_repeated() {
    let random = &mut rng::stream(3, "split", 0);
    let prefix = ids(random, 40);
    let group: Vec<Vec<u32>> = (0..16).map(|_| [&prefix[..], &ids(random, 10)].concat()).collect();
    // 40 + 6 * 10 tokens at most in each: 6, 6 and 4 candidates.
    let mut scorer = Scorer::new(model(random), 100).unwrap();
    scorer.score(&[group]).unwrap();
    let computed = scorer.computed_tokens();
    assert!((3 * 40 + 16 * 10 - 16..=3 * 40 + 16 * 10).contains(&computed), "{computed}");
}

#[test]
fn nothing_and_next_to_nothing() {
    let mut scorer = Scorer::new(model(&mut rng::stream(3, "nothing", 0)), 64).unwrap();
    assert!(scorer.score(&[]).unwrap().is_empty());
    assert!(scorer.score(&[vec![], vec![]]).unwrap().is_empty());
    assert_eq!(scorer.score(&[vec![], vec![vec![4]], vec![vec![4]; 100]]).unwrap().len(), 101);
    let error = scorer.score(&[vec![vec![4]], vec![vec![]]]).unwrap_err();
    assert!(error.to_string().contains("group 1 has an empty sequence"), "{error}");
}
