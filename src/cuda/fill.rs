//! A buffer of one value.

use super::Cuda;
use super::abi::FillParams;
use super::at;
use super::device::Device;
use super::kernel::Launch;
use super::kernels;
use super::properties::Properties;
use crate::error::Result;
use crate::ops::{Fill, Run};
use crate::tensor::{Dtype, Tensor};

/// Elements that a thread sets before it is worth another block.
const PER_THREAD: usize = 16;

/// The launch for `count` elements of a type.
pub fn plan(dtype: Dtype, count: usize, properties: &Properties) -> Launch<FillParams> {
    let kernel = if dtype == Dtype::Bf16 { kernels::FILL_BF16 } else { kernels::FILL_F32 };
    kernel.on([properties.blocks(count, kernel.threads as usize * PER_THREAD), 1])
}

pub(super) fn fill(device: &Device, x: &Tensor, value: f32) -> Result<()> {
    let params = FillParams { out: at(x), count: x.len() as u64, value };
    // SAFETY: `x` is a dense tensor of that many elements of the kernel's type.
    unsafe { device.launch(&plan(x.dtype(), x.len(), device.properties()), &params) }
}

impl Run<Fill<'_>> for Cuda {
    fn run(&self, op: &Fill) -> Result<()> {
        fill(&self.device, op.x, op.value as f32)
    }
}
