use rayon::prelude::*;

use super::math::vectorised;
use super::{Cpu, values, values_mut};
use crate::backend::{AdamW, Operations};
use crate::error::Result;
use crate::ops::{AdamwOp, Run};

const CHUNK: usize = 1 << 14;

pub fn update(params: &mut [f32], m: &mut [f32], v: &mut [f32], grads: &[f32], norm: f32, a: &AdamW) {
    let clip = if a.max_norm > 0.0 { (a.max_norm / (f64::from(norm) + 1e-6)).min(1.0) as f32 } else { 1.0 };
    let correction1 = 1.0 - a.beta1.powi(a.step as i32);
    let correction2 = 1.0 - a.beta2.powi(a.step as i32);
    let (beta1, beta2) = (a.beta1 as f32, a.beta2 as f32);
    let (rest1, rest2) = ((1.0 - a.beta1) as f32, (1.0 - a.beta2) as f32);
    let decay = (1.0 - a.lr * a.weight_decay) as f32;
    let rate = (a.lr / correction1) as f32;
    let root = (1.0 / correction2.sqrt()) as f32;
    let eps = a.eps as f32;
    params
        .par_chunks_mut(CHUNK)
        .zip(m.par_chunks_mut(CHUNK))
        .zip(v.par_chunks_mut(CHUNK))
        .zip(grads.par_chunks(CHUNK))
        .for_each(|(((p, m), v), g)| {
            vectorised(
                #[inline(always)]
                || {
                    for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
                        let g = g * clip;
                        *m = beta1 * *m + rest1 * g;
                        *v = beta2 * *v + rest2 * g * g;
                        *p = *p * decay - rate * *m / (v.sqrt() * root + eps);
                    }
                },
            );
        });
}

impl Run<AdamwOp<'_>> for Cpu {
    fn run(&self, op: &AdamwOp) -> Result<()> {
        let norm = values::<f32>(op.norm)[0];
        let (master, m, v) = (values_mut(op.master), values_mut(op.m), values_mut(op.v));
        update(master, m, v, values(op.grads), norm, op.update);
        if op.params.same_place(op.master) { Ok(()) } else { self.copy(op.params, op.master) }
    }
}
