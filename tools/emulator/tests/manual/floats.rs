//! Arithmetic of floats, approximate functions, halves.

use super::*;

#[test]
fn floats() {
    let directed = |x: f64, up: bool| {
        let near = x as f32;
        if x.is_nan() || f64::from(near) == x {
            near
        } else if up {
            if f64::from(near) > x { near } else { near.next_up() }
        } else if f64::from(near) < x {
            near
        } else {
            near.next_down()
        }
    };
    let toward_zero = |x: f64| if x > 0.0 { directed(x, false) } else { directed(x, true) };
    float("add.f32", 2, |a, b, _| a + b);
    float("sub.rn.f32", 2, |a, b, _| a - b);
    float("mul.f32", 2, |a, b, _| a * b);
    float("fma.rn.f32", 3, |a, b, c| a.mul_add(b, c));
    // The product of two f32 is exact in f64.
    float("mul.rz.f32", 2, |a, b, _| toward_zero(f64::from(a) * f64::from(b)));
    float("mul.rm.f32", 2, |a, b, _| directed(f64::from(a) * f64::from(b), false));
    float("mul.rp.f32", 2, |a, b, _| directed(f64::from(a) * f64::from(b), true));
    float("div.rn.f32", 2, |a, b, _| a / b);
    float("sqrt.rn.f32", 1, |a, _, _| a.sqrt());
    float("rcp.rn.f32", 1, |a, _, _| 1.0 / a);
    float("neg.f32", 1, |a, _, _| f32::from_bits(a.to_bits() ^ 1 << 31));
    float("abs.f32", 1, |a, _, _| a.abs());
    float("copysign.f32", 2, |a, b, _| b.copysign(a));
    let flush = |x: f32| if x.is_subnormal() { 0f32.copysign(x) } else { x };
    float("add.ftz.f32", 2, |a, b, _| flush(flush(a) + flush(b)));
    float("mul.ftz.f32", 2, |a, b, _| flush(flush(a) * flush(b)));
    let saturate = |x: f32| if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) };
    float("add.sat.f32", 2, |a, b, _| saturate(a + b) + 0.0);
    float("fma.rn.sat.f32", 3, |a, b, c| saturate(a.mul_add(b, c)) + 0.0);
    let order = |x: f32| (x.to_bits() as i32) ^ ((x.to_bits() as i32 >> 31) as u32 >> 1) as i32;
    float("min.f32", 2, |a, b, _| match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ => {
            if order(a) < order(b) {
                a
            } else {
                b
            }
        }
    });
    float("max.f32", 2, |a, b, _| match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ => {
            if order(a) > order(b) {
                a
            } else {
                b
            }
        }
    });
    float("min.NaN.f32", 2, |a, b, _| {
        if a.is_nan() || b.is_nan() {
            f32::NAN
        } else if order(a) < order(b) {
            a
        } else {
            b
        }
    });
    double("add.f64", 2, |a, b, _| a + b);
    double("sub.f64", 2, |a, b, _| a - b);
    double("mul.f64", 2, |a, b, _| a * b);
    double("fma.rn.f64", 3, |a, b, c| a.mul_add(b, c));
    double("div.rn.f64", 2, |a, b, _| a / b);
    double("sqrt.rn.f64", 1, |a, _, _| a.sqrt());
    double("neg.f64", 1, |a, _, _| -a);
    double("abs.f64", 1, |a, _, _| a.abs());
}

