//! The state of training belongs to whoever owns a range of it, and a step to whoever computes a share of its packs.

use std::rc::Rc;

use approx::{assert_abs_diff_eq, assert_abs_diff_ne};
use polar_raw::backend::{AdamW, BackendExt, Operations};
use polar_raw::config::{ModelSection, ObjectiveSection, OptimizerSection};
use polar_raw::cpu::Cpu;
use polar_raw::model::config::{Architecture, SpecialIds};
use polar_raw::model::params::ALIGNMENT;
use polar_raw::model::{Keep, Model, ModelConfig, OutputHeads};
use polar_raw::objective::StepTotals;
use polar_raw::passes::{Capacity, Pack, Packer, Wanted};
use polar_raw::rng;
use polar_raw::tensor::Dtype;
use polar_raw::train::checkpoint::{Checkpoints, RunLock};
use polar_raw::train::{OptimizerState, Trainer};
use rand::RngExt;

const VOCAB: usize = 300;
const OUTPUTS: OutputHeads = OutputHeads { reward: true, lm: true };

fn model(cpu: Rc<Cpu>) -> Model {
    let section = ModelSection {
        hidden_size: 48,
        intermediate_size: 100,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        initializer_range: 0.1,
        ..ModelSection::default()
    };
    let special = SpecialIds { bos: 1, eos: 2, pad: 2, reward: Some(4) };
    let config = ModelConfig::new(&section, VOCAB, special, Architecture::RewardModel).unwrap();
    let model = Model::new(cpu, config, OUTPUTS).unwrap();
    model.initialise(1).unwrap();
    model
}

fn random(n: usize, purpose: &str) -> Vec<f32> {
    let mut stream = rng::stream(u64::from(std::process::id()), purpose, 0);
    (0..n).map(|_| stream.random_range(-1.0..1.0)).collect()
}

/// One state over all, and one for each layer and what lies around them, make the same updates; what the ones save, the
/// other goes on with.
#[test]
fn ranges_update_as_the_whole_does() {
    let cpu = Rc::new(Cpu::new());
    let (whole, parts) = (model(cpu.clone()), model(cpu.clone()));
    let n = whole.params().len();
    let ranges = whole.config().ranges(OUTPUTS);
    assert_eq!(ranges.len(), 5, "what comes before the layers, three of them, what comes after");
    assert!(ranges.iter().all(|range| range.start.is_multiple_of(ALIGNMENT)));
    assert!(ranges.windows(2).all(|two| two[0].end == two[1].start) && ranges[0].start == 0 && ranges[4].end == n);
    let state = OptimizerState::new(&whole, 0..n).unwrap();
    let states: Vec<_> = ranges.iter().map(|range| OptimizerState::new(&parts, range.clone()).unwrap()).collect();
    assert_eq!(states.iter().map(|state| state.bytes(&parts)).sum::<usize>(), state.bytes(&whole));

    let (grads, squares) = (cpu.tensor(Dtype::F32, &[n]).unwrap(), cpu.tensor(Dtype::F32, &[1]).unwrap());
    let losses = cpu.tensor(Dtype::F32, &[2]).unwrap();
    for step in 1..=3 {
        cpu.write_f32(&grads, &random(n, &format!("gradients {step}"))).unwrap();
        cpu.sum_of_squares(&squares, &grads).unwrap();
        let update = AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.01, max_norm: 1.0, step };
        state.update(&whole, &grads, &squares, &losses, &update).unwrap();
        states.iter().for_each(|state| state.update(&parts, &grads, &squares, &losses, &update).unwrap());
    }
    let read = |model: &Model| cpu.read_f32(model.params()).unwrap();
    assert!(read(&whole) == read(&parts));

    // Each range in a checkpoint of its own kind of run, read by one that has cut them elsewhere.
    let run = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(&RunLock::acquire(run.path()).unwrap(), 1).unwrap();
    state.save(&whole, &checkpoints, 3, &"totals").unwrap();
    let checkpoint = checkpoints.latest().unwrap().checkpoint.unwrap();
    let again = model(cpu.clone());
    for range in [0..ranges[1].start + ALIGNMENT, ranges[1].start + ALIGNMENT..n] {
        let restored = OptimizerState::new(&again, range.clone()).unwrap();
        restored.restore(&again, &checkpoint).unwrap();
        for (restored, saved) in restored.moments().into_iter().zip(state.moments()) {
            let saved = cpu.read_f32(&saved.window(range.start, &[range.len()])).unwrap();
            assert!(cpu.read_f32(restored).unwrap() == saved);
        }
    }
    assert!(read(&again) == read(&whole));
    assert!(OptimizerState::new(&whole, 0..n + 1).is_err());
}

