//! Arithmetic of integers, bits and fields of them.

use super::*;

#[test]
fn sums_differences_and_signs() {
    word("add.s32", 2, |a, b, _| a.wrapping_add(b));
    word("add.sat.s32", 2, |a, b, _| {
        (i64::from(a as i32) + i64::from(b as i32)).clamp(-(1 << 31), (1 << 31) - 1) as u32
    });
    word("sub.sat.s32", 2, |a, b, _| {
        (i64::from(a as i32) - i64::from(b as i32)).clamp(-(1 << 31), (1 << 31) - 1) as u32
    });
    word("sub.u32", 2, |a, b, _| a.wrapping_sub(b));
    long("add.s64", 2, |a, b, _| a.wrapping_add(b));
    long("sub.s64", 2, |a, b, _| a.wrapping_sub(b));
    short("add.u16", 2, |a, b, _| a.wrapping_add(b));
    short("sub.s16", 2, |a, b, _| a.wrapping_sub(b));
    word("neg.s32", 1, |a, _, _| 0u32.wrapping_sub(a));
    long("neg.s64", 1, |a, _, _| 0u64.wrapping_sub(a));
    word("abs.s32", 1, |a, _, _| i64::from(a as i32).unsigned_abs() as u32);
    long("abs.s64", 1, |a, _, _| (a as i64).unsigned_abs());
    word("sad.u32", 3, |a, b, c| c.wrapping_add((i64::from(a) - i64::from(b)).unsigned_abs() as u32));
    word("sad.s32", 3, |a, b, c| c.wrapping_add((i64::from(a as i32) - i64::from(b as i32)).unsigned_abs() as u32));
}

#[test]
fn products() {
    word("mul.lo.s32", 2, |a, b, _| (u64::from(a) * u64::from(b)) as u32);
    word("mul.hi.u32", 2, |a, b, _| ((u64::from(a) * u64::from(b)) >> 32) as u32);
    word("mul.hi.s32", 2, |a, b, _| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32);
    long("mul.lo.u64", 2, |a, b, _| (u128::from(a) * u128::from(b)) as u64);
    long("mul.hi.u64", 2, |a, b, _| ((u128::from(a) * u128::from(b)) >> 64) as u64);
    long("mul.hi.s64", 2, |a, b, _| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64);
    short("mul.lo.s16", 2, |a, b, _| (u32::from(a) * u32::from(b)) as u16);
    word("mad.lo.s32", 3, |a, b, c| (u64::from(a) * u64::from(b)).wrapping_add(c.into()) as u32);
    word("mad.hi.u32", 3, |a, b, c| (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c));
    long("mad.lo.s64", 3, |a, b, c| a.wrapping_mul(b).wrapping_add(c));
    let same = |x: u64, y: u64| x == y;
    check("mul.wide.u32 %q4, %r1, %r2;", |a, b, _| u64::from(a as u32) * u64::from(b as u32), same);
    check("mul.wide.s32 %q4, %r1, %r2;", |a, b, _| (i64::from(a as i32) * i64::from(b as i32)) as u64, same);
    check(
        "mad.wide.u32 %q4, %r1, %r2, %q3;",
        |a, b, c| (u64::from(a as u32) * u64::from(b as u32)).wrapping_add(c),
        same,
    );
    check(
        "mad.wide.s32 %q4, %r1, %r2, %q3;",
        |a, b, c| (i64::from(a as i32) * i64::from(b as i32)).wrapping_add(c as i64) as u64,
        same,
    );
    check(
        "mul.wide.u16 %r4, %h1, %h2; cvt.u64.u32 %q4, %r4;",
        |a, b, _| u64::from(a as u16) * u64::from(b as u16),
        same,
    );
    check(
        "mul.wide.s16 %r4, %h1, %h2; cvt.u64.u32 %q4, %r4;",
        |a, b, _| u64::from((i32::from(a as i16) * i32::from(b as i16)) as u32),
        same,
    );
    for (types, signs) in
        [("u32.u32", (false, false)), ("u32.s32", (false, true)), ("s32.u32", (true, false)), ("s32.s32", (true, true))]
    {
        let byte = |v: u32, n: usize, signed: bool| {
            let b = v.to_le_bytes()[n];
            if signed { i64::from(b as i8) } else { i64::from(b) }
        };
        let half = |v: u32, n: u32, signed: bool| {
            let h = (v >> (16 * n)) as u16;
            if signed { i64::from(h as i16) } else { i64::from(h) }
        };
        word(&format!("dp4a.{types}"), 3, |a, b, c| {
            (0..4).map(|n| byte(a, n, signs.0) * byte(b, n, signs.1)).sum::<i64>().wrapping_add(c.into()) as u32
        });
        for (part, first) in [("lo", 0), ("hi", 2)] {
            word(&format!("dp2a.{part}.{types}"), 3, |a, b, c| {
                (0..2)
                    .map(|n| half(a, n as u32, signs.0) * byte(b, n + first, signs.1))
                    .sum::<i64>()
                    .wrapping_add(c.into()) as u32
            });
        }
    }
}