#[test]
fn approximate_functions_are_near() {
    // Without perturbation within one unit in the last place of the true value.
    let near = |op: &str, f: fn(f64) -> f64| {
        let body = format!("{op}.approx.f32 %r4, %r1; cvt.u64.u32 %q4, %r4;");
        let (triples, found) = results(&body);
        for ([a, ..], found) in triples.into_iter().zip(found) {
            let (x, y) = (f32::from_bits(a as u32), f32::from_bits(found as u32));
            let wanted = f(x.into()) as f32;
            let same = y == wanted || y == wanted.next_up() || y == wanted.next_down() || y.is_nan() && wanted.is_nan();
            assert!(same, "{op} of {x:e} gives {y:e}, and not {wanted:e}");
        }
    };
    near("ex2", f64::exp2);
    near("lg2", f64::log2);
    near("sin", f64::sin);
    near("cos", f64::cos);
    near("tanh", f64::tanh);
    near("rsqrt", |x| 1.0 / x.sqrt());
    near("sqrt", f64::sqrt);
    near("rcp", |x| 1.0 / x);
}

/// The most that a result may be off, from the first operand and the exact result.
type Bound<'a> = &'a dyn Fn(f64, f64) -> f64;
/// A function of one operand or two.
type Exact = fn(f64, f64) -> f64;

#[test]
fn approximate_functions_move_within_the_manual_s_bounds() {
    // The bounds as the manual states them: units in the last place, relative, or absolute.
    let unit = |y: f64| (y.abs().log2().floor().max(-126.0) - 23.0).exp2();
    let relative = |y: f64, power: f64| y.abs() * power.exp2();
    let near_one = |x: f64| x > 0.5 && x < 2.0;
    let cases: [(&str, Exact, Bound<'_>); 10] = [
        ("rcp.approx", |x, _| 1.0 / x, &|_, y| unit(y)),
        ("sqrt.approx", |x, _| x.sqrt(), &|_, y| relative(y, -23.0)),
        ("rsqrt.approx", |x, _| 1.0 / x.sqrt(), &|_, y| relative(y, -22.9)),
        ("ex2.approx", |x, _| x.exp2(), &|_, y| 2.0 * unit(y)),
        ("lg2.approx", |x, _| x.log2(), &|x, y| if near_one(x) { 0.5f64.powi(22) } else { relative(y, -22.0) }),
        ("sin.approx", |x, _| x.sin(), &|_, _| (-20.5f64).exp2()),
        ("cos.approx", |x, _| x.cos(), &|_, _| (-20.5f64).exp2()),
        ("tanh.approx", |x, _| x.tanh(), &|_, y| relative(y, -11.0)),
        ("div.approx", |x, d| x / d, &|_, y| 2.0 * unit(y)),
        ("div.full", |x, d| x / d, &|_, y| 2.0 * unit(y)),
    ];
    let mut state = 3u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // From 2^-10 to 2^10, of both signs; one in eight a power of two, where units change their size.
        let bits = (state >> 32) as u32;
        let fraction = if bits.is_multiple_of(8) { 0 } else { bits & 0x7f_ffff };
        u64::from((state >> 20) as u32 % 21 + 117) << 23 | u64::from(fraction) | u64::from(bits & 1 << 31)
    };
    let triples: Vec<[u64; 3]> = (0..16_384).map(|_| [draw(), draw(), 0]).collect();
    for (op, exact, bound) in cases {
        for ftz in ["", ".ftz"] {
            if op.starts_with("tanh") && !ftz.is_empty() {
                continue;
            }
            let second = if op.starts_with("div") { ", %r2" } else { "" };
            let body = format!("{op}{ftz}.f32 %r4, %r1{second}; cvt.u64.u32 %q4, %r4;");
            let (triples, found) = super::results_on(&body, triples.clone(), true);
            let mut moved = 0;
            for ([x, d, _], found) in triples.into_iter().zip(found) {
                let [x, d, found] = [x, d, found].map(|bits| f64::from(f32::from_bits(bits as u32)));
                let wanted = exact(x, d);
                if wanted.abs() > f64::from(f32::MAX) || wanted.abs() < f64::from(f32::MIN_POSITIVE) || wanted.is_nan()
                {
                    assert!(
                        found == f64::from(wanted as f32)
                            || found.is_nan() && wanted.is_nan()
                            || wanted.abs() < 1.2e-38
                    );
                    continue;
                }
                moved += usize::from(found != f64::from(wanted as f32));
                let bound = bound(x, wanted) * (1.0 + 1e-9);
                assert!(
                    (found - wanted).abs() <= bound,
                    "{op}{ftz} of {x:e} and {d:e} gives {found:e}, not {wanted:e}"
                );
            }
            assert!(moved > 1000, "{op}{ftz} moves {moved} results");
        }
    }
    // What `.ftz` makes a zero has the result of a zero.
    let small: Vec<[u64; 3]> = (0..128).map(|n| [n * 65_537 % 0x80_0000, 0, 0]).collect();
    for (op, wanted) in [("ex2", 1f32), ("cos", 1.0), ("sin", 0.0), ("rcp", f32::INFINITY), ("lg2", -f32::INFINITY)] {
        let (_, found) =
            super::results_on(&format!("{op}.approx.ftz.f32 %r4, %r1; cvt.u64.u32 %q4, %r4;"), small.clone(), true);
        assert!(found.iter().all(|&bits| bits == u64::from(wanted.to_bits())), "{op}.approx.ftz of a subnormal");
    }
}

