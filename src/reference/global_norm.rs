//! The norm that gradients are clipped by: Pascanu et al., arXiv 1211.5063, section 3.2.

use super::{Reference, values, values_mut};
use crate::error::Result;
use crate::ops::{GlobalNorm, Run};

/// `sqrt(sum(x^2))`.
pub fn global_norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

impl Run<GlobalNorm<'_>> for Reference {
    fn run(&self, op: &GlobalNorm) -> Result<()> {
        values_mut(op.norm)[0] = global_norm(values(op.x));
        Ok(())
    }
}
