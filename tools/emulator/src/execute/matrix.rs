//! Tensor cores: `ldmatrix` and `mma`.

use super::access::{Touch, lanes_of};
use super::cta::Shared;
use super::registers::Registers;
use super::warp::Warp;
use super::{MmaMode, Tally};
use crate::decode::{ADDRESS, Inst, Mma, Op};
use half::f16;

impl Warp {
    /// Lane `8 m + r` gives the address of row `r` of matrix `m`; each lane receives two neighbouring elements of every
    /// matrix.
    pub(super) fn ldmatrix(&mut self, cta: &mut Shared<'_>, tally: &mut Tally, pc: u32, inst: &Inst, mask: u32) {
        let Op::Ldmatrix { count, transposed, wide_address } = inst.op else { return };
        let addresses = self.addresses(inst.slots[ADDRESS], wide_address, inst.offset);
        let rows = 8 * usize::from(count);
        let mut matrices = [[[0u16; 8]; 8]; 4];
        let (mut list, mut length) = ([0u32; 32], 0);
        for lane in lanes_of(mask).filter(|&lane| lane < rows) {
            let touch = Touch { pc, lane, bytes: 16, write: false, strong: false };
            if !self.check_shared_lane(cta, tally, addresses[lane], touch) {
                continue;
            }
            let at = addresses[lane] as usize;
            list[length] = at as u32;
            length += 1;
            for (element, bytes) in matrices[lane / 8][lane % 8].iter_mut().zip(cta.memory.bytes[at..].chunks_exact(2))
            {
                *element = u16::from_le_bytes([bytes[0], bytes[1]]);
            }
        }
        if length > 0 {
            tally.counters.shared_loads.request(&list[..length], 16);
        }
        for (matrix, &slot) in matrices.iter().zip(&inst.slots).take(usize::from(count)) {
            let to = &mut self.registers.b32[usize::from(slot)].0;
            for (lane, to) in to.iter_mut().enumerate() {
                let (row, column) = (lane / 4, lane % 4 * 2);
                let (low, high) = if transposed {
                    (matrix[column][row], matrix[column + 1][row])
                } else {
                    (matrix[row][column], matrix[row][column + 1])
                };
                *to = u32::from(low) | u32::from(high) << 16;
            }
        }
    }
}

/// `D[16, 8] = A[16, k] B[k, 8] + C[16, 8]`. Fragments are laid out as the PTX manual has it in "Matrix Fragments for
/// mma.m16n8k16" and its siblings.
pub(super) fn mma(registers: &mut Registers, inst: &Inst, mma: Mma, mode: MmaMode) {
    let depth = mma.depth();
    let tf32 = matches!(mma, Mma::Tf32K8 | Mma::Tf32K4);
    let register = |slot: u16| &registers.b32[usize::from(slot)].0;
    let (mut a, mut b, mut d) = ([[0f32; 16]; 16], [[0f32; 8]; 16], [[0f32; 8]; 16]);
    // A register holds one TF32 or two halves, of four columns or of eight.
    let per = if tf32 { 1 } else { 2 };
    let widen = |bits: u32, part: usize| match mma {
        Mma::Tf32K8 | Mma::Tf32K4 => f32::from_bits(bits & 0xffff_e000),
        Mma::Bf16K16 | Mma::Bf16K8 => f32::from_bits(if part == 0 { bits << 16 } else { bits & 0xffff_0000 }),
        Mma::F16K16 | Mma::F16K8 => f16::from_bits((bits >> (16 * part)) as u16).to_f32(),
    };
    let block = 4 * per;
    for k in 0..depth / block {
        for half in 0..2 {
            let bits = register(inst.slots[4 + 2 * k + half]);
            for lane in 0..32 {
                for part in 0..per {
                    a[lane / 4 + 8 * half][k * block + lane % 4 * per + part] = widen(bits[lane], part);
                }
            }
        }
        let bits = register(inst.slots[ADDRESS + k]);
        for lane in 0..32 {
            for part in 0..per {
                b[k * block + lane % 4 * per + part][lane / 4] = widen(bits[lane], part);
            }
        }
    }
    for at in 0..4 {
        let bits = register(inst.slots[10 + at]);
        for lane in 0..32 {
            d[lane / 4 + at / 2 * 8][lane % 4 * 2 + at % 2] = f32::from_bits(bits[lane]);
        }
    }
    match mode {
        MmaMode::Fast => multiply(&mut d, &a, &b, depth),
        MmaMode::Ampere => exact(&mut d, &a, &b, depth, if tf32 { 4 } else { 8 }, 24),
        MmaMode::Hopper => exact(&mut d, &a, &b, depth, if tf32 { 8 } else { 16 }, 25),
    }
    for at in 0..4 {
        let to = &mut registers.b32[usize::from(inst.slots[at])].0;
        for (lane, to) in to.iter_mut().enumerate() {
            *to = d[lane / 4 + at / 2 * 8][lane % 4 * 2 + at % 2].to_bits();
        }
    }
}

