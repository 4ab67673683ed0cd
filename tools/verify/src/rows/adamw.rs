//! AdamW: about ten roundings an element. Moments and parameters may cancel, so the bounds are 8 epsilons of the sums
//! of magnitudes; the bias corrections leave no room for `1 - beta^t` in less than f64. Where the sum of the squares or a
//! loss is not finite everything stays as it was, to the bit.

use polar_raw::backend::{AdamW, Operations};

use super::Row;
use crate::arithmetic::Arithmetic;
use crate::case::{Allowed, Case, Spec, input, result, updated};
use crate::draw::{Class, Draw};

/// The operation of this file.
pub const ROWS: &[Row] = &[Row { operation: "adamw", cases }];

const BASE: AdamW = AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0, max_norm: 1.0, step: 1 };

fn draw_case(draw: &mut Draw, length: usize, norm: f64, update: AdamW) -> Case {
    let AdamW { lr, beta1, beta2, eps, weight_decay, max_norm, step } = update;
    let (p, g) = (draw.values(Class::Sum, length), draw.values(Class::Sum, length));
    let first = step == 1;
    let m = if first { vec![0.0; length] } else { draw.values(Class::Sum, length) };
    let v: Vec<f64> =
        if first { vec![0.0; length] } else { draw.values(Class::Sum, length).iter().map(|v| v.abs()).collect() };
    let squares = draw.round(Class::Sum, &[norm * norm]);
    let clip = clip(squares[0].sqrt(), max_norm);
    let error = 8.0 * draw.sum_eps();
    let (mut p_allowed, mut m_allowed) = (Vec::with_capacity(length), Vec::with_capacity(length));
    for i in 0..length {
        let m_scale = beta1 * m[i].abs() + (1.0 - beta1) * (g[i] * clip).abs();
        let v = beta2 * v[i] + (1.0 - beta2) * (g[i] * clip).powi(2);
        let (c1, c2) = (1.0 - beta1.powf(step as f64), 1.0 - beta2.powf(step as f64));
        let moved = lr * (m_scale / c1) / ((v / c2).sqrt() + eps);
        m_allowed.push(error * m_scale);
        p_allowed.push(error * (p[i].abs() * (1.0 + lr * weight_decay) + moved));
    }
    let operands = vec![
        // What rounding to `float` costs is allowed for in every bound.
        result(&[length], Allowed::Each(p_allowed.clone())).without_sums(),
        updated(&[length], p, Allowed::Each(p_allowed)),
        updated(&[length], m, Allowed::Each(m_allowed)),
        updated(&[length], v, Allowed::Relative(error)),
        input(&[length], g),
        input(&[1], squares),
        input(&[2], vec![0.75, 0.125]),
    ];
    Case::modelled(
        operands,
        move |backend, x| backend.adamw(&x[0], &x[1], &x[2], &x[3], &x[4], &x[5], &x[6], &update),
        move |a, x| model(a, x, &update),
    )
}

/// What gradients of that norm are multiplied by.
fn clip(norm: f64, max_norm: f64) -> f64 {
    if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 }
}

/// An update that is left out.
fn draw_left_out(draw: &mut Draw, length: usize, squares: f64, losses: &[f64], update: AdamW) -> Case {
    let stays = |class, draw: &mut Draw| updated(&[length], draw.values(class, length), Allowed::Exact);
    let operands = vec![
        stays(Class::Float, draw),
        stays(Class::Sum, draw),
        stays(Class::Sum, draw),
        stays(Class::Sum, draw),
        input(&[length], draw.values(Class::Sum, length)),
        input(&[1], vec![squares]),
        input(&[losses.len()], losses.to_vec()),
    ];
    Case::exact(operands, move |backend, x| backend.adamw(&x[0], &x[1], &x[2], &x[3], &x[4], &x[5], &x[6], &update))
}

fn model(a: &mut Arithmetic, x: &[Vec<f64>], update: &AdamW) -> Vec<Vec<f64>> {
    let AdamW { lr, beta1, beta2, eps, weight_decay, max_norm, step } = *update;
    let (mut master, mut m, mut v, grads) = (x[1].clone(), x[2].clone(), x[3].clone(), &x[4]);
    // What the host computes of the constants, and rounds once.
    let [beta1, rest1] = [beta1, 1.0 - beta1].map(|c| a.single(c));
    let [beta2, rest2] = [beta2, 1.0 - beta2].map(|c| a.single(c));
    let decay = a.single(1.0 - lr * weight_decay);
    let rate = a.single(lr / (1.0 - update.beta1.powf(step as f64)));
    let root = a.single(1.0 / (1.0 - update.beta2.powf(step as f64)).sqrt());
    let clip = clip(a.function(x[5][0].sqrt()), max_norm);
    let clip = if clip < 1.0 { a.function(clip) } else { clip };
    for i in 0..master.len() {
        let g = a.single(grads[i] * clip);
        m[i] = a.total([beta1 * m[i], rest1 * g]);
        let square = a.single(g * g);
        v[i] = a.total([beta2 * v[i], rest2 * square]);
        let length = a.function(v[i].sqrt());
        let below = a.chain([length * root, eps]);
        let moved = a.function(rate * m[i] / below);
        master[i] = a.add(decay * master[i], [-moved]);
    }
    let params = master.iter().map(|&p| a.float(p)).collect();
    vec![params, master, m, v]
}

pub fn cases() -> Vec<Spec> {
    // The bound of one update after another: the first, a decayed one, betas near 1, no clipping, clipping.
    let updates = [
        ("first", 7.0, BASE),
        ("decay", 0.5, AdamW { step: 12, weight_decay: 0.1, ..BASE }),
        ("slow", 7.0, AdamW { beta2: 0.999, step: 3, ..BASE }),
        ("late", 7.0, AdamW { beta2: 0.999, step: 1_000_000, lr: 0.1, ..BASE }),
        ("unclipped", 1e4, AdamW { max_norm: 0.0, step: 2, eps: 1e-3, ..BASE }),
    ];
    let lengths = super::sum_of_squares::LENGTHS.into_iter().enumerate();
    let all = |(i, length): (usize, usize)| {
        let some = if length < 5000 { updates.to_vec() } else { vec![updates[i % updates.len()]] };
        some.into_iter().map(move |(name, norm, update)| {
            Spec::new(format!("{length} {name}"), length < 100_000, move |draw| draw_case(draw, length, norm, update))
        })
    };
    let (nan, infinite) = (f64::NAN, f64::INFINITY);
    let wrong = [
        ("squares NaN", nan, [0.75, 0.125]),
        ("squares infinite", infinite, [0.75, 0.125]),
        ("loss NaN", 2.0, [nan, 0.125]),
        ("loss infinite", 2.0, [0.75, -infinite]),
    ];
    let left_out = wrong.into_iter().enumerate().map(|(i, (name, squares, losses))| {
        // Without clipping too: then nothing else looks at the norm.
        let update = AdamW { max_norm: [0.0, 1.0][i % 2], ..BASE };
        Spec::new(format!("1000 {name}"), true, move |draw| draw_left_out(draw, 1000, squares, &losses, update))
            .with_less_to_do(true)
    });
    lengths.flat_map(all).chain(left_out).collect()
}
