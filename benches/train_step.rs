//! Tokens per second of one optimiser step (forward, backward, clip, AdamW) of a Bradley-Terry reward model at three
//! sizes: 4 pairs of random sequences of 512 tokens each, no shared prefix, f32.

use std::hint::black_box;
use std::rc::Rc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use polar_raw::backend::Backend;
use polar_raw::config::{ModelSection, ObjectiveSection, OptimizerSection};
use polar_raw::cpu::Cpu;
use polar_raw::model::config::{Architecture, SpecialIds};
use polar_raw::model::{Keep, Model, ModelConfig, OutputHeads};
use polar_raw::passes::{Capacity, Pack, Packer, Wanted};
use polar_raw::rng;
use polar_raw::train::Trainer;
use rand::RngExt;

const VOCAB: usize = 4096;
const SEQUENCE: usize = 512;
const PAIRS: usize = 4;

/// `(name, hidden, layers, heads, key/value heads, ffn)`
const SIZES: [(&str, usize, usize, usize, usize, usize); 3] =
    [("1.2M", 128, 4, 4, 2, 344), ("4M", 256, 4, 4, 2, 688), ("20M", 512, 6, 8, 4, 1376)];

fn trainer(size: (&str, usize, usize, usize, usize, usize)) -> Trainer {
    let (_, hidden, layers, heads, kv, ffn) = size;
    let section = ModelSection {
        hidden_size: hidden,
        intermediate_size: ffn,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: kv,
        ..ModelSection::default()
    };
    let special = SpecialIds { bos: 1, eos: 2, pad: 2, reward: Some(VOCAB as u32 - 1) };
    let config = ModelConfig::new(&section, VOCAB, special, Architecture::RewardModel).unwrap();
    let backend: Rc<dyn Backend> = Rc::new(Cpu::new());
    let model = Model::new(backend, config, OutputHeads { reward: true, lm: false }).unwrap();
    model.initialise(1).unwrap();
    let tokens = 2 * PAIRS * SEQUENCE;
    let capacity = Capacity { tokens, selected: 2 * PAIRS, candidates: 2 * PAIRS };
    let optimizer = OptimizerSection { lr: 1e-4, ..OptimizerSection::default() };
    Trainer::whole(Rc::new(model), &ObjectiveSection::default(), &optimizer, capacity, 64, Keep::All).unwrap()
}

fn batch() -> Pack {
    let mut random = rng::stream(1, "bench", 0);
    let mut sequence = || (0..SEQUENCE).map(|_| random.random_range(3..VOCAB as u32)).collect::<Vec<_>>();
    let mut packer = Packer::new(Wanted { share_prefix: false, ..Wanted::SCORES });
    for _ in 0..PAIRS {
        packer.push_pair(&sequence(), &sequence()).expect("no sequence is empty");
    }
    packer.finish(VOCAB).expect("ids below the vocabulary")
}

fn train_step(c: &mut Criterion) {
    polar_raw::cpu::keep_freed_memory();
    let mut group = c.benchmark_group("train_step");
    group.sample_size(10).warm_up_time(Duration::from_secs(2)).measurement_time(Duration::from_secs(8));
    for size in SIZES {
        let (mut trainer, packs, mut scores) = (trainer(size), [batch()], Vec::new());
        group.throughput(Throughput::Elements(packs[0].tokens() as u64));
        group.bench_function(BenchmarkId::new("cpu", size.0), |b| {
            b.iter(|| black_box(trainer.step(&packs, 1e-4, &mut scores).unwrap()));
        });
    }
    group.finish();
}

criterion_group!(benches, train_step);
criterion_main!(benches);
