use super::math::{dot, vectorised};
use super::parallel::{self, Shared};
use super::{Cpu, values, values_mut};
use crate::error::Result;
use crate::ops::{RmsnormBackward, RmsnormForward, Run};

/// Elements of a row at a time.
const LANES: usize = 16;
/// Rows whose contribution to the weight's gradient is summed first.
const ROWS: usize = 128;

pub fn forward(y: &mut [f32], rstd: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
    let hidden = weight.len();
    let rows = parallel::rows_per_task(hidden);
    let rstd = Shared::new(rstd);
    parallel::chunks_mut(y, rows * hidden, |task, y| {
        let n = y.len() / hidden;
        // SAFETY: tasks own disjoint rows.
        let rstd = unsafe { rstd.slice(task * rows, n) };
        let x = &x[task * rows * hidden..][..n * hidden];
        vectorised(
            #[inline(always)]
            || {
                for ((y, rstd), x) in y.chunks_exact_mut(hidden).zip(rstd).zip(x.chunks_exact(hidden)) {
                    *rstd = inverse_rms(x, eps);
                    for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                        *y = x * *rstd * w;
                    }
                }
            },
        );
    });
}

/// `1 / sqrt(mean(x^2) + eps)`
#[inline(always)]
pub fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt()
}

/// Elements of the partial sums that [`backward`] needs.
pub fn partials(rows: usize, hidden: usize) -> usize {
    rows.div_ceil(ROWS) * hidden
}

pub fn backward(
    dx: &mut [f32],
    dweight: &mut [f32],
    dy: &[f32],
    x: &[f32],
    rstd: &[f32],
    weight: &[f32],
    partials: &mut [f32],
) {
    let hidden = weight.len();
    let shared = Shared::new(partials);
    parallel::chunks_mut(dx, ROWS * hidden, |task, dx| {
        // SAFETY: each task has a row of partial sums of its own.
        let partial = unsafe { shared.slice(task * hidden, hidden) };
        partial.fill(0.0);
        let first = task * ROWS;
        vectorised(
            #[inline(always)]
            || {
                for (i, dx) in dx.chunks_exact_mut(hidden).enumerate() {
                    let at = (first + i) * hidden..(first + i + 1) * hidden;
                    row_backward(dx, partial, &dy[at.clone()], &x[at], rstd[first + i], weight);
                }
            },
        );
    });
    for partial in partials.chunks_exact(hidden) {
        for (d, p) in dweight.iter_mut().zip(partial) {
            *d += p;
        }
    }
}

/// With `n = x rstd`: `dweight += dy n`, `dx += rstd (dy w - n mean(dy w n))`.
#[inline(always)]
pub fn row_backward(dx: &mut [f32], dweight: &mut [f32], dy: &[f32], x: &[f32], rstd: f32, weight: &[f32]) {
    let hidden = weight.len();
    let (dx, dweight, dy, x) = (&mut dx[..hidden], &mut dweight[..hidden], &dy[..hidden], &x[..hidden]);
    let ((dxs, dx), (dweights, dweight)) = (dx.as_chunks_mut::<LANES>(), dweight.as_chunks_mut::<LANES>());
    let ((dys, dy), (xs, x)) = (dy.as_chunks::<LANES>(), x.as_chunks::<LANES>());
    let (weights, weight) = weight.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for ((dy, x), weight) in dys.iter().zip(xs).zip(weights) {
        for i in 0..LANES {
            lanes[i] += dy[i] * weight[i] * x[i];
        }
    }
    let rest: f32 = dy.iter().zip(x).zip(weight).map(|((dy, x), weight)| dy * weight * x).sum();
    let correction = (lanes.iter().sum::<f32>() + rest) * rstd * rstd * rstd / hidden as f32;
    // Read as a whole before anything is written: the compiler does not see that the two that change never overlap.
    let add = |dx: f32, dweight: f32, dy: f32, x: f32, weight: f32| {
        (dx + (dy * weight * rstd - x * correction), dweight + dy * x * rstd)
    };
    for ((((dx, dweight), dy), x), weight) in dxs.iter_mut().zip(dweights).zip(dys).zip(xs).zip(weights) {
        let (mut a, mut b) = (*dx, *dweight);
        for i in 0..LANES {
            (a[i], b[i]) = add(a[i], b[i], dy[i], x[i], weight[i]);
        }
        (*dx, *dweight) = (a, b);
    }
    for ((((dx, dweight), dy), x), weight) in dx.iter_mut().zip(dweight).zip(dy).zip(x).zip(weight) {
        (*dx, *dweight) = add(*dx, *dweight, *dy, *x, *weight);
    }
}

impl Run<RmsnormForward<'_>> for Cpu {
    fn run(&self, op: &RmsnormForward) -> Result<()> {
        forward(values_mut(op.y), values_mut(op.rstd), values(op.x), values(op.weight), op.eps as f32);
        Ok(())
    }
}

impl Run<RmsnormBackward<'_>> for Cpu {
    fn run(&self, op: &RmsnormBackward) -> Result<()> {
        let RmsnormBackward { dx, dweight, dy, x, rstd, weight } = *op;
        self.with_partials(partials(x.rows(), x.cols()), |partials| {
            let (dx, dweight) = (values_mut(dx), values_mut(dweight));
            backward(dx, dweight, values(dy), values(x), values(rstd), values(weight), partials);
        });
        Ok(())
    }
}
