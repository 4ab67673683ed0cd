//! The reward head. A score may be off by [`sum_error`] of its terms; a loss by its slope times that; a gradient by
//! its curvature times that. Slopes jump where a score passes the log barrier's clamp and where a focal pair is tied,
//! so inputs are drawn again until no score or difference is near; and until one pair has something to teach.

use polar_raw::backend::{Backend, Operations, PairLoss, RewardHeadGrads};
use polar_raw::ops::reward_head::{LossKind, PenaltyKind};
use polar_raw::reference::Reference;
use polar_raw::tensor::Tensor;

use super::Row;
use crate::arithmetic::Arithmetic;
use crate::case::{Allowed, Case, Spec, index, input, reference, result, sum_error, updated, values};
use crate::draw::{Class, Draw};
use crate::rows::rmsnorm::inverse_rms;

/// The operations of this file.
pub const ROWS: &[Row] =
    &[Row { operation: "reward_head_forward", cases: forward }, Row { operation: "reward_head_loss", cases: loss }];

const EPS: f64 = 1e-5;

/// Rows, hidden size and pairs; with 0 pairs nothing but the scores is computed.
const SHAPES: [(usize, usize, usize); 8] =
    [(1, 1, 0), (2, 8, 1), (3, 63, 2), (7, 64, 3), (16, 65, 8), (5, 127, 20), (129, 96, 64), (2, 4099, 1)];

struct Inputs {
    x: Vec<f64>,
    norm: Vec<f64>,
    head: Vec<f64>,
}

impl Inputs {
    /// Scores lie about between -6 and 6, within the barrier's bounds and outside.
    fn new(draw: &mut Draw, rows: usize, hidden: usize) -> Self {
        let size = 8.0 / (hidden as f64).sqrt();
        Self {
            x: draw.within(Class::Float, rows * hidden, 3.0),
            norm: draw.values(Class::Float, hidden),
            head: draw.within(Class::Float, hidden, size),
        }
    }

    fn scores(&self) -> Vec<f64> {
        let (hidden, rows) = (self.norm.len(), self.x.len() / self.norm.len());
        let scores = reference(&[rows], &vec![0.0; rows]);
        let (x, norm) = (reference(&[rows, hidden], &self.x), reference(&[hidden], &self.norm));
        Reference.reward_head_forward(&scores, &x, &norm, &reference(&[1, hidden], &self.head), EPS).expect("it fits");
        values(&scores)
    }

    /// Of each row: its inverse root mean square, and the magnitudes of the score's terms summed.
    fn rows(&self) -> Vec<(f64, f64)> {
        let hidden = self.norm.len();
        let row = |x: &[f64]| {
            let rstd = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / hidden as f64 + EPS).sqrt();
            (rstd, (0..hidden).map(|j| (x[j] * rstd * self.norm[j] * self.head[j]).abs()).sum())
        };
        self.x.chunks(hidden).map(row).collect()
    }

    fn error(&self, eps: f64) -> f64 {
        // The terms' sum, and the root mean square's.
        2.0 * sum_error(self.norm.len(), eps) + 4.0 * eps
    }

    fn operands(self) -> [crate::case::Given; 3] {
        let (hidden, rows) = (self.norm.len(), self.x.len() / self.norm.len());
        [input(&[rows, hidden], self.x), input(&[hidden], self.norm), input(&[1, hidden], self.head)]
    }
}

pub fn forward() -> Vec<Spec> {
    let spec = |(rows, hidden, _): (usize, usize, usize)| {
        Spec::new(format!("{rows}x{hidden}"), super::small(rows * hidden), move |draw| {
            let inputs = Inputs::new(draw, rows, hidden);
            let error = inputs.error(draw.sum_eps());
            let each = inputs.rows().iter().map(|(_, terms)| terms * error).collect();
            let mut operands = vec![result(&[rows], Allowed::Each(each))];
            operands.extend(inputs.operands());
            Case::modelled(
                operands,
                |backend, x| backend.reward_head_forward(&x[0], &x[1], &x[2], &x[3], EPS),
                |a, x| vec![score_model(a, [&x[1], &x[2], &x[3]]).into_iter().map(|(score, _)| score).collect()],
            )
        })
    };
    SHAPES.into_iter().map(spec).collect()
}

/// Bounds of the slope and of the curvature of one score's penalty.
fn penalty_bounds(kind: PenaltyKind, scores: &[f64]) -> (f64, f64) {
    let largest = scores.iter().fold(0.0, |most: f64, s| most.max(s.abs()));
    let inside = scores.iter().map(|s| s.abs()).filter(|s| *s < 4.999).fold(0.0, f64::max);
    match kind {
        PenaltyKind::None => (0.0, 0.0),
        PenaltyKind::L2 => (2.0 * largest, 2.0),
        PenaltyKind::LogBarrier => (1.0 / (5.0 - inside), 2.0 / (5.0 - inside).powi(2)),
    }
}

