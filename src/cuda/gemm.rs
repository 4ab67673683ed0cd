use super::abi::*;
use super::device::Device;
use super::{at, size};
use crate::backend::Gemm;
use crate::error::Result;
use crate::tensor::{Dtype, Tensor};

/// One of the kernel's tile sizes.
struct Tile {
    m: usize,
    n: usize,
    threads: u32,
    shared: u32,
    /// By layout: nt, nn, tn.
    kernels: [&'static str; 3],
}

/// The largest first: it reads least for each operation.
const TILES: [Tile; 3] = [
    Tile {
        m: 128,
        n: 256,
        threads: GEMM_128X256_THREADS,
        shared: GEMM_128X256_SHARED,
        kernels: ["gemm_nt_128x256", "gemm_nn_128x256", "gemm_tn_128x256"],
    },
    Tile {
        m: 128,
        n: 128,
        threads: GEMM_128X128_THREADS,
        shared: GEMM_128X128_SHARED,
        kernels: ["gemm_nt_128x128", "gemm_nn_128x128", "gemm_tn_128x128"],
    },
    Tile {
        m: 64,
        n: 64,
        threads: GEMM_64X64_THREADS,
        shared: GEMM_64X64_SHARED,
        kernels: ["gemm_nt_64x64", "gemm_nn_64x64", "gemm_tn_64x64"],
    },
];
/// For rows that do not begin at multiples of 16 bytes.
const UNALIGNED: Tile = Tile {
    m: 64,
    n: 64,
    threads: GEMM_64X64_THREADS,
    shared: GEMM_64X64_SHARED,
    kernels: ["gemm_nt_any", "gemm_nn_any", "gemm_tn_any"],
};

impl Tile {
    fn count(&self, m: usize, n: usize) -> usize {
        m.div_ceil(self.m) * n.div_ceil(self.n)
    }

    /// The largest that still gives every multiprocessor a tile; the smallest where none does.
    fn choose(m: usize, n: usize, multiprocessors: usize) -> &'static Self {
        TILES.iter().find(|tile| tile.count(m, n) >= multiprocessors).unwrap_or(&TILES[TILES.len() - 1])
    }
}

pub fn gemm(
    device: &Device,
    layout: Gemm,
    (m, n, k): (usize, usize, usize),
    out: &Tensor,
    a: &Tensor,
    b: &Tensor,
    accumulate: bool,
) -> Result<()> {
    let aligned = |t: &Tensor| at(t).is_multiple_of(16) && t.row_stride().is_multiple_of(8);
    let tile = if aligned(a) && aligned(b) { Tile::choose(m, n, device.multiprocessors()) } else { &UNALIGNED };
    let ldout = size(out.row_stride())?;
    let params = GemmParams {
        out: at(out),
        a: at(a),
        b: at(b),
        addend: if accumulate { at(out) } else { 0 },
        gate_up: 0,
        m: size(m)?,
        n: size(n)?,
        k: size(k)?,
        lda: size(a.row_stride())?,
        ldb: size(b.row_stride())?,
        ldout,
        ldaddend: ldout,
        ldgate_up: 0,
        out_is_f32: u32::from(out.dtype() == Dtype::F32),
    };
    let layout = match layout {
        Gemm::Nt => 0,
        Gemm::Nn => 1,
        Gemm::Tn => 2,
    };
    // SAFETY: the operands were checked to be matrices of these sizes and types.
    unsafe { device.launch(tile.kernels[layout], [tile.count(m, n), 1], tile.threads, tile.shared, &params) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_products_get_large_tiles() {
        assert_eq!(Tile::choose(8192, 8192, 132).n, 256);
        assert_eq!(Tile::choose(2048, 2048, 132).kernels[0], "gemm_nt_128x128");
        assert_eq!(Tile::choose(64, 512, 132).m, 64);
    }
}