/// Where the norm or a loss is not finite no bit of weights and moments changes, and what is not finite is not saved: the
/// tensor is named.
#[test]
fn what_is_not_finite_changes_nothing_and_is_not_saved() {
    let cpu = Rc::new(Cpu::new());
    let model = model(cpu.clone());
    let n = model.params().len();
    let state = OptimizerState::new(&model, 0..n).unwrap();
    let [grads, squares, losses] = [n, 1, 2].map(|n| cpu.tensor(Dtype::F32, &[n]).unwrap());
    let update = |update: &AdamW| state.update(&model, &grads, &squares, &losses, update).unwrap();
    let bits = || -> Vec<u32> {
        let buffers = [model.params(), state.master()].into_iter().chain(state.moments());
        buffers.flat_map(|t| cpu.read_f32(t).unwrap()).map(f32::to_bits).collect()
    };
    let base = AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, max_norm: 1.0, step: 1 };
    cpu.write_f32(&grads, &random(n, "gradients")).unwrap();
    let (nan, infinite) = (f32::NAN, f32::INFINITY);
    let mut before = bits();
    for (number, loss) in [
        (2.0, [0.5, 0.5]),
        (nan, [0.5, 0.5]),
        (infinite, [0.5, 0.5]),
        (2.0, [nan, 0.5]),
        (2.0, [0.5, infinite]),
        (2.0, [-infinite, 0.5]),
    ] {
        cpu.write_f32(&squares, &[number]).unwrap();
        cpu.write_f32(&losses, &loss).unwrap();
        let finite = number.is_finite() && loss.iter().all(|loss| loss.is_finite());
        // Without clipping too: then nothing else looks at the norm.
        for max_norm in [1.0, 0.0] {
            update(&AdamW { max_norm, ..base });
            let after = bits();
            assert_eq!(before != after, finite, "{number} {loss:?} {max_norm}");
            before = after;
        }
    }

    state.check(&model, 7).unwrap();
    let [m, v] = state.moments();
    for (what, buffer) in [("weight", state.master()), ("first moment of", m), ("second moment of", v)] {
        for spec in [&model.specs()[0], &model.specs()[5], model.specs().last().unwrap()] {
            let last = buffer.window(spec.offset + spec.elements() - 1, &[1]);
            let value = cpu.read_f32(&last).unwrap();
            for wrong in [nan, infinite, -infinite] {
                cpu.write_f32(&last, &[wrong]).unwrap();
                let error = state.check(&model, 7).unwrap_err().to_string();
                assert!(error.contains(&format!("the {what} {} is not finite after update 7", spec.name)), "{error}");
            }
            cpu.write_f32(&last, &value).unwrap();
        }
    }
}

/// Losses and gradients of shares of a step, whose totals are the step's, add up to those of the step.
#[test]
fn shares_of_a_step_add_up() {
    let cpu = Rc::new(Cpu::new());
    let mut random = rng::stream(u64::from(std::process::id()), "shares", 0);
    let mut sequence = |n: usize| (0..n).map(|_| random.random_range(3..VOCAB as u32)).collect::<Vec<_>>();
    let packs: Vec<Pack> = [3, 1, 2]
        .map(|pairs| {
            let mut packer = Packer::new(Wanted { next_tokens: true, ..Wanted::SCORES });
            for pair in 0..pairs {
                let prefix = sequence(9 + pair);
                let [chosen, rejected] = [17, 12].map(|n| [prefix.clone(), sequence(n)].concat());
                packer.push_pair(&chosen, &rejected).unwrap();
            }
            packer.finish(VOCAB).unwrap()
        })
        .into();
    let capacity = Capacity { tokens: 256, selected: 256, candidates: 16 };
    let objective = ObjectiveSection { lm_weight: 0.5, ..ObjectiveSection::default() };
    let optimizer = OptimizerSection::default();
    let model = Rc::new(model(cpu.clone()));
    let mut trainer = Trainer::whole(model, &objective, &optimizer, capacity, 64, Keep::All).unwrap();
    let mut gradients = |packs: &[Pack], totals: &StepTotals| {
        let step = trainer.gradients(packs, totals, &mut Vec::new()).unwrap();
        (step.loss, cpu.read_f32(trainer.grads()).unwrap())
    };
    let totals = StepTotals::of(&packs);
    let (loss, expected) = gradients(&packs, &totals);
    let shares = [gradients(&packs[..1], &totals), gradients(&packs[1..], &totals)];
    assert_abs_diff_eq!(shares[0].0 + shares[1].0, loss, epsilon = 1e-5 * loss);
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let off = norm(&mut expected.iter().zip(shares[0].1.iter().zip(&shares[1].1)).map(|(e, (a, b))| a + b - e));
    assert!(off < 1e-5 * norm(&mut expected.iter().copied()), "{off}");
    // With totals of their own they would be another step's.
    let (alone, _) = gradients(&packs[..1], &StepTotals::of(&packs[..1]));
    assert_abs_diff_ne!(alone, shares[0].0, epsilon = 0.1 * loss);
}
