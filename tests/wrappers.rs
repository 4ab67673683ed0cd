//! Backends around backends: what they say of the operations that pass through them.

use std::rc::Rc;

use polar_raw::backend::{Backend, BackendExt, Operations};
use polar_raw::config::{ModelSection, ObjectiveSection, OptimizerSection};
use polar_raw::cpu::Cpu;
use polar_raw::model::config::{Architecture, SpecialIds};
use polar_raw::model::{Keep, Model, ModelConfig, OutputHeads};
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
        packer.push_pair(&chosen, &rejected).unwrap();
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
