//! SwiGLU: a few roundings and one exponential an element, for which 16 epsilons are allowed, of the sum of the
//! magnitudes where the derivative is a difference. Gates of up to 120 overflow a careless exponential; one that gives 0
//! where its value is below the normal numbers of f32 is as good as any other.

use polar_raw::backend::Operations;

use super::Row;
use crate::arithmetic::Arithmetic;
use crate::case::{Allowed, Case, Spec, input, result, updated};
use crate::draw::{Class, Draw};

/// The operations of this file.
pub const ROWS: &[Row] =
    &[Row { operation: "swiglu_forward", cases: forward }, Row { operation: "swiglu_backward", cases: backward }];

fn draw_gate_up(draw: &mut Draw, rows: usize, cols: usize) -> Vec<f64> {
    let size = [2.0, 20.0, 120.0][cols % 3];
    draw.within(Class::Float, rows * 2 * cols, size)
}

/// What a result may be off whose magnitudes are `size` and in which an exponential is multiplied by `factor`.
fn bound(eps: f64, size: f64, factor: f64) -> f64 {
    16.0 * eps * size + 2.0 * f64::from(f32::MIN_POSITIVE) * factor.abs()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// What `silu(gate) up` may be off where gate and up are off by `off`: `silu'` is at most 1.1, and `silu` no more than
/// the magnitude of what it is taken of.
pub fn error_of_product([gate, up]: [f64; 2], off: [f64; 2], eps: f64) -> f64 {
    let (gate, up) = (gate.abs() + off[0], up.abs() + off[1]);
    1.1 * (up * off[0] + gate * off[1]) + bound(eps, gate * up, gate * up)
}

/// What the gradients of gate and up may be off where that of the result is `dy` and off by `off`.
pub fn error_of_gradient([gate, up]: [f64; 2], dy: f64, off: f64, eps: f64) -> (f64, f64) {
    let (s, dy) = (sigmoid(gate), dy.abs() + off);
    let (slope, silu) = (s * (1.0 + gate.abs() * (1.0 - s)) * up.abs(), s * gate.abs());
    let factor = (1.0 + gate.abs()) * up.abs() * dy;
    (slope * off + bound(eps, slope * dy, factor), silu * off + bound(eps, silu * dy, gate.abs() * dy))
}

/// The model of `silu(gate) up`.
pub fn model(a: &mut Arithmetic, gate_up: &[f64], cols: usize) -> Vec<f64> {
    let mut y = Vec::with_capacity(gate_up.len() / 2);
    for row in gate_up.chunks(2 * cols) {
        let (gate, up) = row.split_at(cols);
        for j in 0..cols {
            let s = a.function(sigmoid(gate[j]));
            let silu = a.single(gate[j] * s);
            y.push(a.float(silu * up[j]));
        }
    }
    y
}

/// The model of the gradients of gate and up.
pub fn gradient_model(a: &mut Arithmetic, gate_up: &[f64], dy: &[f64], cols: usize) -> Vec<f64> {
    let mut gradient = vec![0.0; gate_up.len()];
    for (t, row) in gate_up.chunks(2 * cols).enumerate() {
        let (gate, up) = row.split_at(cols);
        for j in 0..cols {
            let (dy, s) = (dy[t * cols + j], a.function(sigmoid(gate[j])));
            let rest = a.single(1.0 - s);
            let inner = a.chain([1.0, gate[j] * rest]);
            let slope = a.single(s * inner);
            let factor = a.single(up[j] * dy);
            let silu = a.single(gate[j] * s);
            gradient[t * 2 * cols + j] = a.float(slope * factor);
            gradient[t * 2 * cols + cols + j] = a.float(silu * dy);
        }
    }
    gradient
}

pub fn forward() -> Vec<Spec> {
    let spec = |(rows, cols): (usize, usize)| {
        Spec::new(format!("{rows}x{cols}"), super::small(rows * cols), move |draw| {
            let (gate_up, mut each) = (draw_gate_up(draw, rows, cols), Vec::with_capacity(rows * cols));
            for row in gate_up.chunks(2 * cols) {
                let (gate, up) = row.split_at(cols);
                each.extend((0..cols).map(|j| {
                    let factor = gate[j] * up[j];
                    bound(draw.sum_eps(), (sigmoid(gate[j]) * factor).abs(), factor)
                }));
            }
            let operands =
                vec![result(&[rows, cols], Allowed::Each(each)).in_units_of(1), input(&[rows, 2 * cols], gate_up)];
            Case::modelled(
                operands,
                |backend, x| backend.swiglu_forward(&x[0], &x[1]),
                move |a, x| vec![model(a, &x[1], cols)],
            )
        })
    };
    super::MATRICES.into_iter().map(spec).collect()
}

pub fn backward() -> Vec<Spec> {
    let spec = |(rows, cols): (usize, usize), in_place: bool| {
        let kind = if in_place { " in place" } else { "" };
        Spec::new(format!("{rows}x{cols}{kind}"), super::small(rows * cols), move |draw| {
            let (gate_up, dy) = (draw_gate_up(draw, rows, cols), draw.values(Class::Float, rows * cols));
            let mut each = Vec::with_capacity(gate_up.len());
            for t in 0..rows {
                let (gate, up) = gate_up[t * 2 * cols..][..2 * cols].split_at(cols);
                let dy = &dy[t * cols..][..cols];
                let dgate = |j: usize| {
                    let (s, factor) = (sigmoid(gate[j]), (1.0 + gate[j].abs()) * up[j] * dy[j]);
                    bound(draw.sum_eps(), s * ((1.0 + gate[j].abs() * (1.0 - s)) * up[j] * dy[j]).abs(), factor)
                };
                let dup = |j: usize| {
                    let factor = gate[j] * dy[j];
                    bound(draw.sum_eps(), (sigmoid(gate[j]) * factor).abs(), factor)
                };
                each.extend((0..cols).map(dgate));
                each.extend((0..cols).map(dup));
            }
            let (dims, allowed) = ([rows, 2 * cols], Allowed::Each(each));
            let dy = input(&[rows, cols], dy);
            if in_place {
                let operands = vec![updated(&dims, gate_up, allowed).in_units_of(1), dy];
                return Case::modelled(
                    operands,
                    |backend, x| backend.swiglu_backward(&x[0], &x[1], &x[0]),
                    move |a, x| vec![gradient_model(a, &x[0], &x[1], cols)],
                );
            }
            let gate_up = input(&dims, gate_up);
            let operands = vec![result(&dims, allowed).in_units_of(1), dy, gate_up];
            Case::modelled(
                operands,
                |backend, x| backend.swiglu_backward(&x[0], &x[1], &x[2]),
                move |a, x| vec![gradient_model(a, &x[2], &x[1], cols)],
            )
        })
    };
    super::MATRICES.into_iter().flat_map(|shape| [spec(shape, false), spec(shape, true)]).collect()
}
