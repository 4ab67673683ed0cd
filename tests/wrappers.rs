//! Backends around backends: what they say of the operations that pass through them.

use std::rc::Rc;

use polar_raw::backend::{Backend, BackendExt, Operations};
use polar_raw::config::{ModelSection, ObjectiveKind, ObjectiveSection, OptimizerSection};
use polar_raw::cpu::Cpu;
use polar_raw::model::config::{Architecture, SpecialIds};
use polar_raw::model::{Keep, LayerParam, Model, ModelConfig, OutputHeads, Param};
use polar_raw::objective::StepTotals;
use polar_raw::passes::{Capacity, Pack, Packer, Wanted};
use polar_raw::rng;
use polar_raw::tensor::Dtype;
use polar_raw::train::Trainer;
use polar_raw::wrap::{Guarded, MOST_EVENTS, Recorded, Traced};
use rand::RngExt;

const VOCAB: usize = 300;

fn model(backend: Rc<dyn Backend>, layers: usize, outputs: OutputHeads) -> Model {
    let section = ModelSection {
        hidden_size: 48,
        intermediate_size: 100,
        num_hidden_layers: layers,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        initializer_range: 0.1,
        ..ModelSection::default()
    };
    let special = SpecialIds { bos: 1, eos: 2, pad: 2, reward: Some(4) };
    let config = ModelConfig::new(&section, VOCAB, special, Architecture::RewardModel).unwrap();
    let model = Model::new(backend, config, outputs).unwrap();
    model.initialise(1).unwrap();
    model
}

/// Ragged pairs, whose two sequences share nothing, a part, or nearly all.
fn pack(wanted: Wanted) -> Pack {
    let mut random = rng::stream(u64::from(std::process::id()), "packs to count", 0);
    let mut sequence = |n: usize| (0..n).map(|_| random.random_range(3..VOCAB as u32)).collect::<Vec<_>>();
    let mut packer = Packer::new(wanted);
    for (shared, chosen, rejected) in [(0, 9, 4), (31, 17, 23), (40, 1, 2), (1, 1, 30)] {
        let prefix = sequence(shared);
        let [chosen, rejected] = [chosen, rejected].map(|own| [prefix.clone(), sequence(own)].concat());
        if wanted.scores {
            packer.push_pair(&chosen, &rejected).unwrap();
        } else {
            packer.push(&[&chosen, &rejected]).unwrap();
        }
    }
    packer.finish(VOCAB).unwrap()
}

/// The operations of the share of the peak are those that the operations of a pass say of themselves, each once.
#[test]
fn training_flops_are_the_matrix_operations_of_a_pass() {
    let capacity = Capacity { tokens: 512, selected: 512, candidates: 16 };
    for (lm, next_tokens, share_prefix) in
        [(false, false, true), (false, false, false), (true, true, true), (true, true, false)]
    {
        for (layers, keep) in [(1, Keep::All), (3, Keep::All), (3, Keep::Block)] {
            let case = format!("next-token head {lm}, shared prefixes {share_prefix}, {layers} layers, {keep}");
            let recorded = Rc::new(Recorded::new(Rc::new(Cpu::new())));
            let model = model(recorded.clone(), layers, OutputHeads { reward: true, lm });
            let pack = pack(Wanted { scores: true, next_tokens, share_prefix });
            let flops = model.training_flops(&pack);
            let objective = ObjectiveSection { lm_weight: if lm { 0.5 } else { 0.0 }, ..ObjectiveSection::default() };
            let optimizer = OptimizerSection::default();
            let mut trainer = Trainer::whole(Rc::new(model), &objective, &optimizer, capacity, 16, keep).unwrap();
            recorded.take();
            let packs = [pack];
            trainer.gradients(&packs, &StepTotals::of(&packs), &mut Vec::new()).unwrap();
            let records = recorded.take();
            assert!(records.iter().any(|record| record.name == "attention_backward"), "{case}");
            let done = Recorded::work(&records).matrix as f64;
            if keep == Keep::All {
                assert_eq!(flops, done, "{case}");
            } else {
                assert!(flops < done, "{case}: what is computed again counts: {flops} of {done}");
            }
        }
    }
}

/// The first operation that writes what is not finite is named, with the operand and the place.
#[test]
fn a_guard_names_the_operation_that_wrote_the_first_nan() {
    let guarded = Guarded::new(Rc::new(Cpu::new()));
    let [x, y] = [(); 2].map(|()| guarded.tensor(Dtype::F32, &[3, 4]).unwrap());
    guarded.fill(&x, 2.0).unwrap();
    guarded.copy(&y, &x).unwrap();
    let mut values = [1.0; 12];
    values[6] = f32::NAN;
    guarded.write_f32(&x, &values).unwrap();
    let said = guarded.copy(&y, &x).unwrap_err().to_string();
    assert!(said.starts_with("copy has left NaN in row 1, column 2 of to"), "{said}");
    // What is read is not to blame: the next one writes zeros.
    guarded.fill(&y, 0.0).unwrap();
}

