//! Comparisons, selections, conversions, packing.

use super::*;

#[test]
fn comparisons_and_selections() {
    use std::cmp::Ordering::{self, Equal, Greater, Less};
    let (signed, unsigned) = ("s32", "u32");
    let cases: [(&str, &[Ordering]); 6] = [
        ("eq", &[Equal]),
        ("ne", &[Less, Greater]),
        ("lt", &[Less]),
        ("le", &[Less, Equal]),
        ("gt", &[Greater]),
        ("ge", &[Greater, Equal]),
    ];
    for (name, holds) in cases {
        held(&format!("setp.{name}.{signed}"), 'r', |a, b| holds.contains(&(a as i32).cmp(&(b as i32))));
        held(&format!("setp.{name}.{unsigned}"), 'r', |a, b| holds.contains(&(a as u32).cmp(&(b as u32))));
        held(&format!("setp.{name}.s64"), 'q', |a, b| holds.contains(&(a as i64).cmp(&(b as i64))));
        held(&format!("setp.{name}.u64"), 'q', |a, b| holds.contains(&a.cmp(&b)));
        held(&format!("setp.{name}.s16"), 'h', |a, b| holds.contains(&(a as i16).cmp(&(b as i16))));
        let f = |v: u64| f32::from_bits(v as u32);
        held(&format!("setp.{name}.f32"), 'r', |a, b| f(a).partial_cmp(&f(b)).is_some_and(|o| holds.contains(&o)));
        held(&format!("setp.{name}u.f32"), 'r', |a, b| f(a).partial_cmp(&f(b)).is_none_or(|o| holds.contains(&o)));
        let d = f64::from_bits;
        held(&format!("setp.{name}.f64"), 'q', |a, b| d(a).partial_cmp(&d(b)).is_some_and(|o| holds.contains(&o)));
    }
    for (name, same_as) in [("lo", "lt"), ("ls", "le"), ("hi", "gt"), ("hs", "ge")] {
        let a = results(&format!("setp.{name}.u32 %p1, %r1, %r2; selp.u64 %q4, 1, 0, %p1;"));
        let b = results(&format!("setp.{same_as}.u32 %p1, %r1, %r2; selp.u64 %q4, 1, 0, %p1;"));
        assert_eq!(a, b);
    }
    held("setp.num.f32", 'r', |a, b| !f32::from_bits(a as u32).is_nan() && !f32::from_bits(b as u32).is_nan());
    held("setp.nan.f32", 'r', |a, b| f32::from_bits(a as u32).is_nan() || f32::from_bits(b as u32).is_nan());
    let same = |x: u64, y: u64| x == y;
    let both = "setp.lt.u32 %p1, %r2, %r3;";
    check(
        &format!(
            "{both} setp.gt.and.u32 %p2|%p3, %r1, %r2, !%p1; selp.u64 %q5, 1, 0, %p2; selp.u64 %q6, 2, 0, %p3;
                or.b64 %q4, %q5, %q6;"
        ),
        |a, b, c| {
            let (a, b, c) = (a as u32, b as u32, c as u32);
            u64::from(a > b && b >= c) | u64::from(a <= b && b >= c) << 1
        },
        same,
    );
    check(
        &format!("{both} setp.gt.or.u32 %p2, %r1, %r2, %p1; selp.u64 %q4, 1, 0, %p2;"),
        |a, b, c| u64::from(a as u32 > b as u32 || (b as u32) < c as u32),
        same,
    );
    check(
        &format!("{both} setp.gt.xor.u32 %p2, %r1, %r2, %p1; selp.u64 %q4, 1, 0, %p2;"),
        |a, b, c| u64::from((a as u32 > b as u32) != ((b as u32) < c as u32)),
        same,
    );
    check(
        "set.lt.u32.s32 %r4, %r1, %r2; cvt.u64.u32 %q4, %r4;",
        |a, b, _| if (a as i32) < b as i32 { 0xffff_ffff } else { 0 },
        same,
    );
    check(
        "set.ge.f32.u32 %r4, %r1, %r2; cvt.u64.u32 %q4, %r4;",
        |a, b, _| if a as u32 >= b as u32 { 0x3f80_0000 } else { 0 },
        same,
    );
    check(
        "slct.b32.s32 %r4, %r1, %r2, %r3; cvt.u64.u32 %q4, %r4;",
        |a, b, c| if c as i32 >= 0 { a & 0xffff_ffff } else { b & 0xffff_ffff },
        same,
    );
    for ty in ["b64", "u64", "s64", "f64"] {
        check(&format!("slct.{ty}.s32 %q4, %q1, %q2, %r3;"), |a, b, c| if c as i32 >= 0 { a } else { b }, same);
        let by_float = |a, b, c: u64| if f32::from_bits(c as u32) >= 0.0 { a } else { b };
        check(&format!("slct.{ty}.f32 %q4, %q1, %q2, %r3;"), by_float, same);
        // A negative subnormal is a zero, and that is not below zero.
        let flushed = |a, b, c: u64| {
            let c = f32::from_bits(c as u32);
            if c >= 0.0 || c.is_subnormal() { a } else { b }
        };
        let small = "or.b32 %r3, %r3, 0x80000000; and.b32 %r3, %r3, 0x807fffff;";
        check(&format!("slct.ftz.{ty}.f32 %q4, %q1, %q2, %r3;"), flushed, same);
        check(&format!("{small} slct.ftz.{ty}.f32 %q4, %q1, %q2, %r3;"), |a, _, _| a, same);
    }
    for (op, f) in [("and", (|a, b| a && b) as fn(bool, bool) -> bool), ("or", |a, b| a || b), ("xor", |a, b| a != b)] {
        check(
            &format!(
                "setp.lt.u32 %p1, %r1, %r2; setp.lt.u32 %p2, %r2, %r3; {op}.pred %p3, %p1, %p2; not.pred %p4, %p3;
                    selp.u64 %q4, 0, 1, %p4;"
            ),
            |a, b, c| u64::from(f((a as u32) < b as u32, (b as u32) < c as u32)),
            same,
        );
    }
    for (kind, f) in [
        ("finite", f32::is_finite as fn(f32) -> bool),
        ("infinite", f32::is_infinite),
        ("notanumber", f32::is_nan),
        ("normal", f32::is_normal),
        ("subnormal", f32::is_subnormal),
    ] {
        check(
            &format!("testp.{kind}.f32 %p1, %r1; selp.u64 %q4, 1, 0, %p1;"),
            |a, _, _| f(f32::from_bits(a as u32)).into(),
            same,
        );
    }
}

