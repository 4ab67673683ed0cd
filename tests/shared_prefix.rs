//! Sharing a prefix changes nothing but the time: scores, losses and gradients are those of separate sequences and those
//! of the f64 reference, whose gradients are those of finite differences.

use approx::abs_diff_eq;
use std::ops::RangeInclusive;
use std::rc::Rc;

use polar_raw::backend::{Backend, BackendExt};
use polar_raw::config::{ModelSection, ObjectiveKind, ObjectiveSection, OptimizerSection};
use polar_raw::cpu::Cpu;
use polar_raw::model::config::{Architecture, SpecialIds};
use polar_raw::model::{Keep, Model, ModelConfig, OutputHeads, Workspace};
use polar_raw::objective::StepTotals;
use polar_raw::ops::reward_head::{LossKind, PenaltyKind};
use polar_raw::passes::{Capacity, Pack, Packer, Wanted};
use polar_raw::reference::Reference;
use polar_raw::rng;
use polar_raw::train::Trainer;
use rand::{Rng, RngExt};

const VOCAB: usize = 40;
/// What everything may differ by, relative to its size.
const NEAR: f64 = 1e-5;

/// Sequences with a common beginning each; the first of a group is compared with each of the others.
type Groups = Vec<Vec<Vec<u32>>>;

fn sequence(random: &mut impl Rng, length: RangeInclusive<usize>) -> Vec<u32> {
    let length = random.random_range(length);
    (0..length).map(|_| random.random_range(0..VOCAB as u32)).collect()
}

/// Ragged groups of every shape that matters.
fn groups(random: &mut impl Rng) -> Groups {
    let mut group = |prefix: RangeInclusive<usize>, candidates: usize, own: RangeInclusive<usize>| {
        let prefix = sequence(random, prefix);
        (0..candidates).map(|_| [&prefix[..], &sequence(random, own.clone())].concat()).collect::<Vec<_>>()
    };
    let mut groups = vec![
        group(3..=20, 2, 2..=15),
        // A long prefix with one-token candidates, and one that spans several tiles.
        group(60..=70, 2, 1..=1),
        group(130..=150, 3, 1..=40),
        // Nothing in common.
        vec![vec![1, 2, 3], vec![4, 5]],
        // Nothing but the beginning of the text, and next to nothing at all.
        group(1..=1, 4, 1..=9),
        vec![vec![6], vec![7]],
    ];
    // Equal sequences, and one that begins the other.
    let same = sequence(random, 2..=30);
    groups.push(vec![same.clone(), same.clone()]);
    groups.push(vec![same.clone(), [&same[..], &[3, 9]].concat()]);
    groups
}

fn wanted(objective: &ObjectiveSection, share_prefix: bool) -> Wanted {
    let scores = objective.kind == ObjectiveKind::Polar;
    Wanted { scores, next_tokens: !scores || objective.lm_weight > 0.0, share_prefix }
}

fn pack(groups: &[Vec<Vec<u32>>], wanted: Wanted) -> Pack {
    pack_with_candidates(groups, wanted).0
}

/// All groups in one pack, and which candidate of it each sequence is. Without sharing every sequence is one of its own.
fn pack_with_candidates(groups: &[Vec<Vec<u32>>], wanted: Wanted) -> (Pack, Vec<u32>) {
    let mut packer = Packer::new(wanted);
    let mut all = Vec::new();
    for group in groups {
        let sequences: Vec<&[u32]> = group.iter().map(Vec::as_slice).collect();
        let candidates = match wanted.share_prefix {
            true => packer.push(&sequences).unwrap(),
            false => sequences.iter().flat_map(|ids| packer.push(&[ids]).unwrap()).collect(),
        };
        if wanted.scores {
            candidates[1..].iter().for_each(|&other| packer.compare([candidates[0], other]));
        }
        all.extend(candidates);
    }
    (packer.finish(VOCAB).unwrap(), all)
}

fn config(random: &mut impl Rng, layers: usize, group: usize, dim: usize, bias: bool) -> ModelConfig {
    let kv = random.random_range(1..=2);
    let section = ModelSection {
        hidden_size: kv * group * dim,
        intermediate_size: random.random_range(5..=24),
        num_hidden_layers: layers,
        num_attention_heads: kv * group,
        num_key_value_heads: kv,
        ..ModelSection::default()
    };
    let special = SpecialIds { bos: 1, eos: 2, pad: 2, reward: Some(4) };
    ModelConfig { bias, ..ModelConfig::new(&section, VOCAB, special, Architecture::RewardModel).unwrap() }
}

fn outputs(objective: &ObjectiveSection) -> OutputHeads {
    let lm = objective.kind == ObjectiveKind::Lm;
    OutputHeads { reward: !lm, lm: lm || objective.lm_weight > 0.0 }
}