/// No operation of a step writes an infinity where the loss is finite, whatever is learnt, kept and shared: what a guard
/// names is where it began.
#[test]
fn a_guard_accuses_no_step_that_is_right() {
    let capacity = Capacity { tokens: 512, selected: 512, candidates: 16 };
    for (kind, lm_weight) in [(ObjectiveKind::Polar, 0.0), (ObjectiveKind::Polar, 0.5), (ObjectiveKind::Lm, 1.0)] {
        let (reward, lm) = (kind == ObjectiveKind::Polar, lm_weight > 0.0);
        for (keep, share_prefix) in Keep::ALL.into_iter().flat_map(|keep| [(keep, true), (keep, false)]) {
            let guarded = Rc::new(Guarded::new(Rc::new(Cpu::new())));
            let model = model(guarded.clone(), 3, OutputHeads { reward, lm });
            let packs = [pack(Wanted { scores: reward, next_tokens: lm, share_prefix })];
            let objective = ObjectiveSection { kind, lm_weight, ..ObjectiveSection::default() };
            let optimizer = OptimizerSection::default();
            let mut trainer = Trainer::whole(Rc::new(model), &objective, &optimizer, capacity, 16, keep).unwrap();
            let step = trainer.step(&packs, 1e-3, &mut Vec::new());
            assert!(step.is_ok(), "{kind:?} {lm_weight} {keep} {share_prefix}: {step:?}");
            assert!(guarded.found().is_none());
        }
    }
}

/// A step whose loss or gradient is not finite says where that began: which weight, or which operation of which layer
/// wrote what. Whatever is kept, it is the same place.
#[test]
fn a_step_that_is_not_finite_says_where_it_began() {
    use polar_raw::ops::reward_head::PenaltyKind;
    let capacity = Capacity { tokens: 512, selected: 512, candidates: 16 };
    let ffn = |layer, w1, w3, w2| {
        [(LayerParam::W1, w1), (LayerParam::W3, w3), (LayerParam::W2, w2)].map(|(p, v)| (Param::Layer(layer, p), v))
    };
    let layer_0 = ffn(0, 0.0, 1e15, 1e30);
    type Case<'a> = (&'a [(Param, f32)], &'a [&'a str]);
    let cases: [Case; 4] = [
        (
            &[(Param::Layer(1, LayerParam::Wo), f32::NAN)],
            &["It began in the weight model.layers.1.attention.wo.weight."],
        ),
        (&[(Param::Layer(1, LayerParam::W3), 1e38)], &["It began in layer 1, forward: gemm_swiglu_forward has left "]),
        // Nothing passes a gate of zero, but its gradient does.
        (&layer_0, &["It began in layer 0, backward: gemm_swiglu_backward has left "]),
        // What the last product makes small is large before it, and so is the gradient of its weight.
        (
            &[(Param::Layer(1, LayerParam::W3), 1e36), (Param::Layer(1, LayerParam::W2), 1e-40)],
            &[
                "It began in layer 1, backward: gemm has left ",
                "the gradient of model.layers.1.feed_forward.w2.weight.",
            ],
        ),
    ];
    for ((weights, wanted), keep) in cases.into_iter().flat_map(|case| Keep::ALL.map(|keep| (case, keep))) {
        let model = model(Rc::new(Cpu::new()), 2, OutputHeads { reward: true, lm: false });
        for (param, value) in weights {
            let spec = model.specs().iter().find(|spec| spec.param == *param).unwrap().clone();
            model.set(&spec, &vec![*value; spec.elements()]).unwrap();
        }
        let (penalty, penalty_weight) = (PenaltyKind::L2, 1e5);
        let objective = ObjectiveSection { penalty, penalty_weight, ..ObjectiveSection::default() };
        let optimizer = OptimizerSection::default();
        let mut trainer = Trainer::whole(Rc::new(model), &objective, &optimizer, capacity, 16, keep).unwrap();
        let said = trainer.step(&[pack(Wanted::SCORES)], 1e-3, &mut Vec::new()).unwrap_err().to_string();
        assert!(wanted.iter().all(|part| said.contains(part)), "{keep}: {said}, and not {wanted:?}");
        // Where a buffer shares its memory with no other one, it is named.
        let named = !said.contains("gemm_swiglu_forward") || said.contains(", the buffer \"layer 1 swiglu output\".");
        assert!(keep != Keep::All || named, "{said}");
        assert!(said.contains("Nothing was updated") && said.contains("optimizer.lr"), "{said}");
        assert_eq!(trainer.updates(), 0);
    }
}

/// A trace's memory is bounded: it says what it leaves out, and the table goes on.
#[test]
fn a_trace_holds_the_first_calls_only() {
    let traced = Traced::new(Rc::new(Cpu::new())).unwrap();
    let x = traced.tensor(Dtype::F32, &[1]).unwrap();
    (0..MOST_EVENTS).for_each(|_| traced.fill(&x, 1.0).unwrap());
    assert_eq!(traced.left_out(), 0);
    (0..3).for_each(|_| traced.fill(&x, 1.0).unwrap());
    assert_eq!((traced.left_out(), traced.lines()["fill"].calls), (3, MOST_EVENTS as u64 + 3));
    let mut json = Vec::new();
    traced.write_trace(&mut json).unwrap();
    let trace: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(trace["traceEvents"].as_array().unwrap().len(), MOST_EVENTS);
    assert_eq!(trace["otherData"]["calls left out"], 3);
}
