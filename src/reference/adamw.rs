//! AdamW: Loshchilov and Hutter, arXiv 1711.05101, algorithm 2, in the order of PyTorch's `AdamW` after its
//! `clip_grad_norm_`: the decay is multiplied by the learning rate.

use super::{Reference, values, values_mut};
use crate::backend::AdamW;
use crate::error::Result;
use crate::ops::{AdamwOp, Run};

/// `g = grads min(1, max_norm / (norm + 1e-6))`, `p -= lr weight_decay p`, `m = beta1 m + (1 - beta1) g`,
/// `v = beta2 v + (1 - beta2) g^2`, `p -= lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)`.
pub fn adamw(params: &mut [f64], m: &mut [f64], v: &mut [f64], grads: &[f64], norm: f64, update: &AdamW) {
    let AdamW { lr, beta1, beta2, eps, weight_decay, max_norm, step } = *update;
    let clip = if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
    let correction1 = 1.0 - beta1.powf(step as f64);
    let correction2 = 1.0 - beta2.powf(step as f64);
    for i in 0..params.len() {
        let g = grads[i] * clip;
        params[i] -= lr * weight_decay * params[i];
        m[i] = beta1 * m[i] + (1.0 - beta1) * g;
        v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
        params[i] -= lr * (m[i] / correction1) / ((v[i] / correction2).sqrt() + eps);
    }
}

impl Run<AdamwOp<'_>> for Reference {
    fn run(&self, op: &AdamwOp) -> Result<()> {
        let norm = values::<f64>(op.norm)[0];
        adamw(values_mut(op.master), values_mut(op.m), values_mut(op.v), values(op.grads), norm, op.update);
        if !op.params.same_place(op.master) {
            values_mut(op.params).copy_from_slice(values::<f64>(op.master));
        }
        Ok(())
    }
}
