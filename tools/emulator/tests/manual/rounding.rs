//! Instructions that round in a direction, approximate, or work on halves, against exact sums of whole numbers.

use emulator::{Config, Device};
use half::{bf16, f16};

/// Results of a body that computes `%r4` from `%r1`, `%r2`, `%r3`, on triples of operands.
fn results(body: &str, triples: &[[u32; 3]]) -> Vec<u32> {
    let ptx = format!(
        ".version 7.8 .target sm_80 .address_size 64
        .visible .entry k(.param .u64 in, .param .u64 out) {{
            .reg .pred %p<4>; .reg .b16 %h<8>; .reg .b32 %r<12>; .reg .b64 %q<12>;
            ld.param.u64 %q8, [in]; ld.param.u64 %q9, [out];
            mov.u32 %r8, %tid.x; mad.wide.u32 %q8, %r8, 12, %q8; mad.wide.u32 %q9, %r8, 4, %q9;
            ld.global.b32 %r1, [%q8]; ld.global.b32 %r2, [%q8+4]; ld.global.b32 %r3, [%q8+8];
            cvt.u16.u32 %h1, %r1; cvt.u16.u32 %h2, %r2; cvt.u16.u32 %h3, %r3;
            {body}
            st.global.b32 [%q9], %r4; ret;
        }}"
    );
    let mut device = Device::new(Config { perturb: false, ..Config::default() });
    let kernel = device.load(&ptx).and_then(|m| m.kernel("k")).unwrap_or_else(|e| panic!("{e}\n{ptx}"));
    let bytes: Vec<u8> = triples.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
    let (input, output) =
        (device.memory.allocate(bytes.len()).unwrap(), device.memory.allocate(bytes.len() / 3).unwrap());
    device.memory.write(input, &bytes).unwrap();
    let params: [&[u8]; 2] = [&input.to_le_bytes(), &output.to_le_bytes()];
    let report = device.launch(&kernel, [1; 3], [triples.len() as u32, 1, 1], 0, &params).unwrap();
    assert_eq!(report.findings, []);
    super::record(&report);
    let mut out = vec![0; bytes.len() / 3];
    device.memory.read(output, &mut out).unwrap();
    out.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
}

/// Random f32 whose exponents lie near each other, so that sums have something to round.
fn numbers(count: usize) -> Vec<[u32; 3]> {
    let mut state = 11u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bits = (state >> 32) as u32;
        (bits & 0x807f_ffff) | (127 - 12 + bits.rotate_left(9) % 24) << 23
    };
    (0..count).map(|_| [draw(), draw(), draw()]).collect()
}

/// Checks that a result is the neighbour of the exact value on the side of a rounding mode. `sign(y)` is the sign of
/// `exact - y`, which a whole number or a product of such can tell without rounding.
fn directed(op: &str, sources: usize, sign: impl Fn(&[f64; 3], f64) -> i32) {
    let operands: String = (1..=sources).map(|n| format!(", %r{n}")).collect();
    let triples = numbers(1024);
    for (mode, up) in [("rm", Some(false)), ("rp", Some(true)), ("rz", None)] {
        let found = results(&format!("{op}.{mode}.f32 %r4{operands};"), &triples);
        for (triple, found) in triples.iter().zip(found) {
            let mut x = triple.map(|v| f64::from(f32::from_bits(v)));
            if matches!(op, "sqrt") {
                x[0] = x[0].abs();
            }
            let y = f32::from_bits(found);
            if y.is_nan() {
                assert!(op == "sqrt" && f32::from_bits(triple[0]) < 0.0);
                continue;
            }
            // Down: y <= exact < next above. Up: next below < exact <= y. Zero: one or the other by the sign.
            let up = up.unwrap_or(y < 0.0 || y == 0.0 && y.is_sign_negative());
            let (near, far) = if up { (y.next_down(), y) } else { (y, y.next_up()) };
            let holds = if up {
                sign(&x, near.into()) > 0 && sign(&x, far.into()) <= 0
            } else {
                sign(&x, near.into()) >= 0 && sign(&x, far.into()) < 0
            };
            assert!(holds, "{op}.{mode} of {x:?} gives {y:e}");
        }
    }
}

/// The sign of a sum of products of f32, exactly: all are multiples of 2^-200 and their products of 2^-120 here.
fn sign(terms: &[(f64, f64)]) -> i32 {
    // Exponents lie within 24 of each other: in units of 2^-120 every product fits an i128 several times.
    let whole = |x: f64| (x * 2f64.powi(58)) as i128;
    terms.iter().map(|&(a, b)| whole(a) * whole(b)).sum::<i128>().signum() as i32
}

#[test]
fn results_lie_on_the_side_that_the_mode_names() {
    directed("add", 2, |x, y| sign(&[(x[0], 1.0), (x[1], 1.0), (y, -1.0)]));
    directed("sub", 2, |x, y| sign(&[(x[0], 1.0), (x[1], -1.0), (y, -1.0)]));
    directed("mul", 2, |x, y| sign(&[(x[0], x[1]), (y, -1.0)]));
    directed("fma", 3, |x, y| sign(&[(x[0], x[1]), (x[2], 1.0), (y, -1.0)]));
    directed("div", 2, |x, y| sign(&[(x[0], 1.0), (y, -x[1])]) * x[1].signum() as i32);
    directed("rcp", 1, |x, y| sign(&[(1.0, 1.0), (y, -x[0])]) * x[0].signum() as i32);
    directed("sqrt", 1, |x, y| sign(&[(x[0], 1.0), (y, -y)]));
}

