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