#[test]
fn conversions() {
    let same = |x: u64, y: u64| x == y;
    let f = |v: u64| f32::from_bits(v as u32);
    let d = f64::from_bits;
    // Integers to integers, with and without saturation.
    check("cvt.s64.s32 %q4, %r1;", |a, _, _| i64::from(a as i32) as u64, same);
    check("cvt.u32.u16 %r4, %h1; cvt.u64.u32 %q4, %r4;", |a, _, _| u64::from(a as u16), same);
    check("cvt.s32.s16 %r4, %h1; cvt.u64.u32 %q4, %r4;", |a, _, _| u64::from(i32::from(a as i16) as u32), same);
    check("cvt.s32.s8 %r4, %r1; cvt.u64.u32 %q4, %r4;", |a, _, _| u64::from(i32::from(a as i8) as u32), same);
    check("cvt.u32.u8 %r4, %h1; cvt.u64.u32 %q4, %r4;", |a, _, _| u64::from(a as u8), same);
    check("cvt.u8.u32 %r4, %r1; cvt.u64.u32 %q4, %r4;", |a, _, _| u64::from(a as u8), same);
    check("cvt.s8.s32 %r4, %r1; cvt.u64.u32 %q4, %r4;", |a, _, _| u64::from(i32::from(a as i8) as u32), same);
    check("cvt.sat.u8.s32 %r4, %r1; cvt.u64.u32 %q4, %r4;", |a, _, _| (a as i32).clamp(0, 255) as u64, same);
    check(
        "cvt.sat.s8.s32 %r4, %r1; cvt.u64.u32 %q4, %r4;",
        |a, _, _| u64::from((a as i32).clamp(-128, 127) as u32),
        same,
    );
    check(
        "cvt.sat.s32.s64 %r4, %q1; cvt.u64.u32 %q4, %r4;",
        |a, _, _| u64::from((a as i64).clamp(-(1 << 31), (1 << 31) - 1) as u32),
        same,
    );
    // Integers to floats: `as` rounds to nearest.
    check("cvt.rn.f32.s32 %r4, %r1; cvt.u64.u32 %q4, %r4;", |a, _, _| u64::from((a as i32 as f32).to_bits()), same);
    check("cvt.rn.f32.u32 %r4, %r1; cvt.u64.u32 %q4, %r4;", |a, _, _| u64::from((a as u32 as f32).to_bits()), same);
    check("cvt.rn.f32.s64 %r4, %q1; cvt.u64.u32 %q4, %r4;", |a, _, _| u64::from((a as i64 as f32).to_bits()), same);
    check("cvt.rn.f64.u64 %q4, %q1;", |a, _, _| (a as f64).to_bits(), same);
    check(
        "cvt.rz.f32.u32 %r4, %r1; cvt.u64.u32 %q4, %r4;",
        |a, _, _| {
            let (exact, near) = (f64::from(a as u32), a as u32 as f32);
            u64::from(if f64::from(near) > exact { near.next_down() } else { near }.to_bits())
        },
        same,
    );
    // Floats to integers: `as` cuts off and saturates, and makes 0 of NaN.
    check("cvt.rzi.s32.f32 %r4, %r1; cvt.u64.u32 %q4, %r4;", |a, _, _| u64::from(f(a) as i32 as u32), same);
    check("cvt.rzi.u32.f32 %r4, %r1; cvt.u64.u32 %q4, %r4;", |a, _, _| u64::from(f(a) as u32), same);
    check(
        "cvt.rni.s32.f32 %r4, %r1; cvt.u64.u32 %q4, %r4;",
        |a, _, _| u64::from(f(a).round_ties_even() as i32 as u32),
        same,
    );
    check("cvt.rmi.s32.f32 %r4, %r1; cvt.u64.u32 %q4, %r4;", |a, _, _| u64::from(f(a).floor() as i32 as u32), same);
    check("cvt.rpi.u32.f32 %r4, %r1; cvt.u64.u32 %q4, %r4;", |a, _, _| u64::from(f(a).ceil() as u32), same);
    check("cvt.rzi.s64.f64 %q4, %q1;", |a, _, _| if d(a).is_nan() { 1 << 63 } else { d(a) as i64 as u64 }, same);
    // Floats to floats.
    let nan = |x: u64, y: u64| x == y || f(x).is_nan() && f(y).is_nan();
    check(
        "cvt.rni.f32.f32 %r4, %r1; cvt.u64.u32 %q4, %r4;",
        |a, _, _| u64::from(f(a).round_ties_even().to_bits()),
        nan,
    );
    check("cvt.rmi.f32.f32 %r4, %r1; cvt.u64.u32 %q4, %r4;", |a, _, _| u64::from(f(a).floor().to_bits()), nan);
    check("cvt.rn.f32.f64 %r4, %q1; cvt.u64.u32 %q4, %r4;", |a, _, _| u64::from((d(a) as f32).to_bits()), nan);
    check(
        "cvt.f64.f32 %q4, %r1;",
        |a, _, _| f64::from(f(a)).to_bits(),
        |x, y| x == y || d(x).is_nan() && d(y).is_nan(),
    );
    check(
        "cvt.sat.f32.f32 %r4, %r1; cvt.u64.u32 %q4, %r4;",
        |a, _, _| u64::from(if f(a) > 0.0 { f(a).min(1.0) } else { 0.0 }.to_bits()),
        same,
    );
    let to = |x: f32, bits: u32| {
        // To nearest, ties to even, of the upper `bits` bits.
        let low = 32 - bits;
        let (kept, rest, half) = (x.to_bits() >> low, x.to_bits() & ((1 << low) - 1), 1 << (low - 1));
        kept + u32::from(rest > half || rest == half && kept & 1 == 1)
    };
    check(
        "cvt.rn.bf16.f32 %h4, %r1; cvt.u32.u16 %r4, %h4; cvt.u64.u32 %q4, %r4;",
        |a, _, _| {
            if f(a).is_nan() { 0x7fff } else { to(f(a), 16).into() }
        },
        same,
    );
    check(
        "cvt.rz.bf16.f32 %h4, %r1; cvt.u32.u16 %r4, %h4; cvt.u64.u32 %q4, %r4;",
        |a, _, _| {
            if f(a).is_nan() { 0x7fff } else { a >> 16 & 0xffff }
        },
        same,
    );
    check(
        "cvt.rn.relu.bf16.f32 %h4, %r1; cvt.u32.u16 %r4, %h4; cvt.u64.u32 %q4, %r4;",
        |a, _, _| {
            if f(a).is_nan() {
                0x7fff
            } else if f(a) < 0.0 || a as u32 == 1 << 31 {
                0
            } else {
                to(f(a), 16).into()
            }
        },
        same,
    );
    check(
        "cvt.rn.bf16x2.f32 %r4, %r1, %r2; cvt.u64.u32 %q4, %r4;",
        |a, b, _| {
            let one = |v: u64| if f(v).is_nan() { 0x7fff } else { to(f(v), 16) };
            u64::from(one(a) << 16 | one(b))
        },
        same,
    );
    check(
        "cvt.rn.f16x2.f32 %r4, %r1, %r2; cvt.u64.u32 %q4, %r4;",
        |a, b, _| {
            let one = |v: u64| u64::from(half::f16::from_f32(f(v)).to_bits());
            one(a) << 16 | one(b)
        },
        |x, y| {
            let one = |x: u64, y: u64| x as u16 == y as u16 || x & 0x7fff > 0x7c00 && y & 0x7fff > 0x7c00;
            one(x, y) && one(x >> 16, y >> 16)
        },
    );
    check("cvt.f32.bf16 %r4, %h1; cvt.u64.u32 %q4, %r4;", |a, _, _| (a & 0xffff) << 16, same);
    check(
        "cvt.f32.f16 %r4, %h1; cvt.u64.u32 %q4, %r4;",
        |a, _, _| u64::from(half::f16::from_bits(a as u16).to_f32().to_bits()),
        nan,
    );
    check(
        "cvt.rna.tf32.f32 %r4, %r1; cvt.u64.u32 %q4, %r4;",
        |a, _, _| {
            if f(a).is_nan() { 0x7fff_ffff } else { u64::from((a as u32).wrapping_add(0x1000) & 0xffff_e000) }
        },
        |x, y| {
            x == y || f(x).is_nan() && f(y).is_nan() || x & 0x7fff_ffff == 0x7f80_0000 && y & 0x7fff_ffff == 0x7f80_0000
        },
    );
}

#[test]
fn packing() {
    let same = |x: u64, y: u64| x == y;
    check(
        "mov.b32 {%h4, %h5}, %r1; mov.b32 %r4, {%h5, %h4}; cvt.u64.u32 %q4, %r4;",
        |a, _, _| u64::from((a as u32).rotate_left(16)),
        same,
    );
    check("mov.b64 {%r4, %r5}, %q1; mov.b64 %q4, {%r5, %r4};", |a, _, _| a.rotate_left(32), same);
    check("mov.b64 {%h4, %h5, %h6, %h7}, %q1; mov.b64 %q4, {%h7, %h4, %h5, %h6};", |a, _, _| a.rotate_left(16), same);
}

/// All of these, for the sake of what they execute.
pub(super) fn all() {
    comparisons_and_selections();
    conversions();
    packing();
}
