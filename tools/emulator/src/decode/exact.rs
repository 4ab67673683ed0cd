//! Arithmetic on numbers as integers times powers of two, and their rounding to any of PTX's float formats. What the
//! processor's own arithmetic does not offer goes through here: directed rounding, and products of halves that are
//! added with one rounding.

/// A float format: bits of the fraction and of the exponent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    pub fraction: u32,
    pub exponent: u32,
}

pub(crate) const F16: Format = Format { fraction: 10, exponent: 5 };
pub(crate) const BF16: Format = Format { fraction: 7, exponent: 8 };
pub(crate) const TF32: Format = Format { fraction: 10, exponent: 8 };
pub(crate) const F32: Format = Format { fraction: 23, exponent: 8 };
pub(crate) const F64: Format = Format { fraction: 52, exponent: 11 };

/// A rounding mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// To nearest, ties to even.
    Nearest,
    /// To nearest, ties away from zero.
    Away,
    Zero,
    Down,
    Up,
}

/// A number that rounding has not touched: `significand * 2^exponent`, not quite if `sticky`, and then a little more.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Exact {
    Nan,
    Infinite { negative: bool },
    Finite { negative: bool, significand: u128, exponent: i32, sticky: bool },
}

use Exact::{Finite, Infinite, Nan};

impl Exact {
    pub fn integer(negative: bool, magnitude: u128) -> Self {
        Finite { negative, significand: magnitude, exponent: 0, sticky: false }
    }

    pub fn f64(x: f64) -> Self {
        Self::of(x.to_bits(), F64)
    }

    /// The value of the bits of a format.
    pub fn of(bits: u64, format: Format) -> Self {
        let Format { fraction: width, exponent } = format;
        let negative = bits >> (width + exponent) & 1 != 0;
        let (field, fraction) = (bits >> width & ((1 << exponent) - 1), bits & ((1 << width) - 1));
        // The exponent of the last bit of subnormals, and of the normal numbers next to them.
        let least = 2 - (1i32 << (exponent - 1)) - width as i32;
        if field == (1 << exponent) - 1 {
            return if fraction == 0 { Infinite { negative } } else { Nan };
        }
        let (significand, exponent) =
            if field == 0 { (fraction, least) } else { (fraction | 1 << width, least + field as i32 - 1) };
        Finite { negative, significand: significand.into(), exponent, sticky: false }
    }

    pub fn times(self, other: Self) -> Self {
        match (self, other) {
            (Nan, _) | (_, Nan) => Nan,
            (Infinite { negative: a }, Infinite { negative: b }) => Infinite { negative: a ^ b },
            (Infinite { negative: a }, Finite { negative: b, significand, .. })
            | (Finite { negative: b, significand, .. }, Infinite { negative: a }) => {
                if significand == 0 {
                    Nan
                } else {
                    Infinite { negative: a ^ b }
                }
            }
            (
                Finite { negative: a, significand: x, exponent: i, .. },
                Finite { negative: b, significand: y, exponent: j, .. },
            ) => Finite { negative: a ^ b, significand: x * y, exponent: i + j, sticky: false },
        }
    }