/// A model with weights large enough that every part of it matters, and not so large that it magnifies rounding: the
/// products of a matrix are about as large as what goes in.
fn model(backend: Rc<dyn Backend>, config: &ModelConfig, outputs: OutputHeads, seed: u64) -> Rc<Model> {
    let model = Model::new(backend, config.clone(), outputs).unwrap();
    for spec in model.specs() {
        let mut random = rng::stream(seed, &spec.name, 0);
        let fan_in = *spec.shape.last().unwrap() as f32;
        let (middle, spread) = match spec.name.as_str() {
            name if name.contains("norm") => (1.0, 0.3),
            name if name.contains("tok_embeddings") => (0.0, 1.0),
            _ => (0.0, (3.0 / fan_in).sqrt()),
        };
        let values: Vec<f32> =
            (0..spec.elements()).map(|_| middle + spread * random.random_range(-1.0f32..1.0)).collect();
        model.set(spec, &values).unwrap();
    }
    Rc::new(model)
}

fn trainer(model: Rc<Model>, objective: &ObjectiveSection) -> Trainer {
    let capacity = Capacity { tokens: 1200, selected: 1200, candidates: 64 };
    Trainer::whole(model, objective, &OptimizerSection::default(), capacity, 64, Keep::All).unwrap()
}

/// All that a step computes before the update.
struct Computed {
    losses: Vec<f64>,
    scores: Vec<f64>,
    grads: Vec<(String, Vec<f64>)>,
}

fn compute(trainer: &mut Trainer, packs: &[Pack]) -> Computed {
    let mut scores = Vec::new();
    let step = trainer.gradients(packs, &StepTotals::of(packs), &mut scores).unwrap();
    let model = trainer.model();
    let grads = model.specs().iter().map(|spec| {
        let view = trainer.grads().window(spec.offset, &[spec.elements()]);
        (spec.name.clone(), model.backend().read_f64(&view).unwrap())
    });
    let losses = [step.loss].into_iter().chain(step.lm_loss).collect();
    // In the order of the pairs: equal sequences have one score.
    let mut rest = &scores[..];
    let mut of_pairs = Vec::new();
    for pack in packs {
        let (these, others) = rest.split_at(if pack.pairs.is_empty() { 0 } else { pack.candidates() });
        of_pairs.extend(pack.pairs.iter().flatten().map(|&candidate| f64::from(these[candidate as usize])));
        rest = others;
    }
    Computed { losses, scores: of_pairs, grads: grads.collect() }
}

/// The norm of the difference over the norm.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied()).max(1e-30)
}

fn assert_near(what: &str, a: &Computed, b: &Computed) {
    let near = |part: &str, a: &[f64], b: &[f64]| {
        let distance = distance(a, b);
        assert!(distance < NEAR, "{what}: {part} differ by {distance:.1e}");
    };
    near("losses", &a.losses, &b.losses);
    near("scores", &a.scores, &b.scores);
    for ((name, a), (_, b)) in a.grads.iter().zip(&b.grads) {
        near(name, a, b);
    }
}

fn objectives() -> Vec<ObjectiveSection> {
    let polar = ObjectiveSection { penalty_weight: 0.02, ..ObjectiveSection::default() };
    let mut all = Vec::new();
    for loss in [LossKind::Ranking, LossKind::Focal] {
        for penalty in [PenaltyKind::None, PenaltyKind::LogBarrier, PenaltyKind::L2] {
            all.push(ObjectiveSection { loss, penalty, ..polar.clone() });
        }
    }
    all.push(ObjectiveSection { lm_weight: 0.3, ..polar.clone() });
    all.push(ObjectiveSection { kind: ObjectiveKind::Lm, ..polar });
    all
}

