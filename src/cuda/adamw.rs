//! The update of all parameters in one launch.

use super::Cuda;
use super::abi::AdamwParams;
use super::at;
use super::device::Device;
use super::kernel::Launch;
use super::kernels;
use super::properties::Properties;
use crate::backend::AdamW;
use crate::error::Result;
use crate::ops::{AdamwOp, Run};
use crate::tensor::Tensor;

/// Elements that a thread updates at a time.
const PER_THREAD: usize = 4;

/// The launch for `count` parameters.
pub fn plan(count: usize, properties: &Properties) -> Launch<AdamwParams> {
    let kernel = kernels::ADAMW;
    kernel.on([properties.blocks(count, kernel.threads as usize * PER_THREAD), 1])
}

pub(super) fn adamw(
    device: &Device,
    params: &Tensor,
    master: &Tensor,
    [m, v]: [&Tensor; 2],
    grads: &Tensor,
    norm: &Tensor,
    update: &AdamW,
) -> Result<()> {
    let AdamW { lr, beta1, beta2, eps, weight_decay, max_norm, step } = *update;
    let step = step as f64;
    let arguments = AdamwParams {
        master: at(master),
        weights: at(params),
        m: at(m),
        v: at(v),
        grads: at(grads),
        norm: at(norm),
        count: master.len() as u64,
        max_norm: max_norm as f32,
        beta1: beta1 as f32,
        beta2: beta2 as f32,
        // What is near 1 is taken from 1 in f64.
        rest1: (1.0 - beta1) as f32,
        rest2: (1.0 - beta2) as f32,
        decay: (1.0 - lr * weight_decay) as f32,
        rate: (lr / (1.0 - beta1.powf(step))) as f32,
        root: (1.0 / (1.0 - beta2.powf(step)).sqrt()) as f32,
        eps: eps as f32,
    };
    // SAFETY: the operands were checked to have these shapes.
    unsafe { device.launch(&plan(master.len(), device.properties()), &arguments) }
}

impl Run<AdamwOp<'_>> for Cuda {
    fn run(&self, op: &AdamwOp) -> Result<()> {
        adamw(&self.device, op.params, op.master, [op.m, op.v], op.grads, op.norm, op.update)
    }
}