    /// The sum of two numbers whose significands have at most 60 bits. A zero of cancellation is positive, or negative
    /// when rounding down, as IEEE 754 has it.
    pub fn plus(self, other: Self, rounding: Rounding) -> Self {
        let (a, b) = match (self, other) {
            (Nan, _) | (_, Nan) => return Nan,
            (Infinite { negative: a }, Infinite { negative: b }) if a != b => return Nan,
            (Infinite { .. }, _) => return self,
            (_, Infinite { .. }) => return other,
            (
                Finite { negative: a, significand: x, exponent: i, .. },
                Finite { negative: b, significand: y, exponent: j, .. },
            ) => ((a, x, i), (b, y, j)),
        };
        if a.1 == 0 && b.1 == 0 {
            let negative = if a.0 == b.0 { a.0 } else { rounding == Rounding::Down };
            return Finite { negative, significand: 0, exponent: 0, sticky: false };
        }
        if a.1 == 0 {
            return other;
        }
        if b.1 == 0 {
            return self;
        }
        // `high` has the larger top bit; it is shifted up, and the other one down if that does not reach.
        let top = |v: (bool, u128, i32)| 128 - v.1.leading_zeros() as i32 + v.2;
        let (high, low) = if top(a) >= top(b) { (a, b) } else { (b, a) };
        let up = high.1.leading_zeros() as i32 - 2;
        let (large, exponent) = (high.1 << up, high.2 - up);
        let shift = low.2 - exponent;
        let (small, sticky) = if shift >= 0 {
            (low.1 << shift, false)
        } else if shift > -128 {
            (low.1 >> -shift, low.1 & ((1 << -shift) - 1) != 0)
        } else {
            (0, true)
        };
        let (mut significand, negative) = if high.0 == low.0 {
            (large + small, high.0)
        } else if large >= small + u128::from(sticky) {
            // What is below the last bit is taken away: one less, and a little more.
            (large - small - u128::from(sticky), high.0)
        } else {
            (small - large, low.0)
        };
        if significand == 0 && !sticky {
            return Finite { negative: rounding == Rounding::Down, significand: 0, exponent: 0, sticky: false };
        }
        significand |= u128::from(significand == 0);
        Finite { negative, significand, exponent, sticky }
    }

    pub fn negated(self) -> Self {
        match self {
            Nan => Nan,
            Infinite { negative } => Infinite { negative: !negative },
            Finite { negative, significand, exponent, sticky } => {
                Finite { negative: !negative, significand, exponent, sticky }
            }
        }
    }

    /// The quotient of two numbers whose significands have at most 60 bits.
    pub fn over(self, other: Self) -> Self {
        match (self, other) {
            (Nan, _) | (_, Nan) | (Infinite { .. }, Infinite { .. }) => Nan,
            (Finite { significand: 0, .. }, Finite { significand: 0, .. }) => Nan,
            (Infinite { negative: a }, Finite { negative: b, .. })
            | (Finite { negative: a, .. }, Finite { negative: b, significand: 0, .. }) => Infinite { negative: a ^ b },
            (Finite { negative: a, .. }, Infinite { negative: b }) => Self::integer(a ^ b, 0),
            (
                Finite { negative: a, significand: x, exponent: i, .. },
                Finite { negative: b, significand: y, exponent: j, .. },
            ) => {
                let up = x.leading_zeros().min(127) as i32;
                let x = x << up;
                Finite { negative: a ^ b, significand: x / y, exponent: i - up - j, sticky: !x.is_multiple_of(y) }
            }
        }
    }

    pub fn square_root(self) -> Self {
        match self {
            Finite { significand: 0, .. } | Infinite { negative: false } => self,
            Nan | Infinite { .. } | Finite { negative: true, .. } => Nan,
            Finite { significand, exponent, .. } => {
                let up = (significand.leading_zeros() as i32 - 1) & !1;
                let up = if (exponent - up) % 2 == 0 { up } else { up - 1 };
                let square = if up >= 0 { significand << up } else { significand >> -up };
                let root = square.isqrt();
                Finite {
                    negative: false,
                    significand: root,
                    exponent: (exponent - up) / 2,
                    sticky: root * root != square,
                }
            }
        }
    }

