//! Tensor cores: `ldmatrix` and `mma`.

use super::access::{Touch, lanes_of};
use super::cta::Shared;
use super::registers::{Registers, wide_vectors};
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

/// The fragments of one product, unpacked: `D[16, 8] = A[16, k] B[k, 8] + C[16, 8]`.
struct Operands {
    a: [[f32; 16]; 16],
    b: [[f32; 8]; 16],
    d: [[f32; 8]; 16],
}

/// A type of elements: how many a register holds, how they are widened, and bits of their fraction.
trait Element {
    const PER: usize;
    const FRACTION: i32;
    /// The exponent of the smallest normal number, which subnormals share.
    const LEAST_EXPONENT: i32;
    fn widen(bits: u32, part: usize) -> f32;
}

struct Bf16;
struct Half;
struct Tf32;

impl Element for Bf16 {
    const PER: usize = 2;
    const FRACTION: i32 = 7;
    const LEAST_EXPONENT: i32 = -126;

    #[inline(always)]
    fn widen(bits: u32, part: usize) -> f32 {
        f32::from_bits(if part == 0 { bits << 16 } else { bits & 0xffff_0000 })
    }
}

impl Element for Half {
    const PER: usize = 2;
    const FRACTION: i32 = 10;
    const LEAST_EXPONENT: i32 = -14;

    #[inline(always)]
    fn widen(bits: u32, part: usize) -> f32 {
        f16::from_bits((bits >> (16 * part)) as u16).to_f32()
    }
}

impl Element for Tf32 {
    const PER: usize = 1;
    const FRACTION: i32 = 10;
    const LEAST_EXPONENT: i32 = -126;

    #[inline(always)]
    fn widen(bits: u32, _: usize) -> f32 {
        f32::from_bits(bits & 0xffff_e000)
    }
}

/// `mma` on the fragments in registers.
pub(super) fn mma(registers: &mut Registers, inst: &Inst, mma: Mma, mode: MmaMode) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
    fn wide(registers: &mut Registers, inst: &Inst, mma: Mma, mode: MmaMode) {
        by_element(registers, inst, mma, mode);
    }
    #[cfg(target_arch = "x86_64")]
    if wide_vectors() {
        // SAFETY: the processor has these features.
        unsafe { wide(registers, inst, mma, mode) };
        return;
    }
    by_element(registers, inst, mma, mode);
}

#[inline(always)]
fn by_element(registers: &mut Registers, inst: &Inst, mma: Mma, mode: MmaMode) {
    match mma {
        Mma::Bf16K16 => run::<Bf16, 16>(registers, inst, mode),
        Mma::Bf16K8 => run::<Bf16, 8>(registers, inst, mode),
        Mma::F16K16 => run::<Half, 16>(registers, inst, mode),
        Mma::F16K8 => run::<Half, 8>(registers, inst, mode),
        Mma::Tf32K8 => run::<Tf32, 8>(registers, inst, mode),
        Mma::Tf32K4 => run::<Tf32, 4>(registers, inst, mode),
    }
}

/// Fragments are laid out as the PTX manual has it in "Matrix Fragments for mma.m16n8k16" and its siblings: lane
/// `4 g + t` holds elements of row (of B: column) `g`, and of row `g + 8`.
#[inline(always)]
fn run<E: Element, const DEPTH: usize>(registers: &mut Registers, inst: &Inst, mode: MmaMode) {
    let mut operands = Operands { a: [[0.0; 16]; 16], b: [[0.0; 8]; 16], d: [[0.0; 8]; 16] };
    let Operands { a, b, d } = &mut operands;
    let register = |slot: u16| &registers.b32[usize::from(slot)].0;
    let block = 4 * E::PER;
    for k in 0..DEPTH / block {
        for half in 0..2 {
            let bits = register(inst.slots[4 + 2 * k + half]);
            for g in 0..8 {
                for t in 0..4 {
                    for part in 0..E::PER {
                        a[g + 8 * half][k * block + t * E::PER + part] = E::widen(bits[4 * g + t], part);
                    }
                }
            }
        }
        let bits = register(inst.slots[ADDRESS + k]);
        for t in 0..4 {
            for part in 0..E::PER {
                for g in 0..8 {
                    b[k * block + t * E::PER + part][g] = E::widen(bits[4 * g + t], part);
                }
            }
        }
    }
    for at in 0..4 {
        let bits = register(inst.slots[10 + at]);
        for g in 0..8 {
            for t in 0..4 {
                d[g + at / 2 * 8][t * 2 + at % 2] = f32::from_bits(bits[4 * g + t]);
            }
        }
    }
    let tf32 = E::PER == 1;
    match mode {
        MmaMode::Fast => multiply::<DEPTH>(&mut operands),
        MmaMode::Ampere => exact::<E, DEPTH, 24>(&mut operands, if tf32 { 4 } else { 8 }),
        MmaMode::Hopper => exact::<E, DEPTH, 25>(&mut operands, if tf32 { 8 } else { 16 }),
    }
    for at in 0..4 {
        let to = &mut registers.b32[usize::from(inst.slots[at])].0;
        for g in 0..8 {
            for t in 0..4 {
                to[4 * g + t] = operands.d[g + at / 2 * 8][t * 2 + at % 2].to_bits();
            }
        }
    }
}

