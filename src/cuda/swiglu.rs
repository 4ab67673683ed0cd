use super::abi::{SWIGLU_THREADS, SwigluParams};
use super::device::Device;
use super::{at, size, vec8};
use crate::error::Result;
use crate::tensor::Tensor;

pub fn forward(device: &Device, y: &Tensor, gate_up: &Tensor) -> Result<()> {
    let vec8 = vec8(y.cols(), &[y, gate_up]);
    let kernel = if vec8 { "swiglu_forward_vec8" } else { "swiglu_forward_any" };
    launch(device, kernel, vec8, y, gate_up, 0)
}

pub fn backward(device: &Device, dgate_up: &Tensor, dy: &Tensor, gate_up: &Tensor) -> Result<()> {
    let vec8 = vec8(dy.cols(), &[dy, gate_up, dgate_up]);
    let kernel = if vec8 { "swiglu_backward_vec8" } else { "swiglu_backward_any" };
    launch(device, kernel, vec8, dy, gate_up, at(dgate_up))
}

fn launch(
    device: &Device,
    kernel: &'static str,
    vec8: bool,
    y: &Tensor,
    gate_up: &Tensor,
    dgate_up: u64,
) -> Result<()> {
    let params =
        SwigluParams { y: at(y), gate_up: at(gate_up), dgate_up, rows: size(y.rows())?, columns: size(y.cols())? };
    let grid = device.properties().blocks(y.len(), SWIGLU_THREADS as usize * if vec8 { 8 } else { 1 });
    // SAFETY: the operands were checked to have these shapes.
    unsafe { device.launch(kernel, [grid, 1], SWIGLU_THREADS, 0, &params) }
}