#[test]
fn quotients_and_extremes() {
    // A division by zero is left open by the manual.
    word("div.u32", 2, |a, b, _| a.checked_div(b).unwrap_or(u32::MAX));
    word("rem.u32", 2, |a, b, _| if b == 0 { a } else { a % b });
    word("div.s32", 2, |a, b, _| if b == 0 { u32::MAX } else { (i64::from(a as i32) / i64::from(b as i32)) as u32 });
    word("rem.s32", 2, |a, b, _| if b == 0 { a } else { (i64::from(a as i32) % i64::from(b as i32)) as u32 });
    long("div.s64", 2, |a, b, _| if b == 0 { u64::MAX } else { (i128::from(a as i64) / i128::from(b as i64)) as u64 });
    long("rem.u64", 2, |a, b, _| if b == 0 { a } else { a % b });
    word("min.s32", 2, |a, b, _| if (a as i32) < b as i32 { a } else { b });
    word("max.u32", 2, |a, b, _| if a > b { a } else { b });
    long("min.u64", 2, |a, b, _| if a < b { a } else { b });
    long("max.s64", 2, |a, b, _| if a as i64 > b as i64 { a } else { b });
    short("min.s16", 2, |a, b, _| if (a as i16) < b as i16 { a } else { b });
    short("max.u16", 2, |a, b, _| if a > b { a } else { b });
}

#[test]
fn bits_and_shifts() {
    word("and.b32", 2, |a, b, _| a & b);
    word("or.b32", 2, |a, b, _| a | b);
    word("xor.b32", 2, |a, b, _| a ^ b);
    word("not.b32", 1, |a, _, _| !a);
    word("cnot.b32", 1, |a, _, _| u32::from(a == 0));
    long("and.b64", 2, |a, b, _| a & b);
    long("or.b64", 2, |a, b, _| a | b);
    long("xor.b64", 2, |a, b, _| a ^ b);
    short("not.b16", 1, |a, _, _| !a);
    word("shl.b32", 2, |a, n, _| if n > 31 { 0 } else { a << n });
    word("shr.u32", 2, |a, n, _| if n > 31 { 0 } else { a >> n });
    word("shr.s32", 2, |a, n, _| (a as i32 >> n.min(31)) as u32);
    let same = |x: u64, y: u64| x == y;
    check("shl.b64 %q4, %q1, %r2;", |a, n, _| if n as u32 > 63 { 0 } else { a << (n as u32) }, same);
    check("shr.u64 %q4, %q1, %r2;", |a, n, _| if n as u32 > 63 { 0 } else { a >> (n as u32) }, same);
    check("shr.s64 %q4, %q1, %r2;", |a, n, _| (a as i64 >> (n as u32).min(63)) as u64, same);
    let both = |a: u32, b: u32| u64::from(b) << 32 | u64::from(a);
    word("shf.l.wrap.b32", 3, |a, b, n| (both(a, b) << (n & 31) >> 32) as u32);
    word("shf.r.wrap.b32", 3, |a, b, n| (both(a, b) >> (n & 31)) as u32);
    word("shf.l.clamp.b32", 3, |a, b, n| (both(a, b) << n.min(32) >> 32) as u32);
    word("shf.r.clamp.b32", 3, |a, b, n| (both(a, b) >> n.min(32)) as u32);
    word("brev.b32", 1, |a, _, _| (0..32).fold(0, |r, n| r | (a >> n & 1) << (31 - n)));
    long("brev.b64", 1, |a, _, _| (0..64).fold(0, |r, n| r | (a >> n & 1) << (63 - n)));
    word("popc.b32", 1, |a, _, _| (0..32).map(|n| a >> n & 1).sum());
    word("clz.b32", 1, |a, _, _| (0..32).rev().take_while(|n| a >> n & 1 == 0).count() as u32);
    check("popc.b64 %r4, %q1; cvt.u64.u32 %q4, %r4;", |a, _, _| (0..64).map(|n| a >> n & 1).sum(), same);
    check(
        "clz.b64 %r4, %q1; cvt.u64.u32 %q4, %r4;",
        |a, _, _| (0..64).rev().take_while(|n| a >> n & 1 == 0).count() as u64,
        same,
    );
    word("bfind.u32", 1, |a, _, _| (0..32).rev().find(|n| a >> n & 1 != 0).unwrap_or(u32::MAX));
    word("bfind.s32", 1, |a, _, _| (0..31).rev().find(|n| a >> n & 1 != a >> 31).unwrap_or(u32::MAX));
    check(
        "lop3.b32 %r4, %r1, %r2, %r3, 0xe8; cvt.u64.u32 %q4, %r4;",
        |a, b, c| u64::from(((a & b) | (a & c) | (b & c)) as u32),
        same,
    );
    check("lop3.b32 %r4, %r1, %r2, %r3, 0x96; cvt.u64.u32 %q4, %r4;", |a, b, c| u64::from((a ^ b ^ c) as u32), same);
}

