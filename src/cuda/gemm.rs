use super::abi::*;
use super::device::Device;
use super::{at, size};
use crate::backend::Gemm;
use crate::error::Result;
use crate::tensor::{Dtype, Tensor};

/// One of the kernels' tile sizes.
struct Tile {
    m: usize,
    n: usize,
    threads: u32,
    shared: u32,
}

const LARGE: Tile = Tile { m: 128, n: 256, threads: GEMM_128X256_THREADS, shared: GEMM_128X256_SHARED };
const MIDDLE: Tile = Tile { m: 128, n: 128, threads: GEMM_128X128_THREADS, shared: GEMM_128X128_SHARED };
const SMALL: Tile = Tile { m: 64, n: 64, threads: GEMM_64X64_THREADS, shared: GEMM_64X64_SHARED };

/// A kernel and its tile.
type Variant = (&'static str, Tile);

/// Of one kind of product: its kernels, the largest tile first, which reads least for each operation; and the one for
/// rows that do not begin at multiples of 16 bytes.
struct Kernels {
    aligned: &'static [Variant],
    any: Variant,
}

const NT: Kernels = Kernels {
    aligned: &[("gemm_nt_128x256", LARGE), ("gemm_nt_128x128", MIDDLE), ("gemm_nt_64x64", SMALL)],
    any: ("gemm_nt_any", SMALL),
};
const NN: Kernels = Kernels {
    aligned: &[("gemm_nn_128x256", LARGE), ("gemm_nn_128x128", MIDDLE), ("gemm_nn_64x64", SMALL)],
    any: ("gemm_nn_any", SMALL),
};
const TN: Kernels = Kernels {
    aligned: &[("gemm_tn_128x256", LARGE), ("gemm_tn_128x128", MIDDLE), ("gemm_tn_64x64", SMALL)],
    any: ("gemm_tn_any", SMALL),
};
/// Half of a tile's columns are gate and half are up: of the result it has half as many.
const NT_SWIGLU: [Variant; 2] =
    [("gemm_nt_swiglu_128x256", Tile { n: 128, ..LARGE }), ("gemm_nt_swiglu_64x64", Tile { n: 32, ..SMALL })];
const NN_SWIGLU: [Variant; 2] = [("gemm_nn_swiglu_128x256", LARGE), ("gemm_nn_swiglu_64x64", SMALL)];

impl Tile {
    fn count(&self, m: usize, n: usize) -> usize {
        m.div_ceil(self.m) * n.div_ceil(self.n)
    }
}

/// The largest tile that still gives every multiprocessor one; the smallest where none does.
fn choose(variants: &'static [Variant], m: usize, n: usize, multiprocessors: usize) -> &'static Variant {
    variants.iter().find(|(_, tile)| tile.count(m, n) >= multiprocessors).unwrap_or(&variants[variants.len() - 1])
}

fn aligned(t: &Tensor) -> bool {
    at(t).is_multiple_of(16) && t.row_stride().is_multiple_of(8)
}

/// What the kernels of all kinds are told.
fn params((m, n, k): (usize, usize, usize), out: &Tensor, a: &Tensor, b: &Tensor) -> Result<GemmParams> {
    Ok(GemmParams {
        out: at(out),
        a: at(a),
        b: at(b),
        m: size(m)?,
        n: size(n)?,
        k: size(k)?,
        lda: size(a.row_stride())?,
        ldb: size(b.row_stride())?,
        ldout: size(out.row_stride())?,
        out_is_f32: u32::from(out.dtype() == Dtype::F32),
        ..GemmParams::default()
    })
}

/// # Safety
/// As [`Device::launch`].
unsafe fn launch(device: &Device, (kernel, tile): &Variant, params: &GemmParams) -> Result<()> {
    let tiles = tile.count(params.m as usize, params.n as usize);
    // SAFETY: by the caller's promise.
    unsafe { device.launch(kernel, [tiles, 1], tile.threads, tile.shared, params) }
}

pub fn gemm(
    device: &Device,
    layout: Gemm,
    shape: (usize, usize, usize),
    out: &Tensor,
    a: &Tensor,
    b: &Tensor,
    addend: Option<&Tensor>,
) -> Result<()> {
    let kernels = match layout {
        Gemm::Nt => &NT,
        Gemm::Nn => &NN,
        Gemm::Tn => &TN,
    };
    let variant = match aligned(a) && aligned(b) {
        true => choose(kernels.aligned, shape.0, shape.1, device.properties().sms),
        false => &kernels.any,
    };
    let params = GemmParams {
        addend: addend.map_or(0, at),
        ldaddend: addend.map_or(Ok(0), |addend| size(addend.row_stride()))?,
        ..params(shape, out, a, b)?
    };
    // SAFETY: the operands were checked to be matrices of these sizes and types.
    unsafe { launch(device, variant, &params) }
}

/// The product into SwiGLU. Says no where no kernel does it at once: where rows are not aligned.
pub fn swiglu_forward(
    device: &Device,
    shape: (usize, usize, usize),
    y: &Tensor,
    gate_up: &Tensor,
    x: &Tensor,
    w13: &Tensor,
) -> Result<bool> {
    if !aligned(x) || !aligned(w13) {
        return Ok(false);
    }
    let variant = choose(&NT_SWIGLU, shape.0, shape.1, device.properties().sms);
    fused(device, variant, &params(shape, y, x, w13)?, gate_up)
}

/// The way back from the product behind SwiGLU, in place. Says no where no kernel does it at once.
pub fn swiglu_backward(
    device: &Device,
    shape: (usize, usize, usize),
    gate_up: &Tensor,
    dout: &Tensor,
    w2: &Tensor,
) -> Result<bool> {
    if !aligned(dout) || !aligned(w2) {
        return Ok(false);
    }
    let variant = choose(&NN_SWIGLU, shape.0, shape.1, device.properties().sms);
    fused(device, variant, &params(shape, gate_up, dout, w2)?, gate_up)
}

fn fused(device: &Device, variant: &Variant, params: &GemmParams, gate_up: &Tensor) -> Result<bool> {
    let params = GemmParams { gate_up: at(gate_up), ldgate_up: size(gate_up.row_stride())?, ..*params };
    // SAFETY: the operands were checked to be matrices of these sizes and types.
    unsafe { launch(device, variant, &params) }?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_products_get_large_tiles() {
        assert_eq!(choose(NT.aligned, 8192, 8192, 132).0, "gemm_nt_128x256");
        assert_eq!(choose(NT.aligned, 2048, 2048, 132).0, "gemm_nt_128x128");
        assert_eq!(choose(TN.aligned, 64, 512, 132).0, "gemm_tn_64x64");
        assert_eq!(choose(&NT_SWIGLU, 2048, 2048, 132).0, "gemm_nt_swiglu_128x256");
        assert_eq!(choose(&NN_SWIGLU, 2048, 2048, 132).0, "gemm_nn_swiglu_64x64");
    }
}
