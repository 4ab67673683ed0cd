use approx::{abs_diff_eq, assert_abs_diff_eq};
use polar_raw::backend::{Operations, PairLoss, RewardHeadGrads};
use polar_raw::ops::reward_head::{LossKind, PenaltyKind};
use polar_raw::reference::Reference;
use polar_raw::tensor::Tensor;

use super::{BASE, Random, assert_gradient, full, holding, indices, poisoned, read};

const EPS: f64 = 1e-3;

/// Operands of the reward head. The head is long enough that some scores leave the log barrier's bounds.
struct RewardHead {
    x: Tensor,
    norm: Tensor,
    head: Tensor,
}

impl RewardHead {
    fn new(test: &str, scale: f64) -> Self {
        let mut random = Random::new(test);
        let (x, norm) = (random.tensor(&[6, 8]), random.tensor(&[8]));
        let head: Vec<f64> = random.values(8).iter().map(|w| w * scale).collect();
        Self { x, norm, head: holding(&[1, 8], &head) }
    }

    fn scores(&self) -> Vec<f64> {
        let scores = poisoned(&[6]);
        Reference.reward_head_forward(&scores, &self.x, &self.norm, &self.head, EPS).unwrap();
        read(&scores)
    }
}

/// One rejected answer stands in two pairs, and one row in none.
const PAIRS: [u32; 8] = [0, 1, 2, 1, 4, 3, 3, 0];

/// The sum of xtuner's losses, written again from its formulas.
fn expected(scores: &[f64], loss: &PairLoss) -> f64 {
    let sigmoid = |d: f64| 1.0 / (1.0 + (-d).exp());
    let rank = |d: f64| {
        let p = 2.0 * (sigmoid(d) - 0.5).max(0.0);
        -sigmoid(d).ln() * if loss.kind == LossKind::Focal { (1.0 - p) * (1.0 - p) } else { 1.0 }
    };
    let penalty = |s: f64| match loss.penalty {
        PenaltyKind::None => 0.0,
        PenaltyKind::LogBarrier => -(5.0 - s.clamp(-4.999, 4.999)).ln() - (s.clamp(-4.999, 4.999) + 5.0).ln(),
        PenaltyKind::L2 => s * s,
    };
    let pair = |pair: &[u32]| {
        let (chosen, rejected) = (scores[pair[0] as usize], scores[pair[1] as usize]);
        rank(chosen - rejected) + loss.penalty_weight * (penalty(chosen) + penalty(rejected))
    };
    loss.scale * PAIRS.chunks(2).map(pair).sum::<f64>()
}

#[test]
fn reward_head() {
    let pairs = indices(&[4, 2], &PAIRS);
    for (name, scale) in [("within the barrier", 0.5), ("across the barrier", 4.0)] {
        let operands = RewardHead::new(name, scale);
        let RewardHead { x, norm, head } = &operands;
        assert_eq!(operands.scores().iter().any(|s| s.abs() > 5.0), scale > 1.0, "the case is what it says");
        for kind in [LossKind::Ranking, LossKind::Focal] {
            for penalty in [PenaltyKind::None, PenaltyKind::LogBarrier, PenaltyKind::L2] {
                let pair_loss = PairLoss { kind, penalty, penalty_weight: 0.3, scale: 0.6 };
                let name = format!("{name}, {kind:?}, {penalty:?}");
                let (scores, loss) = (poisoned(&[6]), full(&[1], BASE));
                let (dx, dnorm, dhead) = (poisoned(&[6, 8]), full(&[8], BASE), full(&[1, 8], BASE));
                let grads = RewardHeadGrads { dx: &dx, dnorm: &dnorm, dhead: &dhead };
                Reference.reward_head_loss(&scores, &loss, grads, x, norm, head, &pairs, &pair_loss, EPS).unwrap();
                assert_eq!(read(&scores), operands.scores());
                let objective = || expected(&operands.scores(), &pair_loss);
                assert!(abs_diff_eq!(read(&loss)[0], BASE + objective(), epsilon = 1e-12), "{name}");
                assert_gradient(&format!("{name}, x"), &objective, x, &dx, 0.0);
                assert_gradient(&format!("{name}, norm"), &objective, norm, &dnorm, BASE);
                assert_gradient(&format!("{name}, head"), &objective, head, &dhead, BASE);
            }
        }
    }
}

/// A hopeless pair and a perfect one give large and small losses, and no infinity.
#[test]
fn pair_loss_of_far_scores_is_finite() {
    // The norm makes every row one unit long; the head's length is the score.
    let (norm, head) = (full(&[1], 1.0), full(&[1, 1], 900.0));
    for (x, expected) in [([-900.0, 900.0], 1800.0), ([900.0, -900.0], 0.0)] {
        let (x, scores) = (holding(&[2, 1], &x), poisoned(&[2]));
        let (dx, dnorm, dhead) = (poisoned(&[2, 1]), full(&[1], 0.0), full(&[1, 1], 0.0));
        let grads = RewardHeadGrads { dx: &dx, dnorm: &dnorm, dhead: &dhead };
        for kind in [LossKind::Ranking, LossKind::Focal] {
            let loss = full(&[1], 0.0);
            let pair_loss = PairLoss { kind, penalty: PenaltyKind::None, penalty_weight: 0.0, scale: 1.0 };
            let pairs = indices(&[1, 2], &[0, 1]);
            Reference.reward_head_loss(&scores, &loss, grads, &x, &norm, &head, &pairs, &pair_loss, 0.0).unwrap();
            assert_abs_diff_eq!(read(&loss)[0], expected, epsilon = 1e-9);
            assert!([&dx, &dnorm, &dhead].iter().all(|t| read(t).iter().all(|g| g.is_finite())));
        }
    }
}

#[test]
fn linear_cross_entropy() {
    let mut random = Random::new("linear cross-entropy");
    let (x, table) = (random.tensor(&[5, 4]), random.tensor(&[7, 4]));
    let (targets, scratch) = (indices(&[5], &[6, 0, 3, 3, 1]), poisoned(&[2, 7]));
    let weights = holding(&[5], &[0.3, 0.0, 2.0, 1.0, 0.7]);
    let objective = || {
        let loss = full(&[1], 0.0);
        Reference.linear_cross_entropy(&loss, None, &x, &table, &targets, &weights, &scratch).unwrap();
        read(&loss)[0]
    };
    let (loss, dx, dtable) = (full(&[1], BASE), poisoned(&[5, 4]), full(&[7, 4], BASE));
    let grads = Some((&dx, &dtable));
    Reference.linear_cross_entropy(&loss, grads, &x, &table, &targets, &weights, &scratch).unwrap();
    assert_abs_diff_eq!(read(&loss)[0], BASE + objective(), epsilon = 1e-12);
    assert_gradient("x", &objective, &x, &dx, 0.0);
    assert_gradient("table", &objective, &table, &dtable, BASE);
    // The forward pass is the definition: with equal logits every row costs the logarithm of the vocabulary.
    Reference.fill(&table, 0.25).unwrap();
    assert_abs_diff_eq!(objective(), 4.0 * 7f64.ln(), epsilon = 1e-12);
}
