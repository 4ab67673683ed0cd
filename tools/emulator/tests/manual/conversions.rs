//! `cvt` at the ends of the ranges of its types, against the number line: the two neighbours of a value are found by
//! searching the bit patterns of the format, and the rounding mode chooses between them.

use super::{edges, results_on};
use half::{bf16, f16};
use std::cmp::Ordering::{self, Equal, Greater, Less};

/// A float format: its name, the value of a pattern, and the pattern of infinity.
pub(super) type Format = (&'static str, fn(u64) -> f64, u64);

pub(super) const F16: Format = ("f16", |b| f16::from_bits(b as u16).to_f64(), 0x7c00);
pub(super) const BF16: Format = ("bf16", |b| bf16::from_bits(b as u16).to_f64(), 0x7f80);
const F32: Format = ("f32", |b| f32::from_bits(b as u32).into(), 0x7f80_0000);
const F64: Format = ("f64", f64::from_bits, 0x7ff << 52);

/// A rounding to a whole number.
type Whole = fn(f64) -> f64;

/// The pattern of a magnitude. `compare` says how it lies to a number, `middle` to the middle of two.
fn rounded(
    (_, value, infinity): Format,
    mode: &str,
    negative: bool,
    compare: impl Fn(f64) -> Ordering,
    middle: impl Fn(f64, f64) -> Ordering,
) -> u64 {
    let (mut low, mut high) = (0, infinity);
    while high - low > 1 {
        let between = low + (high - low) / 2;
        if compare(value(between)) == Less { high = between } else { low = between }
    }
    if compare(value(low)) == Equal {
        return low;
    }
    // What lies behind the largest number is judged as if the format had one more.
    let next = if high == infinity { value(low) + (value(low) - value(low - 1)) } else { value(high) };
    let up = match (mode, middle(value(low), next)) {
        ("rn", Equal) => low & 1 != 0,
        ("rn", side) => side == Greater,
        ("rz", _) => false,
        ("rm", _) => negative,
        _ => !negative,
    };
    if up { high } else { low }
}

/// A float to a format, NaN as none.
pub(super) fn float_to(format: Format, mode: &str, x: f64) -> Option<u64> {
    let magnitude = x.abs();
    let to_bits = |bits: u64| bits | if x.is_sign_negative() { (format.2 << 1) & !format.2 } else { 0 };
    if x.is_nan() {
        return None;
    }
    if magnitude == f64::INFINITY {
        return Some(to_bits(format.2));
    }
    // Both differences are exact, or one of them is so much the larger that it does not matter.
    let order = |a: f64, b: f64| a.total_cmp(&b);
    let bits =
        rounded(format, mode, x < 0.0, |v| order(magnitude, v), |low, high| order(magnitude - low, high - magnitude));
    Some(to_bits(bits))
}

/// An integer to a format.
fn integer_to(format: Format, mode: &str, x: i128) -> u64 {
    let magnitude = x.unsigned_abs();
    let whole = |v: f64| v as u128;
    let bits = rounded(
        format,
        mode,
        x < 0,
        |v| magnitude.cmp(&whole(v)).then(if v > v.floor() { Less } else { Equal }),
        |low, high| (2 * magnitude).cmp(&(whole(low) + whole(high))),
    );
    bits | if x < 0 { (format.2 << 1) & !format.2 } else { 0 }
}

/// The float in the low bits of an operand.
fn read(format: Format, bits: u64) -> f64 {
    format.1(bits & (format.2 << 1 | ((format.2 << 1) - 1)))
}

fn register(bits: u32, number: u32) -> String {
    format!(
        "%{}{number}",
        if bits == 64 {
            'q'
        } else if bits == 16 {
            'h'
        } else {
            'r'
        }
    )
}

/// Brings the result of so many bits to `%q4`.
fn result(bits: u32) -> &'static str {
    match bits {
        64 => "",
        16 => "cvt.u64.u16 %q4, %h4;",
        _ => "cvt.u64.u32 %q4, %r4;",
    }
}

fn width(format: Format) -> u32 {
    match format.0 {
        "f64" => 64,
        "f32" => 32,
        _ => 16,
    }
}

fn is_nan(format: Format, bits: u64) -> bool {
    format.1(bits).is_nan()
}

#[test]
fn floats_to_floats() {
    let all = [F64, F32, F16, BF16];
    for (from, to) in all.into_iter().flat_map(|from| all.map(|to| (from, to))) {
        // The two formats of 16 bits hold numbers that the other one does not.
        let narrower = width(to) < width(from) || width(to) == width(from) && from.0 != to.0;
        for mode in if narrower { &["rn", "rz", "rm", "rp"][..] } else { &[""] } {
            let dot = if narrower { "." } else { "" };
            let (a, d) = (register(width(from), 1), register(width(to), 4));
            let body = format!("cvt{dot}{mode}.{}.{} {d}, {a}; {}", to.0, from.0, result(width(to)));
            let (triples, found) = results_on(&body, edges(), false);
            for ([x, ..], found) in triples.into_iter().zip(found) {
                let value = read(from, x);
                let same = match float_to(to, mode, value) {
                    Some(wanted) => found == wanted,
                    None => is_nan(to, found),
                };
                assert!(same, "`{body}` of {value:e} ({x:#x}) gives {found:#x}, not {:x?}", float_to(to, mode, value));
            }
        }
    }
}

