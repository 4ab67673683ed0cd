//! How files store the elements of tensors, and their conversion to and from f32.

use std::fmt;

use half::{bf16, f16};

use super::k_quants::{self, half_at};
use crate::tensor::Dtype;

/// How a file stores the elements of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// One little-endian number after the other.
    Plain(Dtype),
    /// Blocks of 32: a scale `d` as f16 and 32 signed bytes `q`; values `d q`.
    Q8_0,
    /// Blocks of 32: a scale `d` as f16 and 32 nibbles `q`; values `d (q - 8)`.
    Q4_0,
    /// Blocks of 32: a scale `d` and a minimum `m` as f16 and 32 nibbles `q`; values `d q + m`.
    Q4_1,
    /// One of ggml's K-quants, which are read and not written.
    K(KQuant),
    /// A type that is known by name and size alone: it can be listed, and neither be read nor written.
    Opaque(Opaque),
}

/// A K-quant of ggml, by the bits of a level: superblocks of 256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KQuant {
    /// `Q2_K`.
    Q2,
    /// `Q3_K`.
    Q3,
    /// `Q4_K`.
    Q4,
    /// `Q5_K`.
    Q5,
    /// `Q6_K`.
    Q6,
}

impl KQuant {
    /// Bytes of a superblock.
    const fn bytes(self) -> usize {
        match self {
            Self::Q2 => 84,
            Self::Q3 => 110,
            Self::Q4 => 144,
            Self::Q5 => 176,
            Self::Q6 => 210,
        }
    }
}

/// A type of which only the size is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opaque {
    /// What its format calls it.
    pub name: &'static str,
    /// Encodings of a block.
    pub block: usize,
    /// Bits of a block.
    pub bits: usize,
}

/// Encodings of a quantised block.
const BLOCK: usize = 32;

impl Encoding {
    /// Single precision.
    pub const F32: Self = Self::Plain(Dtype::F32);
    /// bfloat16.
    pub const BF16: Self = Self::Plain(Dtype::Bf16);
    /// Half precision.
    pub const F16: Self = Self::Plain(Dtype::F16);
    /// What the formats call the types that can be read.
    pub const READABLE: &str = "F32, BF16 and F16, and of GGUF Q8_0, Q4_0, Q4_1 and Q2_K to Q6_K";

    /// Encodings that are stored together, and their bits.
    fn block(self) -> (usize, usize) {
        match self {
            Self::Plain(dtype) => (1, 8 * dtype.size()),
            Self::Q8_0 => (BLOCK, 34 * 8),
            Self::Q4_0 => (BLOCK, 18 * 8),
            Self::Q4_1 => (BLOCK, 20 * 8),
            Self::K(kind) => (k_quants::BLOCK, kind.bytes() * 8),
            Self::Opaque(Opaque { block, bits, .. }) => (block, bits),
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
        matches!(self, Self::K(_)) || self.is_writable()
    }

    /// Whether values can be written, and so be read.
    pub fn is_writable(self) -> bool {
        match self {
            Self::Plain(dtype) => Dtype::STORED.contains(&dtype),
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 => true,
            Self::K(_) | Self::Opaque(_) => false,
        }
    }

    /// Replaces `values` by the numbers in `bytes`, which are as many.
    pub fn decode(self, bytes: &[u8], values: &mut [f32]) {
        debug_assert_eq!(self.bytes(values.len()), Some(bytes.len()));
        match self {
            Self::F32 => each(bytes, values, |b| f32::from_le_bytes(*b)),
            Self::BF16 => each(bytes, values, |b| bf16::from_le_bytes(*b).to_f32()),
            Self::F16 => each(bytes, values, |b| f16::from_le_bytes(*b).to_f32()),
            Self::Q8_0 => blocks(bytes, values, |b: &[u8; 34], out: &mut [f32; BLOCK]| {
                let d = half_at(b, 0);
                out.iter_mut().zip(&b[2..]).for_each(|(v, q)| *v = d * f32::from(*q as i8));
            }),
            Self::Q4_0 => blocks(bytes, values, |b: &[u8; 18], out: &mut [f32; BLOCK]| {
                let d = half_at(b, 0);
                nibbles(&b[2..], out, |q| d * (f32::from(q) - 8.0));
            }),
            Self::Q4_1 => blocks(bytes, values, |b: &[u8; 20], out: &mut [f32; BLOCK]| {
                let (d, m) = (half_at(b, 0), half_at(b, 2));
                nibbles(&b[4..], out, |q| d * f32::from(q) + m);
            }),
            Self::K(KQuant::Q2) => blocks(bytes, values, k_quants::q2_k),
            Self::K(KQuant::Q3) => blocks(bytes, values, k_quants::q3_k),
            Self::K(KQuant::Q4) => blocks(bytes, values, k_quants::q4_k),
            Self::K(KQuant::Q5) => blocks(bytes, values, k_quants::q5_k),
            Self::K(KQuant::Q6) => blocks(bytes, values, k_quants::q6_k),
            Self::Plain(_) | Self::Opaque(_) => values.fill(f32::NAN),
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
            Self::BF16 => {
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
            Self::Plain(_) | Self::K(_) | Self::Opaque(_) => false,
        }
    }
}

fn each<const N: usize>(bytes: &[u8], values: &mut [f32], number: impl Fn(&[u8; N]) -> f32) {
    values.iter_mut().zip(bytes.as_chunks().0).for_each(|(v, b)| *v = number(b));
}

fn blocks<const N: usize, const B: usize>(bytes: &[u8], values: &mut [f32], block: impl Fn(&[u8; N], &mut [f32; B])) {
    values.as_chunks_mut().0.iter_mut().zip(bytes.as_chunks().0).for_each(|(v, b)| block(b, v));
}

fn quantise(values: &[f32], bytes: &mut Vec<u8>, block: impl Fn(&[f32; BLOCK], &mut Vec<u8>) -> bool) -> bool {
    values.as_chunks().0.iter().all(|x| block(x, bytes))
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

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(Dtype::F64) => "F64",
            Self::Plain(Dtype::F32) => "F32",
            Self::Plain(Dtype::Bf16) => "BF16",
            Self::Plain(Dtype::F16) => "F16",
            Self::Plain(Dtype::U32) => "U32",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::K(KQuant::Q2) => "Q2_K",
            Self::K(KQuant::Q3) => "Q3_K",
            Self::K(KQuant::Q4) => "Q4_K",
            Self::K(KQuant::Q5) => "Q5_K",
            Self::K(KQuant::Q6) => "Q6_K",
            Self::Opaque(Opaque { name, .. }) => name,
        })
    }
}

