//! Best of 16 with the common beginning computed once, against the same sequences one by one in equally full passes: a
//! reward model of 20 million parameters in f32, candidates of equal length. The last shape is none that sharing is for.

use std::cell::RefCell;
use std::hint::black_box;
use std::rc::Rc;
use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use polar_raw::config::ModelSection;
use polar_raw::cpu::Cpu;
use polar_raw::eval::Scorer;
use polar_raw::model::config::{Architecture, SpecialIds};
use polar_raw::model::{Model, ModelConfig, OutputHeads};
use polar_raw::rng;
use rand::RngExt;

const VOCAB: usize = 4096;
const CANDIDATES: usize = 16;
/// Tokens of a pass.
const PASS: usize = 4096;
/// Tokens of prompt, reference and candidate.
const SHAPES: [[usize; 3]; 4] = [[256, 256, 128], [128, 128, 128], [64, 64, 64], [32, 64, 256]];

fn model() -> Rc<Model> {
    let section = ModelSection {
        hidden_size: 512,
        intermediate_size: 1376,
        num_hidden_layers: 6,
        num_attention_heads: 8,
        num_key_value_heads: 4,
        ..ModelSection::default()
    };
    let special = SpecialIds { bos: 1, eos: 2, pad: 2, reward: Some(VOCAB as u32 - 1) };
    let config = ModelConfig::new(&section, VOCAB, special, Architecture::RewardModel).unwrap();
    let model = Model::new(Rc::new(Cpu::new()), config, OutputHeads { reward: true, lm: false }).unwrap();
    model.initialise(1).unwrap();
    Rc::new(model)
}

fn group([prompt, reference, candidate]: [usize; 3]) -> Vec<Vec<u32>> {
    let mut random = rng::stream(1, "bench", 0);
    let mut ids = |length: usize| (0..length).map(|_| random.random_range(5..VOCAB as u32 - 1)).collect::<Vec<_>>();
    let (prompt, reference) = (ids(prompt), ids(reference));
    let prefix = [&[1][..], &prompt, &reference, &[4], &prompt].concat();
    (0..CANDIDATES).map(|_| [&prefix[..], &ids(candidate), &[VOCAB as u32 - 1]].concat()).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn bench(c: &mut Criterion) {
    let model = model();
    for shape in SHAPES {
        let shared = vec![group(shape)];
        let separate: Vec<Vec<Vec<u32>>> = shared[0].iter().map(|ids| vec![ids.clone()]).collect();
        let name = shape.map(|tokens| tokens.to_string()).join("+");
        let mut bench = c.benchmark_group(format!("best_of_16/{name}"));
        bench.throughput(Throughput::Elements(CANDIDATES as u64)).sample_size(10);
        let mut measure = |name: &str, groups: &[Vec<Vec<u32>>]| {
            let mut scorer = Scorer::new(model.clone(), PASS).unwrap();
            scorer.score(groups).unwrap();
            let tokens = scorer.computed_tokens() as f64;
            let times = RefCell::new(Vec::new());
            bench.bench_function(name, |bencher| {
                bencher.iter_custom(|iterations| {
                    let started = Instant::now();
                    for _ in 0..iterations {
                        black_box(scorer.score(groups).unwrap());
                    }
                    let elapsed = started.elapsed();
                    times.borrow_mut().push(elapsed.as_secs_f64() / iterations as f64);
                    elapsed
                });
            });
            (tokens, median(times.into_inner()))
        };
        let (separate_tokens, separate_time) = measure("separate", &separate);
        let (shared_tokens, shared_time) = measure("shared", &shared);
        bench.finish();
        println!(
            "{name}: {shared_tokens} tokens for {separate_tokens}: {:.2} times the throughput, {:.2} by tokens",
            separate_time / shared_time,
            separate_tokens / shared_tokens
        );
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
