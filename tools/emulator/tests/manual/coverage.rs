//! Every form of every instruction that is decoded is executed with an expected value: here what the other modules
//! leave out, and the comparison with the decoder's table.

use super::conversions::{BF16, F16, Format, float_to};
use super::*;
use emulator::{Fault, forms};
use std::cmp::Ordering;

/// An integer type: its name, its bits, and whether it has a sign.
type Integer = (&'static str, u32, bool);

/// A float type: its name, its bits, and the value of a pattern.
type Float = (&'static str, u32, fn(u64) -> f64);

const INTEGERS: [Integer; 6] = [
    ("u16", 16, false),
    ("s16", 16, true),
    ("u32", 32, false),
    ("s32", 32, true),
    ("u64", 64, false),
    ("s64", 64, true),
];

/// The types of one register each, with the bits of it.
const MOVED: [(&str, u32); 11] = [
    ("b16", 16),
    ("b32", 32),
    ("b64", 64),
    ("u16", 16),
    ("u32", 32),
    ("u64", 64),
    ("s16", 16),
    ("s32", 32),
    ("s64", 64),
    ("f32", 32),
    ("f64", 64),
];

fn mask(bits: u32) -> u64 {
    u64::MAX >> (64 - bits)
}

/// The value of the low bits of an operand.
fn value(x: u64, (_, bits, signed): Integer) -> i128 {
    let shift = 64 - bits;
    if signed { ((x << shift) as i64 >> shift).into() } else { (x << shift >> shift).into() }
}

fn file(bits: u32) -> char {
    match bits {
        64 => 'q',
        16 => 'h',
        _ => 'r',
    }
}

/// Brings a result of so many bits to `%q4`.
fn widened(bits: u32) -> &'static str {
    match bits {
        64 => "",
        16 => "cvt.u64.u16 %q4, %h4;",
        _ => "cvt.u64.u32 %q4, %r4;",
    }
}

/// An instruction on registers of so many bits, whose result has some too.
#[track_caller]
fn bits(op: &str, from: u32, to: u32, sources: usize, expected: impl Fn(u64, u64, u64) -> u64) {
    let operands: String = (1..=sources).map(|n| format!(", %{}{n}", file(from))).collect();
    let body = format!("{op} %{}4{operands}; {}", file(to), widened(to));
    check(&body, |a, b, c| expected(a & mask(from), b & mask(from), c & mask(from)) & mask(to), |x, y| x == y);
}

/// An instruction on integers of one type, by whole numbers.
#[track_caller]
fn whole(op: &str, ty: Integer, sources: usize, f: impl Fn(i128, i128, i128) -> i128) {
    bits(&format!("{op}.{}", ty.0), ty.1, ty.1, sources, |a, b, c| f(value(a, ty), value(b, ty), value(c, ty)) as u64);
}

fn integers() {
    for ty @ (name, width, signed) in INTEGERS {
        // The low bits of a product of 64-bit numbers do not need the bits that an i128 loses.
        let high = |a: i128, b: i128| {
            if width < 64 || signed { (a * b) >> width } else { ((a as u128 * b as u128) >> width) as i128 }
        };
        whole("add", ty, 2, |a, b, _| a + b);
        whole("sub", ty, 2, |a, b, _| a - b);
        whole("mul.lo", ty, 2, |a, b, _| a.wrapping_mul(b));
        whole("mul.hi", ty, 2, |a, b, _| high(a, b));
        whole("mad.lo", ty, 3, |a, b, c| a.wrapping_mul(b).wrapping_add(c));
        whole("mad.hi", ty, 3, |a, b, c| high(a, b) + c);
        whole("min", ty, 2, |a, b, _| a.min(b));
        whole("max", ty, 2, |a, b, _| a.max(b));
        // What a division by zero gives is left open by the manual.
        whole("div", ty, 2, |a, b, _| a.checked_div(b).unwrap_or(-1));
        whole("rem", ty, 2, |a, b, _| a.checked_rem(b).unwrap_or(a));
        whole("sad", ty, 3, |a, b, c| (a - b).abs() + c);
        if signed {
            whole("neg", ty, 1, |a, _, _| -a);
            whole("abs", ty, 1, |a, _, _| a.abs());
        }
        if width < 64 {
            let (from, to) = (file(width), file(2 * width));
            let wide = |x: u64| value(x, ("", 2 * width, signed));
            let body = format!("mul.wide.{name} %{to}4, %{from}1, %{from}2; {}", widened(2 * width));
            check(&body, |a, b, _| (value(a, ty) * value(b, ty)) as u64 & mask(2 * width), |x, y| x == y);
            let body = format!("mad.wide.{name} %{to}4, %{from}1, %{from}2, %{to}3; {}", widened(2 * width));
            check(&body, |a, b, c| (value(a, ty) * value(b, ty) + wide(c)) as u64 & mask(2 * width), |x, y| x == y);
        }
        let f = file(width);
        let shift = |op: &str, g: &dyn Fn(u64, u32) -> i128| {
            let body = format!("{op} %{f}4, %{f}1, %r2; {}", widened(width));
            check(&body, |a, n, _| g(a, n as u32) as u64 & mask(width), |x, y| x == y);
        };
        shift(&format!("shr.{name}"), &|a, n| value(a, ty) >> n.min(127));
        if !signed {
            shift(&format!("shr.b{width}"), &|a, n| value(a, ty) >> n.min(127));
            shift(&format!("shl.b{width}"), &|a, n| if n < width { value(a, ty) << n } else { 0 });
            bits(&format!("and.b{width}"), width, width, 2, |a, b, _| a & b);
            bits(&format!("or.b{width}"), width, width, 2, |a, b, _| a | b);
            bits(&format!("xor.b{width}"), width, width, 2, |a, b, _| a ^ b);
            bits(&format!("not.b{width}"), width, width, 1, |a, _, _| !a);
            bits(&format!("cnot.b{width}"), width, width, 1, |a, _, _| u64::from(a == 0));
        }
        if width > 16 {
            let highest = |a: u64| (0..width).rev().find(|n| a >> n & 1 != u64::from(signed) & a >> (width - 1));
            bits(&format!("bfind.{name}"), width, 32, 1, |a, _, _| highest(a).map_or(u64::MAX, u64::from));
            let amount = |a: u64| highest(a).map_or(u64::MAX, |n| u64::from(width - 1 - n));
            bits(&format!("bfind.shiftamt.{name}"), width, 32, 1, |a, _, _| amount(a));
        }
    }
    let low = |a: u32, n: u32| if n > 31 { a } else { a & ((1 << n) - 1) };
    word("szext.clamp.u32", 2, |a, n, _| low(a, n));
    word("szext.wrap.u32", 2, |a, n, _| low(a, n & 31));
    let extended = |a: u32, n: u32| match n {
        0 => 0,
        1..=31 if a >> (n - 1) & 1 != 0 => low(a, n) | u32::MAX << n,
        _ => low(a, n),
    };
    word("szext.clamp.s32", 2, extended_by(extended, false));
    word("szext.wrap.s32", 2, extended_by(extended, true));
}

fn extended_by(f: impl Fn(u32, u32) -> u32, wrap: bool) -> impl Fn(u32, u32, u32) -> u32 {
    move |a, n, _| f(a, if wrap { n & 31 } else { n.min(32) })
}

/// How a comparison turns out, given the order of its operands; none where one is a NaN.
fn holds(name: &str, order: Option<Ordering>) -> bool {
    use Ordering::{Equal, Greater, Less};
    let (plain, unordered) = match name {
        "num" => return order.is_some(),
        "nan" => return order.is_none(),
        "lo" => ("lt", false),
        "ls" => ("le", false),
        "hi" => ("gt", false),
        "hs" => ("ge", false),
        _ if name.len() == 3 => (&name[..2], true),
        _ => (name, false),
    };
    let Some(order) = order else { return unordered };
    match plain {
        "eq" => order == Equal,
        "ne" => order != Equal,
        "lt" => order == Less,
        "le" => order != Greater,
        "gt" => order == Greater,
        _ => order != Less,
    }
}

fn comparisons() {
    let signed = ["eq", "ne", "lt", "le", "gt", "ge"];
    let unsigned = ["eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"];
    let floats = ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"];
    let both = |op: &str, ty: &str, name: &str, width: u32, order: &dyn Fn(u64, u64) -> Option<Ordering>| {
        held(&format!("{op}.{name}.{ty}"), file(width), |a, b| holds(name, order(a, b)));
        let f = file(width);
        for (result, yes) in [("u32", 0xffff_ffff), ("s32", 0xffff_ffff), ("f32", 0x3f80_0000u64)] {
            let body = format!("set.{name}.{result}.{ty} %r4, %{f}1, %{f}2; cvt.u64.u32 %q4, %r4;");
            check(&body, |a, b, _| if holds(name, order(a, b)) { yes } else { 0 }, |x, y| x == y);
        }
    };
    for ty @ (name, width, is_signed) in INTEGERS {
        for comparison in if is_signed { &signed[..] } else { &unsigned } {
            both("setp", name, comparison, width, &|a, b| Some(value(a, ty).cmp(&value(b, ty))));
        }
        if !is_signed {
            for comparison in ["eq", "ne"] {
                let same = |a: u64, b: u64| Some((a & mask(width)).cmp(&(b & mask(width))));
                both("setp", &format!("b{width}"), comparison, width, &same);
            }
        }
    }
    let formats: [Float; 4] = [
        ("f32", 32, |b| f32::from_bits(b as u32).into()),
        ("f64", 64, f64::from_bits),
        ("f16", 16, F16.1),
        ("bf16", 16, BF16.1),
    ];
    for (name, width, read) in formats {
        for comparison in floats {
            let order = |a: u64, b: u64| read(a & mask(width)).partial_cmp(&read(b & mask(width)));
            both("setp", name, comparison, width, &order);
        }
    }
    for kind in ["finite", "infinite", "number", "notanumber", "normal", "subnormal"] {
        let is = |x: f64, least: f64| match kind {
            "finite" => x.is_finite(),
            "infinite" => x.is_infinite(),
            "number" => !x.is_nan(),
            "notanumber" => x.is_nan(),
            "normal" => x.is_finite() && x.abs() >= least,
            _ => x != 0.0 && x.abs() < least,
        };
        check(
            &format!("testp.{kind}.f32 %p1, %r1; selp.u64 %q4, 1, 0, %p1;"),
            |a, _, _| is(f32::from_bits(a as u32).into(), f32::MIN_POSITIVE.into()).into(),
            |x, y| x == y,
        );
        check(
            &format!("testp.{kind}.f64 %p1, %q1; selp.u64 %q4, 1, 0, %p1;"),
            |a, _, _| is(f64::from_bits(a), f64::MIN_POSITIVE).into(),
            |x, y| x == y,
        );
    }
}

fn moves() {
    for (ty, width) in MOVED {
        let f = file(width);
        bits(&format!("mov.{ty}"), width, width, 1, |a, _, _| a);
        let body = format!("setp.lt.u32 %p1, %r2, %r3; selp.{ty} %{f}4, %{f}1, %{f}2, %p1; {}", widened(width));
        check(&body, |a, b, c| if (b as u32) < c as u32 { a } else { b } & mask(width), |x, y| x == y);
        for by in ["s32", "f32"] {
            let body = format!("slct.{ty}.{by} %{f}4, %{f}1, %{f}2, %r3; {}", widened(width));
            let first = |c: u64| match by {
                "s32" => c as i32 >= 0,
                _ => f32::from_bits(c as u32) >= 0.0,
            };
            check(&body, |a, b, c| if first(c) { a } else { b } & mask(width), |x, y| x == y);
        }
    }
    check(
        "setp.lt.u32 %p1, %r1, %r2; mov.pred %p2, %p1; selp.u64 %q4, 1, 0, %p2;",
        |a, b, _| u64::from((a as u32) < b as u32),
        |x, y| x == y,
    );
}

/// The smaller or greater of two: a NaN counts for nothing, or wins; -0 is less than +0.
fn extreme(greatest: bool, nan_wins: bool, a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() {
        return if nan_wins || a.is_nan() && b.is_nan() {
            f64::NAN
        } else if a.is_nan() {
            b
        } else {
            a
        };
    }
    if (a.total_cmp(&b) == Ordering::Greater) == greatest { a } else { b }
}

/// An operation on halves by f64, in which it is exact or as good as that, and one rounding.
fn half(op: &str, format: Format, sources: usize, units: u64, f: impl Fn(f64, f64, f64) -> f64) {
    let wanted = |x: [u64; 3]| {
        let [a, b, c] = x.map(|x| format.1(x & 0xffff));
        float_to(format, "rn", f(a, b, c))
    };
    let near = |found: u64, wanted: Option<u64>| match wanted {
        None => format.1(found).is_nan(),
        Some(wanted) => found == wanted || found.abs_diff(wanted) <= units && (found ^ wanted) >> 15 == 0,
    };
    let operands = |file: char| (1..=sources).map(|n| format!(", %{file}{n}")).collect::<String>();
    let body = format!("{op}.{} %h4{}; cvt.u64.u16 %q4, %h4;", format.0, operands('h'));
    let (triples, found) = results(&body);
    for (x, found) in triples.into_iter().zip(found) {
        assert!(near(found, wanted(x)), "`{body}` of {x:x?} gives {found:#x}, not {:x?}", wanted(x));
    }
    let body = format!("{op}.{}x2 %r4{}; cvt.u64.u32 %q4, %r4;", format.0, operands('r'));
    let (triples, found) = results(&body);
    for (x, found) in triples.into_iter().zip(found) {
        let (low, high) = (wanted(x), wanted(x.map(|x| x >> 16)));
        let both = near(found & 0xffff, low) && near(found >> 16, high);
        assert!(both, "`{body}` of {x:x?} gives {found:#x}, not {high:x?} and {low:x?}");
    }
}

fn halves() {
    for format in [F16, BF16] {
        half("add", format, 2, 0, |a, b, _| a + b);
        half("sub", format, 2, 0, |a, b, _| a - b);
        half("mul", format, 2, 0, |a, b, _| a * b);
        half("min", format, 2, 0, |a, b, _| extreme(false, false, a, b));
        half("max", format, 2, 0, |a, b, _| extreme(true, false, a, b));
        half("min.NaN", format, 2, 0, |a, b, _| extreme(false, true, a, b));
        half("max.NaN", format, 2, 0, |a, b, _| extreme(true, true, a, b));
        half("neg", format, 1, 0, |a, _, _| -a);
        half("abs", format, 1, 0, |a, _, _| a.abs());
        half(if format.0 == "f16" { "ex2.approx" } else { "ex2.approx.ftz" }, format, 1, 1, |a, _, _| a.exp2());
        half("tanh.approx", format, 1, 1, |a, _, _| a.tanh());
        // A sum that f64 cannot hold is settled by its sign: twice rounded it may be one unit off, which is told apart
        // in `rounding`.
        half("fma.rn", format, 3, 1, |a, b, c| a * b + c);
    }
}

fn floats() {
    float("min.f32", 2, |a, b, _| extreme(false, false, a.into(), b.into()) as f32);
    float("max.f32", 2, |a, b, _| extreme(true, false, a.into(), b.into()) as f32);
    float("max.NaN.f32", 2, |a, b, _| extreme(true, true, a.into(), b.into()) as f32);
    float("mad.rn.f32", 3, |a, b, c| a.mul_add(b, c));
    double("min.f64", 2, |a, b, _| extreme(false, false, a, b));
    double("max.f64", 2, |a, b, _| extreme(true, false, a, b));
    double("copysign.f64", 2, |a, b, _| f64::from_bits(b.to_bits() << 1 >> 1 | a.to_bits() >> 63 << 63));
    double("mad.rn.f64", 3, |a, b, c| a.mul_add(b, c));
    double("rcp.rn.f64", 1, |a, _, _| 1.0 / a);
    double("rsqrt.approx.f64", 1, |a, _, _| 1.0 / a.sqrt());
    // `.ftz` flushes what goes in and what comes out; a flag on one instruction says nothing of the next.
    let flush = |x: f32| if x.is_subnormal() { 0f32.copysign(x) } else { x };
    float("sub.ftz.f32", 2, |a, b, _| flush(flush(a) - flush(b)));
    float("fma.rn.ftz.f32", 3, |a, b, c| flush(flush(a).mul_add(flush(b), flush(c))));
    float("min.ftz.f32", 2, |a, b, _| flush(extreme(false, false, flush(a).into(), flush(b).into()) as f32));
    float("div.rn.ftz.f32", 2, |a, b, _| flush(flush(a) / flush(b)));
    float("sqrt.rn.ftz.f32", 1, |a, _, _| flush(flush(a).sqrt()));
    float("abs.ftz.f32", 1, |a, _, _| flush(a.abs()));
    float("neg.ftz.f32", 1, |a, _, _| flush(f32::from_bits(a.to_bits() ^ 1 << 31)));
    let body = "mul.ftz.f32 %r5, %r1, %r2; add.f32 %r4, %r5, %r3; cvt.u64.u32 %q4, %r4;";
    let f = |v: u64| f32::from_bits(v as u32);
    check(
        body,
        |a, b, c| (flush(flush(f(a)) * flush(f(b))) + f(c)).to_bits().into(),
        |x, y| x == y || f(x).is_nan() && f(y).is_nan(),
    );
    // The upper 32 bits alone, and 20 bits of the fraction of the result, of which the last may be off by one.
    let upper = |x: u64| f64::from_bits(x >> 32 << 32);
    let flush = |x: f64| if x.is_subnormal() { 0f64.copysign(x) } else { x };
    for (op, g) in [("rcp", (|x| 1.0 / x) as fn(f64) -> f64), ("rsqrt", |x| 1.0 / x.sqrt())] {
        let (triples, found) = results(&format!("{op}.approx.ftz.f64 %q4, %q1;"));
        for ([x, ..], found) in triples.into_iter().zip(found) {
            let wanted = flush(g(flush(upper(x))));
            let near = if f64::from_bits(x).is_nan() || wanted.is_nan() {
                f64::from_bits(found).is_nan()
            } else {
                (found >> 32).abs_diff(wanted.to_bits() >> 32) <= 1
            };
            assert!(near && found as u32 == 0, "{op}.approx.ftz.f64 of {x:#x} gives {found:#x}, not {wanted:e}");
        }
    }
}

/// What each lane of a warp stores at its word of the output.
fn lanes(body: &str, expected: impl Fn(u32) -> u32) {
    warps::each(body, expected);
}

fn across_lanes() {
    lanes("elect.sync %r2|%p1, -1; selp.u32 %r3, 100, 0, %p1; add.u32 %r2, %r2, %r3; st.global.u32 [%q1], %r2;", |l| {
        if l == 0 { 100 } else { 0 }
    });
    let some = "setp.ge.u32 %p2, %r1, 20; @!%p2 bra END; elect.sync %r2|%p1, 0xfff00000;
        selp.u32 %r3, 100, 0, %p1; add.u32 %r2, %r2, %r3; st.global.u32 [%q1], %r2; END:";
    lanes(some, |l| match l {
        20 => 120,
        21.. => 20,
        _ => 0,
    });
    // Odd lanes hold the NaNs of lane 5 and 9, both zeros, and numbers of both signs.
    let number = |l: u32| match l {
        5 | 9 => f32::NAN,
        6 => -0.0,
        7 => 0.0,
        _ => (l as f32 - 20.0) * if l.is_multiple_of(2) { 1.0 } else { -0.5 },
    };
    let input: Vec<u32> = (0..32).map(|l| number(l).to_bits()).collect();
    let groups = [0xffffu32, 0xff_0000, 0xff00_0000];
    for (name, greatest) in [("min", false), ("max", true)] {
        for (abs, absolute) in [("", false), (".abs", true)] {
            for (nan, nan_wins) in [("", false), (".NaN", true)] {
                let body = format!(
                    "ld.global.b32 %r4, [%q3]; setp.lt.u32 %p1, %r1, 16; setp.lt.u32 %p2, %r1, 24;
                    selp.b32 %r5, 0xff0000, 0xff000000, %p2; selp.b32 %r5, 0xffff, %r5, %p1;
                    redux.sync.{name}{abs}{nan}.f32 %r6, %r4, %r5; st.global.b32 [%q1], %r6;"
                );
                let found = warps::warp(Config::default(), &body, 1, &input);
                for (lane, found) in (0..32).zip(found) {
                    let group = groups.into_iter().find(|g| g >> lane & 1 != 0).unwrap();
                    let values = (0..32).filter(|l| group >> l & 1 != 0).map(number);
                    let values = values.map(|x| f64::from(if absolute { x.abs() } else { x }));
                    let wanted = values.reduce(|a, b| extreme(greatest, nan_wins, a, b)).unwrap() as f32;
                    let wanted = if wanted.is_nan() { 0x7fff_ffff } else { wanted.to_bits() };
                    assert_eq!(found, wanted, "{name}{abs}{nan} of lane {lane}");
                }
            }
        }
    }
    let wide = "cvt.u64.u32 %q4, %r1; shr.u64 %q4, %q4, 3; mul.lo.u64 %q4, %q4, 0x100000000;";
    let any = format!("{wide} match.any.sync.b64 %r3, %q4, -1; st.global.u32 [%q1], %r3;");
    lanes(&any, |l| 0xff << (l / 8 * 8));
    let all = format!(
        "{wide} match.all.sync.b64 %r3|%p1, %q4, -1; mov.u64 %q5, 9; match.all.sync.b64 %r4|%p2, %q5, -1;
        selp.u32 %r5, 1, 0, %p1; selp.u32 %r6, 2, 0, %p2; add.u32 %r3, %r3, %r5; add.u32 %r3, %r3, %r6;
        and.b32 %r4, %r4, 0x10; add.u32 %r3, %r3, %r4; st.global.u32 [%q1], %r3;"
    );
    lanes(&all, |_| 18);
    for bar in ["bar", "barrier"] {
        let body = format!(
            "setp.lt.u32 %p1, %r1, 7; {bar}.red.popc.u32 %r2, 1, %p1; {bar}.red.or.pred %p2, 2, %p1;
            {bar}.red.and.pred %p3, 3, 32, %p1; selp.u32 %r3, 100, 0, %p2; selp.u32 %r4, 1000, 0, %p3;
            add.u32 %r2, %r2, %r3; add.u32 %r2, %r2, %r4; {bar}.arrive 4, 32; {bar}.sync 0; {bar}.sync 5, 32;
            st.global.u32 [%q1], %r2;"
        );
        lanes(&body, |_| 107);
    }
    for (name, lane) in [("up", "%r2"), ("down", "%r2"), ("bfly", "%r2"), ("idx", "%r2")] {
        let body = format!(
            "mov.u32 %r2, 0; shfl.sync.{name}.b32 %r3, %r1, {lane}, {}, -1; st.global.u32 [%q1], %r3;",
            if name == "up" { 0 } else { 31 }
        );
        lanes(&body, |l| if name == "idx" { 0 } else { l });
    }
}

fn memory() {
    // Narrow values are extended as their types say, through memory of three spaces and in vectors of two.
    let types = [
        ("b8", 8),
        ("u8", 8),
        ("s8", 8),
        ("b16", 16),
        ("u16", 16),
        ("s16", 16),
        ("b32", 32),
        ("u32", 32),
        ("s32", 32),
        ("b64", 64),
        ("u64", 64),
        ("s64", 64),
        ("f32", 32),
        ("f64", 64),
    ];
    for (ty, width) in types {
        let extended = |l: u32| {
            let x = (u64::from(l).wrapping_mul(0x0123_4567_89ab_cdef)) & mask(width);
            if ty.starts_with('s') { value(x, ("", width, true)) as u64 } else { x }
        };
        let f = if width == 64 { 'q' } else { 'r' };
        let narrow = if width == 64 { "" } else { "cvt.u32.u64 %r4, %q4;" };
        let back = if width == 64 {
            "shr.u64 %q6, %q5, 32; cvt.u32.u64 %r6, %q5; cvt.u32.u64 %r7, %q6;"
        } else {
            "mov.u32 %r6, %r5; mov.u32 %r7, 0;"
        };
        for (space, place) in [("shared", "%r9"), ("local", "%q9"), ("global", "%q1"), ("", "%q1")] {
            let dot = if space.is_empty() { "" } else { "." };
            let body = format!(
                ".local .align 16 .b8 depot[32]; mov.u32 %r9, s; mad.lo.u32 %r9, %r1, 32, %r9; mov.u64 %q9, depot;
                cvt.u64.u32 %q4, %r1; mul.lo.u64 %q4, %q4, 0x0123456789abcdef; {narrow}
                st{dot}{space}.{ty} [{place}], %{f}4; ld{dot}{space}.{ty} %{f}5, [{place}];
                st{dot}{space}.v2.{ty} [{place}+16], {{%{f}5, %{f}5}}; ld{dot}{space}.v2.{ty} {{%{f}4, %{f}5}}, [{place}+16];
                {back} st.global.v2.u32 [%q1], {{%r6, %r7}};"
            );
            let found = warps::warp(Config::default(), &body, 8, &[]);
            for lane in 0..32u32 {
                let words = &found[8 * lane as usize..];
                let found = u64::from(words[0]) | if width == 64 { u64::from(words[1]) << 32 } else { 0 };
                let wanted = extended(lane) & mask(width.max(32));
                assert_eq!(found, wanted, "{space}.{ty} of lane {lane}");
            }
        }
        let low = if width == 64 { "cvt.u32.u64 %r6, %q5;" } else { "mov.u32 %r6, %r5;" };
        let body = format!(
            "st.global.b64 [%q1], 0x7b; ldu.global.{ty} %{f}5, [%q1]; {low} st.global.v2.u32 [%q1], {{%r6, %r6}};"
        );
        assert_eq!(warps::warp(Config::default(), &body, 2, &[]), [0x7b; 64], "ldu.{ty}");
    }
}

/// Operands and results of an atomic operation: the old value and the new.
fn atomics() {
    type Update = Box<dyn Fn(u64, u64) -> u64>;
    let f = |b: u64| f32::from_bits(b as u32);
    let mut cases: Vec<(String, u32, Update)> = Vec::new();
    for ty @ (name, width, signed) in INTEGERS.into_iter().filter(|ty| ty.1 > 16) {
        cases.push((format!("add.{name}"), width, Box::new(|a, b| a.wrapping_add(b))));
        cases.push((format!("min.{name}"), width, Box::new(move |a, b| value(a, ty).min(value(b, ty)) as u64)));
        cases.push((format!("max.{name}"), width, Box::new(move |a, b| value(a, ty).max(value(b, ty)) as u64)));
        if !signed {
            cases.push((format!("and.b{width}"), width, Box::new(|a, b| a & b)));
            cases.push((format!("or.b{width}"), width, Box::new(|a, b| a | b)));
            cases.push((format!("xor.b{width}"), width, Box::new(|a, b| a ^ b)));
            cases.push((format!("exch.b{width}"), width, Box::new(|_, b| b)));
        }
    }
    cases.push(("inc.u32".into(), 32, Box::new(|a, b| if a >= b { 0 } else { a + 1 })));
    cases.push(("dec.u32".into(), 32, Box::new(|a, b| if a == 0 || a > b { b } else { a - 1 })));
    cases.push(("add.f32".into(), 32, Box::new(move |a, b| (f(a) + f(b)).to_bits().into())));
    cases.push(("add.f64".into(), 64, Box::new(|a, b| (f64::from_bits(a) + f64::from_bits(b)).to_bits())));
    for format in [F16, BF16] {
        let sum = move |a: u64, b: u64| float_to(format, "rn", format.1(a & 0xffff) + format.1(b & 0xffff)).unwrap();
        cases.push((format!("add.noftz.{}", format.0), 16, Box::new(sum)));
        let pair = move |a: u64, b: u64| sum(a, b) | sum(a >> 16, b >> 16) << 16;
        cases.push((format!("add.noftz.{}x2", format.0), 32, Box::new(pair)));
    }
    // Operands without NaNs: 1.5 and -2.25 and the like in every format, which are integers as well.
    let operands: Vec<[u64; 2]> = (0..32u64)
        .map(|l| [0x3fc0_3e00_3fc0_3e00 ^ (l << 48) ^ (l << 16), 0x4010_c480_c010_4480 ^ (l % 5) << 62 ^ l << 20])
        .collect();
    let input: Vec<u32> = operands.iter().flatten().flat_map(|&x| [x as u32, (x >> 32) as u32]).collect();
    for (op, width, update) in cases {
        let r = file(width);
        for name in ["atom", "red"] {
            if name == "red" && op.starts_with("exch") {
                continue;
            }
            let old = if name == "atom" { format!("%{r}6, ") } else { String::new() };
            let narrow = match width {
                64 => "mov.u64 %q5, %q7; mov.u64 %q6, 0;",
                32 => "cvt.u32.u64 %r5, %q7; mov.u32 %r6, 0;",
                _ => "cvt.u16.u64 %h5, %q7; mov.u16 %h6, 0;",
            };
            let body = format!(
                "ld.global.v2.b64 {{%q4, %q7}}, [%q3]; st.global.b64 [%q1], %q4; {narrow}
                {name}.global.{op} {old}[%q1], %{r}5; st.global.b{width} [%q1+8], %{r}6;"
            );
            let found = warps::warp(Config::default(), &body, 4, &input);
            for (lane, [a, b]) in operands.iter().enumerate() {
                let two = |at: usize| u64::from(found[4 * lane + at]) | u64::from(found[4 * lane + at + 1]) << 32;
                let wanted = update(a & mask(width), b & mask(width)) & mask(width);
                assert_eq!(two(0) & mask(width), wanted, "{name}.{op} of {a:#x} and {b:#x}");
                let wanted = if name == "atom" { a & mask(width) } else { 0 };
                assert_eq!(two(2) & mask(width), wanted, "what {name}.{op} found");
            }
        }
    }
    for (ty, width) in [("b16", 16), ("b32", 32), ("u32", 32), ("s32", 32), ("b64", 64), ("u64", 64), ("s64", 64)] {
        let r = file(width);
        let from = if width == 16 {
            "cvt.u16.u32 %h5, %r1;".into()
        } else if width == 32 {
            "mov.u32 %r5, %r1;".into()
        } else {
            String::from("cvt.u64.u32 %q5, %r1;")
        };
        let to = if width == 16 {
            "cvt.u32.u16 %r6, %h6;"
        } else if width == 64 {
            "cvt.u32.u64 %r6, %q6;"
        } else {
            ""
        };
        let body = format!(
            "{from} st.global.b{width} [%q1], %{r}5; atom.global.cas.{ty} %{r}6, [%q1], 7, 100; {to}
            ld.global.b{width} %{r}5, [%q1]; st.global.b32 [%q1+4], %r6;"
        );
        let body = if width == 64 { body.replace("[%q1+4]", "[%q1+8]") } else { body };
        let words = 4;
        let found = warps::warp(Config::default(), &body, words, &[]);
        for lane in 0..32 {
            let new = if lane == 7 { 100 } else { lane as u32 };
            let at = words * lane;
            assert_eq!((found[at], found[at + if width == 64 { 2 } else { 1 }]), (new, lane as u32), "cas.{ty}");
        }
    }
}

fn spaces_copies_and_order() {
    for space in ["global", "shared", "local", "const", "param"] {
        // Into the generic space and out of it again, and whether an address is one of the space.
        let body = format!(
            "mov.u64 %q4, 512; cvta.{space}.u64 %q5, %q4; cvta.to.{space}.u64 %q6, %q5; isspacep.{space} %p1, %q5;
            sub.u64 %q6, %q6, %q4; cvt.u32.u64 %r2, %q6; selp.u32 %r3, 1, 0, %p1; add.u32 %r2, %r2, %r3;
            st.global.u32 [%q1], %r2;"
        );
        lanes(&body, |_| 1);
    }
    for fence in ["sc.gpu", "acq_rel.cta", "acquire.sys", "release.cluster"] {
        lanes(&format!("fence.{fence}; st.global.u32 [%q1], 5;"), |_| 5);
    }
    for what in [
        "membar.cta;",
        "membar.gl;",
        "membar.sys;",
        "prefetch.global.L1 [%q1];",
        "prefetchu.L1 [%q1];",
        "pmevent 1;",
        "applypriority.global.L2::evict_normal [%q1], 128;",
        "nanosleep.u32 %r1;",
        "discard.global.L2 [%q1], 128;",
    ] {
        lanes(&format!("{what} st.global.u32 [%q1], 6;"), |_| 6);
    }
    let input: Vec<u32> = (0..128).collect();
    for (form, bytes) in [("ca", 4), ("ca", 8), ("ca", 16), ("cg", 16)] {
        for wait in ["cp.async.wait_all;", "cp.async.commit_group; cp.async.wait_group 0;"] {
            let body = format!(
                "mov.u32 %r9, s; mad.lo.u32 %r9, %r1, 16, %r9; cp.async.{form}.shared.global [%r9], [%q3], {bytes};
                {wait} ld.shared.u32 %r2, [%r9+{}]; st.global.u32 [%q1], %r2;",
                bytes - 4
            );
            let found = warps::warp(Config::default(), &body, 1, &input);
            let wanted: Vec<u32> = (0..32).map(|l| 4 * l + bytes / 4 - 1).collect();
            assert_eq!(found, wanted, "{form} {bytes}");
        }
    }
    lanes("ld.param.u64 %q4, [out]; sub.u64 %q4, %q1, %q4; cvt.u32.u64 %r2, %q4; st.global.u32 [%q1], %r2;", |l| 4 * l);
    let vectors = "st.global.v8.b32 [%q1], {%r1, 1, 2, 3, 4, 5, 6, 7}; st.global.v4.u16 [%q1], {1, 2, 3, 4};
        ld.global.v8.b32 {%r2, %r3, %r4, %r5, %r6, %r7, %r8, %r9}, [%q1]; ld.global.v4.u16 {%h1, %h2, %h3, %h4}, [%q1];
        add.u32 %r2, %r9, %r3; st.global.u32 [%q1], %r2;";
    let found = warps::warp(Config::default(), vectors, 8, &[]);
    assert_eq!(found[..8], [7 + 0x4_0003, 0x4_0003, 2, 3, 4, 5, 6, 7]);
    for (count, trans) in [(1, ""), (2, ""), (4, ""), (1, ".trans"), (2, ".trans"), (4, ".trans")] {
        // Matrix m lies in rows of 16 bytes from lane 8 m on; element (row, column) is 64 m + 8 row + column.
        let list = (10..10 + count).map(|n| format!("%r{n}")).collect::<Vec<_>>().join(", ");
        let last = 9 + count;
        let body = format!(
            "mov.u32 %r2, s; mad.lo.u32 %r3, %r1, 16, %r2; shl.b32 %r4, %r1, 3;
            mad.lo.u32 %r5, %r4, 0x10001, 0x10000; add.u32 %r6, %r5, 0x20002; add.u32 %r7, %r5, 0x40004;
            add.u32 %r8, %r5, 0x60006; st.shared.v4.u32 [%r3], {{%r5, %r6, %r7, %r8}}; bar.warp.sync -1;
            ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{list}}}, [%r3]; st.global.u32 [%q1], %r{last};"
        );
        lanes(&body, |l| {
            let (m, row, column) = (count as u32 - 1, l / 4, l % 4 * 2);
            let at = |row: u32, column: u32| 64 * m + 8 * row + column;
            if trans.is_empty() {
                at(row, column) | at(row, column + 1) << 16
            } else {
                at(column, row) | at(column + 1, row) << 16
            }
        });
    }
}

