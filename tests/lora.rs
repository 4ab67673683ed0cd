//! Adapters: their gradients, what they leave alone, what they take, what they cost. That they are PEFT's is in `golden.rs`.

use std::rc::Rc;

use approx::assert_abs_diff_eq;
use polar_raw::backend::{Backend, BackendExt};
use polar_raw::config::{ModelSection, ObjectiveSection, OptimizerSection, Projection};
use polar_raw::cpu::Cpu;
use polar_raw::cuda;
use polar_raw::model::config::{Architecture, SpecialIds};
use polar_raw::model::{Factor, Keep, Lora, Model, ModelConfig, OutputHeads, Param, TensorSpec};
use polar_raw::objective::StepTotals;
use polar_raw::ops::Work;
use polar_raw::passes::{Capacity, Pack, Packer, Wanted};
use polar_raw::reference::Reference;
use polar_raw::rng;
use polar_raw::train::Trainer;
use polar_raw::train::plan::Sizes;
use polar_raw::wrap::Recorded;
use rand::RngExt;

const VOCAB: usize = 41;
const REWARD: OutputHeads = OutputHeads { reward: true, lm: false };
const LM: OutputHeads = OutputHeads { reward: false, lm: true };
const CAPACITY: Capacity = Capacity { tokens: 160, selected: 160, candidates: 8 };
/// Which projections have adapters, of a model with or without biases, norms of queries and keys, and unusual heads.
const CASES: [(&[Projection], bool); 5] = [
    (&Projection::ALL, false),
    (&Projection::ALL, true),
    (&[Projection::Q, Projection::V], false),
    (&[Projection::K, Projection::Up], true),
    (&[Projection::O, Projection::Down], false),
];

fn config(targets: &[Projection], more: bool) -> ModelConfig {
    let section = ModelSection {
        hidden_size: 24,
        intermediate_size: 20,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        initializer_range: 0.3,
        ..ModelSection::default()
    };
    let special = SpecialIds { bos: 1, eos: 2, pad: 2, reward: Some(4) };
    let config = ModelConfig::new(&section, VOCAB, special, Architecture::RewardModel).unwrap();
    let lora = Some(Lora { rank: 3, alpha: 4.0, targets: targets.to_vec() });
    ModelConfig { bias: more, qk_norm: more, head_dim: if more { 8 } else { 6 }, lora, ..config }
}

/// A model with random values everywhere, those that begin at one or zero too.
fn model(backend: Rc<dyn Backend>, config: ModelConfig, outputs: OutputHeads) -> Rc<Model> {
    let model = Model::new(backend, config, outputs).unwrap();
    for spec in model.specs() {
        let mut random = rng::stream(7, &spec.name, 0);
        let centre = if spec.shape.len() == 1 { 1.0 } else { 0.0 };
        let values: Vec<f32> = (0..spec.elements()).map(|_| centre + random.random_range(-0.4..0.4)).collect();
        model.set(spec, &values).unwrap();
    }
    Rc::new(model)
}

/// Ragged pairs, whose two sequences share nothing or a part.
fn packs(wanted: Wanted) -> [Pack; 2] {
    let mut random = rng::stream(3, "packs for adapters", 0);
    let mut sequence = |n: usize| (0..n).map(|_| random.random_range(3..VOCAB as u32)).collect::<Vec<_>>();
    [[(9, 4, 7), (0, 6, 2)], [(5, 1, 3), (2, 8, 8)]].map(|pairs| {
        let mut packer = Packer::new(wanted);
        for (shared, chosen, rejected) in pairs {
            let prefix = sequence(shared);
            let [chosen, rejected] = [chosen, rejected].map(|own| [prefix.clone(), sequence(own)].concat());
            match wanted.scores {
                true => packer.push_pair(&chosen, &rejected).unwrap(),
                false => drop(packer.push(&[&chosen, &rejected]).unwrap()),
            }
        }
        packer.finish(VOCAB).unwrap()
    })
}

fn ranked() -> [Pack; 2] {
    packs(Wanted::SCORES)
}

fn trainer(model: Rc<Model>, keep: Keep) -> Trainer {
    let kind = if model.outputs().lm { "lm" } else { "polar" };
    let objective =
        ObjectiveSection { kind: serde_json::from_value(kind.into()).unwrap(), ..ObjectiveSection::default() };
    let optimizer = OptimizerSection { weight_decay: 0.1, ..OptimizerSection::default() };
    Trainer::whole(model, &objective, &optimizer, CAPACITY, 16, keep).unwrap()
}

