//! `silu(gate) up` and its gradient, where they are not part of a product.

use super::Cuda;
use super::abi::SwigluParams;
use super::device::Device;
use super::kernel::{Kernel, Launch};
use super::kernels;
use super::properties::Properties;
use super::{at, size, vec8};
use crate::error::Result;
use crate::ops::{Run, SwigluBackward, SwigluForward};
use crate::tensor::Tensor;

/// The launch that makes `elements` of the result; `aligned`: all rows begin and end at multiples of 16 bytes.
pub fn plan_forward(elements: usize, aligned: bool, properties: &Properties) -> Launch<SwigluParams> {
    plan([kernels::SWIGLU_FORWARD_VEC8, kernels::SWIGLU_FORWARD_ANY], elements, aligned, properties)
}

/// The launch that makes both gradients of `elements` of the result.
pub fn plan_backward(elements: usize, aligned: bool, properties: &Properties) -> Launch<SwigluParams> {
    plan([kernels::SWIGLU_BACKWARD_VEC8, kernels::SWIGLU_BACKWARD_ANY], elements, aligned, properties)
}

fn plan(
    [vec8, any]: [Kernel<SwigluParams>; 2],
    elements: usize,
    aligned: bool,
    properties: &Properties,
) -> Launch<SwigluParams> {
    let (kernel, each) = if aligned { (vec8, 8) } else { (any, 1) };
    kernel.on([properties.blocks(elements, kernel.threads as usize * each), 1])
}

pub(super) fn forward(device: &Device, y: &Tensor, gate_up: &Tensor) -> Result<()> {
    let launch = plan_forward(y.len(), vec8(y.cols(), &[y, gate_up]), device.properties());
    // SAFETY: the operands were checked to have these shapes.
    unsafe { device.launch(&launch, &params(y, gate_up, 0)?) }
}

pub(super) fn backward(device: &Device, dgate_up: &Tensor, dy: &Tensor, gate_up: &Tensor) -> Result<()> {
    let launch = plan_backward(dy.len(), vec8(dy.cols(), &[dy, gate_up, dgate_up]), device.properties());
    // SAFETY: as in `forward`.
    unsafe { device.launch(&launch, &params(dy, gate_up, at(dgate_up))?) }
}

fn params(y: &Tensor, gate_up: &Tensor, dgate_up: u64) -> Result<SwigluParams> {
    Ok(SwigluParams { y: at(y), gate_up: at(gate_up), dgate_up, rows: size(y.rows())?, columns: size(y.cols())? })
}

impl Run<SwigluForward<'_>> for Cuda {
    fn run(&self, op: &SwigluForward) -> Result<()> {
        forward(&self.device, op.y, op.gate_up)
    }
}

impl Run<SwigluBackward<'_>> for Cuda {
    fn run(&self, op: &SwigluBackward) -> Result<()> {
        backward(&self.device, op.dgate_up, op.dy, op.gate_up)
    }
}
