//! What instructions mean for one lane, where it takes more than an expression.

/// A subnormal as a zero of its sign (`.ftz`).
#[inline(always)]
pub(crate) fn flush(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits })
}

/// The NaN that GPUs make.
pub(super) const NAN: f32 = f32::from_bits(0x7fff_ffff);

macro_rules! extremes {
    ($t:ty, $nan:expr, $min:ident, $max:ident) => {
        /// The smaller; of a number and a NaN the number, and -0 before +0.
        #[inline(always)]
        pub(super) fn $min(a: $t, b: $t) -> $t {
            let lower = if a < b || (a == b && a.is_sign_negative()) { a } else { b };
            let known = if b.is_nan() { a } else { lower };
            if a.is_nan() { if b.is_nan() { $nan } else { b } } else { known }
        }

        /// The larger; of a number and a NaN the number, and +0 before -0.
        #[inline(always)]
        pub(super) fn $max(a: $t, b: $t) -> $t {
            let higher = if a > b || (a == b && a.is_sign_positive()) { a } else { b };
            let known = if b.is_nan() { a } else { higher };
            if a.is_nan() { if b.is_nan() { $nan } else { b } } else { known }
        }
    };
}

extremes!(f32, NAN, min_f32, max_f32);
extremes!(f64, f64::NAN, min_f64, max_f64);

/// 2^x by its series: the exponent by bits, the rest by a polynomial in f64, so that the loop vectorises. The result is
/// the nearest f32 but for ties that f64 cannot see.
#[inline(always)]
pub(super) fn exp2(x: f32) -> f32 {
    // Beyond these the result is 0 or infinite; NaN passes both comparisons.
    let clamped = if x > 200.0 { 200.0 } else { x };
    let clamped = if clamped < -200.0 { -200.0 } else { clamped };
    let x = f64::from(clamped);
    // Adding 1.5 * 2^52 rounds to an integer, which then lies in the low bits.
    let shifted = x + 6_755_399_441_055_744.0;
    let whole = shifted - 6_755_399_441_055_744.0;
    let t = (x - whole) * std::f64::consts::LN_2;
    let mut sum = 1.0 / 3_628_800.0;
    for n in [362_880.0, 40_320.0, 5_040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
        sum = sum * t + 1.0 / n;
    }
    let power = f64::from_bits((shifted.to_bits().wrapping_add(1023) & 0x7ff) << 52);
    let result = (sum * power) as f32;
    if clamped.is_nan() { NAN } else { result }
}

/// `prmt` in its default mode: byte `n` of the result is chosen by four bits of `c` from the eight bytes of `b` and
/// `a`; the highest of the four bits spreads the sign of that byte instead.
#[inline(always)]
pub(super) fn permute(a: u32, b: u32, c: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let mut out = 0;
    for n in 0..4 {
        let select = c >> (4 * n) & 15;
        let byte = (bytes >> (8 * (select & 7))) as u32 & 255;
        let byte = if select & 8 != 0 { 255 * (byte >> 7) } else { byte };
        out |= byte << (8 * n);
    }
    out
}

/// `prmt` in its other modes, by the low two bits of `c`; the modes are numbered as [`PERMUTES`] names them.
pub(super) fn permute_mode(mode: usize, a: u32, b: u32, c: u32) -> u32 {
    let c = (c & 3) as usize;
    const SELECTORS: [[u32; 4]; 6] = [
        [0x3210, 0x4321, 0x5432, 0x6543],
        [0x5670, 0x6701, 0x7012, 0x0123],
        [0x0000, 0x1111, 0x2222, 0x3333],
        [0x3210, 0x3211, 0x3222, 0x3333],
        [0x0000, 0x1110, 0x2210, 0x3210],
        [0x1010, 0x3232, 0x1010, 0x3232],
    ];
    permute(a, b, SELECTORS[mode][c])
}

/// The modes of `prmt`.
pub(super) const PERMUTES: [&str; 6] = ["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"];

/// Any of the functions of three bits (`lop3`), for 32 bits at once.
#[inline(always)]
pub(super) fn lop3(a: u32, b: u32, c: u32, table: u32) -> u32 {
    let mut out = 0;
    for n in 0..8 {
        let term =
            (if n & 4 != 0 { a } else { !a }) & (if n & 2 != 0 { b } else { !b }) & (if n & 1 != 0 { c } else { !c });
        out |= term & 0u32.wrapping_sub(table >> n & 1);
    }
    out
}

/// A field of `length` bits from bit `start`, extended by its sign if it is `signed`.
#[inline(always)]
pub(super) fn extract(a: u64, width: u32, start: u32, length: u32, signed: bool) -> u64 {
    let (start, length) = (start & 255, length & 255);
    let top = if start + length < width { start + length - u32::from(length > 0) } else { width - 1 };
    let sign = signed && length > 0 && a >> top & 1 != 0;
    let field = if start < width { a >> start } else { 0 };
    let kept = if start >= width { 0 } else { length.min(width - start) };
    let low = if kept >= 64 { u64::MAX } else { (1 << kept) - 1 };
    if sign { field | !low } else { field & low }
}

/// `b` with the low `length` bits of `a` in place of its bits from `start`.
#[inline(always)]
pub(super) fn insert(a: u64, b: u64, width: u32, start: u32, length: u32) -> u64 {
    let (start, length) = (start & 255, length & 255);
    if start >= width {
        return b;
    }
    let length = length.min(width - start);
    let field = if length >= 64 { u64::MAX } else { ((1 << length) - 1) << start };
    (b & !field) | (a << start & field)
}
