use super::math::{sigmoid, vectorised};
use super::parallel;
use super::{Cpu, values, values_mut};
use crate::error::Result;
use crate::ops::{Run, SwigluBackward, SwigluForward};

pub fn forward(y: &mut [f32], gate_up: &[f32], width: usize) {
    let rows = parallel::rows_per_task(width);
    parallel::chunks_mut(y, rows * width, |task, y| {
        let gate_up = &gate_up[task * rows * 2 * width..];
        vectorised(
            #[inline(always)]
            || {
                for (y, both) in y.chunks_exact_mut(width).zip(gate_up.chunks_exact(2 * width)) {
                    let (gate, up) = both.split_at(width);
                    for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
                        *y = g * sigmoid(*g) * u;
                    }
                }
            },
        );
    });
}

/// Elements of a row that are read before any of them is written. Both halves of `gate_up` change in one loop, and the
/// compiler does not see that they never overlap: one element after another takes five times as long.
const LANES: usize = 16;

/// `(dg, du)`, the gradients of `N` gates and their values.
#[inline(always)]
fn gradients<const N: usize>(gate: [f32; N], up: [f32; N], dy: [f32; N]) -> ([f32; N], [f32; N]) {
    let (mut dg, mut du) = ([0.0; N], [0.0; N]);
    for i in 0..N {
        let s = sigmoid(gate[i]);
        dg[i] = dy[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s));
        du[i] = dy[i] * gate[i] * s;
    }
    (dg, du)
}

/// Turns `gate_up` into its gradient: `du = dy silu(g)`, `dg = dy u s (1 + g (1 - s))` with `s = sigmoid(g)`.
pub fn backward(gate_up: &mut [f32], dy: &[f32], width: usize) {
    let rows = parallel::rows_per_task(2 * width);
    parallel::chunks_mut(gate_up, rows * 2 * width, |task, gate_up| {
        let dy = &dy[task * rows * width..];
        vectorised(
            #[inline(always)]
            || {
                for (both, dy) in gate_up.chunks_exact_mut(2 * width).zip(dy.chunks_exact(width)) {
                    let (gate, up) = both.split_at_mut(width);
                    let ((gates, gate), (ups, up)) = (gate.as_chunks_mut::<LANES>(), up.as_chunks_mut::<LANES>());
                    let (dys, dy) = dy.as_chunks::<LANES>();
                    for ((gate, up), dy) in gates.iter_mut().zip(ups).zip(dys) {
                        (*gate, *up) = gradients(*gate, *up, *dy);
                    }
                    for ((gate, up), dy) in gate.iter_mut().zip(up).zip(dy) {
                        ([*gate], [*up]) = gradients([*gate], [*up], [*dy]);
                    }
                }
            },
        );
    });
}

impl Run<SwigluForward<'_>> for Cpu {
    fn run(&self, op: &SwigluForward) -> Result<()> {
        forward(values_mut(op.y), values(op.gate_up), op.y.cols());
        Ok(())
    }
}

impl Run<SwigluBackward<'_>> for Cpu {
    fn run(&self, op: &SwigluBackward) -> Result<()> {
        let SwigluBackward { dgate_up, dy, gate_up } = *op;
        if !dgate_up.same_place(gate_up) {
            values_mut::<f32>(dgate_up).copy_from_slice(values(gate_up));
        }
        backward(values_mut(dgate_up), values(dy), dy.cols());
        Ok(())
    }
}