/// The gradients of what is trained, by tensor.
fn gradients(model: &Rc<Model>, packs: &[Pack]) -> Vec<(TensorSpec, Vec<f64>)> {
    let mut trainer = trainer(model.clone(), Keep::All);
    trainer.gradients(packs, &StepTotals::of(packs), &mut Vec::new()).unwrap();
    let all = model.backend().read_f64(trainer.grads()).unwrap();
    let start = model.trained().start;
    let trained = model.specs().iter().filter(|spec| spec.param.is_trained_with_adapters());
    let of = |spec: &TensorSpec| all[spec.offset - start..spec.offset - start + spec.elements()].to_vec();
    trained.map(|spec| (spec.clone(), of(spec))).collect()
}

fn off(got: &[f64], want: &[f64]) -> f64 {
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(want).map(|(a, b)| a - b)) / norm(&mut want.iter().copied())
}

/// In f64, the gradient of every factor and of the head is the central finite differences of the loss; on the CPU it is
/// that within what f32 leaves.
#[test]
fn gradients_are_finite_differences() {
    const STEP: f64 = 1e-5;
    for ((targets, more), outputs) in CASES.into_iter().map(|case| (case, REWARD)).chain([(CASES[0], LM)]) {
        let packs =
            if outputs.lm { packs(Wanted { scores: false, next_tokens: true, share_prefix: true }) } else { ranked() };
        let exact = model(Rc::new(Reference), config(targets, more), outputs);
        let found = gradients(&exact, &packs);
        let single = gradients(&model(Rc::new(Cpu::new()), config(targets, more), outputs), &packs);
        let mut trainer = trainer(exact.clone(), Keep::All);
        for ((spec, gradient), (_, single)) in found.iter().zip(&single) {
            let case = format!("{} of {targets:?}, {more}", spec.name);
            assert!(off(single, gradient) < 1e-5, "{case}: on the CPU off by {:e}", off(single, gradient));
            // Some elements of each: a pass takes milliseconds.
            let elements: Vec<usize> = (0..spec.elements()).step_by(spec.elements().div_ceil(5)).collect();
            let difference = |at: &usize| {
                let place = exact.params().window(spec.offset + at, &[1]);
                let value = Reference.read_f64(&place).unwrap()[0];
                let mut loss = |moved: f64| {
                    Reference.write_f64(&place, &[value + moved]).unwrap();
                    trainer.gradients(&packs, &StepTotals::of(&packs), &mut Vec::new()).unwrap().loss
                };
                let difference = (loss(STEP) - loss(-STEP)) / (2.0 * STEP);
                loss(0.0);
                difference
            };
            let expected: Vec<f64> = elements.iter().map(difference).collect();
            let got: Vec<f64> = elements.iter().map(|at| gradient[*at]).collect();
            assert!(off(&got, &expected) < 1e-6, "{case}: {got:?}, not {expected:?}");
        }
    }
}

/// A step changes every factor and the head, and no bit of anything else; the norm is that of their gradients.
#[test]
fn only_adapters_and_head_are_trained() {
    for (targets, more) in CASES {
        let cpu = Rc::new(Cpu::new());
        let model = model(cpu.clone(), config(targets, more), REWARD);
        let read = |spec: &TensorSpec| model.get(model.params(), spec).unwrap();
        let before: Vec<_> = model.specs().iter().map(read).collect();
        let mut trainer = trainer(model.clone(), Keep::All);
        let step = trainer.step(&ranked(), 1e-2, &mut Vec::new()).unwrap();
        for (spec, before) in model.specs().iter().zip(before) {
            let is_trained = matches!(spec.param, Param::Adapter(..) | Param::RewardHead);
            assert_eq!(read(spec) != before, is_trained, "{}", spec.name);
        }
        let squares: f64 = cpu.read_f64(trainer.grads()).unwrap().iter().map(|g| g * g).sum();
        assert_abs_diff_eq!(step.grad_norm / squares.sqrt(), 1.0, epsilon = 1e-6);
    }
}

