use super::math::vectorised;
use super::parallel::{self, Shared};
use super::{Cpu, values, values_mut};
use crate::error::Result;
use crate::ops::{BiasBackward, BiasForward, Run};
use crate::tensor::Tensor;

/// Columns that one task sums.
const COLUMNS: usize = 64;
/// Rows that are summed before they are added to the rest.
const ROWS: usize = 128;

/// Where a bias lies: parts of `columns` elements that are `stride` apart, and together as wide as a row.
#[derive(Clone, Copy)]
pub struct BiasParts {
    pub columns: usize,
    pub stride: usize,
}

pub fn forward(y: &mut [f32], width: usize, bias: &[f32], parts: BiasParts) {
    let rows = parallel::rows_per_task(width);
    parallel::chunks_mut(y, rows * width, |_, y| {
        vectorised(
            #[inline(always)]
            || {
                for y in y.chunks_exact_mut(width) {
                    for (y, bias) in y.chunks_exact_mut(parts.columns).zip(bias.chunks(parts.stride)) {
                        for (y, bias) in y.iter_mut().zip(bias) {
                            *y += bias;
                        }
                    }
                }
            },
        );
    });
}

/// Each task owns a band of columns and walks all rows.
pub fn backward(dbias: &mut [f32], dy: &[f32], width: usize, parts: BiasParts) {
    let bands = parts.columns.div_ceil(COLUMNS);
    let dbias = Shared::new(dbias);
    parallel::for_each(width / parts.columns * bands, |task| {
        let (part, first) = (task / bands, task % bands * COLUMNS);
        let columns = COLUMNS.min(parts.columns - first);
        // SAFETY: the bands do not overlap.
        let dbias = unsafe { dbias.slice(part * parts.stride + first, columns) };
        let dy = &dy[part * parts.columns + first..];
        vectorised(
            #[inline(always)]
            || {
                for piece in dy.chunks(ROWS * width) {
                    let mut sums = [0.0; COLUMNS];
                    for row in piece.chunks(width) {
                        for (sum, dy) in sums[..columns].iter_mut().zip(row) {
                            *sum += dy;
                        }
                    }
                    for (dbias, sum) in dbias.iter_mut().zip(sums) {
                        *dbias += sum;
                    }
                }
            },
        );
    });
}

impl Run<BiasForward<'_>> for Cpu {
    fn run(&self, op: &BiasForward) -> Result<()> {
        let BiasForward { y, bias } = *op;
        if !y.is_empty() {
            forward(values_mut(y), y.cols(), spread_mut(bias), BiasParts::of(bias));
        }
        Ok(())
    }
}

impl Run<BiasBackward<'_>> for Cpu {
    fn run(&self, op: &BiasBackward) -> Result<()> {
        let BiasBackward { dbias, dy } = *op;
        if !dy.is_empty() {
            backward(spread_mut(dbias), values(dy), dy.cols(), BiasParts::of(dbias));
        }
        Ok(())
    }
}

impl BiasParts {
    fn of(bias: &Tensor) -> Self {
        Self { columns: bias.cols(), stride: bias.row_stride() }
    }
}

/// A matrix from its first element to its last, with what lies between its rows if it is a band.
#[expect(clippy::mut_from_ref, reason = "as in `values_mut`")]
fn spread_mut(t: &Tensor) -> &mut [f32] {
    let len = (t.rows() - 1) * t.row_stride() + t.cols();
    // SAFETY: in bounds, because the last row is; f32 in host memory by the checks. What lies between the rows of a band
    // is another part of the bias, which nothing else uses during the operation.
    unsafe { std::slice::from_raw_parts_mut(t.address().cast(), len) }
}
