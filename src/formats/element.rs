//! The types in which tensors are stored, and their conversion to and from f32.

use std::fmt;

use half::{bf16, f16};

use crate::model::config::StorageDtype;

/// The type of a stored tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// IEEE 754 single precision.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE 754 half precision.
    F16,
    /// Blocks of 32: a scale `d` as f16 and 32 signed bytes `q`; values `d q`.
    Q8_0,
    /// Blocks of 32: a scale `d` as f16 and 32 nibbles `q`; values `d (q - 8)`.
    Q4_0,
    /// Blocks of 32: a scale `d` and a minimum `m` as f16 and 32 nibbles `q`; values `d q + m`.
    Q4_1,
    /// A type that is known by name and size alone: it can be listed, and not be read.
    Other(Opaque),
}

/// A type of which only the size is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opaque {
    /// What its format calls it.
    pub name: &'static str,
    /// Elements of a block.
    pub block: usize,
    /// Bits of a block.
    pub bits: usize,
}

/// Elements of a quantised block.
const BLOCK: usize = 32;

impl Element {
    /// Elements that are stored together, and their bits.
    fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 32),
            Self::Bf16 | Self::F16 => (1, 16),
            Self::Q8_0 => (BLOCK, 34 * 8),
            Self::Q4_0 => (BLOCK, 18 * 8),
            Self::Q4_1 => (BLOCK, 20 * 8),
            Self::Other(Opaque { block, bits, .. }) => (block, bits),
        }
    }

    /// Bytes of `elements` elements; `None` if they are no whole number of blocks or bytes, or too many.
    pub fn bytes(self, elements: usize) -> Option<usize> {
        let (block, bits) = self.block();
        let bits = elements.is_multiple_of(block).then_some(elements / block)?.checked_mul(bits)?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// Whether values can be read.
    pub fn is_readable(self) -> bool {
        !matches!(self, Self::Other(_))
    }

    /// Replaces `values` by the numbers in `bytes`, which are as many.
    pub fn decode(self, bytes: &[u8], values: &mut [f32]) {
        debug_assert_eq!(self.bytes(values.len()), Some(bytes.len()));
        match self {
            Self::F32 => each(bytes, values, |b| f32::from_le_bytes(*b)),
            Self::Bf16 => each(bytes, values, |b| bf16::from_le_bytes(*b).to_f32()),
            Self::F16 => each(bytes, values, |b| f16::from_le_bytes(*b).to_f32()),
            Self::Q8_0 => blocks(bytes, values, |b: &[u8; 34], out| {
                let d = half_at(b, 0);
                out.iter_mut().zip(&b[2..]).for_each(|(v, q)| *v = d * f32::from(*q as i8));
            }),
            Self::Q4_0 => blocks(bytes, values, |b: &[u8; 18], out| {
                let d = half_at(b, 0);
                nibbles(&b[2..], out, |q| d * (f32::from(q) - 8.0));
            }),
            Self::Q4_1 => blocks(bytes, values, |b: &[u8; 20], out| {
                let (d, m) = (half_at(b, 0), half_at(b, 2));
                nibbles(&b[4..], out, |q| d * f32::from(q) + m);
            }),
            Self::Other(_) => values.fill(f32::NAN),
        }
    }

    /// Appends `values` as little-endian numbers, rounded to nearest even, or as blocks with the rounding of the `gguf`
    /// package. False when a finite value became infinite.
    pub fn encode(self, values: &[f32], bytes: &mut Vec<u8>) -> bool {
        let fits = |value: f32, stored: f32| stored.is_finite() || !value.is_finite();
        match self {
            Self::F32 => {
                bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
                true
            }
            Self::Bf16 => {
                bytes.extend(values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()));
                values.iter().all(|&v| fits(v, bf16::from_f32(v).to_f32()))
            }
            Self::F16 => {
                bytes.extend(values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()));
                values.iter().all(|&v| fits(v, f16::from_f32(v).to_f32()))
            }
            Self::Q8_0 => quantise(values, bytes, |x, bytes| {
                let d = x.iter().fold(0.0_f32, |most, v| most.max(v.abs())) / 127.0;
                let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
                bytes.extend(f16::from_f32(d).to_le_bytes());
                bytes.extend(x.iter().map(|v| (v * inverse).round() as i8 as u8));
                f16::from_f32(d).is_finite()
            }),
            Self::Q4_0 => quantise(values, bytes, |x, bytes| {
                // The value of the largest size becomes -8, which has no positive counterpart.
                let largest = x.iter().fold(0.0_f32, |most, &v| if v.abs() > most.abs() { v } else { most });
                let d = largest / -8.0;
                let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
                bytes.extend(f16::from_f32(d).to_le_bytes());
                pack(x, bytes, |v| f64::from(v) * f64::from(inverse) + 8.5);
                f16::from_f32(d).is_finite()
            }),
            Self::Q4_1 => quantise(values, bytes, |x, bytes| {
                let (least, most) = x.iter().fold((x[0], x[0]), |(l, m), &v| (l.min(v), m.max(v)));
                let d = (most - least) / 15.0;
                let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
                bytes.extend(f16::from_f32(d).to_le_bytes());
                bytes.extend(f16::from_f32(least).to_le_bytes());
                pack(x, bytes, |v| f64::from((v - least) * inverse + 0.5));
                f16::from_f32(d).is_finite() && f16::from_f32(least).is_finite()
            }),
            Self::Other(_) => false,
        }
    }
}

fn each<const N: usize>(bytes: &[u8], values: &mut [f32], number: impl Fn(&[u8; N]) -> f32) {
    values.iter_mut().zip(bytes.as_chunks().0).for_each(|(v, b)| *v = number(b));
}

fn blocks<const N: usize>(bytes: &[u8], values: &mut [f32], block: impl Fn(&[u8; N], &mut [f32; BLOCK])) {
    values.as_chunks_mut().0.iter_mut().zip(bytes.as_chunks().0).for_each(|(v, b)| block(b, v));
}

fn quantise(values: &[f32], bytes: &mut Vec<u8>, block: impl Fn(&[f32; BLOCK], &mut Vec<u8>) -> bool) -> bool {
    values.as_chunks().0.iter().fold(true, |fits, x| block(x, bytes) && fits)
}

fn half_at(block: &[u8], place: usize) -> f32 {
    f16::from_le_bytes([block[place], block[place + 1]]).to_f32()
}

/// Low nibbles are the first half of a block, high nibbles the second.
fn nibbles(bytes: &[u8], out: &mut [f32; BLOCK], value: impl Fn(u8) -> f32) {
    for (i, byte) in bytes.iter().enumerate() {
        out[i] = value(byte & 15);
        out[i + BLOCK / 2] = value(byte >> 4);
    }
}

fn pack(x: &[f32; BLOCK], bytes: &mut Vec<u8>, level: impl Fn(f32) -> f64) {
    let level = |v: f32| level(v).clamp(0.0, 15.0) as u8;
    bytes.extend((0..BLOCK / 2).map(|i| level(x[i]) | level(x[i + BLOCK / 2]) << 4));
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Other(Opaque { name, .. }) => name,
        })
    }
}

impl From<StorageDtype> for Element {
    fn from(dtype: StorageDtype) -> Self {
        match dtype {
            StorageDtype::F32 => Self::F32,
            StorageDtype::Bf16 => Self::Bf16,
            StorageDtype::F16 => Self::F16,
        }
    }
}
