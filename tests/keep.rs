//! Whatever activations are kept for the backward pass, a training step gives the same bits.

use std::rc::Rc;

use polar_raw::backend::BackendExt;
use polar_raw::config::{ModelSection, ObjectiveSection, OptimizerSection};
use polar_raw::cpu::Cpu;
use polar_raw::model::config::{Architecture, SpecialIds};
use polar_raw::model::{Keep, Model, ModelConfig, OutputHeads, Workspace};
use polar_raw::passes::{Capacity, Pack, Packer, Wanted};
use polar_raw::rng;
use polar_raw::train::Trainer;
use rand::RngExt;

const VOCAB: usize = 300;

/// Packs of ragged pairs, each different, for one step.
fn packs(step: u64, next_tokens: bool) -> [Pack; 2] {
    let mut random = rng::stream(u64::from(std::process::id()), "packs to keep", step);
    let mut sequence = |n: usize| (0..n).map(|_| random.random_range(3..VOCAB as u32)).collect::<Vec<_>>();
    [40, 61].map(|most| {
        let mut packer = Packer::new(Wanted { next_tokens, ..Wanted::SCORES });
        for pair in 0..3 {
            let (prefix, n) = (sequence(10 + pair), most - (step as usize * 7 + pair) % 30);
            let [chosen, rejected] = [n, n - 5].map(|n| [prefix.clone(), sequence(n)].concat());
            packer.push_pair(&chosen, &rejected).unwrap();
        }
        packer.finish(VOCAB).unwrap()
    })
}

fn config(bias: bool) -> ModelConfig {
    let section = ModelSection {
        hidden_size: 64,
        intermediate_size: 160,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        initializer_range: 0.1,
        ..ModelSection::default()
    };
    let special = SpecialIds { bos: 1, eos: 2, pad: 2, reward: Some(4) };
    let config = ModelConfig::new(&section, VOCAB, special, Architecture::RewardModel).unwrap();
    // What has biases here has norms of queries and keys too, with heads that are wider than usual.
    ModelConfig { bias, qk_norm: bias, head_dim: if bias { 24 } else { 16 }, ..config }
}

#[test]
fn every_policy_gives_the_same_bits() {
    for (lm_weight, bias) in [(0.0, false), (0.5, true)] {
        let outputs = OutputHeads { reward: true, lm: lm_weight > 0.0 };
        let selected = if outputs.lm { 512 } else { 16 };
        let capacity = Capacity { tokens: 512, selected, candidates: 16 };
        let results = Keep::ALL.map(|keep| {
            let cpu = Rc::new(Cpu::new());
            let model = Model::new(cpu.clone(), config(bias), outputs).unwrap();
            model.initialise(1).unwrap();
            let objective = ObjectiveSection { lm_weight, ..ObjectiveSection::default() };
            let optimizer = OptimizerSection::default();
            let mut trainer = Trainer::whole(Rc::new(model), &objective, &optimizer, capacity, 64, keep).unwrap();
            let mut scores = Vec::new();
            let steps: Vec<_> = (0..4)
                .map(|step| {
                    let step = trainer.step(&packs(step, outputs.lm), 1e-3, &mut scores).unwrap();
                    (step, scores.clone(), cpu.read_f32(trainer.grads()).unwrap())
                })
                .collect();
            (steps, cpu.read_f32(trainer.model().params()).unwrap())
        });
        assert!(results[0].0.iter().all(|(_, _, grads)| grads.iter().any(|g| *g != 0.0)));
        assert!(results[1] == results[0], "norms, next-token weight {lm_weight}");
        assert!(results[2] == results[0], "block, next-token weight {lm_weight}");
        let bytes = Keep::ALL
            .map(|keep| Workspace::bytes(&polar_raw::cuda::footprint(), &config(bias), outputs, capacity, Some(keep)));
        assert!(bytes[0] > bytes[1] && bytes[1] > bytes[2], "{bytes:?}");
    }
}
