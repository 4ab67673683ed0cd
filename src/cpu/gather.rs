use super::{Cpu, values, values_mut};
use crate::error::Result;
use crate::ops::{GatherBackward, GatherForward, Run};

pub fn forward(y: &mut [f32], x: &[f32], rows: &[u32], hidden: usize) {
    for (y, &row) in y.chunks_exact_mut(hidden).zip(rows) {
        y.copy_from_slice(&x[row as usize * hidden..][..hidden]);
    }
}

pub fn backward(dx: &mut [f32], dy: &[f32], rows: &[u32], hidden: usize) {
    for (dy, &row) in dy.chunks_exact(hidden).zip(rows) {
        for (dx, dy) in dx[row as usize * hidden..][..hidden].iter_mut().zip(dy) {
            *dx += dy;
        }
    }
}

impl Run<GatherForward<'_>> for Cpu {
    fn run(&self, op: &GatherForward) -> Result<()> {
        forward(values_mut(op.y), values(op.x), values(op.rows), op.x.cols());
        Ok(())
    }
}

impl Run<GatherBackward<'_>> for Cpu {
    fn run(&self, op: &GatherBackward) -> Result<()> {
        backward(values_mut(op.dx), values(op.dy), values(op.rows), op.dx.cols());
        Ok(())
    }
}
