//! Training and scoring through the launchers that drive a card, executed by the emulator with all its detectors on:
//! what it finds is an error of the step. The results are held to what the dtypes explain, which is measured: as far
//! from the exact ones as [`Rounded`] is, and half as far again.

use std::path::Path;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use polar_raw::backend::{Backend, BackendExt, Operations};
use polar_raw::config::{ModelSection, ObjectiveSection, OptimizerSection, Projection};
use polar_raw::cpu::Cpu;
use polar_raw::cuda::abi::FillParams;
use polar_raw::cuda::{Cuda, footprint, kernels, ptx};
use polar_raw::eval::Scorer;
use polar_raw::model::config::{Architecture, SpecialIds};
use polar_raw::model::{Keep, Lora, Model, ModelConfig, OutputHeads};
use polar_raw::passes::{Capacity, Pack, Packer, Wanted};
use polar_raw::reference::Reference;
use polar_raw::rng;
use polar_raw::store::Pretrained;
use polar_raw::tensor::Dtype;
use polar_raw::train::checkpoint::{Checkpoints, RunLock};
use polar_raw::train::plan::Sizes;
use polar_raw::train::{OptimizerState, Trainer};
use polar_raw::wrap::Rounded;
use rand::RngExt;
use serde_json::Value;

const VOCAB: usize = 97;

/// What the emulator found and counted is the process's: who reads it, reads that of all. So one test runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The root mean square of the differences.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    (a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / a.len() as f64).sqrt()
}

fn assert_explained(what: &str, exact: &[f64], rounded: &[f64], got: &[f64]) {
    let (explained, off) = (distance(rounded, exact), distance(got, exact));
    println!("{what}: {off:.2e} off, of which bf16 explains {explained:.2e}");
    assert!(explained > 0.0 && off <= 1.5 * explained, "{what}: {got:?} and not {exact:?}");
}

/// Packs of ragged pairs that share prefixes, different ones for each step.
fn packs(step: u64) -> [Pack; 2] {
    packs_for(&sizes(), step)
}

/// The same for a model with or without a next-token head.
fn packs_for(sizes: &Sizes, step: u64) -> [Pack; 2] {
    let mut random = rng::stream(1, "emulated packs", step);
    let mut sequence = |n: usize| (0..n).map(|_| random.random_range(3..VOCAB as u32)).collect::<Vec<_>>();
    [33, 21].map(|most| {
        let mut packer = Packer::new(Wanted { next_tokens: sizes.outputs.lm, ..Wanted::SCORES });
        for pair in 0..2 {
            let (prefix, n) = (sequence(9 + pair), most - (step as usize * 7 + pair) % 15);
            let [chosen, rejected] = [n, n - 5].map(|n| [prefix.clone(), sequence(n)].concat());
            packer.push_pair(&chosen, &rejected).unwrap();
        }
        packer.finish(VOCAB).unwrap()
    })
}

/// A small model with ranking and next-token loss, and what trains it.
fn trainer(backend: Rc<dyn Backend>) -> Trainer {
    keeping(backend, Keep::All)
}

/// As [`trainer`], with the activations of `keep`.
fn keeping(backend: Rc<dyn Backend>, keep: Keep) -> Trainer {
    of_sizes(backend, sizes(), keep)
}

fn of_sizes(backend: Rc<dyn Backend>, sizes: Sizes, keep: Keep) -> Trainer {
    let plan = sizes.plan(&backend.footprint(), keep);
    let model = Model::new(backend, sizes.config, sizes.outputs).unwrap();
    let state = OptimizerState::zeroed(&model, model.trained()).unwrap();
    state.initialise(&model, 1).unwrap();
    let lm_weight = if sizes.outputs.lm { 0.5 } else { 0.0 };
    let objective = ObjectiveSection { lm_weight, ..ObjectiveSection::default() };
    Trainer::new(Rc::new(model), state, &objective, &OptimizerSection::default(), &plan).unwrap()
}

fn sizes() -> Sizes {
    let section = ModelSection {
        hidden_size: 64,
        intermediate_size: 72,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        initializer_range: 0.1,
        ..ModelSection::default()
    };
    let special = SpecialIds { bos: 1, eos: 2, pad: 2, reward: Some(4) };
    let config = ModelConfig::new(&section, VOCAB, special, Architecture::RewardModel).unwrap();
    let config = ModelConfig { bias: true, qk_norm: true, ..config };
    let capacity = Capacity { tokens: 160, selected: 160, candidates: 8 };
    Sizes { config, outputs: OutputHeads { reward: true, lm: true }, capacity, candidates: 8 }
}