#[test]
fn halves() {
    use half::{bf16, f16};
    let h = |x: u16| f64::from(f16::from_bits(x).to_f32());
    let b = |x: u16| f64::from(bf16::from_bits(x).to_f32());
    // f64 holds sums and products of halves exactly, or so nearly that f32 in between changes nothing.
    let to_f16 = |x: f64| if x.is_nan() { 0x7fff } else { f16::from_f32(x as f32).to_bits() };
    let to_bf16 = |x: f64| if x.is_nan() { 0x7fff } else { bf16::from_f32(x as f32).to_bits() };
    let nan16 = |x: u16| x & 0x7fff > 0x7c00;
    let nan = |x: u16| x & 0x7fff > 0x7f80;
    let f16s = |op: &str, f: &dyn Fn(f64, f64) -> f64| {
        let body = format!("{op}.f16 %h4, %h1, %h2; cvt.u32.u16 %r4, %h4; cvt.u64.u32 %q4, %r4;");
        check(
            &body,
            |x, y, _| to_f16(f(h(x as u16), h(y as u16))).into(),
            |x, y| x == y || nan16(x as u16) && nan16(y as u16),
        );
    };
    let bf16x2 = |op: &str, f: &dyn Fn(f64, f64) -> f64| {
        let body = format!("{op}.bf16x2 %r4, %r1, %r2; cvt.u64.u32 %q4, %r4;");
        let one = |x: u64, y: u64, n: u32| to_bf16(f(b((x >> n) as u16), b((y >> n) as u16)));
        let same = |x: u16, y: u16| x == y || nan(x) && nan(y);
        check(
            &body,
            |x, y, _| u64::from(one(x, y, 16)) << 16 | u64::from(one(x, y, 0)),
            |x, y| same(x as u16, y as u16) && same((x >> 16) as u16, (y >> 16) as u16),
        );
    };
    f16s("add", &|x, y| x + y);
    f16s("sub", &|x, y| x - y);
    f16s("mul", &|x, y| x * y);
    bf16x2("add", &|x, y| x + y);
    bf16x2("sub", &|x, y| x - y);
    bf16x2("mul", &|x, y| x * y);
    bf16x2("max", &|x, y| {
        if x.is_nan() {
            y
        } else if y.is_nan() || x > y || x == y && x.is_sign_positive() {
            x
        } else {
            y
        }
    });
    short("neg.bf16", 1, |x, _, _| x ^ 0x8000);
    short("abs.f16", 1, |x, _, _| x & 0x7fff);
}

/// All of these, for the sake of what they execute.
pub(super) fn all() {
    floats();
    approximate_functions_are_near();
    approximate_functions_move_within_the_manual_s_bounds();
    halves();
}
