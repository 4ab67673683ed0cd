use super::parallel::{self, Shared};
use super::{Cpu, values, values_mut};
use crate::error::Result;
use crate::ops::{EmbeddingBackward, EmbeddingForward, Run};

pub fn forward(y: &mut [f32], ids: &[u32], table: &[f32], hidden: usize) {
    let rows = parallel::rows_per_task(hidden);
    parallel::chunks_mut(y, rows * hidden, |task, y| {
        for (row, &id) in y.chunks_exact_mut(hidden).zip(&ids[task * rows..]) {
            row.copy_from_slice(&table[id as usize * hidden..][..hidden]);
        }
    });
}

/// Each task owns a band of columns and walks all tokens, so that equal ids add up in the order of the tokens.
pub fn backward(dtable: &mut [f32], ids: &[u32], dy: &[f32], hidden: usize) {
    let band = hidden.div_ceil(rayon::current_num_threads()).next_multiple_of(16);
    let dtable = Shared::new(dtable);
    parallel::for_each(hidden.div_ceil(band), |i| {
        let (start, width) = (i * band, band.min(hidden - i * band));
        for (t, &id) in ids.iter().enumerate() {
            // SAFETY: ids are below the table's rows, and the band is this task's alone.
            let row = unsafe { dtable.slice(id as usize * hidden + start, width) };
            for (d, g) in row.iter_mut().zip(&dy[t * hidden + start..][..width]) {
                *d += g;
            }
        }
    });
}

impl Run<EmbeddingForward<'_>> for Cpu {
    fn run(&self, op: &EmbeddingForward) -> Result<()> {
        forward(values_mut(op.y), values(op.ids), values(op.table), op.table.cols());
        Ok(())
    }
}

impl Run<EmbeddingBackward<'_>> for Cpu {
    fn run(&self, op: &EmbeddingBackward) -> Result<()> {
        backward(values_mut(op.dtable), values(op.ids), values(op.dy), op.dtable.cols());
        Ok(())
    }
}