/// With adapters of `rank` on every projection: rows of 8 bf16 are aligned, of 3 they are not.
fn adapted(rank: usize) -> Sizes {
    let Sizes { config, capacity, .. } = sizes();
    let config = ModelConfig { lora: Some(Lora { rank, alpha: 16.0, targets: Projection::ALL.to_vec() }), ..config };
    Sizes { config, outputs: OutputHeads { reward: true, lm: false }, capacity, candidates: 8 }
}

/// Losses and gradient norms of ten steps.
fn train(backend: Rc<dyn Backend>, sizes: Sizes) -> (Vec<f64>, Vec<f64>) {
    let (mut trainer, mut scores) = (of_sizes(backend, sizes.clone(), Keep::All), Vec::new());
    let steps = (0..10).map(|step| trainer.step(&packs_for(&sizes, step), 3e-3, &mut scores).unwrap());
    steps.map(|step| (step.loss, step.grad_norm)).unzip()
}

#[test]
fn ten_steps() {
    let _alone = alone();
    ten_steps_of(sizes);
}

#[test]
fn ten_steps_of_adapters() {
    let _alone = alone();
    [8, 3].into_iter().for_each(|rank| ten_steps_of(|| adapted(rank)));
}

fn ten_steps_of(sizes: impl Fn() -> Sizes) {
    let exact = train(Rc::new(Cpu::new()), sizes());
    let rounded = train(Rc::new(Rounded::new(Rc::new(Reference))), sizes());
    let cuda = Rc::new(Cuda::emulated().unwrap());
    let emulated = train(cuda.clone(), sizes());
    assert_explained("losses", &exact.0, &rounded.0, &emulated.0);
    assert_explained("gradient norms", &exact.1, &rounded.1, &emulated.1);
    // The same again gives the same bits, whatever order blocks and warps ran in.
    let again = train(cuda, sizes());
    assert_eq!((emulated.0, emulated.1), again);
}

#[test]
fn a_step_takes_no_memory_loads_no_kernel_and_waits_once() {
    let _alone = alone();
    let cuda = Rc::new(Cuda::emulated().unwrap());
    let (mut trainer, mut scores) = (trainer(cuda.clone()), Vec::new());
    // All that there are: what a step launches, whatever its sizes, the driver has compiled before the first.
    assert_eq!(cuda.device().kernels(), ptx::MODULES.iter().map(|module| module.kernels.len()).sum::<usize>());
    for step in 0..3 {
        let before = (cuda.allocations(), cuda.waits());
        trainer.step(&packs(step), 1e-3, &mut scores).unwrap();
        assert_eq!((cuda.allocations(), cuda.waits()), (before.0, before.1 + 1), "step {step}");
    }
}

/// The update is issued before the host knows of the loss. A weight that is not a number leaves every bit of weights,
/// masters and moments as it was, is named, and once it is mended training goes on from there.
#[test]
fn a_step_that_is_not_finite_updates_nothing() {
    let _alone = alone();
    for backend in [Rc::new(Cpu::new()) as Rc<dyn Backend>, Rc::new(Cuda::emulated().unwrap())] {
        let (mut trainer, mut scores) = (trainer(backend.clone()), Vec::new());
        trainer.step(&packs(0), 1e-3, &mut scores).unwrap();
        let bits = |trainer: &Trainer| -> Vec<u64> {
            let [m, v] = trainer.state().moments();
            let all = [trainer.model().params(), trainer.state().master(), m, v];
            all.into_iter().flat_map(|t| backend.read_f64(t).unwrap()).map(f64::to_bits).collect()
        };
        let weight = trainer.model().params().window(0, &[VOCAB * 64]);
        let value = backend.read_f64(&weight).unwrap();
        backend.write_f64(&weight, &vec![f64::NAN; VOCAB * 64]).unwrap();
        let before = bits(&trainer);
        let error = trainer.step(&packs(1), 1e-3, &mut scores).unwrap_err().to_string();
        assert!(error.contains("not finite") && error.contains("It began in the weight "), "{error}");
        assert!(bits(&trainer) == before, "{}", backend.name());
        assert_eq!(trainer.updates(), 1);
        backend.write_f64(&weight, &value).unwrap();
        trainer.step(&packs(1), 1e-3, &mut scores).unwrap();
        assert!(bits(&trainer) != before);
    }
}

