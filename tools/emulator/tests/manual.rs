//! Every instruction on registers against the PTX manual: random operands and edge values go through a kernel of one
//! instruction, and through a statement of the manual's in plain Rust.

use emulator::{Config, Device};

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
    let mut device = Device::new(Config { perturb: false, ..Config::default() });
    let module = device.load(&ptx).unwrap_or_else(|e| panic!("{e}\n{ptx}"));
    let kernel = module.kernel("k").unwrap_or_else(|e| panic!("{e}"));
    let mut state = 1;
    let triples: Vec<[u64; 3]> =
        (0..COUNT as u64).map(|n| [n, n / 5, n / 25].map(|kind| operand(&mut state, kind))).collect();
    let bytes: Vec<u8> = triples.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
    let (input, output) = (device.memory.allocate(24 * COUNT).unwrap(), device.memory.allocate(8 * COUNT).unwrap());
    device.memory.write(input, &bytes).unwrap();
    let params: [&[u8]; 2] = [&input.to_le_bytes(), &output.to_le_bytes()];
    let report = device.launch(&kernel, [COUNT as u32 / 128, 1, 1], [128, 1, 1], 0, &params).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let mut out = vec![0; 8 * COUNT];
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