#[test]
fn sharing_changes_nothing() {
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    println!("seed {seed}");
    let mut random = rng::stream(seed, "models", 0);
    for (i, objective) in objectives().iter().enumerate() {
        let group = [1, 2, 4][i % 3];
        let config = config(&mut random, 1 + (i + i / 3) % 3, group, 8, i % 2 == 1);
        let what =
            format!("{objective:?}, {} layers, groups of {group}, bias: {}", config.num_hidden_layers, config.bias);
        let mut groups = groups(&mut random);
        if objective.kind == ObjectiveKind::Lm {
            // A token alone predicts nothing.
            groups.retain(|group| group.iter().any(|sequence| sequence.len() > 1));
        }
        let (shared, separate) = (pack(&groups, wanted(objective, true)), pack(&groups, wanted(objective, false)));
        assert!(shared.tokens() < separate.tokens());
        assert_eq!(shared.separate_tokens, separate.tokens());

        let [mut cpu, mut reference] = [Rc::new(Cpu::new()) as Rc<dyn Backend>, Rc::new(Reference)]
            .map(|backend| trainer(model(backend, &config, outputs(objective), seed), objective));
        let with = compute(&mut cpu, std::slice::from_ref(&shared));
        let without = compute(&mut cpu, &[separate]);
        assert_near(&format!("{what}: shared against separate"), &with, &without);
        let exact = compute(&mut reference, std::slice::from_ref(&shared));
        assert_near(&format!("{what}: CPU against reference"), &with, &exact);
        // A pack for each group together is one pack of all.
        let packs: Vec<_> = groups.iter().map(|g| pack(std::slice::from_ref(g), wanted(objective, true))).collect();
        assert_near(&format!("{what}: several packs against one"), &compute(&mut cpu, &packs), &with);
    }
}

