//! Matrix products, and which of a product's kernels is the fastest for a shape on a device.
//!
//! Kernels of a product differ in their tile: the larger one reads less for each operation, the smaller ones keep all
//! multiprocessors busy. [`plan`] estimates the time of each by waves: blocks run at one time, `blocks per
//! multiprocessor` times multiprocessors of them, and the last wave takes as long as its fullest multiprocessor.

use super::Cuda;
use super::abi::*;
use super::device::Device;
use super::kernel::{Kernel, Launch};
use super::kernels;
use super::properties::{Capability, Properties};
use super::{at, size};
use crate::backend::{Gemm, Operations};
use crate::error::{Error, Result};
use crate::ops::{GemmOp, GemmSwigluBackward, GemmSwigluForward, Run};
use crate::tensor::{Dtype, Tensor};

/// A kind of product that has kernels of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// `out = op(a) op(b) + addend`.
    Plain(Gemm),
    /// Into SwiGLU: `out = silu(gate) up`, where `[gate up] = a b^T`.
    SwigluForward,
    /// The gradient of what stands behind SwiGLU, and of SwiGLU.
    SwigluBackward,
}

/// What a product is, as far as the choice of its kernel goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Description {
    /// Its kind.
    pub product: Product,
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result; of [`Product::SwigluBackward`] those of the product, half as many.
    pub n: usize,
    /// What is summed over.
    pub k: usize,
    /// Whether `a` and `b` begin at multiples of 16 bytes, and each of their rows.
    pub aligned: bool,
}

/// A kernel and its tile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Variant {
    /// The kernel.
    pub kernel: Kernel<GemmParams>,
    /// Rows of the result that a block makes.
    pub rows: usize,
    /// Columns of the result that a block makes.
    pub columns: usize,
    /// Columns of `b` for each of the result: two where half of them are gate and half are up.
    operands: usize,
    /// Rows and columns of the tile of one of its warps.
    warp: [usize; 2],
}

const fn variant(kernel: Kernel<GemmParams>, [rows, columns]: [usize; 2], warp: [usize; 2]) -> Variant {
    Variant { kernel, rows, columns, operands: 1, warp }
}

/// Half of a tile's columns are gate and half are up: of the result it has half as many.
const fn gated(kernel: Kernel<GemmParams>, [rows, columns]: [usize; 2], warp: [usize; 2]) -> Variant {
    Variant { kernel, rows, columns: columns / 2, operands: 2, warp }
}

/// Of one kind of product: its kernels, the largest tile first, and those for rows that do not begin at multiples of 16
/// bytes.
struct Variants {
    aligned: &'static [Variant],
    any: &'static [Variant],
}

const LARGE: ([usize; 2], [usize; 2]) = ([128, 256], [64, 64]);
const MIDDLE: ([usize; 2], [usize; 2]) = ([128, 128], [64, 64]);
const SMALL: ([usize; 2], [usize; 2]) = ([64, 64], [32, 32]);

const NT: Variants = Variants {
    aligned: &[
        variant(kernels::GEMM_NT_128X256, LARGE.0, LARGE.1),
        variant(kernels::GEMM_NT_128X128, MIDDLE.0, MIDDLE.1),
        variant(kernels::GEMM_NT_64X64, SMALL.0, SMALL.1),
    ],
    any: &[variant(kernels::GEMM_NT_ANY, SMALL.0, SMALL.1)],
};
const NN: Variants = Variants {
    aligned: &[
        variant(kernels::GEMM_NN_128X256, LARGE.0, LARGE.1),
        variant(kernels::GEMM_NN_128X128, MIDDLE.0, MIDDLE.1),
        variant(kernels::GEMM_NN_64X64, SMALL.0, SMALL.1),
    ],
    any: &[variant(kernels::GEMM_NN_ANY, SMALL.0, SMALL.1)],
};
const TN: Variants = Variants {
    aligned: &[
        variant(kernels::GEMM_TN_128X256, LARGE.0, LARGE.1),
        variant(kernels::GEMM_TN_128X128, MIDDLE.0, MIDDLE.1),
        variant(kernels::GEMM_TN_64X64, SMALL.0, SMALL.1),
    ],
    any: &[variant(kernels::GEMM_TN_ANY, SMALL.0, SMALL.1)],
};
const SWIGLU_FORWARD: Variants = Variants {
    aligned: &[
        gated(kernels::GEMM_NT_SWIGLU_128X256, LARGE.0, LARGE.1),
        gated(kernels::GEMM_NT_SWIGLU_64X64, SMALL.0, [16, 64]),
    ],
    any: &[],
};
const SWIGLU_BACKWARD: Variants = Variants {
    aligned: &[
        variant(kernels::GEMM_NN_SWIGLU_128X256, LARGE.0, LARGE.1),
        variant(kernels::GEMM_NN_SWIGLU_64X64, SMALL.0, SMALL.1),
    ],
    any: &[],
};

