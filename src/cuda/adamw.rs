use super::abi::{ADAMW_THREADS, AdamwParams};
use super::at;
use super::device::Device;
use crate::backend::AdamW;
use crate::error::Result;
use crate::tensor::Tensor;

pub fn adamw(
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
    let grid = device.properties().blocks(master.len(), ADAMW_THREADS as usize * 4);
    // SAFETY: the operands were checked to have these shapes.
    unsafe { device.launch("adamw", [grid, 1], ADAMW_THREADS, 0, &arguments) }
}