#[test]
fn what_is_kept_changes_no_bit() {
    for (targets, more) in CASES {
        let results = Keep::ALL.map(|keep| {
            let model = model(Rc::new(Cpu::new()), config(targets, more), REWARD);
            let (mut trainer, mut scores) = (trainer(model.clone(), keep), Vec::new());
            let steps: Vec<_> = (0..3).map(|_| trainer.step(&ranked(), 1e-2, &mut scores).unwrap()).collect();
            (steps, scores, model.backend().read_f32(model.params()).unwrap())
        });
        assert!(results[1] == results[0] && results[2] == results[0], "{targets:?}, {more}");
    }
}

/// PEFT's beginning: `A` within one over the root of its columns, and as spread as uniform numbers are; `B` zero. A seed
/// gives the same, and another one others.
#[test]
fn adapters_begin_as_those_of_peft() {
    let begin = |seed| {
        let model = Model::new(Rc::new(Cpu::new()), config(&Projection::ALL, false), REWARD).unwrap();
        model.initialise(seed).unwrap();
        model
    };
    let first = begin(1);
    for spec in first.specs() {
        let Param::Adapter(_, target, factor) = spec.param else { continue };
        let values = first.get(first.params(), spec).unwrap();
        if factor == Factor::B {
            assert!(values.iter().all(|v| *v == 0.0), "{}", spec.name);
            continue;
        }
        let bound = 1.0 / (target.shape(first.config())[1] as f32).sqrt();
        assert!(values.iter().all(|v| v.abs() <= bound), "{}", spec.name);
        let variance = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
        assert!((0.6..1.5).contains(&(variance / (bound * bound / 3.0))), "{}: {variance}", spec.name);
    }
    let read = |model: &Model| model.backend().read_f32(model.params()).unwrap();
    assert!(read(&first) == read(&begin(1)) && read(&first) != read(&begin(2)));
}

/// A card holds gradients, masters and moments of the adapters and the head alone.
#[test]
fn frozen_weights_have_neither_gradient_nor_state() {
    let plan = |lora| {
        let config = ModelConfig { lora, ..config(&[], false) };
        let parameters = config.parameters(REWARD);
        let plan =
            Sizes { config, outputs: REWARD, capacity: CAPACITY, candidates: 8 }.plan(&cuda::footprint(), Keep::All);
        let of = |name: &str| plan.parts.iter().find(|part| part.name == name).unwrap().bytes;
        (["masters", "gradients", "moments", "weights"].map(of), plan.total(), parameters)
    };
    let targets = Projection::ALL.to_vec();
    let ([masters, gradients, moments, weights], total, all) = plan(None);
    let (adapted, less, with_adapters) = plan(Some(Lora { rank: 2, alpha: 4.0, targets }));
    let trained = 24 + with_adapters - all;
    let room = |bytes: usize| bytes..bytes + 4096;
    assert!(room(4 * all).contains(&masters) && room(4 * all).contains(&gradients) && room(8 * all).contains(&moments));
    assert!(
        room(4 * trained).contains(&adapted[0]) && room(8 * trained).contains(&adapted[2]),
        "{adapted:?}, {trained}"
    );
    // And room for one norm's.
    assert!(room(4 * trained).contains(&adapted[1]), "{adapted:?}, {trained}");
    assert!(adapted[3] > weights && less < total, "{less} of {total}");
}

/// The operations of the share of the peak are those of the passes, but for the products with the first factors, which
/// the way back computes again.
#[test]
fn training_flops_are_the_matrix_operations_of_a_pass() {
    for (targets, more) in CASES {
        let recorded = Rc::new(Recorded::new(Rc::new(Cpu::new())));
        let model = model(recorded.clone(), config(targets, more), REWARD);
        let mut trainer = trainer(model.clone(), Keep::All);
        for pack in ranked() {
            recorded.take();
            let one = [pack];
            trainer.gradients(&one, &StepTotals::of(&one), &mut Vec::new()).unwrap();
            let done = Recorded::work(&recorded.take()).matrix;
            let (tokens, selected) = (one[0].tokens(), one[0].selected.len());
            let again = |target: &Projection| {
                let last = if matches!(target, Projection::K | Projection::V) { tokens } else { selected };
                let columns = target.shape(model.config())[1];
                Work::product(tokens + last, 3, columns).matrix + Work::product(tokens + last, 3, 3).matrix
            };
            let again: u64 = targets.iter().map(again).sum();
            assert_eq!(model.training_flops(&one[0]), (done - again) as f64, "{targets:?}, {more}");
        }
    }
}
