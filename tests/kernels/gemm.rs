//! Matrix products, and those fused with SwiGLU.

use polar_raw::backend::{Gemm, Operations};
use polar_raw::cuda::abi::GemmParams;
use polar_raw::cuda::gemm::{Product, Variant, variants};
use polar_raw::reference::Reference;

use crate::device::{Device, Kernels};
use crate::values::{BF16, Draw, F32, close, empty, tensor, values_of};

/// The variant of a product whose kernel's name ends so.
fn variant(product: Product, ending: &str) -> Variant {
    let all = [variants(product, true), variants(product, false)].concat();
    all.into_iter().find(|variant| variant.kernel.name.ends_with(ending)).unwrap()
}

fn launch(device: &Device, variant: Variant, params: &GemmParams) {
    device.launch(&variant.launch(params.m as usize, params.n as usize), params);
}

/// A matrix of `rows` that lie `ld` apart, the columns beside it NaN.
fn spread(values: &[f64], rows: usize, ld: usize) -> Vec<f64> {
    let columns = values.len() / rows.max(1);
    let mut wide = vec![f64::NAN; rows * ld];
    for row in 0..rows {
        wide[row * ld..][..columns].copy_from_slice(&values[row * columns..][..columns]);
    }
    wide
}

/// The matrix again; what lies beside it must still be NaN.
fn gathered(wide: &[f64], columns: usize, ld: usize) -> Vec<f64> {
    let mut values = Vec::new();
    for row in wide.chunks(ld) {
        values.extend(&row[..columns]);
        assert!(row[columns..].iter().all(|x| x.is_nan()), "a column beside the matrix was written");
    }
    values
}

#[derive(Clone, Copy, PartialEq)]
enum Addend {
    None,
    Other,
    Same,
}

struct Case {
    tile: &'static str,
    layout: Gemm,
    mnk: [usize; 3],
    /// What leading dimensions have beyond the matrix.
    beyond: usize,
    addend: Addend,
    out_is_f32: bool,
}

fn run(kernels: &Kernels, case: &Case) {
    let Case { tile, layout, mnk: [m, n, k], beyond, addend, out_is_f32 } = *case;
    let variant = variant(Product::Plain(layout), tile);
    let what = format!("{:?} {m}x{n}x{k} f32 {out_is_f32}", variant.kernel);
    let (device, mut draw) = (Device::new(kernels), Draw::new((m * 7 + n * 3 + k) as u64));
    let (a_rows, a_columns) = if layout == Gemm::Tn { (k, m) } else { (m, k) };
    let (b_rows, b_columns) = if layout == Gemm::Nt { (n, k) } else { (k, n) };
    let (a, b, before) = (draw.bf16(m * k, 1.0), draw.bf16(n * k, 1.0), draw.bf16(m * n, 4.0));
    let multiple = if tile == "any" { 1 } else { 8 };
    let [lda, ldb] = [a_columns, b_columns].map(|columns| columns.next_multiple_of(multiple) + beyond);
    let ldout = n + beyond;
    let upload = |values: &[f64]| if out_is_f32 { device.f32(values) } else { device.bf16(values) };
    let out = upload(&spread(&if addend == Addend::Same { before.clone() } else { vec![f64::NAN; m * n] }, m, ldout));
    let params = GemmParams {
        out,
        a: device.bf16(&spread(&a, a_rows, lda)),
        b: device.bf16(&spread(&b, b_rows, ldb)),
        addend: match addend {
            Addend::None => 0,
            Addend::Same => out,
            Addend::Other => upload(&spread(&before, m, ldout)),
        },
        gate_up: 0,
        m: m as u32,
        n: n as u32,
        k: k as u32,
        lda: lda as u32,
        ldb: ldb as u32,
        ldout: ldout as u32,
        ldaddend: ldout as u32,
        ldgate_up: 0,
        out_is_f32: u32::from(out_is_f32),
    };
    launch(&device, variant, &params);
    let (want, before) = (empty(&[m, n]), tensor(&before, &[m, n]));
    let (a, b) = (tensor(&a, &[a_rows, a_columns]), tensor(&b, &[b_rows, b_columns]));
    Reference.gemm(layout, &want, &a, &b, (addend != Addend::None).then_some(&before)).unwrap();
    let got = if out_is_f32 { device.read_f32(out, m * ldout) } else { device.read_bf16(out, m * ldout) };
    let rounding = if out_is_f32 { 0.0 } else { BF16 };
    close(&what, &gathered(&got, n, ldout), &values_of(&want), rounding, 4.0 * F32 * (k + 4) as f64);
}

const LAYOUTS: [Gemm; 3] = [Gemm::Nt, Gemm::Nn, Gemm::Tn];