/// Whether no slope jumps nearby, and some pair is not so right already that its gradient is nothing.
fn fit(scores: &[f64], pairs: &[u32]) -> bool {
    let differences = || pairs.chunks(2).map(|p| scores[p[0] as usize] - scores[p[1] as usize]);
    scores.iter().all(|s| (s.abs() - 4.999).abs() > 0.01)
        && differences().all(|d| d.abs() > 0.01)
        && differences().any(|d| d < 1.0)
}

fn draw_loss(draw: &mut Draw, (rows, hidden, pairs): (usize, usize, usize), loss: PairLoss) -> Case {
    let (inputs, pair_rows) = loop {
        let inputs = Inputs::new(draw, rows, hidden);
        let pair_rows: Vec<u32> = (0..pairs).flat_map(|_| draw.distinct(2, rows)).collect();
        if fit(&inputs.scores(), &pair_rows) {
            break (inputs, pair_rows);
        }
    };
    let (scores, row_bounds) = (inputs.scores(), inputs.rows());
    let (error, eps) = (inputs.error(draw.sum_eps()), draw.sum_eps());
    let largest_terms = row_bounds.iter().fold(0.0, |most: f64, r| most.max(r.1));
    let (slope, curvature) = penalty_bounds(loss.penalty, &scores);
    // The pair's part: both losses have slopes below 2 and curvatures below 2, over a difference of two scores.
    let slope = loss.scale * (2.0 + loss.penalty_weight * slope);
    let curvature = loss.scale * (4.0 + loss.penalty_weight * curvature);
    let score_error = error * largest_terms;
    let loss_size = loss.scale * (2.0 * largest_terms + loss.penalty_weight * (4.0 + largest_terms.powi(2))) + 1.0;
    let loss_error = 2.0 * pairs as f64 * (slope * score_error + 8.0 * eps * loss_size) + eps;

    // A row's gradient: its slope times what the score changes by, with the errors of both.
    let mut times = vec![0.0; rows];
    pair_rows.iter().for_each(|&row| times[row as usize] += 1.0);
    let (mut dx, mut dnorm, mut dhead) = (vec![0.0; rows * hidden], vec![0.0; hidden], vec![0.0; hidden]);
    let (dnorm_before, dhead_before) = (draw.values(Class::Sum, hidden), draw.values(Class::Sum, hidden));
    for (s, &(rstd, terms)) in row_bounds.iter().enumerate() {
        let off = times[s] * (2.0 * curvature * score_error + slope * (error + sum_error(rows, eps)));
        for j in 0..hidden {
            let n = (inputs.x[s * hidden + j] * rstd).abs();
            let (norm, head) = (inputs.norm[j].abs(), inputs.head[j].abs());
            dx[s * hidden + j] = off * rstd * (norm * head + n * terms / hidden as f64);
            dnorm[j] += off * n * head;
            dhead[j] += off * n * norm;
        }
    }
    let with_base = |bounds: Vec<f64>, base: &[f64]| {
        Allowed::Each(bounds.iter().zip(base).map(|(b, base)| b + sum_error(rows, eps) * base.abs()).collect())
    };
    let (dnorm, dhead) = (with_base(dnorm, &dnorm_before), with_base(dhead, &dhead_before));
    let each_score = row_bounds.iter().map(|(_, terms)| terms * error).collect();
    let mut operands = vec![
        result(&[rows], Allowed::Each(each_score)),
        updated(&[1], draw.values(Class::Sum, 1), Allowed::All(loss_error)),
        result(&[rows, hidden], Allowed::Each(dx)),
        // The slopes are common to all columns.
        updated(&[hidden], dnorm_before, dnorm).in_units_of(hidden),
        updated(&[1, hidden], dhead_before, dhead),
        index(&[pairs, 2], &pair_rows),
    ];
    operands.extend(inputs.operands());
    let call = move |backend: &dyn Backend, x: &[Tensor]| {
        let grads = RewardHeadGrads { dx: &x[2], dnorm: &x[3], dhead: &x[4] };
        backend.reward_head_loss(&x[0], &x[1], grads, &x[6], &x[7], &x[8], &x[5], &loss, EPS)
    };
    Case::modelled(operands, call, move |a, x| loss_model(a, x, &loss))
}

/// The model of the scores, and with each its row's inverse root mean square.
fn score_model(a: &mut Arithmetic, [x, norm, head]: [&[f64]; 3]) -> Vec<(f64, f64)> {
    let row = |x: &[f64]| {
        let rstd = inverse_rms(a, x, EPS);
        let product = a.total((0..norm.len()).map(|j| x[j] * norm[j] * head[j]));
        (a.single(product * rstd), rstd)
    };
    x.chunks(norm.len()).map(row).collect()
}

