//! Every instruction on registers against the PTX manual: random operands and edge values go through a kernel of one
//! instruction, and through a statement of the manual's in plain Rust.

mod choices;
mod conversions;
mod coverage;
mod floats;
mod integers;
mod rounding;
mod warps;

use emulator::{Config, Device, Report};
use std::collections::BTreeSet;
use std::sync::Mutex;

/// The opcodes that were executed so far.
static EXECUTED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Remembers what a launch executed.
fn record(report: &Report) {
    EXECUTED.lock().unwrap().extend(report.counters.mix.keys().cloned());
}

/// Operands of a case.
const COUNT: usize = 4096;

/// Edge values of integers and floats, and random ones near and far.
fn operand(state: &mut u64, kind: u64) -> u64 {
    let mut draw = || {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 32) ^ (*state << 21)
    };
    let edges32 = [
        0,
        1,
        2,
        31,
        32,
        33,
        63,
        64,
        255,
        0x7fff,
        0x8000,
        0xffff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0x3f80_0000,
        0xbf80_0000,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000,
        0x0000_0001,
        0x0080_0000,
        0x7f7f_ffff,
        0x3f00_0000,
        0x4b80_0000,
        0x4f00_0000,
        0xcf00_0000,
        0x4f80_0000,
        0x3fc0_0000,
        0x4020_0000,
    ];
    match kind % 5 {
        0 => edges32[draw() as usize % edges32.len()] | edges32[draw() as usize % edges32.len()] << 32,
        1 => draw() % 100,
        2 => {
            let x = ((draw() % 2_000_000) as f64 - 1e6) / 1024.0;
            u64::from((x as f32).to_bits()) | u64::from((x as f32).to_bits()) << 32
        }
        3 => {
            [0.0f64, -0.0, 1.5, -2.5, f64::NAN, f64::INFINITY, 1e300, 1e-310, 4e9, -3e9][draw() as usize % 10].to_bits()
        }
        _ => draw(),
    }
}

/// Results of an instruction on `COUNT` triples of operands: `body` computes `%q4` or `%r4` from `%q1..3` (64 bits),
/// `%r1..3` (their low 32) and `%h1..3` (their low 16).
fn results(body: &str) -> (Vec<[u64; 3]>, Vec<u64>) {
    let mut state = 1;
    let triples = (0..COUNT as u64).map(|n| [n, n / 5, n / 25].map(|kind| operand(&mut state, kind))).collect();
    results_on(body, triples, false)
}

/// The ends of the ranges of all types with their neighbours, as first operands.
fn edges() -> Vec<[u64; 3]> {
    let mut state = 5;
    // Powers of two, and the middles between the numbers of narrower formats next to them.
    let power = |n: i32| if n >= -1022 { 2f64.powi(n) } else { f64::from_bits(1 << (n + 1074)) };
    let fraction = |n: u32| 1.0 + 0.5f64.powi(n as i32);
    let doubles = (-1074..1024).step_by(29).chain(-152..-120).chain(-26..70).chain(120..130).map(power);
    let doubles = doubles
        .flat_map(|x| [x, x * fraction(11), x * fraction(8), x * fraction(24), x * 1.5, x * fraction(1) - x / 512.0]);
    let mut bits: Vec<u64> = doubles.flat_map(|x| [x.to_bits() - 1, x.to_bits(), x.to_bits() + 1]).collect();
    bits.extend(bits.clone().into_iter().map(|b| b | 1 << 63));
    let doubles = bits.clone();
    bits.extend(doubles.iter().map(|&b| u64::from((f64::from_bits(b) as f32).to_bits())));
    bits.extend((0..1 << 16).step_by(129).chain(0x7b00..0x7d00));
    let whole = (0..64).flat_map(|n| {
        [1u64 << n, (1 << n) | 1 << (n / 2), 3 << n >> 1, (1 << n) + (1 << n >> 11), (1 << n) + (1 << n >> 24)]
    });
    bits.extend(whole.flat_map(|x| [x.wrapping_sub(1), x, x.wrapping_add(1), x.wrapping_neg()]));
    bits.extend([f64::MAX, f64::INFINITY, f64::NAN, -f64::INFINITY, 65_519.999, 65_520.0].map(f64::to_bits));
    bits.extend([f32::MAX, f32::INFINITY, f32::NAN, -f32::INFINITY, 1.0, 16_777_217.0].map(|x| u64::from(x.to_bits())));
    bits.extend((0..512).map(|n| operand(&mut state, n)));
    bits.resize(bits.len().next_multiple_of(128), 0);
    bits.into_iter().map(|x| [x, 0, 0]).collect()
}

