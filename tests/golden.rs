//! Scores, loss, gradients and ten AdamW steps against PyTorch's, on the small fixture in `tests/golden`, or on the
//! one in the folder that the environment variable `POLAR_RAW_GOLDEN` names; and those of adapters against PEFT's.

use approx::{abs_diff_eq, relative_eq};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use polar_raw::backend::Backend;
use polar_raw::config::{ObjectiveSection, OptimizerSection, Projection};
use polar_raw::cpu::Cpu;
use polar_raw::cuda::Cuda;
use polar_raw::eval::Scorer;
use polar_raw::model::{Keep, Lora, Model, ModelConfig, OutputHeads, Param, TensorSpec};
use polar_raw::objective::StepTotals;
use polar_raw::passes::{Capacity, Pack, Packer, Wanted};
use polar_raw::store::{Pretrained, adapter};
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

/// What PEFT's `adapter_config.json` says of an adapter.
#[derive(Deserialize)]
struct AdapterConfig {
    r: usize,
    lora_alpha: f64,
    target_modules: Vec<Projection>,
}

/// A reward model with an adapter and a head that PEFT made.
struct Adapted {
    dir: PathBuf,
    golden: Golden,
    model: Rc<Model>,
}

/// The tensors of a file of PEFT's, by name.
fn tensors(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = std::fs::read(path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let read = |(name, tensor): (&str, safetensors::tensor::TensorView)| {
        (name.to_string(), bytemuck::allocation::pod_collect_to_vec(tensor.data()))
    };
    tensors.iter().map(read).collect()
}

impl Adapted {
    fn all() -> Vec<Self> {
        ["llama3", "qwen3"].map(Self::load).into()
    }

    fn load(name: &str) -> Self {
        let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let dir = all.join("lora").join(name);
        let base = Pretrained::open(&all.join("families").join(name)).unwrap();
        let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
        let settings: AdapterConfig = serde_json::from_slice(&read(adapter::CONFIG)).unwrap();
        let targets = Projection::ALL.into_iter().filter(|target| settings.target_modules.contains(target)).collect();
        let lora = Some(Lora { rank: settings.r, alpha: settings.lora_alpha, targets });
        let model = Model::new(Rc::new(Cpu::new()), ModelConfig { lora, ..base.config().clone() }, REWARD).unwrap();
        base.read_into(REWARD, &mut |spec, values| model.set(spec, values)).unwrap();
        let golden = serde_json::from_slice(&read("golden.json")).unwrap();
        let adapted = Self { golden, model: Rc::new(model), dir };
        let stored = adapted.stored(adapter::WEIGHTS);
        adapted.trained().for_each(|spec| adapted.model.set(spec, &stored[&Self::name(spec)]).unwrap());
        adapted
    }

    fn stored(&self, file: &str) -> BTreeMap<String, Vec<f32>> {
        tensors(&self.dir.join(file))
    }

    fn trained(&self) -> impl Iterator<Item = &TensorSpec> {
        self.model.specs().iter().filter(|spec| spec.param.is_trained_with_adapters())
    }

    /// PEFT's name of a tensor.
    fn name(spec: &TensorSpec) -> String {
        let name = if spec.param == Param::RewardHead { "score.weight" } else { &spec.name };
        format!("base_model.model.{name}")
    }

    /// How far `get` is from what a file of PEFT's holds, relative, in norm, at most of any tensor.
    fn off(&self, file: &str, get: impl Fn(&TensorSpec) -> Vec<f32>) -> f64 {
        let stored = self.stored(file);
        assert_eq!(stored.len(), self.trained().count(), "{file} has other tensors");
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
        let of = |spec: &TensorSpec| {
            let (got, want) = (get(spec), &stored[&Self::name(spec)]);
            assert_eq!(got.len(), want.len(), "{}", spec.name);
            let apart = norm(&mut got.iter().zip(want).map(|(a, b)| f64::from(*a) - f64::from(*b)));
            apart / norm(&mut want.iter().map(|v| f64::from(*v)))
        };
        self.trained().map(of).fold(0.0, f64::max)
    }
}

/// PEFT's scores, loss and gradients of the factors and of the head, with prefixes shared and not.
#[test]
fn adapters_are_those_of_peft() {
    for (share_prefix, one_pack) in [(true, true), (true, false), (false, true), (false, false)] {
        for adapted in Adapted::all() {
            let golden = &adapted.golden;
            let mut trainer = trainer(golden, adapted.model.clone());
            let mut scores = Vec::new();
            let packs = packs(golden, share_prefix, one_pack);
            let step = trainer.gradients(&packs, &StepTotals::of(&packs), &mut scores).unwrap();
            assert_scores(golden, &scores);
            assert_relative(step.loss, golden.loss, 1e-5, "loss");
            assert_relative(step.grad_norm, golden.grad_norm, 1e-5, "gradient norm");
            let off = adapted.off("grads.safetensors", |spec| adapted.model.get(trainer.grads(), spec).unwrap());
            assert!(off <= 1e-5, "{}: gradients are off by {off:e}", adapted.dir.display());
        }
    }
}

fn assert_scores(golden: &Golden, scores: &[f32]) {
    let wanted: Vec<f64> = golden.scores.iter().flat_map(|want| [want.chosen, want.rejected]).collect();
    assert_eq!(scores.len(), wanted.len());
    for (got, want) in scores.iter().zip(wanted) {
        assert!(abs_diff_eq!(f64::from(*got), want, epsilon = 1e-5), "score {got}, not {want}");
    }
}

#[test]
fn ten_steps_of_adapters_are_those_of_peft() {
    for adapted in Adapted::all() {
        let golden = &adapted.golden;
        let mut trainer = trainer(golden, adapted.model.clone());
        let (packs, mut scores) = (packs(golden, true, true), Vec::new());
        for (i, want) in golden.training.iter().enumerate() {
            let step = trainer.step(&packs, golden.optimizer.lr, &mut scores).unwrap();
            assert_relative(step.loss, want.loss, 1e-5, &format!("loss of step {i}"));
            assert_relative(step.grad_norm, want.grad_norm, 1e-5, &format!("gradient norm of step {i}"));
        }
        let off = adapted.off("trained.safetensors", |spec| adapted.model.get(adapted.model.params(), spec).unwrap());
        assert!(off <= 1e-5, "{}: what was trained is off by {off:e}", adapted.dir.display());
    }
}

/// The file of adapters is PEFT's, tensor by tensor, and with them merged the model scores as PEFT's.
#[test]
fn adapters_are_written_as_by_peft_and_merged() {
    for adapted in Adapted::all() {
        let (golden, model) = (&adapted.golden, &adapted.model);
        let get = |spec: &TensorSpec| model.get(model.params(), spec);
        let folder = tempfile::tempdir().unwrap();
        adapter::write(folder.path(), model.config(), REWARD, None, &mut |spec| get(spec)).unwrap();
        assert_eq!(tensors(&folder.path().join(adapter::WEIGHTS)), adapted.stored(adapter::WEIGHTS));
        let read = |dir: &Path| -> serde_json::Map<String, serde_json::Value> {
            serde_json::from_slice(&std::fs::read(dir.join(adapter::CONFIG)).unwrap()).unwrap()
        };
        let (ours, theirs) = (read(folder.path()), read(&adapted.dir));
        for key in ["peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "bias", "fan_in_fan_out"] {
            assert_eq!(ours[key], theirs[key], "{key}");
        }
        assert!(ours.keys().all(|key| theirs.contains_key(key)), "PEFT has no such key: {ours:?}");

        let merged = Rc::new(model.merged().unwrap());
        for spec in merged.specs() {
            let mut values = get(spec).unwrap();
            model.merge_adapters(spec, &mut values, &get).unwrap();
            model.set(spec, &values).unwrap();
        }
        assert!(merged.config().lora.is_none());
        let group = |pair: &IdPair| vec![pair.chosen.clone(), pair.rejected.clone()];
        // The mean and std of one of the checkpoints are not PEFT's.
        let map = merged.config().score;
        let scores = Scorer::new(merged, 256).unwrap().score(&golden.pairs.iter().map(group).collect::<Vec<_>>());
        let scores: Vec<f32> = scores.unwrap().iter().map(|score| score * map.std + map.mean).collect();
        assert_scores(golden, &scores);
    }
}