pub fn ragged_products(kernels: &Kernels) {
    for layout in LAYOUTS {
        for mnk in [[64, 64, 32], [72, 40, 40], [1, 1, 1], [65, 136, 200], [63, 61, 31], [5, 66, 45]] {
            for (out_is_f32, addend) in [(false, Addend::None), (true, Addend::Same), (false, Addend::Other)] {
                run(kernels, &Case { tile: "64x64", layout, mnk, beyond: 8, addend, out_is_f32 });
            }
        }
    }
}

pub fn products_that_are_not_aligned(kernels: &Kernels) {
    for layout in LAYOUTS {
        for mnk in [[1, 1, 1], [3, 5, 7], [65, 67, 33], [17, 63, 129]] {
            for (out_is_f32, addend) in [(false, Addend::Other), (true, Addend::Same), (true, Addend::None)] {
                run(kernels, &Case { tile: "any", layout, mnk, beyond: 3, addend, out_is_f32 });
            }
        }
    }
}

pub fn large_tiles(kernels: &Kernels) {
    for layout in LAYOUTS {
        for tile in ["128x128", "128x256"] {
            for (mnk, out_is_f32) in [([136, 264, 72], false), ([120, 248, 168], true)] {
                run(kernels, &Case { tile, layout, mnk, beyond: 0, addend: Addend::Same, out_is_f32 });
            }
        }
    }
}

/// More rows of tiles than one band of the walk over them.
pub fn many_tiles(kernels: &Kernels) {
    run(
        kernels,
        &Case {
            tile: "64x64",
            layout: Gemm::Nt,
            mnk: [64 * 9 + 1, 64 * 2 + 8, 16],
            beyond: 0,
            addend: Addend::None,
            out_is_f32: false,
        },
    );
}

pub fn fused_with_swiglu(kernels: &Kernels) {
    for (tile, [m, f, k]) in [("64x64", [65, 40, 72]), ("64x64", [3, 8, 8]), ("128x256", [130, 136, 48])] {
        let variant = variant(Product::SwigluForward, tile);
        let (device, mut draw) = (Device::new(kernels), Draw::new(3));
        let (x, w) = (draw.bf16(m * k, 1.0), draw.bf16(2 * f * k, 1.0));
        let (out, gate_up) = (device.poisoned(m * f * 2), device.poisoned(m * f * 4));
        let params = GemmParams {
            out,
            gate_up,
            a: device.bf16(&x),
            b: device.bf16(&w),
            m: m as u32,
            n: f as u32,
            k: k as u32,
            lda: k as u32,
            ldb: k as u32,
            ldout: f as u32,
            ldgate_up: 2 * f as u32,
            ..GemmParams::default()
        };
        launch(&device, variant, &params);
        let product = empty(&[m, 2 * f]);
        Reference.gemm(Gemm::Nt, &product, &tensor(&x, &[m, k]), &tensor(&w, &[2 * f, k]), None).unwrap();
        let stored = device.read_bf16(gate_up, m * 2 * f);
        close(tile, &stored, &values_of(&product), BF16, 4.0 * F32 * k as f64);
        let y = empty(&[m, f]);
        Reference.swiglu_forward(&y, &tensor(&stored, &[m, 2 * f])).unwrap();
        close(tile, &device.read_bf16(out, m * f), &values_of(&y), 1.02 * BF16, 1e-6);
    }
}

pub fn fused_with_swiglu_backward(kernels: &Kernels) {
    for (tile, [m, f, k], in_place) in
        [("64x64", [65, 72, 40], true), ("64x64", [3, 8, 8], false), ("128x256", [130, 264, 48], true)]
    {
        let variant = variant(Product::SwigluBackward, tile);
        let (device, mut draw) = (Device::new(kernels), Draw::new(4));
        let (dx, w2, before) = (draw.bf16(m * k, 1.0), draw.bf16(k * f, 1.0), draw.bf16(m * 2 * f, 3.0));
        let gate_up = device.bf16(&before);
        let out = if in_place { gate_up } else { device.poisoned(m * f * 4) };
        let params = GemmParams {
            out,
            gate_up,
            a: device.bf16(&dx),
            b: device.bf16(&w2),
            m: m as u32,
            n: f as u32,
            k: k as u32,
            lda: k as u32,
            ldb: f as u32,
            ldout: 2 * f as u32,
            ldgate_up: 2 * f as u32,
            ..GemmParams::default()
        };
        launch(&device, variant, &params);
        let dy = empty(&[m, f]);
        Reference.gemm(Gemm::Nn, &dy, &tensor(&dx, &[m, k]), &tensor(&w2, &[k, f]), None).unwrap();
        let want = empty(&[m, 2 * f]);
        Reference.swiglu_backward(&want, &dy, &tensor(&before, &[m, 2 * f])).unwrap();
        // The product is rounded to bf16 before it is used, and its gradient again.
        close(tile, &device.read_bf16(out, m * 2 * f), &values_of(&want), 2.1 * BF16, 1e-4);
    }
}
