use super::math::vectorised;
use super::parallel::{self, Shared};

/// Columns that one task sums.
const COLUMNS: usize = 64;
/// Rows that are summed before they are added to the rest.
const ROWS: usize = 128;

/// Where a bias lies: parts of `columns` elements that are `stride` apart, and together as wide as a row.
#[derive(Clone, Copy)]
pub struct Parts {
    pub columns: usize,
    pub stride: usize,
}

pub fn forward(y: &mut [f32], width: usize, bias: &[f32], parts: Parts) {
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
pub fn backward(dbias: &mut [f32], dy: &[f32], width: usize, parts: Parts) {
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