/// The kernels of a product, the largest tile first. None takes rows that are not aligned where it is fused with SwiGLU.
pub fn variants(product: Product, aligned: bool) -> &'static [Variant] {
    let variants = match product {
        Product::Plain(Gemm::Nt) => &NT,
        Product::Plain(Gemm::Nn) => &NN,
        Product::Plain(Gemm::Tn) => &TN,
        Product::SwigluForward => &SWIGLU_FORWARD,
        Product::SwigluBackward => &SWIGLU_BACKWARD,
    };
    if aligned { variants.aligned } else { variants.any }
}

/// The launch of the kernel that takes the least time by [`Variant::clocks`] among those that the device can run; nothing
/// where there is none.
pub fn plan(description: &Description, properties: &Properties) -> Option<Launch<GemmParams>> {
    let Description { product, m, n, k, aligned } = *description;
    fastest(variants(product, aligned), [m, n, k], properties).map(|variant| variant.launch(m, n))
}

fn fastest<'a>(variants: &'a [Variant], [m, n, k]: [usize; 3], properties: &Properties) -> Option<&'a Variant> {
    let runs = |variant: &&Variant| {
        let kernel = variant.kernel.entry();
        kernel.target.runs_on(properties.capability) && kernel.shared as usize <= properties.shared_per_block
    };
    let clocks = |variant: &Variant| variant.clocks(m, n, k, properties);
    variants.iter().filter(runs).min_by(|a, b| clocks(a).total_cmp(&clocks(b)))
}

/// What a multiprocessor does in a clock: multiply-adds of bf16 that `mma.sync` reaches, and bytes that come from L2.
///
/// 8.0: 1,024 and 5,120 B a clock for 108 multiprocessors (A100 whitepaper). 9.0: `mma.sync` is issued every 6 clocks
/// where `wgmma` would take 4, so two thirds of 2,048; L2 as on an A100. Others: the rate of workstation cards; L2 by what
/// is measured for Ada (chipsandcheese.com, "Microbenchmarking Nvidia's RTX 4090": 5 TB/s).
fn rates(capability: Capability) -> (f64, f64) {
    match capability.major {
        8 if capability.minor == 0 => (1024.0, 47.0),
        9 => (1365.0, 38.0),
        10 => (1365.0, 32.0),
        _ => (512.0, 16.0),
    }
}

impl Variant {
    /// Blocks of the grid for a result of `m` rows and `n` columns.
    fn tiles(&self, m: usize, n: usize) -> usize {
        m.div_ceil(self.rows) * n.div_ceil(self.columns)
    }

    /// The launch for a result of `m` rows and `n` columns.
    pub fn launch(&self, m: usize, n: usize) -> Launch<GemmParams> {
        self.kernel.on([self.tiles(m, n), 1])
    }

