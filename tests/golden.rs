//! Scores, loss, gradients and ten AdamW steps against PyTorch's, on the small fixture in `tests/golden`, or on the
//! one in the folder that the environment variable `POLAR_RAW_GOLDEN` names.

use approx::{abs_diff_eq, relative_eq};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use polar_raw::backend::Backend;
use polar_raw::config::{ObjectiveSection, OptimizerSection};
use polar_raw::cpu::Cpu;
use polar_raw::cuda::Cuda;
use polar_raw::eval::Scorer;
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

/// InternLM2, Qwen3 with norms of queries and keys, Llama with Llama 3.1's rotary scaling; the latter two with heads
/// that are wider than the hidden size divided by their number.
fn folders() -> Vec<PathBuf> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let own = ["internlm2-tiny", "families/qwen3", "families/llama3"].map(|name| golden.join(name)).to_vec();
    std::env::var_os("POLAR_RAW_GOLDEN").map_or(own, |other| vec![other.into()])
}

fn load(dir: &Path) -> (Golden, Rc<Model>) {
    load_on(dir, Rc::new(Cpu::new()))
}

fn load_on(dir: &Path, backend: Rc<dyn Backend>) -> (Golden, Rc<Model>) {
    let golden = serde_json::from_slice(&std::fs::read(dir.join("golden.json")).unwrap()).unwrap();
    let pretrained = Pretrained::open(dir).unwrap();
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
    folders().iter().for_each(|dir| scores_loss_and_gradients_of(dir));
}

fn scores_loss_and_gradients_of(dir: &Path) {
    for (share_prefix, one_pack) in [(true, true), (true, false), (false, true), (false, false)] {
        let (golden, model) = load(dir);
        let mut trainer = trainer(&golden, model.clone());
        let mut scores = Vec::new();
        let packs = packs(&golden, share_prefix, one_pack);
        let step = trainer.gradients(&packs, &StepTotals::of(&packs), &mut scores).unwrap();

        for (got, want) in scores.chunks(2).zip(&golden.scores) {
            for (got, want) in got.iter().zip([want.chosen, want.rejected]) {
                let near = abs_diff_eq!(f64::from(*got), want, epsilon = 1e-5 + 1e-5 * want.abs());
                assert!(near, "{}: score {got}, not {want}", dir.display());
            }
        }
        assert_relative(step.loss, golden.loss, 1e-5, "loss");
        assert_relative(step.grad_norm, golden.grad_norm, 1e-4, "gradient norm");

        let bytes = std::fs::read(dir.join("grads.safetensors")).unwrap();
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
    for (dir, share_prefix) in folders().iter().flat_map(|dir| [(dir, true), (dir, false)]) {
        let (golden, model) = load(dir);
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
    folders().iter().for_each(|dir| scores_and_loss_on_a_card_of(dir));
}

fn scores_and_loss_on_a_card_of(dir: &Path) {
    let (golden, model) = load_on(dir, Rc::new(Cuda::open(0).unwrap()));
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

/// What scoring gives is what the checkpoint's own program makes of the head's product: OpenRLHF's `(score - mean) /
/// std`.
#[test]
fn scores_are_normalised_as_the_checkpoint_says() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/families/qwen3");
    let (golden, model) = load(&golden);
    let group = |pair: &IdPair| vec![pair.chosen.clone(), pair.rejected.clone()];
    let scores = Scorer::new(model, 256).unwrap().score(&golden.pairs.iter().map(group).collect::<Vec<_>>()).unwrap();
    let wanted = golden.scores.iter().flat_map(|want| [want.chosen, want.rejected]);
    for (got, want) in scores.iter().zip(wanted) {
        assert!(abs_diff_eq!(f64::from(*got), (want - 0.25) / 1.75, epsilon = 2e-5), "{got}, not {want} normalised");
    }
}
