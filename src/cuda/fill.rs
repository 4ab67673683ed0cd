use super::abi::{FILL_THREADS, FillParams};
use super::at;
use super::device::Device;
use crate::error::Result;
use crate::tensor::{Dtype, Tensor};

/// Elements that a thread sets before it is worth another block.
const PER_THREAD: usize = 16;

pub fn fill(device: &Device, x: &Tensor, value: f32) -> Result<()> {
    let kernel = if x.dtype() == Dtype::Bf16 { "fill_bf16" } else { "fill_f32" };
    let params = FillParams { out: at(x), count: x.len() as u64, value };
    let grid = device.properties().blocks(x.len(), FILL_THREADS as usize * PER_THREAD);
    // SAFETY: `x` is a dense tensor of that many elements of the kernel's type.
    unsafe { device.launch(kernel, [grid, 1], FILL_THREADS, 0, &params) }
}