#[test]
fn saturated_and_flushed_floats() {
    for (from, to, flush) in [(F64, F32, true), (F32, F32, true), (F64, F32, false), (F32, F16, false)] {
        let (ftz, mode) = (if flush { ".ftz" } else { "" }, if width(from) > width(to) { ".rn" } else { "" });
        let (a, d) = (register(width(from), 1), register(width(to), 4));
        let body = format!("cvt{mode}{ftz}.sat.{}.{} {d}, {a}; {}", to.0, from.0, result(width(to)));
        let (triples, found) = results_on(&body, edges(), false);
        for ([x, ..], found) in triples.into_iter().zip(found) {
            let value = read(from, x);
            let clamped = if value > 0.0 { value.min(1.0) } else { 0.0 };
            let clamped =
                if flush && from.0 == "f32" && clamped < f64::from(f32::MIN_POSITIVE) { 0.0 } else { clamped };
            let wanted = float_to(to, "rn", clamped).unwrap();
            let wanted = if flush && wanted < 0x80_0000 { 0 } else { wanted };
            assert_eq!(found, wanted, "`{body}` of {value:e}");
        }
    }
}

#[test]
fn floats_to_integers() {
    let modes: [(&str, Whole); 4] =
        [("rni", f64::round_ties_even), ("rzi", f64::trunc), ("rmi", f64::floor), ("rpi", f64::ceil)];
    for from in [F64, F32, F16, BF16] {
        for (to, bits) in
            [("s8", 8), ("u8", 8), ("s16", 16), ("u16", 16), ("s32", 32), ("u32", 32), ("s64", 64), ("u64", 64)]
        {
            let signed = to.starts_with('s');
            for (mode, whole) in modes {
                let (a, d) = (register(width(from), 1), register(if bits == 64 { 64 } else { 32 }, 4));
                let body = format!("cvt.{mode}.{to}.{} {d}, {a}; {}", from.0, result(if bits == 64 { 64 } else { 32 }));
                let (triples, found) = results_on(&body, edges(), false);
                for ([x, ..], found) in triples.into_iter().zip(found) {
                    let value = read(from, x);
                    // The manual: NaN is 0, or the top bit alone if either type has 64 bits.
                    let wanted = if value.is_nan() {
                        if from.0 == "f64" || bits == 64 { 1 << (bits - 1) } else { 0 }
                    } else if signed {
                        let most = (1i128 << (bits - 1)) - 1;
                        i128::from(whole(value) as i64).clamp(-most - 1, most) as u64
                    } else {
                        u128::from(whole(value) as u64).min((1 << bits) - 1) as u64
                    };
                    let mask = u64::MAX >> (64 - bits);
                    assert_eq!(found & mask, wanted & mask, "`{body}` of {value:e} ({x:#x})");
                }
            }
        }
    }
}

#[test]
fn integers_to_floats() {
    for to in [F64, F32, F16, BF16] {
        for (from, bits) in
            [("s8", 8), ("u8", 8), ("s16", 16), ("u16", 16), ("s32", 32), ("u32", 32), ("s64", 64), ("u64", 64)]
        {
            for mode in ["rn", "rz", "rm", "rp"] {
                let (a, d) = (register(if bits == 64 { 64 } else { 32 }, 1), register(width(to), 4));
                let body = format!("cvt.{mode}.{}.{from} {d}, {a}; {}", to.0, result(width(to)));
                let (triples, found) = results_on(&body, edges(), false);
                for ([x, ..], found) in triples.into_iter().zip(found) {
                    let shift = 64 - bits;
                    let value: i128 = if from.starts_with('s') {
                        ((x << shift) as i64 >> shift).into()
                    } else {
                        (x << shift >> shift).into()
                    };
                    assert_eq!(found, integer_to(to, mode, value), "`{body}` of {value}");
                }
            }
        }
    }
}

#[test]
fn integers_to_integers() {
    let types = [("s8", 8), ("u8", 8), ("s16", 16), ("u16", 16), ("s32", 32), ("u32", 32), ("s64", 64), ("u64", 64)];
    for (from, from_bits) in types {
        for (to, bits) in types {
            for sat in ["", ".sat"] {
                let wide = |bits: u32| if bits == 64 { 64 } else { 32 };
                let (a, d) = (register(wide(from_bits), 1), register(wide(bits), 4));
                let body = format!("cvt{sat}.{to}.{from} {d}, {a}; {}", result(wide(bits)));
                let (triples, found) = results_on(&body, edges(), false);
                for ([x, ..], found) in triples.into_iter().zip(found) {
                    let shift = 64 - from_bits;
                    let value: i128 = if from.starts_with('s') {
                        ((x << shift) as i64 >> shift).into()
                    } else {
                        (x << shift >> shift).into()
                    };
                    let (least, most) = if to.starts_with('s') {
                        (-1i128 << (bits - 1), (1 << (bits - 1)) - 1)
                    } else {
                        (0, (1 << bits) - 1)
                    };
                    let wanted = if sat.is_empty() { value } else { value.clamp(least, most) } as u64;
                    let mask = u64::MAX >> (64 - bits);
                    assert_eq!(found & mask, wanted & mask, "`{body}` of {value}");
                }
            }
        }
    }
}

/// All of these, for the sake of what they execute.
pub(super) fn all() {
    floats_to_floats();
    saturated_and_flushed_floats();
    floats_to_integers();
    integers_to_floats();
    integers_to_integers();
}