/// The host's backends compute on the host's memory alone: a card's tensor is refused, not read at its address.
#[test]
fn a_tensor_of_a_card_is_refused_by_the_host() {
    let _alone = alone();
    let cuda = Cuda::emulated().unwrap();
    for host in [&Cpu::new() as &dyn Backend, &Reference] {
        let [here, there] = [host, &cuda].map(|backend| backend.tensor(host.accumulator(), &[4]).unwrap());
        let ids = cuda.tensor(Dtype::U32, &[4]).unwrap();
        let [table, y] = [(); 2].map(|()| host.tensor(host.float(), &[4, 4]).unwrap());
        let refused = [
            host.fill(&there, 1.0),
            host.sum_of_squares(&here.first(&[1]), &there),
            host.embedding_forward(&y, &ids, &table),
            host.write_f64(&there, &[0.0; 4]),
            host.read_f64(&there).map(drop),
        ];
        for said in refused.map(|result| result.unwrap_err().to_string()) {
            assert!(said.contains("does not lie in the host's memory"), "{said}");
        }
    }
}

/// What is computed again has the bits of what would have been kept: so have the gradients and the weights.
#[test]
fn what_is_kept_changes_no_bit() {
    let _alone = alone();
    let cuda: Rc<dyn Backend> = Rc::new(Cuda::emulated().unwrap());
    for sizes in [sizes(), adapted(8)] {
        let results = Keep::ALL.map(|keep| {
            let (mut trainer, mut scores) = (of_sizes(cuda.clone(), sizes.clone(), keep), Vec::new());
            let step = |step| trainer.step(&packs_for(&sizes, step), 3e-3, &mut scores).unwrap();
            let steps: Vec<_> = (0..2).map(step).collect();
            let read = |tensor| cuda.read_f32(tensor).unwrap();
            (steps, scores, read(trainer.grads()), read(trainer.state().master()))
        });
        assert!(results[0].2.iter().any(|g| *g != 0.0));
        assert!(results[1] == results[0] && results[2] == results[0]);
    }
}

/// Masters apart from the weights: what is saved and restored goes on to the same bits.
#[test]
fn a_restored_state_goes_on_to_the_same_bits() {
    let _alone = alone();
    let cuda: Rc<dyn Backend> = Rc::new(Cuda::emulated().unwrap());
    for sizes in [sizes(), adapted(8)] {
        let begin = || of_sizes(cuda.clone(), sizes.clone(), Keep::All);
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(&RunLock::acquire(run.path()).unwrap(), 1).unwrap();
        let (mut trainer, mut scores) = (begin(), Vec::new());
        trainer.step(&packs_for(&sizes, 0), 3e-3, &mut scores).unwrap();
        trainer.state().save(trainer.model(), &checkpoints, 1, &"totals").unwrap();
        let expected = trainer.step(&packs_for(&sizes, 1), 3e-3, &mut scores).unwrap();
        let mut again = begin();
        again.state().restore(again.model(), &checkpoints.latest().unwrap().checkpoint.unwrap()).unwrap();
        again.resume_at(1);
        assert_eq!(again.step(&packs_for(&sizes, 1), 3e-3, &mut scores).unwrap(), expected);
        assert!(bits(&again) == bits(&trainer));
    }
}

/// Weights, masters and both moments.
fn bits(trainer: &Trainer) -> [Vec<u32>; 4] {
    let [master, m, v] = trainer.state().buffers();
    let backend = trainer.model().backend();
    let read = |tensor| backend.read_f32(tensor).unwrap().into_iter().map(f32::to_bits).collect();
    [trainer.model().params(), master, m, v].map(read)
}

/// A step whose loss is no number leaves every bit of the state as it was, and says where it began.
#[test]
fn what_is_not_finite_updates_nothing() {
    let _alone = alone();
    let cuda: Rc<dyn Backend> = Rc::new(Cuda::emulated().unwrap());
    let (mut trainer, mut scores) = (keeping(cuda, Keep::All), Vec::new());
    trainer.step(&packs(0), 3e-3, &mut scores).unwrap();
    let spec = trainer.model().specs()[1].clone();
    trainer.model().set_rows(&spec, 3, &[f32::NAN]).unwrap();
    let before = bits(&trainer);
    let error = trainer.step(&packs(1), 3e-3, &mut scores).unwrap_err().to_string();
    assert!(error.contains(&spec.name) && error.contains("Nothing was updated"), "{error}");
    assert!(bits(&trainer) == before);
    assert_eq!(trainer.updates(), 1);
}