#[inline(always)]
fn multiply<const DEPTH: usize>(Operands { a, b, d }: &mut Operands) {
    for (sums, a) in d.iter_mut().zip(a) {
        let mut row = *sums;
        for (a, b) in a[..DEPTH].iter().zip(&b[..DEPTH]) {
            for column in 0..8 {
                row[column] += a * b[column];
            }
        }
        *sums = row;
    }
}

/// The exponent that stands for "no term at all".
const ABSENT: i32 = -100_000;

/// Significand, with `fraction` bits behind the point, and exponent of a finite number of a format.
#[inline(always)]
fn parts(x: f32, fraction: i32, least: i32) -> (i32, i32) {
    let bits = x.to_bits();
    let field = (bits >> 23 & 255) as i32;
    let whole = (bits & 0x7f_ffff) | u32::from(field != 0) << 23;
    let normal = field.max(1) - 127;
    let exponent = normal.max(least);
    // Numbers below the smallest normal one have fewer bits; none is lost, as the format holds the number.
    let significand = (whole >> (23 - fraction + exponent - normal).min(31) as u32) as i32;
    (if bits >> 31 != 0 { -significand } else { significand }, if significand == 0 { ABSENT } else { exponent })
}

/// The sums of tensor cores as measured on them (arXiv 2511.10909 and 2512.07004): of `step` products and the addend
/// the largest exponent is found, every term is cut off to `F` bits of fraction below it, the terms are added exactly,
/// and the sum is cut off to an f32.
#[inline(always)]
fn exact<E: Element, const DEPTH: usize, const F: i32>(Operands { a, b, d }: &mut Operands, step: usize) {
    let finite = |x: &f32| x.is_finite();
    if !(a.as_flattened().iter().all(finite) && b.as_flattened().iter().all(finite)) {
        // What has no bits to align is infinite or no number at all, or beside such.
        for (sums, a) in d.iter_mut().zip(&*a) {
            for (column, sum) in sums.iter_mut().enumerate() {
                *sum = unbounded((0..DEPTH).map(|k| a[k] * b[k][column]).fold(*sum, |sum, term| sum + term));
            }
        }
        return;
    }
    let (mut b_parts, mut b_exponents) = ([[0i32; 8]; 16], [[0i32; 8]; 16]);
    for k in 0..DEPTH {
        for column in 0..8 {
            (b_parts[k][column], b_exponents[k][column]) = parts(b[k][column], E::FRACTION, E::LEAST_EXPONENT);
        }
    }
    for (sums, a) in d.iter_mut().zip(&*a) {
        let mut a_parts = [(0, 0); 16];
        for k in 0..DEPTH {
            a_parts[k] = parts(a[k], E::FRACTION, E::LEAST_EXPONENT);
        }
        for first in (0..DEPTH).step_by(step) {
            let terms = first..(first + step).min(DEPTH);
            let mut addends = [(0, 0); 8];
            let mut largest = [0; 8];
            for column in 0..8 {
                addends[column] = parts(sums[column], 23, -126);
                largest[column] = addends[column].1;
            }
            for k in terms.clone() {
                for column in 0..8 {
                    largest[column] = largest[column].max(a_parts[k].1 + b_exponents[k][column]);
                }
            }
            let cut = |significand: i32, up: i32, below: i32| {
                let kept = significand.unsigned_abs() << up >> below.min(31) as u32;
                if significand < 0 { -(kept as i32) } else { kept as i32 }
            };
            let mut totals = [0i64; 8];
            for column in 0..8 {
                let (significand, exponent) = addends[column];
                totals[column] = cut(significand, F - 23, largest[column] - exponent).into();
            }
            for k in terms {
                let (significand, exponent) = a_parts[k];
                for column in 0..8 {
                    let product = significand * b_parts[k][column];
                    let below = largest[column] - exponent - b_exponents[k][column];
                    totals[column] += i64::from(cut(product, F - 2 * E::FRACTION, below));
                }
            }
            for column in 0..8 {
                let addend = sums[column];
                sums[column] =
                    if addend.is_finite() { cut_off(totals[column], largest[column] - F) } else { unbounded(addend) };
            }
        }
    }
}

/// An infinity, or the NaN that GPUs make.
fn unbounded(x: f32) -> f32 {
    if x.is_nan() { f32::from_bits(0x7fff_ffff) } else { x }
}

/// `total * 2^exponent`, cut off to an f32.
#[inline(always)]
fn cut_off(total: i64, exponent: i32) -> f32 {
    if total == 0 {
        return 0.0;
    }
    // Fewer than 53 bits: exact. Of an f64 the lowest 29 bits of the fraction are those that an f32 lacks.
    let kept = f64::from_bits((total as f64).to_bits() & !((1 << 29) - 1));
    // Products of the smallest numbers have exponents far above the smallest one of an f64.
    let value = kept * f64::from_bits(((exponent + 1023) as u64) << 52);
    if value.abs() >= f64::from(f32::MIN_POSITIVE) {
        return value as f32;
    }
    // Subnormal: in units of 2^-149, of which the whole ones stay.
    let units = (value.abs() * 2f64.powi(149)) as u32;
    f32::from_bits(units | u32::from(value < 0.0) << 31)
}
