//! The table of token embeddings.

use super::{Reference, rows, rows_mut, values};
use crate::error::Result;
use crate::ops::{EmbeddingBackward, EmbeddingForward, Run};

/// `y[t] = table[ids[t]]`.
pub fn forward(y: &mut [&mut [f64]], ids: &[u32], table: &[&[f64]]) {
    for t in 0..ids.len() {
        y[t].copy_from_slice(table[ids[t] as usize]);
    }
}

/// `dtable[ids[t]] += dy[t]`: a row gets the sum over the tokens that used it.
pub fn backward(dtable: &mut [&mut [f64]], ids: &[u32], dy: &[&[f64]]) {
    for t in 0..ids.len() {
        for j in 0..dy[t].len() {
            dtable[ids[t] as usize][j] += dy[t][j];
        }
    }
}

impl Run<EmbeddingForward<'_>> for Reference {
    fn run(&self, op: &EmbeddingForward) -> Result<()> {
        forward(&mut rows_mut(op.y), values(op.ids), &rows(op.table));
        Ok(())
    }
}

impl Run<EmbeddingBackward<'_>> for Reference {
    fn run(&self, op: &EmbeddingBackward) -> Result<()> {
        backward(&mut rows_mut(op.dtable), values(op.ids), &rows(op.dy));
        Ok(())
    }
}
