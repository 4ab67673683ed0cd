//! Selected rows of a matrix: after the last keys and values, only the score tokens go on.

use super::{Reference, rows, rows_mut, values};
use crate::error::Result;
use crate::ops::{GatherBackward, GatherForward, Run};

/// `y[s] = x[rows[s]]`.
pub fn forward(y: &mut [&mut [f64]], x: &[&[f64]], rows: &[u32]) {
    for s in 0..rows.len() {
        y[s].copy_from_slice(x[rows[s] as usize]);
    }
}

/// `dx[rows[s]] += dy[s]`.
pub fn backward(dx: &mut [&mut [f64]], dy: &[&[f64]], rows: &[u32]) {
    for s in 0..rows.len() {
        for j in 0..dy[s].len() {
            dx[rows[s] as usize][j] += dy[s][j];
        }
    }
}

impl Run<GatherForward<'_>> for Reference {
    fn run(&self, op: &GatherForward) -> Result<()> {
        forward(&mut rows_mut(op.y), &rows(op.x), values(op.rows));
        Ok(())
    }
}

impl Run<GatherBackward<'_>> for Reference {
    fn run(&self, op: &GatherBackward) -> Result<()> {
        backward(&mut rows_mut(op.dx), &rows(op.dy), values(op.rows));
        Ok(())
    }
}
