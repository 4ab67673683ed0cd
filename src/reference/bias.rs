//! The bias of a linear layer: one vector, in parts that lie one after the other, added to every row.

use super::{Reference, rows, rows_mut};
use crate::error::Result;
use crate::ops::{BiasBackward, BiasForward, Run};

/// `y[t] += bias`.
pub fn forward(y: &mut [&mut [f64]], bias: &[&[f64]]) {
    let bias = bias.concat();
    for y in y {
        for j in 0..bias.len() {
            y[j] += bias[j];
        }
    }
}

/// `dbias += sum over t of dy[t]`.
pub fn backward(dbias: &mut [&mut [f64]], dy: &[&[f64]]) {
    let part = dbias[0].len();
    for dy in dy {
        for j in 0..dy.len() {
            dbias[j / part][j % part] += dy[j];
        }
    }
}

impl Run<BiasForward<'_>> for Reference {
    fn run(&self, op: &BiasForward) -> Result<()> {
        forward(&mut rows_mut(op.y), &rows(op.bias));
        Ok(())
    }
}

impl Run<BiasBackward<'_>> for Reference {
    fn run(&self, op: &BiasBackward) -> Result<()> {
        backward(&mut rows_mut(op.dbias), &rows(op.dy));
        Ok(())
    }
}
