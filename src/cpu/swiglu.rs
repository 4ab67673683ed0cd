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
                    for ((g, u), dy) in gate.iter_mut().zip(up).zip(dy) {
                        let s = sigmoid(*g);
                        let (gate, value) = (*g, *u);
                        *g = dy * value * s * (1.0 + gate * (1.0 - s));
                        *u = dy * gate * s;
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
