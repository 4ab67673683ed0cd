use rayon::prelude::*;

use super::math::vectorised;
use super::{Cpu, values, values_mut};
use crate::error::Result;
use crate::ops::{GlobalNorm, Run};

/// Elements of one partial sum.
const CHUNK: usize = 1 << 14;

/// The sum of squares in f64, by chunks whose sums are added in order.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    // A batch of chunk sums at a time, so that any length needs no memory.
    const BATCH: usize = 256;
    let mut total = 0.0;
    for x in x.chunks(CHUNK * BATCH) {
        let mut sums = [0.0f64; BATCH];
        sums[..x.len().div_ceil(CHUNK)].par_iter_mut().zip(x.par_chunks(CHUNK)).for_each(|(sum, x)| *sum = squares(x));
        total = sums.iter().fold(total, |total, sum| total + sum);
    }
    total
}

fn squares(x: &[f32]) -> f64 {
    vectorised(
        #[inline(always)]
        || {
            let mut lanes = [0.0f64; 16];
            let (chunks, rest) = x.as_chunks::<16>();
            for chunk in chunks {
                for (lane, &v) in lanes.iter_mut().zip(chunk) {
                    *lane += f64::from(v) * f64::from(v);
                }
            }
            lanes.iter().sum::<f64>() + rest.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>()
        },
    )
}

impl Run<GlobalNorm<'_>> for Cpu {
    fn run(&self, op: &GlobalNorm) -> Result<()> {
        values_mut::<f32>(op.norm)[0] = sum_of_squares(values(op.x)).sqrt() as f32;
        Ok(())
    }
}