    /// An estimate of the clocks that a product takes.
    ///
    /// A block takes, for each step along `k`, as long as the slowest of tensor cores, shared memory and L2, and a quarter
    /// of the others' time, which does not overlap: the large tile then comes to 77 % of an A100's rate and to 69 % of
    /// what `mma.sync` reaches on an H100, where a schedule of the disassembly comes to 79 % and 61 to 67 %. Full waves
    /// keep the multiprocessors as busy as that. In the last one a multiprocessor has `ceil(rest / multiprocessors)`
    /// blocks; fewer than it has room for do not hide each other's latency, so that one of `b` takes as long as
    /// `(b + 1) / 2`. What comes before a block's first product and behind its last is hidden by the others.
    pub fn clocks(&self, m: usize, n: usize, k: usize, properties: &Properties) -> f64 {
        /// Filling the ring of stages and storing the tile: what 1 us of latency and a tile's stores take.
        const AROUND: f64 = 2000.0;
        /// Bytes of shared memory in a clock.
        const SHARED: f64 = 128.0;
        let (products, l2) = rates(properties.capability);
        let (rows, columns) = (self.rows, self.columns * self.operands);
        let warps = rows * columns / (self.warp[0] * self.warp[1]);
        let read = 2 * warps * (self.warp[0] + self.warp[1]);
        let brought = 2 * (rows + columns);
        let each = [(rows * columns) as f64 / products, (read + brought) as f64 / SHARED, brought as f64 / l2];
        let slowest = each.into_iter().fold(0.0, f64::max);
        let step = slowest + (each.iter().sum::<f64>() - slowest) / 4.0;
        let block = step * k as f64;
        let at_once = self.kernel.blocks_per_sm(properties);
        let slots = at_once * properties.sms;
        let (full, rest) = (self.tiles(m, n) / slots, self.tiles(m, n) % slots);
        let waves = full as f64 * (at_once as f64 * block + AROUND / at_once as f64);
        if rest == 0 {
            return waves;
        }
        let fullest = rest.div_ceil(properties.sms) as f64;
        waves + fullest.max((at_once + 1) as f64 / 2.0) * block + AROUND
    }
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

pub(super) fn gemm(
    device: &Device,
    layout: Gemm,
    (m, n, k): (usize, usize, usize),
    out: &Tensor,
    a: &Tensor,
    b: &Tensor,
    addend: Option<&Tensor>,
) -> Result<()> {
    let description = Description { product: Product::Plain(layout), m, n, k, aligned: aligned(a) && aligned(b) };
    let none = || Error::machine(format!("no kernel of this build makes a product {layout:?} on {}", device.name()));
    let launch = plan(&description, device.properties()).ok_or_else(none)?;
    let params = GemmParams {
        addend: addend.map_or(0, at),
        ldaddend: addend.map_or(Ok(0), |addend| size(addend.row_stride()))?,
        ..params((m, n, k), out, a, b)?
    };
    // SAFETY: the operands were checked to be matrices of these sizes and types.
    unsafe { device.launch(&launch, &params) }
}

/// The product into SwiGLU. Says no where no kernel does it at once: where rows are not aligned.
pub(super) fn swiglu_forward(
    device: &Device,
    shape: (usize, usize, usize),
    y: &Tensor,
    gate_up: &Tensor,
    x: &Tensor,
    w13: &Tensor,
) -> Result<bool> {
    fused(device, Product::SwigluForward, shape, [y, x, w13], gate_up)
}

/// The way back from the product behind SwiGLU, in place. Says no where no kernel does it at once.
pub(super) fn swiglu_backward(
    device: &Device,
    shape: (usize, usize, usize),
    gate_up: &Tensor,
    dout: &Tensor,
    w2: &Tensor,
) -> Result<bool> {
    fused(device, Product::SwigluBackward, shape, [gate_up, dout, w2], gate_up)
}

fn fused(
    device: &Device,
    product: Product,
    (m, n, k): (usize, usize, usize),
    [out, a, b]: [&Tensor; 3],
    gate_up: &Tensor,
) -> Result<bool> {
    let description = Description { product, m, n, k, aligned: aligned(a) && aligned(b) };
    let Some(launch) = plan(&description, device.properties()) else { return Ok(false) };
    let params =
        GemmParams { gate_up: at(gate_up), ldgate_up: size(gate_up.row_stride())?, ..params((m, n, k), out, a, b)? };
    // SAFETY: the operands were checked to be matrices of these sizes and types.
    unsafe { device.launch(&launch, &params) }?;
    Ok(true)
}

impl Run<GemmOp<'_>> for Cuda {
    fn run(&self, op: &GemmOp) -> Result<()> {
        gemm(&self.device, op.layout, op.shape(), op.out, op.a, op.b, op.addend)
    }
}

impl Run<GemmSwigluForward<'_>> for Cuda {
    fn run(&self, op: &GemmSwigluForward) -> Result<()> {
        match swiglu_forward(&self.device, op.shape(), op.y, op.gate_up, op.x, op.w13)? {
            true => Ok(()),
            false => op.unfused().into_iter().try_for_each(|op| self.submit(op)),
        }
    }
}