#[test]
fn approximate_quotients_are_near_and_lose_large_divisors() {
    let triples = numbers(512);
    for op in ["div.approx.f32", "div.full.f32"] {
        for (triple, found) in triples.iter().zip(results(&format!("{op} %r4, %r1, %r2;"), &triples)) {
            let [a, b, _] = triple.map(f32::from_bits);
            assert!(f32::from_bits(found).to_bits().abs_diff((a / b).to_bits()) <= 2, "{op} {a:e} {b:e}");
        }
    }
    let large = [[3f32.to_bits(), 2f32.powi(127).to_bits(), 0], [f32::INFINITY.to_bits(), 2f32.powi(127).to_bits(), 0]];
    let found = results("div.approx.f32 %r4, %r1, %r2;", &large);
    assert_eq!(found[0], 0);
    assert!(f32::from_bits(found[1]).is_nan());
}

#[test]
fn halves_are_fused_with_one_rounding() {
    // Halves of few bits: products and sums of them are exact in f64, which is then rounded once.
    let triples: Vec<[u32; 3]> =
        numbers(1024).into_iter().map(|t| t.map(|v| v & 0xffff_0000 | v >> 16 & 0x3fff)).collect();
    let bf = |v: u32| bf16::from_bits(v as u16).to_f64();
    let hf = |v: u32| f16::from_bits(v as u16).to_f64();
    let nearest = |exact: f64, values: &dyn Fn(u16) -> f64, found: u16| {
        let error = |bits: u16| (values(bits) - exact).abs();
        let even = |bits: u16| bits & 1 == 0;
        [found.wrapping_sub(1), found.wrapping_add(1)].into_iter().all(|other| {
            let (own, others) = (error(found), error(other));
            !others.is_finite() || own < others || own == others && even(found)
        })
    };
    let single = "cvt.u32.u16 %r4, %h4;";
    for (op, halves) in [("fma.rn.bf16", false), ("fma.rn.f16", true)] {
        for (triple, found) in triples.iter().zip(results(&format!("{op} %h4, %h1, %h2, %h3; {single}"), &triples)) {
            let [a, b, c] = triple.map(|v| if halves { hf(v) } else { bf(v) });
            let values: &dyn Fn(u16) -> f64 = if halves { &|v| hf(v.into()) } else { &|v| bf(v.into()) };
            let found = found as u16;
            assert!(!values(found).is_finite() || nearest(a * b + c, values, found), "{op} {a:e} {b:e} {c:e}");
        }
    }
    // Pairs are two singles, and relu keeps what is positive.
    for ty in ["bf16", "f16"] {
        let pairs = results(&format!("fma.rn.{ty}x2 %r4, %r1, %r2, %r3;"), &triples);
        let low = results(&format!("fma.rn.{ty} %h4, %h1, %h2, %h3; {single}"), &triples);
        let upper: Vec<[u32; 3]> = triples.iter().map(|t| t.map(|v| v >> 16)).collect();
        let high = results(&format!("fma.rn.{ty} %h4, %h1, %h2, %h3; {single}"), &upper);
        let relu = results(&format!("fma.rn.relu.{ty} %h4, %h1, %h2, %h3; {single}"), &triples);
        for ((pair, (low, high)), relu) in pairs.iter().zip(low.iter().zip(&high)).zip(relu) {
            assert_eq!(*pair, low | high << 16);
            assert_eq!(relu, if low & 0x8000 != 0 { 0 } else { *low });
        }
    }
}

#[test]
fn approximate_functions_of_halves_are_the_nearest_halves() {
    let all: Vec<[u32; 3]> = (0..1024).map(|n| [n * 64, 0, 0]).collect();
    for (name, f) in [("ex2.approx.ftz", f64::exp2 as fn(f64) -> f64), ("tanh.approx", f64::tanh)] {
        for ([x, ..], found) in all.iter().zip(results(&format!("{name}.bf16 %h4, %h1; cvt.u32.u16 %r4, %h4;"), &all)) {
            let x = bf16::from_bits(*x as u16).to_f64();
            let wanted = bf16::from_f32(f(x) as f32);
            assert!(found as u16 == wanted.to_bits() || wanted.is_nan() && found & 0x7fff > 0x7f80, "{name} {x}");
        }
    }
}

#[test]
fn conversions_stay_finite_if_asked_to() {
    let values = [1e30f32, -1e30, 65_504.0, 65_519.0, 65_520.0, 1.0, f32::INFINITY].map(|v| [v.to_bits(), 0, 0]);
    let found = results("cvt.rn.satfinite.f16.f32 %h4, %r1; cvt.u32.u16 %r4, %h4;", &values);
    assert_eq!(found, [0x7bff, 0xfbff, 0x7bff, 0x7bff, 0x7bff, 0x3c00, 0x7bff]);
}

#[test]
fn what_only_advises_changes_nothing() {
    let body = "prefetch.global.L2 [%q8]; prefetchu.L1 [%q8]; nanosleep.u32 10; fence.acq_rel.gpu; membar.cta;
        mov.u32 %r4, %r1;";
    assert_eq!(results(body, &[[5, 6, 7]]), [5]);
}

/// All of these, for the sake of what they execute.
pub(super) fn all() {
    results_lie_on_the_side_that_the_mode_names();
    approximate_quotients_are_near_and_lose_large_divisors();
    halves_are_fused_with_one_rounding();
    approximate_functions_of_halves_are_the_nearest_halves();
    conversions_stay_finite_if_asked_to();
    what_only_advises_changes_nothing();
}