fn ends() {
    for (stop, fault) in [("trap;", Some(Fault::Trap)), ("brkpt;", Some(Fault::Trap)), ("exit;", None), ("ret;", None)]
    {
        let ptx = format!(".version 7.8 .target sm_80 .address_size 64 .visible .entry k() {{ {stop} }}");
        let device = &mut Device::new(Config::default());
        let kernel = device.load(&ptx).and_then(|m| m.kernel("k")).unwrap();
        let report = device.launch(&kernel, [1; 3], [32, 1, 1], 0, &[]).unwrap();
        assert_eq!(report.findings.first().map(|f| f.fault), fault, "{stop}");
        record(&report);
    }
    let ptx = ".version 7.8 .target sm_80 .address_size 64
        .const .b32 c = 77;
        .func (.param .b32 r) f (.param .b32 x) {
            .reg .b32 %r<4>; ld.param.b32 %r1, [x]; ld.const.b32 %r2, [c]; add.u32 %r1, %r1, %r2; st.param.b32 [r], %r1;
            ret;
        }
        .visible .entry k(.param .u64 out) {
            .reg .b64 %q<4>; .reg .b32 %r<4>; .param .b32 a; .param .b32 b;
            ld.param.u64 %q1, [out]; st.param.b32 [a], 5; call.uni (b), f, (a); ld.param.b32 %r1, [b];
            st.global.b32 [%q1], %r1; ret;
        }";
    let mut device = Device::new(Config::default());
    let kernel = device.load(ptx).and_then(|m| m.kernel("k")).unwrap_or_else(|e| panic!("{e}"));
    let out = device.memory.allocate(4).unwrap();
    let report = device.launch(&kernel, [1; 3], [1; 3], 0, &[&out.to_le_bytes()]).unwrap();
    assert_eq!(report.findings, []);
    let mut bytes = [0; 4];
    device.memory.read(out, &mut bytes).unwrap();
    assert_eq!(bytes, 82u32.to_le_bytes());
    record(&report);
}