impl From<Dtype> for Encoding {
    fn from(dtype: Dtype) -> Self {
        Self::Plain(dtype)
    }
}

#[cfg(test)]
mod tests {
    use approx::abs_diff_eq;
    use proptest::prelude::*;

    use super::*;

    const QUANTISED: [Encoding; 3] = [Encoding::Q8_0, Encoding::Q4_0, Encoding::Q4_1];

    #[test]
    fn blocks_are_what_their_bytes_say() {
        let half = |v: f32| f16::from_f32(v).to_le_bytes();
        let levels: Vec<u8> = (0..16).map(|i| i | (15 - i) << 4).collect();
        let low_then_high = |value: &dyn Fn(f32) -> f32| -> Vec<f32> {
            (0..16).chain((0..16).rev()).map(|level| value(level as f32)).collect()
        };
        let bytes: Vec<u8> = (0..32).map(|i| (i * 8 - 128) as i8 as u8).collect();
        for (encoding, block, expected) in [
            (Encoding::Q8_0, [&half(0.5)[..], &bytes].concat(), (0..32).map(|i| 0.5 * (i * 8 - 128) as f32).collect()),
            (Encoding::Q4_0, [&half(-2.0)[..], &levels].concat(), low_then_high(&|q| -2.0 * (q - 8.0))),
            (Encoding::Q4_1, [&half(0.25)[..], &half(3.0), &levels].concat(), low_then_high(&|q| 0.25 * q + 3.0)),
        ] {
            let mut values = vec![f32::NAN; 32];
            encoding.decode(&block, &mut values);
            assert_eq!(values, expected, "{encoding}");
        }
    }

    #[test]
    fn sizes_that_are_no_whole_blocks_are_none() {
        assert_eq!(Encoding::Q8_0.bytes(64), Some(68));
        assert_eq!(Encoding::Q8_0.bytes(33), None);
        assert_eq!(Encoding::F32.bytes(usize::MAX), None);
        assert_eq!(Encoding::F16.bytes(0), Some(0));
    }

    proptest! {
        #[test]
        fn conversion_rounds_to_nearest(value in any::<f32>()) {
            for (encoding, relative, tiny) in [
                (Encoding::F32, 0.0, 0.0),
                (Encoding::BF16, 2f64.powi(-8), 2f64.powi(-134)),
                (Encoding::F16, 2f64.powi(-11), 2f64.powi(-25)),
            ] {
                let (mut bytes, mut back) = (Vec::new(), [0.0]);
                let fits = encoding.encode(&[value], &mut bytes);
                encoding.decode(&bytes, &mut back);
                if fits && value.is_finite() {
                    let error = (f64::from(back[0]) - f64::from(value)).abs();
                    // Half a unit in the last place of the significand, or of the smallest subnormal.
                    prop_assert!(error <= (f64::from(value).abs() * relative).max(tiny), "{value} {encoding}");
                } else if value.is_finite() {
                    prop_assert!(back[0].is_infinite());
                } else {
                    prop_assert_eq!(back[0].is_nan(), value.is_nan());
                }
            }
        }

        #[test]
        fn a_block_is_off_by_a_level_at_most(values in prop::collection::vec(-100.0f32..100.0, 32), zero in any::<bool>()) {
            let values = if zero { vec![0.0; 32] } else { values };
            let spread = |values: &[f32]| values.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
            let range = values.iter().fold(f32::MIN, |m, v| m.max(*v)) - values.iter().fold(f32::MAX, |m, v| m.min(*v));
            for (encoding, level) in QUANTISED.into_iter().zip([spread(&values) / 127.0, spread(&values) / 8.0, range / 15.0]) {
                let (mut bytes, mut back) = (Vec::new(), vec![0.0; 32]);
                prop_assert!(encoding.encode(&values, &mut bytes));
                prop_assert_eq!(Some(bytes.len()), encoding.bytes(32));
                encoding.decode(&bytes, &mut back);
                // Half a level, a whole one at the end that has one level less, and what the scale itself is rounded by.
                let most = level * if encoding == Encoding::Q4_0 { 1.01 } else { 0.51 } + spread(&values) * 2e-3;
                for (a, b) in values.iter().zip(&back) {
                    prop_assert!(abs_diff_eq!(a, b, epsilon = most), "{encoding}: {a} became {b}");
                }
            }
        }
    }
}