/// The model of scores, loss and gradients.
fn loss_model(a: &mut Arithmetic, x: &[Vec<f64>], loss: &PairLoss) -> Vec<Vec<f64>> {
    let (before, pairs, rows, norm, head) = ([&x[1], &x[3], &x[4]], &x[5], &x[6], &x[7], &x[8]);
    let (mut dnorm, mut dhead, hidden) = (before[1].clone(), before[2].clone(), norm.len());
    let scores = score_model(a, [rows, norm, head]);
    let (mut losses, mut slopes) = (Vec::new(), vec![Vec::new(); scores.len()]);
    for pair in pairs.chunks(2) {
        let [chosen, rejected] = [pair[0] as usize, pair[1] as usize];
        let difference = a.single(scores[chosen].0 - scores[rejected].0);
        let (value, slope) = rank(loss.kind, difference);
        let (value, slope) = (a.function(value), a.function(slope));
        losses.push(loss.scale * value);
        for (row, slope) in [(chosen, slope), (rejected, -slope)] {
            let (value, more) = penalty(a, loss.penalty, scores[row].0);
            // The barrier is a difference of numbers up to 2.
            let (value, more) = (a.function_of_size(value, value.abs().max(2.0)), a.function(more));
            losses.push(loss.scale * loss.penalty_weight * value);
            slopes[row].extend([loss.scale * slope, loss.scale * loss.penalty_weight * more]);
        }
    }
    let total = a.add(before[0][0], losses);
    let total = a.single(total);
    let (mut dx, mut weighted) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    for ((x, (score, rstd)), slopes) in rows.chunks(hidden).zip(&scores).zip(slopes) {
        let slope = a.chain(slopes);
        let mean = a.single(score / hidden as f64);
        for j in 0..hidden {
            let n = a.single(x[j] * rstd);
            let difference = a.total([norm[j] * head[j], -n * mean]);
            dx.push(a.float(slope * rstd * difference));
            weighted.push(a.single(slope * n));
        }
    }
    for j in 0..hidden {
        let column = || weighted.iter().skip(j).step_by(hidden);
        let [norm_sum, head_sum] = [(dnorm[j], head[j]), (dhead[j], norm[j])]
            .map(|(before, weight)| a.add(before, column().map(|w| w * weight)));
        (dnorm[j], dhead[j]) = (a.single(norm_sum), a.single(head_sum));
    }
    vec![scores.into_iter().map(|(score, _)| score).collect(), vec![total], dx, dnorm, dhead]
}

/// The loss of a difference of scores, and its derivative, as in the reference.
fn rank(kind: LossKind, d: f64) -> (f64, f64) {
    let nll = (-d).max(0.0) + (-d.abs()).exp().ln_1p();
    let miss = 1.0 / (1.0 + d.exp());
    match kind {
        LossKind::Ranking => (nll, -miss),
        // `1 - p` is 2 miss above 0, and `p' = 2 (1 - miss) miss`.
        LossKind::Focal if d > 0.0 => {
            (4.0 * miss * miss * nll, -4.0 * miss.powi(3) - 8.0 * miss * miss * (1.0 - miss) * nll)
        }
        LossKind::Focal => (nll, -miss),
    }
}

/// The penalty of one score, and its derivative, as in the reference.
fn penalty(a: &mut Arithmetic, kind: PenaltyKind, s: f64) -> (f64, f64) {
    match kind {
        PenaltyKind::None => (0.0, 0.0),
        PenaltyKind::L2 => (s * s, 2.0 * s),
        PenaltyKind::LogBarrier => {
            // The bound is rounded as well, which the logarithm of its distance from 5 makes much of.
            let clamped = s.clamp(-4.999, 4.999);
            let inside = if clamped == s { s } else { a.single(clamped) };
            let slope = if clamped == s { 1.0 / (5.0 - s) - 1.0 / (5.0 + s) } else { 0.0 };
            (-(5.0 - inside).ln() - (5.0 + inside).ln(), slope)
        }
    }
}

pub fn loss() -> Vec<Spec> {
    let mut specs = Vec::new();
    for shape in SHAPES.into_iter().filter(|shape| shape.2 > 0) {
        for kind in [LossKind::Ranking, LossKind::Focal] {
            for penalty in [PenaltyKind::None, PenaltyKind::LogBarrier, PenaltyKind::L2] {
                let (rows, hidden, pairs) = shape;
                let loss = PairLoss { kind, penalty, penalty_weight: 0.05, scale: 1.0 / pairs as f64 };
                let label = format!("{rows}x{hidden} {pairs} pairs {kind:?} {penalty:?}");
                let quick = super::small(rows * hidden);
                specs.push(Spec::new(label, quick, move |draw| draw_loss(draw, shape, loss)));
            }
        }
    }
    specs
}