#[test]
fn fields() {
    // Bit by bit, as the manual's pseudocode has it.
    fn extract(a: u64, width: u32, start: u64, length: u64, signed: bool) -> u64 {
        let (start, length) = ((start & 255) as u32, (length & 255) as u32);
        let sign = if !signed || length == 0 { 0 } else { a >> (start + length - 1).min(width - 1) & 1 };
        (0..width).fold(0, |r, n| r | (if n < length && start + n < width { a >> (start + n) & 1 } else { sign }) << n)
    }
    word("bfe.u32", 3, |a, s, n| extract(a.into(), 32, s.into(), n.into(), false) as u32);
    word("bfe.s32", 3, |a, s, n| extract(a.into(), 32, s.into(), n.into(), true) as u32);
    let same = |x: u64, y: u64| x == y;
    check("bfe.u64 %q4, %q1, %r2, %r3;", |a, s, n| extract(a, 64, s, n, false), same);
    check("bfe.s64 %q4, %q1, %r2, %r3;", |a, s, n| extract(a, 64, s, n, true), same);
    fn insert(a: u64, b: u64, width: u32, start: u32, length: u32) -> u64 {
        let (start, length) = (start & 255, length & 255);
        (0..length).filter(|n| start + n < width).fold(b, |r, n| r & !(1 << (start + n)) | (a >> n & 1) << (start + n))
    }
    check(
        "bfi.b32 %r4, %r1, %r2, %r3, 7; cvt.u64.u32 %q4, %r4;",
        |a, b, s| insert(a, b & 0xffff_ffff, 32, s as u32, 7),
        same,
    );
    check("bfi.b64 %q4, %q1, %q2, 5, %r3;", |a, b, n| insert(a, b, 64, 5, n as u32), same);
    word("prmt.b32", 3, |a, b, c| {
        let bytes: Vec<u8> = a.to_le_bytes().into_iter().chain(b.to_le_bytes()).collect();
        u32::from_le_bytes(std::array::from_fn(|n| {
            let select = (c >> (4 * n) & 15) as usize;
            let byte = bytes[select % 8];
            if select < 8 {
                byte
            } else if byte > 127 {
                255
            } else {
                0
            }
        }))
    });
    let bytes = |a: u32, b: u32| (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    word("prmt.b32.f4e", 3, |a, b, c| u32::from_le_bytes(std::array::from_fn(|n| bytes(a, b)[n + c as usize % 4])));
    word("prmt.b32.b4e", 3, |a, b, c| {
        u32::from_le_bytes(std::array::from_fn(|n| bytes(a, b)[(8 + c as usize % 4 - n) % 8]))
    });
    word("prmt.b32.rc8", 3, |a, _, c| u32::from_le_bytes([a.to_le_bytes()[c as usize % 4]; 4]));
    word("prmt.b32.ecl", 3, |a, _, c| {
        u32::from_le_bytes(std::array::from_fn(|n| a.to_le_bytes()[n.max(c as usize % 4)]))
    });
    word("prmt.b32.ecr", 3, |a, _, c| {
        u32::from_le_bytes(std::array::from_fn(|n| a.to_le_bytes()[n.min(c as usize % 4)]))
    });
    word("prmt.b32.rc16", 3, |a, _, c| {
        u32::from_le_bytes(std::array::from_fn(|n| a.to_le_bytes()[n % 2 + 2 * (c as usize % 2)]))
    });
    word("szext.clamp.s32", 2, |a, n, _| if n > 31 { a } else { extract(a.into(), 32, 0, n.into(), true) as u32 });
    word("szext.wrap.u32", 2, |a, n, _| a & ((1u64 << (n & 31)) - 1) as u32);
}

/// All of these, for the sake of what they execute.
pub(super) fn all() {
    sums_differences_and_signs();
    products();
    quotients_and_extremes();
    bits_and_shifts();
    fields();
}