/// [`results`] on given operands, a multiple of 128 of them, with the approximate functions moved or not.
fn results_on(body: &str, triples: Vec<[u64; 3]>, perturb: bool) -> (Vec<[u64; 3]>, Vec<u64>) {
    let ptx = format!(
        ".version 7.8 .target sm_80 .address_size 64
        .visible .entry k(.param .u64 in, .param .u64 out) {{
            .reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %r<16>; .reg .b64 %q<16>;
            ld.param.u64 %q8, [in]; ld.param.u64 %q9, [out];
            mov.u32 %r8, %tid.x; mov.u32 %r9, %ctaid.x; mad.lo.s32 %r8, %r9, 128, %r8;
            mad.wide.u32 %q8, %r8, 24, %q8; mad.wide.u32 %q9, %r8, 8, %q9;
            ld.global.b64 %q1, [%q8]; ld.global.b64 %q2, [%q8+8]; ld.global.b64 %q3, [%q8+16];
            cvt.u32.u64 %r1, %q1; cvt.u32.u64 %r2, %q2; cvt.u32.u64 %r3, %q3;
            cvt.u16.u32 %h1, %r1; cvt.u16.u32 %h2, %r2; cvt.u16.u32 %h3, %r3;
            mov.u64 %q4, 0;
            {body}
            st.global.b64 [%q9], %q4; ret;
        }}"
    );
    let mut device = Device::new(Config { perturb, races: false, ..Config::default() });
    let module = device.load(&ptx).unwrap_or_else(|e| panic!("{e}\n{ptx}"));
    let kernel = module.kernel("k").unwrap_or_else(|e| panic!("{e}"));
    let count = triples.len();
    let bytes: Vec<u8> = triples.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
    let (input, output) = (device.memory.allocate(24 * count).unwrap(), device.memory.allocate(8 * count).unwrap());
    device.memory.write(input, &bytes).unwrap();
    let params: [&[u8]; 2] = [&input.to_le_bytes(), &output.to_le_bytes()];
    let report = device.launch(&kernel, [count as u32 / 128, 1, 1], [128, 1, 1], 0, &params).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    record(&report);
    let mut out = vec![0; 8 * count];
    device.memory.read(output, &mut out).unwrap();
    (triples, out.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect())
}

#[track_caller]
fn check(body: &str, expected: impl Fn(u64, u64, u64) -> u64, same: impl Fn(u64, u64) -> bool) {
    let (triples, found) = results(body);
    for ([a, b, c], found) in triples.into_iter().zip(found) {
        let wanted = expected(a, b, c);
        assert!(same(found, wanted), "`{body}` of {a:#x}, {b:#x}, {c:#x} gives {found:#x}, and not {wanted:#x}");
    }
}

/// A 32-bit instruction on `%r1`, `%r2`, `%r3`.
#[track_caller]
fn word(op: &str, sources: usize, expected: impl Fn(u32, u32, u32) -> u32) {
    let body =
        format!("{op} %r4{}; cvt.u64.u32 %q4, %r4;", (1..=sources).map(|n| format!(", %r{n}")).collect::<String>());
    check(&body, |a, b, c| expected(a as u32, b as u32, c as u32).into(), |x, y| x == y);
}

/// A 64-bit instruction.
#[track_caller]
fn long(op: &str, sources: usize, expected: impl Fn(u64, u64, u64) -> u64) {
    let body = format!("{op} %q4{};", (1..=sources).map(|n| format!(", %q{n}")).collect::<String>());
    check(&body, expected, |x, y| x == y);
}

/// A 16-bit instruction.
#[track_caller]
fn short(op: &str, sources: usize, expected: impl Fn(u16, u16, u16) -> u16) {
    let body = format!(
        "{op} %h4{}; cvt.u32.u16 %r4, %h4; cvt.u64.u32 %q4, %r4;",
        (1..=sources).map(|n| format!(", %h{n}")).collect::<String>()
    );
    check(&body, |a, b, c| expected(a as u16, b as u16, c as u16).into(), |x, y| x == y);
}

/// An f32 instruction; all NaNs are one.
#[track_caller]
fn float(op: &str, sources: usize, expected: impl Fn(f32, f32, f32) -> f32) {
    let body =
        format!("{op} %r4{}; cvt.u64.u32 %q4, %r4;", (1..=sources).map(|n| format!(", %r{n}")).collect::<String>());
    let f = |v: u64| f32::from_bits(v as u32);
    check(
        &body,
        |a, b, c| expected(f(a), f(b), f(c)).to_bits().into(),
        |x, y| x == y || f(x).is_nan() && f(y).is_nan(),
    );
}

/// An f64 instruction; all NaNs are one.
#[track_caller]
fn double(op: &str, sources: usize, expected: impl Fn(f64, f64, f64) -> f64) {
    let body = format!("{op} %q4{};", (1..=sources).map(|n| format!(", %q{n}")).collect::<String>());
    let f = f64::from_bits;
    check(&body, |a, b, c| expected(f(a), f(b), f(c)).to_bits(), |x, y| x == y || f(x).is_nan() && f(y).is_nan());
}

/// A comparison, as 1 or 0.
#[track_caller]
fn held(op: &str, file: char, expected: impl Fn(u64, u64) -> bool) {
    let body = format!("{op} %p1, %{file}1, %{file}2; selp.u64 %q4, 1, 0, %p1;");
    check(&body, |a, b, _| expected(a, b).into(), |x, y| x == y);
}
