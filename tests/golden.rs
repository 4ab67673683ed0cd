//! Scores, loss, gradients and ten AdamW steps against PyTorch's, on the small fixture in `tests/golden`, or on the
//! one in the folder that the environment variable `POLAR_RAW_GOLDEN` names.

use approx::{abs_diff_eq, relative_eq};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use polar_raw::backend::Backend;
use polar_raw::config::{ObjectiveSection, OptimizerSection};
use polar_raw::cpu::Cpu;
use polar_raw::cuda::Cuda;
use polar_raw::model::{Keep, Model, OutputHeads};
use polar_raw::objective::StepTotals;
use polar_raw::passes::{Capacity, Pack, Packer, Wanted};
use polar_raw::store::Pretrained;
use polar_raw::train::Trainer;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    pairs: Vec<IdPair>,
    scores: Vec<ScorePair>,
    loss: f64,
    grad_norm: f64,
    optimizer: GoldenOptimizer,
    training: Vec<GoldenStep>,
}

#[derive(Deserialize)]
struct IdPair {
    chosen: Vec<u32>,
    rejected: Vec<u32>,
}

#[derive(Deserialize)]
struct ScorePair {
    chosen: f64,
    rejected: f64,
}

#[derive(Deserialize)]
struct GoldenOptimizer {
    lr: f64,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    clip_grad_norm: f64,
}

#[derive(Deserialize)]
struct GoldenStep {
    loss: f64,
    grad_norm: f64,
}

const REWARD: OutputHeads = OutputHeads { reward: true, lm: false };

fn folder() -> PathBuf {
    std::env::var_os("POLAR_RAW_GOLDEN")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/internlm2-tiny"), PathBuf::from)
}

fn load() -> (Golden, Rc<Model>) {
    load_on(Rc::new(Cpu::new()))
}

fn load_on(backend: Rc<dyn Backend>) -> (Golden, Rc<Model>) {
    let dir = folder();
    let golden = serde_json::from_slice(&std::fs::read(dir.join("golden.json")).unwrap()).unwrap();
    let pretrained = Pretrained::open(&dir).unwrap();
    let model = Model::new(backend, pretrained.config().clone(), REWARD).unwrap();
    pretrained.read_into(REWARD, &mut |spec, values| model.set(spec, values)).unwrap();
    (golden, Rc::new(model))
}

/// All pairs of the fixture in one pack, or each in its own.
fn packs(golden: &Golden, share_prefix: bool, one_pack: bool) -> Vec<Pack> {
    let wanted = Wanted { scores: true, next_tokens: false, share_prefix };
    let of = |pairs: &[IdPair]| {
        let mut packer = Packer::new(wanted);
        let ids = pairs.iter().flat_map(|pair| pair.chosen.iter().chain(&pair.rejected));
        pairs.iter().for_each(|pair| packer.push_pair(&pair.chosen, &pair.rejected).unwrap());
        packer.finish(1 + *ids.max().unwrap() as usize).unwrap()
    };
    golden.pairs.chunks(if one_pack { golden.pairs.len() } else { 1 }).map(of).collect()
}

fn trainer(golden: &Golden, model: Rc<Model>) -> Trainer {
    let o = &golden.optimizer;
    let optimizer = OptimizerSection {
        lr: o.lr,
        betas: o.betas,
        eps: o.eps,
        weight_decay: o.weight_decay,
        clip_grad_norm: o.clip_grad_norm,
    };
    let capacity = Capacity { tokens: 1024, selected: 64, candidates: 64 };
    Trainer::whole(model, &ObjectiveSection::default(), &optimizer, capacity, 64, Keep::All).unwrap()
}

fn assert_relative(got: f64, want: f64, tolerance: f64, what: &str) {
    assert!(relative_eq!(got, want, epsilon = 0.0, max_relative = tolerance), "{what}: {got}, not {want}");
}

#[test]
fn scores_loss_and_gradients() {
    for (share_prefix, one_pack) in [(true, true), (true, false), (false, true), (false, false)] {
        let (golden, model) = load();
        let mut trainer = trainer(&golden, model.clone());
        let mut scores = Vec::new();
        let packs = packs(&golden, share_prefix, one_pack);
        let step = trainer.gradients(&packs, &StepTotals::of(&packs), &mut scores).unwrap();

        for (got, want) in scores.chunks(2).zip(&golden.scores) {
            for (got, want) in got.iter().zip([want.chosen, want.rejected]) {
                let near = abs_diff_eq!(f64::from(*got), want, epsilon = 1e-5 + 1e-5 * want.abs());
                assert!(near, "score {got}, not {want}");
            }
        }
        assert_relative(step.loss, golden.loss, 1e-5, "loss");
        assert_relative(step.grad_norm, golden.grad_norm, 1e-4, "gradient norm");

        let bytes = std::fs::read(folder().join("grads.safetensors")).unwrap();
        let grads = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for spec in model.specs() {
            let want: Vec<f32> = bytemuck::allocation::pod_collect_to_vec(grads.tensor(&spec.name).unwrap().data());
            let got = model.get(trainer.grads(), spec).unwrap();
            let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            let difference = norm(&mut got.iter().zip(&want).map(|(a, b)| a - b));
            let size = norm(&mut want.iter().copied());
            assert!(difference <= 1e-4 * size, "{}: off by {difference:e} of {size:e}", spec.name);
        }
    }
}

#[test]
fn ten_adamw_steps() {
    for share_prefix in [true, false] {
        let (golden, model) = load();
        let mut trainer = trainer(&golden, model);
        let packs = packs(&golden, share_prefix, true);
        let mut scores = Vec::new();
        for (i, want) in golden.training.iter().enumerate() {
            let step = trainer.step(&packs, golden.optimizer.lr, &mut scores).unwrap();
            assert_relative(step.loss, want.loss, 1e-4, &format!("loss of step {i}"));
            assert_relative(step.grad_norm, want.grad_norm, 1e-4, &format!("gradient norm of step {i}"));
        }
    }
}

/// On a card, where weights and activations are bf16: scores and loss within what 8 bits of each number leave.
#[test]
#[ignore = "needs a card: tools/card/run runs it there"]
fn scores_and_loss_on_a_card() {
    let (golden, model) = load_on(Rc::new(Cuda::open(0).unwrap()));
    let mut trainer = trainer(&golden, model);
    let mut scores = Vec::new();
    let packs = packs(&golden, true, true);
    let step = trainer.gradients(&packs, &StepTotals::of(&packs), &mut scores).unwrap();
    let wanted = golden.scores.iter().flat_map(|want| [want.chosen, want.rejected]);
    for (got, want) in scores.iter().zip(wanted) {
        println!("score {got:10.6}, {want:10.6} wanted");
        assert!(abs_diff_eq!(f64::from(*got), want, epsilon = 0.02 + 0.02 * want.abs()), "score {got}, not {want}");
    }
    println!("loss {:10.6}, {:10.6} wanted", step.loss, golden.loss);
    assert_relative(step.loss, golden.loss, 0.02, "loss");
}