    /// The bits of the nearest number of a format, by a rounding mode. A NaN is the one that GPUs make: all ones but
    /// for the sign.
    pub fn round(self, format: Format, rounding: Rounding) -> u64 {
        let Format { fraction, exponent: width } = format;
        let sign = |negative: bool| u64::from(negative) << (fraction + width);
        let infinity = ((1u64 << width) - 1) << fraction;
        match self {
            Nan => infinity | ((1 << fraction) - 1),
            Infinite { negative } => sign(negative) | infinity,
            Finite { negative, significand: 0, .. } => sign(negative),
            Finite { negative, significand, exponent, sticky } => {
                let bias = (1 << (width - 1)) - 1;
                let top = 127 - significand.leading_zeros() as i32 + exponent;
                // The weight of the last bit that the format keeps: subnormals keep fewer.
                let last = top.max(1 - bias) - fraction as i32;
                let shift = last - exponent;
                let (kept, half, rest) = if shift <= 0 {
                    (significand << -shift, false, sticky)
                } else if shift > 128 {
                    (0, false, true)
                } else {
                    let kept = if shift == 128 { 0 } else { significand >> shift };
                    let half = significand >> (shift - 1) & 1 != 0;
                    (kept, half, significand & ((1u128 << (shift - 1)) - 1) != 0 || sticky)
                };
                let up = match rounding {
                    Rounding::Nearest => half && (rest || kept & 1 != 0),
                    Rounding::Away => half,
                    Rounding::Zero => false,
                    Rounding::Down => negative && (half || rest),
                    Rounding::Up => !negative && (half || rest),
                };
                let kept = kept as u64 + u64::from(up);
                // A carry out of the fraction raises the exponent by itself.
                let field = (last + fraction as i32 - 1 + bias) as u64;
                let bits = if kept >> fraction == 0 { kept } else { (field << fraction) + kept };
                if bits < infinity {
                    return sign(negative) | bits;
                }
                let toward_zero = match rounding {
                    Rounding::Nearest | Rounding::Away => false,
                    Rounding::Zero => true,
                    Rounding::Down => !negative,
                    Rounding::Up => negative,
                };
                sign(negative) | if toward_zero { infinity - 1 } else { infinity }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The processor's own conversions are an independent statement of rounding to nearest.
    #[test]
    fn rounding_to_nearest_is_the_processor_s() {
        let mut state = 1u64;
        for _ in 0..200_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let narrow = f32::from_bits((state >> 32) as u32);
            let x = if state & 1 == 0 { f64::from_bits(state ^ state >> 7) } else { f64::from(narrow) };
            let wide = x * 1.000_000_1;
            let rounded = f32::from_bits(Exact::f64(wide).round(F32, Rounding::Nearest) as u32);
            assert!(rounded.to_bits() == (wide as f32).to_bits() || wide.is_nan() && rounded.is_nan(), "{wide:e}");
            let half = half::f16::from_f32(narrow).to_bits();
            let rounded = Exact::f64(narrow.into()).round(F16, Rounding::Nearest) as u16;
            assert!(rounded == half || narrow.is_nan() && rounded & 0x7c00 == 0x7c00, "{narrow:e}");
            let back = Exact::of(u64::from(rounded), F16);
            let value = half::f16::from_bits(rounded).to_f64();
            assert!(back.round(F64, Rounding::Zero) == value.to_bits() || back == Nan && value.is_nan());
        }
    }

    #[test]
    fn sums_products_quotients_and_roots_round_once() {
        let mut state = 7u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f32::from_bits((state >> 32) as u32)
        };
        let same = |exact: Exact, native: f32| {
            let rounded = f32::from_bits(exact.round(F32, Rounding::Nearest) as u32);
            rounded.to_bits() == native.to_bits() || rounded.is_nan() && native.is_nan()
        };
        for _ in 0..200_000 {
            let (x, y, z) = (draw(), draw(), draw());
            let near = f32::from_bits(x.to_bits() ^ (y.to_bits() & 0x8000_ffff));
            let [a, b, c, n] = [x, y, z, near].map(|v| Exact::f64(v.into()));
            assert!(same(a.times(b), x * y), "{x:e} * {y:e}");
            assert!(same(a.plus(b, Rounding::Nearest), x + y), "{x:e} + {y:e}");
            assert!(same(a.plus(n, Rounding::Nearest), x + near), "{x:e} + {near:e}");
            assert!(same(a.over(b), x / y), "{x:e} / {y:e}");
            assert!(same(a.square_root(), x.sqrt()), "sqrt {x:e}");
            assert!(same(a.times(b).plus(c, Rounding::Nearest), x.mul_add(y, z)), "{x:e} * {y:e} + {z:e}");
            let below = f32::from_bits(a.times(b).round(F32, Rounding::Down) as u32);
            let above = f32::from_bits(a.times(b).round(F32, Rounding::Up) as u32);
            let product = f64::from(x) * f64::from(y);
            assert!(product.is_nan() || f64::from(below) <= product && product <= f64::from(above), "{x:e} * {y:e}");
        }
    }
}
