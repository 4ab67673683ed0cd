use rayon::prelude::*;

use super::math::vectorised;
use super::{Cpu, values, values_mut};
use crate::error::Result;
use crate::ops::{CountNonFinite, Run};

/// Elements that one thread looks at.
const CHUNK: usize = 1 << 14;

/// How many elements are NaN or infinite.
fn count_non_finite(x: &[f32]) -> u64 {
    let count = |x: &[f32]| {
        vectorised(
            #[inline(always)]
            || x.iter().map(|v| u32::from(!v.is_finite())).sum::<u32>(),
        )
    };
    x.par_chunks(CHUNK).map(|x| u64::from(count(x))).sum()
}

impl Run<CountNonFinite<'_>> for Cpu {
    fn run(&self, op: &CountNonFinite) -> Result<()> {
        values_mut::<f32>(op.count)[0] = count_non_finite(values(op.x)) as f32;
        Ok(())
    }
}