/// Wherever in a pass they stand, beside whatever: equal sequences have one score and their pair the loss of a tie.
#[test]
fn equal_sequences_tie_to_the_last_bit() {
    let mut random = rng::stream(11, "ties", 0);
    let objective = ObjectiveSection::default();
    let config = config(&mut random, 2, 2, 8, false);
    let mut trainer = trainer(model(Rc::new(Cpu::new()), &config, outputs(&objective), 3), &objective);
    for share_prefix in [true, false] {
        let packs: Vec<Pack> = (0..10)
            .map(|_| {
                let mut packer = Packer::new(Wanted { share_prefix, ..Wanted::SCORES });
                for _ in 0..random.random_range(1..6) {
                    let same = sequence(&mut random, 2..=40);
                    packer.push_pair(&same, &same).unwrap();
                }
                packer.finish(VOCAB).unwrap()
            })
            .collect();
        let computed = compute(&mut trainer, &packs);
        assert!(computed.scores.chunks(2).all(|pair| pair[0] == pair[1]), "{:?}", computed.scores);
        assert!(abs_diff_eq!(computed.losses[0], std::f64::consts::LN_2, epsilon = 1e-6), "{:?}", computed.losses);
        assert!(computed.grads.iter().all(|(_, grads)| grads.iter().all(|&grad| grad == 0.0)), "a tie teaches nothing");
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    const STEP: f64 = 1e-5;
    let mut random = rng::stream(3, "finite differences", 0);
    let groups =
        vec![vec![vec![1, 5, 9, 8, 4], vec![1, 5, 9, 7, 3, 4], vec![1, 5, 6, 4]], vec![vec![11, 12], vec![13]]];
    for objective in objectives() {
        let config = config(&mut random, 2, 2, 4, true);
        let mut trainer = trainer(model(Rc::new(Reference), &config, outputs(&objective), 5), &objective);
        let packs = [pack(&groups, wanted(&objective, true))];
        let grads = compute(&mut trainer, &packs).grads;
        let model = trainer.model().clone();
        let used: Vec<usize> = groups.iter().flatten().flatten().map(|&id| id as usize).collect();
        for (spec, (name, grads)) in model.specs().iter().zip(&grads) {
            let size = (grads.iter().map(|g| g * g).sum::<f64>() / grads.len() as f64).sqrt();
            assert!(size > 0.0, "{name} has no gradient");
            for _ in 0..3 {
                let mut element = random.random_range(0..spec.elements());
                if name.contains("tok_embeddings") {
                    // Rows of other tokens have no gradient.
                    let row = used[random.random_range(0..used.len())];
                    element = row * config.hidden_size + element % config.hidden_size;
                }
                let place = model.params().window(spec.offset + element, &[1]);
                let value = model.backend().read_one(&place).unwrap();
                let mut loss_at = |value: f64| {
                    model.backend().write_f64(&place, &[value]).unwrap();
                    trainer.gradients(&packs, &StepTotals::of(&packs), &mut Vec::new()).unwrap().loss
                };
                let slope = (loss_at(value + STEP) - loss_at(value - STEP)) / (2.0 * STEP);
                loss_at(value);
                let difference = (slope - grads[element]).abs();
                assert!(
                    difference < 1e-6 * (size + slope.abs()),
                    "{objective:?}: {name}[{element}]: {} is not {slope}",
                    grads[element]
                );
            }
        }
    }
}

fn scores(model: &Model, groups: &Groups) -> Vec<f32> {
    let (pack, candidates) = pack_with_candidates(groups, Wanted::SCORES);
    let capacity = Capacity { tokens: pack.tokens(), selected: pack.candidates(), candidates: pack.candidates() };
    let backend = model.backend().as_ref();
    let mut workspace = Workspace::new(backend, model.config(), model.outputs(), capacity, None).unwrap();
    model.score(&mut workspace, &pack).unwrap();
    let mut scores = Vec::new();
    model.read_scores(&workspace, pack.candidates(), &mut scores).unwrap();
    candidates.iter().map(|&candidate| scores[candidate as usize]).collect()
}

#[test]
fn rows_and_candidates_do_not_see_each_other() {
    let mut random = rng::stream(9, "isolation", 0);
    let config = config(&mut random, 3, 2, 8, true);
    let model = model(Rc::new(Cpu::new()), &config, OutputHeads { reward: true, lm: false }, 2);
    let mut groups = groups(&mut random);
    // Of equal sequences one changes, and the other is laid out anew.
    groups.retain(|group| group.iter().enumerate().all(|(i, ids)| !group[..i].contains(ids)));
    let before = scores(&model, &groups);
    let mut candidate = 0;
    for (g, group) in groups.iter().enumerate() {
        for c in 0..group.len() {
            // Another last token, which no candidate of these groups shares with another.
            let mut changed = groups.clone();
            let last = changed[g][c].last_mut().unwrap();
            *last = (*last + 17) % VOCAB as u32;
            let after = scores(&model, &changed);
            for (i, (before, after)) in before.iter().zip(&after).enumerate() {
                assert_eq!(before == after, i != candidate, "candidate {i} after a change of candidate {candidate}");
            }
            candidate += 1;
        }
    }
}

#[test]
fn tokens_do_not_see_what_follows() {
    let mut random = rng::stream(10, "causality", 0);
    let config = config(&mut random, 2, 2, 8, false);
    let model = model(Rc::new(Cpu::new()), &config, OutputHeads { reward: false, lm: true }, 2);
    let capacity = Capacity { tokens: 64, selected: 64, candidates: 2 };
    let backend = model.backend().as_ref();
    let mut workspace = Workspace::new(backend, model.config(), model.outputs(), capacity, None).unwrap();
    let text = sequence(&mut random, 50..=50);
    // The loss of the first `n` predictions alone.
    let mut loss = |text: &[u32], n: usize| {
        let mut packer = Packer::new(Wanted { scores: false, next_tokens: true, share_prefix: false });
        packer.push(&[text]).unwrap();
        let mut parts = packer.finish(VOCAB).unwrap().into_parts();
        parts.target_weights[n..].fill(0.0);
        let pack = Pack::new(parts, VOCAB).unwrap();
        model.zero_losses(&workspace).unwrap();
        model.next_token_loss(&mut workspace, &pack, 1.0).unwrap();
        model.losses(&workspace).unwrap().1
    };
    for n in [1, 7, 30, 48] {
        let mut changed = text.clone();
        changed[n + 1..].iter_mut().for_each(|id| *id = (*id + 7) % VOCAB as u32);
        assert_eq!(loss(&text, n), loss(&changed, n), "the first {n} predictions");
        changed[n] = (changed[n] + 7) % VOCAB as u32;
        assert_ne!(loss(&text, n), loss(&changed, n), "its own target counts");
    }
}

#[test]
fn the_softmax_of_the_logits_gives_the_next_token_loss() {
    for seed in 0..4 {
        let random = &mut rng::stream(seed, "logits", 0);
        let config = config(random, 2, 2, 4, true);
        let outputs = OutputHeads { reward: false, lm: true };
        // More rows than the workspace has logits for at one time.
        let groups: Groups = vec![vec![sequence(random, 150..=200)], vec![vec![1, 2]], vec![sequence(random, 2..=90)]];
        let pack = pack(&groups, Wanted { scores: false, next_tokens: true, share_prefix: false });
        let capacity = Capacity { tokens: 400, selected: 400, candidates: 4 };
        for backend in [Rc::new(Cpu::new()) as Rc<dyn Backend>, Rc::new(Reference)] {
            let model = model(backend.clone(), &config, outputs, seed);
            let mut workspace = Workspace::new(backend.as_ref(), &config, outputs, capacity, None).unwrap();
            let (mut loss, mut row) = (0.0, 0);
            let mut add = |logits: &[f32]| {
                assert_eq!(logits.len(), VOCAB);
                let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
                loss += sum.ln() - f64::from(logits[pack.targets[row] as usize]);
                row += 1;
            };
            model.logits(&mut workspace, &pack, &mut add).unwrap();
            assert_eq!(row, pack.selected.len());
            model.zero_losses(&workspace).unwrap();
            model.next_token_loss(&mut workspace, &pack, 1.0).unwrap();
            let right = model.losses(&workspace).unwrap().1;
            assert!(abs_diff_eq!(loss, right, epsilon = NEAR * right), "{loss} {right}");
        }
    }
}