impl Run<GemmSwigluBackward<'_>> for Cuda {
    fn run(&self, op: &GemmSwigluBackward) -> Result<()> {
        let GemmSwigluBackward { gate_up, dout, w2, .. } = *op;
        match swiglu_backward(&self.device, op.shape(), gate_up, dout, w2)? {
            true => Ok(()),
            false => op.unfused().into_iter().try_for_each(|op| self.submit(op)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::{Entry, Target};
    use super::super::properties::Card;
    use super::*;

    fn on(card: &str, product: Product, [m, n, k]: [usize; 3]) -> Launch<GemmParams> {
        let properties = Card::named(card).unwrap().properties();
        plan(&Description { product, m, n, k, aligned: true }, &properties).unwrap()
    }

    fn kernel(card: &str, product: Product, mnk: [usize; 3]) -> &'static str {
        on(card, product, mnk).kernel.entry().name
    }

    const NT: Product = Product::Plain(Gemm::Nt);
    const TN: Product = Product::Plain(Gemm::Tn);

    /// The products of a layer of the 1.8B and the 7B model over a full pass, on every card with room for the tile.
    #[test]
    fn large_products_get_large_tiles() {
        for card in ["a100", "a100-40", "h100", "h200", "h100-pcie"] {
            for [m, n, k] in [[32_768, 4096, 2048], [32_768, 16_384, 2048], [32_768, 28_672, 4096], [8192; 3]] {
                assert_eq!(kernel(card, NT, [m, n, k]), "gemm_nt_128x256", "{card} {m}x{n}x{k}");
            }
            assert_eq!(kernel(card, TN, [16_384, 2048, 32_768]), "gemm_tn_128x256", "{card}");
            assert_eq!(kernel(card, Product::SwigluForward, [32_768, 8192, 2048]), "gemm_nt_swiglu_128x256", "{card}");
            assert_eq!(kernel(card, Product::SwigluBackward, [32_768, 8192, 2048]), "gemm_nn_swiglu_128x256", "{card}");
        }
    }

    #[test]
    fn small_products_get_small_tiles() {
        for card in ["a100", "h100", "4090"] {
            assert_eq!(kernel(card, TN, [64, 512, 1024]), "gemm_tn_64x64", "{card}");
            assert_eq!(kernel(card, NT, [8, 2048, 2048]), "gemm_nt_64x64", "{card}");
            assert_eq!(kernel(card, Product::SwigluForward, [16, 512, 128]), "gemm_nt_swiglu_64x64", "{card}");
        }
    }

    /// 2,048 x 2,048 is 128 large tiles: one wave of an H100's 132 multiprocessors, and on an A100, which has 108, a second
    /// one with 20 blocks that takes as long as the first.
    #[test]
    fn a_last_wave_that_is_nearly_empty_is_weighed() {
        assert_eq!(kernel("h100", NT, [2048, 2048, 2048]), "gemm_nt_128x256");
        assert_eq!(kernel("a100", NT, [2048, 2048, 2048]), "gemm_nt_128x128");
        let a100 = Card::named("a100").unwrap().properties();
        let large = &variants(NT, true)[0];
        let clocks = |tiles: usize| large.clocks(128 * tiles, 256, 2048, &a100);
        assert!(clocks(109) > 1.9 * clocks(108));
        assert!(clocks(216) < 1.05 * clocks(109));
    }

    #[test]
    fn grids_cover_the_result_and_blocks_are_the_kernels() {
        for product in [NT, Product::Plain(Gemm::Nn), TN, Product::SwigluForward, Product::SwigluBackward] {
            for variant in [variants(product, true), variants(product, false)].concat() {
                let launch = variant.launch(1000, 700);
                assert_eq!(launch.grid, [1000usize.div_ceil(variant.rows) * 700usize.div_ceil(variant.columns), 1]);
                let entry = variant.kernel.entry();
                assert_eq!((launch.threads, launch.shared), (entry.threads, entry.shared));
                // A warp has 32 threads.
                let warps = variant.rows * variant.columns * variant.operands / (variant.warp[0] * variant.warp[1]);
                assert_eq!(32 * warps, entry.threads as usize, "{}", entry.name);
            }
        }
        assert_eq!(on("h100", NT, [1, 1, 1]).grid, [1, 1]);
        let unaligned = Description { product: NT, m: 5, n: 5, k: 5, aligned: false };
        let properties = Card::named("h100").unwrap().properties();
        assert_eq!(plan(&unaligned, &properties).map(|launch| launch.kernel), Some(kernels::GEMM_NT_ANY));
        let fused = Description { product: Product::SwigluForward, ..unaligned };
        assert_eq!(plan(&fused, &properties), None);
    }

    /// A variant of another target is taken where it can run and is faster, and passed over elsewhere.
    #[test]
    fn targets_are_weighed_too() {
        static HOPPER: Entry = Entry {
            name: "gemm_nt_of_hopper",
            target: Target { name: "sm_90a", capability: Capability::new(9, 0), exact: true },
            threads: 256,
            blocks: 2,
            shared: 98_304,
            parameters: size_of::<GemmParams>(),
        };
        let large = variants(NT, true)[0];
        // Twice the columns a block for the same steps along k.
        let hopper = Variant { kernel: Kernel::new(&HOPPER), columns: 2 * large.columns, ..large };
        let all = [large, hopper];
        for (card, name) in [("a100", "gemm_nt_128x256"), ("h100", "gemm_nt_of_hopper"), ("b200", "gemm_nt_128x256")] {
            let properties = Card::named(card).unwrap().properties();
            let chosen = fastest(&all, [8192, 65_536, 4096], &properties).unwrap();
            assert_eq!(chosen.kernel.entry().name, name, "{card}");
        }
        // And a tile that a block of the card has no shared memory for.
        let small = Properties { shared_per_block: 64 << 10, ..Card::named("a100").unwrap().properties() };
        assert_eq!(fastest(&all, [8192; 3], &small), None);
    }
}