/// Whether an opcode is of a form: it has its suffixes in their order, with others between.
fn is_of(opcode: &str, form: &str) -> bool {
    let mut suffixes = opcode.split('.');
    form.split('.')
        .enumerate()
        .all(|(n, wanted)| if n == 0 { suffixes.next() == Some(wanted) } else { suffixes.any(|s| s == wanted) })
}

#[test]
fn every_form_that_is_decoded_is_executed() {
    integers();
    comparisons();
    moves();
    halves();
    floats();
    across_lanes();
    memory();
    atomics();
    spaces_copies_and_order();
    ends();
    super::integers::all();
    super::choices::all();
    super::floats::all();
    super::conversions::all();
    super::warps::all();
    super::rounding::all();
    let executed = EXECUTED.lock().unwrap();
    let all = forms();
    let missing: Vec<&String> = all.iter().filter(|form| !executed.iter().any(|opcode| is_of(opcode, form))).collect();
    assert!(
        missing.is_empty(),
        "{} forms without a case:\n{}",
        missing.len(),
        missing.iter().map(|form| form.as_str()).collect::<Vec<_>>().join("\n")
    );
    // And the table is whole: there is nothing that is executed and in no form of it.
    let unknown: Vec<&String> = executed.iter().filter(|opcode| !all.iter().any(|form| is_of(opcode, form))).collect();
    assert!(unknown.is_empty(), "the table of forms leaves out {unknown:?}");
}
