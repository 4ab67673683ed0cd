//! RMSNorm of each head's queries or keys: the norm of rows, which here are many and as long as a head.

use super::math::vectorised;
use super::parallel::{self, Shared};
use super::{Cpu, rmsnorm, values, values_mut};
use crate::error::Result;
use crate::ops::{HeadRmsnormBackward, HeadRmsnormForward, Run};

/// Vectors whose contribution to the weight's gradient is summed first. That depends on nothing but their number, so
/// neither does the sum.
const VECTORS: usize = 128;

/// Elements of the partial sums that [`backward`] needs.
pub fn partials(vectors: usize, dim: usize) -> usize {
    vectors.div_ceil(VECTORS) * dim
}

/// Overwrites `dx` and adds to `dweight`.
fn backward(
    dx: &mut [f32],
    dweight: &mut [f32],
    dy: &[f32],
    x: &[f32],
    rstd: &[f32],
    weight: &[f32],
    partials: &mut [f32],
) {
    let dim = weight.len();
    let shared = Shared::new(partials);
    parallel::chunks_mut(dx, VECTORS * dim, |task, dx| {
        // SAFETY: each task has partial sums of its own.
        let partial = unsafe { shared.slice(task * dim, dim) };
        partial.fill(0.0);
        let first = task * VECTORS;
        vectorised(
            #[inline(always)]
            || {
                for (i, dx) in dx.chunks_exact_mut(dim).enumerate() {
                    let at = (first + i) * dim..(first + i + 1) * dim;
                    dx.fill(0.0);
                    rmsnorm::row_backward(dx, partial, &dy[at.clone()], &x[at], rstd[first + i], weight);
                }
            },
        );
    });
    for partial in partials.chunks_exact(dim) {
        for (d, p) in dweight.iter_mut().zip(partial) {
            *d += p;
        }
    }
}

impl Run<HeadRmsnormForward<'_>> for Cpu {
    fn run(&self, op: &HeadRmsnormForward) -> Result<()> {
        rmsnorm::forward(values_mut(op.y), values_mut(op.rstd), values(op.x), values(op.weight), op.eps as f32);
        Ok(())
    }
}

impl Run<HeadRmsnormBackward<'_>> for Cpu {
    fn run(&self, op: &HeadRmsnormBackward) -> Result<()> {
        let HeadRmsnormBackward { dx, dweight, dy, x, rstd, weight } = *op;
        self.with_partials(partials(rstd.len(), weight.len()), |partials| {
            let (dx, dweight) = (values_mut(dx), values_mut(dweight));
            backward(dx, dweight, values(dy), values(x), values(rstd), values(weight), partials);
        });
        Ok(())
    }
}