fn multiply(d: &mut [[f32; 8]; 16], a: &[[f32; 16]; 16], b: &[[f32; 8]; 16], depth: usize) {
    for (sums, a) in d.iter_mut().zip(a) {
        for (&a, b) in a.iter().zip(b).take(depth) {
            for (sum, &b) in sums.iter_mut().zip(b) {
                *sum += a * b;
            }
        }
    }
}

/// The sums of tensor cores as measured on them (arXiv 2511.10909 and 2512.07004): of `step` products and the addend the
/// largest exponent is found, every term is cut off to `fraction` bits below it, the terms are added exactly, and the sum
/// is cut off to an f32.
fn exact(d: &mut [[f32; 8]; 16], a: &[[f32; 16]; 16], b: &[[f32; 8]; 16], depth: usize, step: usize, fraction: i32) {
    for first in (0..depth).step_by(step) {
        for (sums, a) in d.iter_mut().zip(a) {
            for (column, sum) in sums.iter_mut().enumerate() {
                let products = (first..(first + step).min(depth)).map(|k| (a[k], b[k][column]));
                *sum = add_terms(*sum, products, fraction);
            }
        }
    }
}

/// Significand and exponent of a float: `significand * 2^(exponent - 23)`; subnormals have the exponent of the smallest
/// normal number.
fn parts(x: f32) -> (i64, i32) {
    let bits = x.to_bits();
    let field = (bits >> 23 & 255) as i32;
    let fraction = i64::from(bits & 0x7f_ffff);
    let (significand, exponent) = if field == 0 { (fraction, -126) } else { (fraction | 1 << 23, field - 127) };
    (if bits >> 31 != 0 { -significand } else { significand }, exponent)
}

fn add_terms(addend: f32, products: impl Iterator<Item = (f32, f32)> + Clone, fraction: i32) -> f32 {
    let plain: f32 = products.clone().map(|(a, b)| a * b).fold(addend, |sum, term| sum + term);
    if products.clone().any(|(a, b)| !a.is_finite() || !b.is_finite()) || !addend.is_finite() {
        return if plain.is_nan() { f32::from_bits(0x7fff_ffff) } else { plain };
    }
    // (significand, exponent of its unit bit, bits below the unit)
    let product = |(a, b): (f32, f32)| {
        let ((x, i), (y, j)) = (parts(a), parts(b));
        (x * y, i + j, 46)
    };
    let (c, c_exponent) = parts(addend);
    let terms = products.map(product).chain([(c, c_exponent, 23)]);
    let Some(largest) = terms.clone().filter(|t| t.0 != 0).map(|t| t.1).max() else {
        return if plain == 0.0 { plain } else { 0.0 };
    };
    let sum: i64 = terms
        .map(|(significand, exponent, below)| {
            let shift = below - fraction + (largest - exponent);
            let magnitude = significand.unsigned_abs();
            let cut = if shift >= 64 {
                0
            } else if shift >= 0 {
                magnitude >> shift
            } else {
                magnitude << -shift
            };
            if significand < 0 { -(cut as i64) } else { cut as i64 }
        })
        .sum();
    // sum * 2^(largest - fraction), cut off to 24 bits; few bits are exact in f64 and f32 alike.
    let bits = 64 - sum.unsigned_abs().leading_zeros() as i32;
    let lowest = (largest - fraction + bits - 24).max(-149) - (largest - fraction);
    let kept = if lowest > 0 { (sum.unsigned_abs() >> lowest.min(63)) << lowest.min(63) } else { sum.unsigned_abs() };
    let magnitude = kept as f64 * 2f64.powi(largest - fraction);
    let magnitude = if magnitude > f64::from(f32::MAX) { f64::INFINITY } else { magnitude };
    (if sum < 0 { -magnitude } else { magnitude }) as f32
}