/// The plan of `--dry-run` is what training takes, within 1 %: by part names, and by what the driver counts.
#[test]
fn the_plan_is_what_is_taken() {
    let _alone = alone();
    for (sizes, keep) in [sizes(), adapted(8)].iter().flat_map(|sizes| Keep::ALL.map(|keep| (sizes.clone(), keep))) {
        let cuda: Rc<dyn Backend> = Rc::new(Cuda::emulated().unwrap());
        let planned = sizes.plan(&footprint(), keep).total();
        let free = || cuda.free_memory().unwrap().unwrap();
        let before = free();
        let (mut trainer, mut scores) = (of_sizes(cuda.clone(), sizes.clone(), keep), Vec::new());
        trainer.step(&packs_for(&sizes, 0), 1e-3, &mut scores).unwrap();
        let taken = before - free();
        println!("{keep}: {planned} bytes planned, {taken} taken");
        assert!(taken.abs_diff(planned) * 100 <= taken, "{keep}: {planned} bytes planned, {taken} taken");
    }
}

/// Where rows are aligned, the feed-forward network's products and SwiGLU are one kernel each way; elsewhere two.
#[test]
fn swiglu_is_fused_where_rows_are_aligned() {
    let _alone = alone();
    let cuda = Cuda::emulated().unwrap();
    let tensor = |dims: &[usize]| {
        let tensor = cuda.tensor(Dtype::Bf16, dims).unwrap();
        cuda.fill(&tensor, 0.5).unwrap();
        tensor
    };
    for (columns, forward, backward) in [
        (16, &["gemm_nt_swiglu_64x64"][..], &["gemm_nn_swiglu_64x64"][..]),
        (15, &["gemm_nt_any", "swiglu_forward_any"], &["gemm_nn_any", "swiglu_backward_any"]),
    ] {
        let (x, w13, w2) = (tensor(&[5, columns]), tensor(&[2 * columns, columns]), tensor(&[columns, columns]));
        let (y, gate_up) = (tensor(&[5, columns]), tensor(&[5, 2 * columns]));
        cuda.reports().unwrap();
        let launched = || cuda.reports().unwrap().into_iter().map(|report| report.kernel).collect::<Vec<_>>();
        cuda.gemm_swiglu_forward(&y, &gate_up, &x, &w13).unwrap();
        assert_eq!(launched(), forward);
        cuda.gemm_swiglu_backward(&gate_up, &y, &x, &w2).unwrap();
        assert_eq!(launched(), backward);
    }
}

/// A kernel that a card would stop is an error of its launch, which names the line; the next one begins afresh.
#[test]
fn a_fault_is_an_error_of_its_launch() {
    let _alone = alone();
    let cuda = Cuda::emulated().unwrap();
    let out = cuda.tensor(Dtype::F32, &[8]).unwrap();
    let launch = |count: u64| {
        let params = FillParams { out: out.address() as u64, count, value: 1.0 };
        // SAFETY: the emulator looks where a kernel writes.
        unsafe { cuda.device().launch(&kernels::FILL_F32.on([1, 1]), &params) }
    };
    let fault = launch(1 << 20).unwrap_err().to_string();
    assert!(fault.contains("fill_f32: out of bounds at PTX line") && fault.contains("fill.cu:"), "{fault}");
    launch(8).unwrap();
    assert_eq!(cuda.read_f32(&out).unwrap(), [1.0; 8]);
}

/// PyTorch's scores of the fixture.
#[test]
fn golden_scores() {
    let _alone = alone();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/internlm2-tiny");
    let golden: Value = serde_json::from_slice(&std::fs::read(dir.join("golden.json")).unwrap()).unwrap();
    let pretrained = Pretrained::open(&dir).unwrap();
    let ids = |pair: &Value| {
        ["chosen", "rejected"].map(|key| serde_json::from_value::<Vec<u32>>(pair[key].clone()).unwrap()).to_vec()
    };
    let groups: Vec<Vec<Vec<u32>>> = golden["pairs"].as_array().unwrap().iter().map(ids).collect();
    let scores = golden["scores"].as_array().unwrap().iter();
    let exact: Vec<f64> = scores.flat_map(|s| ["chosen", "rejected"].map(|key| s[key].as_f64().unwrap())).collect();
    let score = |backend: Rc<dyn Backend>| -> Vec<f64> {
        const REWARD: OutputHeads = OutputHeads { reward: true, lm: false };
        let model = Model::new(backend, pretrained.config().clone(), REWARD).unwrap();
        pretrained.read_into(REWARD, &mut |spec, values| model.set(spec, values)).unwrap();
        let mut scorer = Scorer::new(Rc::new(model), 512).unwrap();
        scorer.score(&groups).unwrap().into_iter().map(f64::from).collect()
    };
    let emulated = score(Rc::new(Cuda::emulated().unwrap()));
    assert_explained("scores", &exact, &score(Rc::new(Rounded::new(Rc::new(Reference)))), &emulated);
}
