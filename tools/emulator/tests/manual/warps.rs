//! Instructions across lanes and memory, and the products of matrices, against the PTX manual.

use emulator::{Config, Device, Fault, MmaMode};
use half::{bf16, f16};

/// Words of 32 lanes to one.
type Fold = fn(&[u32]) -> u32;
/// A vote from the lanes that hold and those of the group.
type Holds = fn(u32, u32) -> bool;
/// A form of `mma`: its name, its depth, and how an element is encoded.
type Form = (&'static str, usize, fn(f32) -> u32);

/// What `out[32 n]` holds after one warp executed a body: `%r1` is the lane, `%q1` the lane's first element of `out`.
pub(super) fn warp(config: Config, body: &str, words: usize, input: &[u32]) -> Vec<u32> {
    let ptx = format!(
        ".version 7.8 .target sm_80 .address_size 64
        .visible .entry k(.param .u64 out, .param .u64 in) {{
            .reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %r<64>; .reg .b64 %q<16>; .reg .f32 %f<32>;
            .shared .align 16 .b8 s[4096];
            ld.param.u64 %q1, [out]; ld.param.u64 %q2, [in];
            mov.u32 %r1, %laneid; mad.wide.u32 %q1, %r1, {}, %q1; mad.wide.u32 %q3, %r1, {}, %q2;
            {body}
            ret;
        }}",
        4 * words,
        4 * (input.len() / 32).max(1),
    );
    let mut device = Device::new(config);
    let kernel = device.load(&ptx).and_then(|m| m.kernel("k")).unwrap_or_else(|e| panic!("{e}\n{ptx}"));
    let out = device.memory.allocate(128 * words).unwrap();
    let bytes: Vec<u8> = input.iter().flat_map(|v| v.to_le_bytes()).chain([0; 4]).collect();
    let from = device.memory.allocate(bytes.len()).unwrap();
    device.memory.write(from, &bytes).unwrap();
    device.memory.write(out, &vec![0; 128 * words]).unwrap();
    let params: [&[u8]; 2] = [&out.to_le_bytes(), &from.to_le_bytes()];
    let report = device.launch(&kernel, [1; 3], [32, 1, 1], 0, &params).unwrap();
    assert_eq!(report.findings, [], "{body}");
    super::record(&report);
    let mut bytes = vec![0; 128 * words];
    device.memory.read(out, &mut bytes).unwrap();
    bytes.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
}

fn lanes(body: &str) -> Vec<u32> {
    warp(Config::default(), body, 1, &[])
}

#[track_caller]
pub(super) fn each(body: &str, expected: impl Fn(u32) -> u32) {
    assert_eq!(lanes(body), (0..32).map(expected).collect::<Vec<_>>(), "{body}");
}

#[test]
fn shuffles() {
    // The value is 100 + lane; where the source is out of range the lane keeps its own, and the predicate is false.
    let body = |mode: &str, b: &str, c: &str| {
        format!(
            "add.u32 %r2, %r1, 100; shfl.sync.{mode}.b32 %r3|%p1, %r2, {b}, {c}, -1;
            selp.u32 %r4, 1000, 0, %p1; add.u32 %r3, %r3, %r4; st.global.u32 [%q1], %r3;"
        )
    };
    each(&body("up", "3", "0"), |l| if l >= 3 { 1097 + l } else { 100 + l });
    each(&body("down", "5", "31"), |l| if l + 5 < 32 { 1105 + l } else { 100 + l });
    each(&body("bfly", "6", "31"), |l| 1100 + (l ^ 6));
    each(&body("idx", "9", "31"), |_| 1109);
    // Segments of eight lanes: the mask 0x18 in bits 8 to 12.
    each(&body("up", "2", "0x1800"), |l| if l % 8 >= 2 { 1098 + l } else { 100 + l });
    each(&body("down", "2", "0x181f"), |l| if l % 8 < 6 { 1102 + l } else { 100 + l });
    each(&body("idx", "3", "0x181f"), |l| 1103 + l / 8 * 8);
}

#[test]
fn votes_matches_and_reductions() {
    each("setp.lt.u32 %p1, %r1, 5; vote.sync.ballot.b32 %r2, %p1, -1; st.global.u32 [%q1], %r2;", |_| 31);
    for (mode, few, all) in [("all", 0, 1), ("any", 1, 1), ("uni", 0, 1)] {
        let body = |bound: u32| {
            format!(
                "setp.lt.u32 %p1, %r1, {bound}; vote.sync.{mode}.pred %p2, %p1, -1; selp.u32 %r2, 1, 0, %p2;
                    st.global.u32 [%q1], %r2;"
            )
        };
        each(&body(5), |_| few);
        each(&body(32), |_| all);
    }
    each("shr.u32 %r2, %r1, 2; match.any.sync.b32 %r3, %r2, -1; st.global.u32 [%q1], %r3;", |l| 15 << (l / 4 * 4));
    each(
        "mov.u32 %r2, 7; match.all.sync.b32 %r3|%p1, %r2, -1; selp.u32 %r4, %r3, 0, %p1; st.global.u32 [%q1], %r4;",
        |_| u32::MAX,
    );
    each("match.all.sync.b32 %r3|%p1, %r1, -1; selp.u32 %r4, 9, %r3, %p1; st.global.u32 [%q1], %r4;", |_| 0);
    each("activemask.b32 %r2; st.global.u32 [%q1], %r2;", |_| u32::MAX);
    let sums: [(&str, u32); 9] = [
        ("add.u32", (0..32).map(|l| l * 3).sum()),
        ("add.s32", (0..32).map(|l| l * 3).sum()),
        ("min.u32", 0),
        ("max.u32", 93),
        ("min.s32", 0),
        ("max.s32", 93),
        ("and.b32", 0),
        ("or.b32", (0..32u32).fold(0, |a, l| a | (l * 3))),
        ("xor.b32", (0..32u32).fold(0, |a, l| a ^ (l * 3))),
    ];
    for (op, sum) in sums {
        each(&format!("mul.lo.u32 %r2, %r1, 3; redux.sync.{op} %r3, %r2, -1; st.global.u32 [%q1], %r3;"), |_| sum);
    }
    each("sub.u32 %r2, %r1, 5; redux.sync.min.s32 %r3, %r2, -1; st.global.u32 [%q1], %r3;", |_| 5u32.wrapping_neg());
    let reduced = "setp.lt.u32 %p1, %r1, 7; bar.red.popc.u32 %r2, 0, %p1; bar.red.or.pred %p2, 0, %p1;
        bar.red.and.pred %p3, 0, %p1;
        selp.u32 %r3, 100, 0, %p2; selp.u32 %r4, 1000, 0, %p3; add.u32 %r2, %r2, %r3;
        add.u32 %r2, %r2, %r4; st.global.u32 [%q1], %r2;";
    each(reduced, |_| 107);
}

#[test]
fn special_registers() {
    for (name, f) in [
        ("tid.x", (|l| l) as fn(u32) -> u32),
        ("tid.y", |_| 0),
        ("ntid.x", |_| 32),
        ("ctaid.x", |_| 0),
        ("nctaid.z", |_| 1),
        ("warpid", |_| 0),
        ("lanemask_eq", |l| 1 << l),
        ("lanemask_lt", |l| (1 << l) - 1),
        ("lanemask_le", |l| u32::MAX >> (31 - l)),
        ("lanemask_gt", |l| !(u32::MAX >> (31 - l))),
        ("lanemask_ge", |l| !((1 << l) - 1)),
        ("total_smem_size", |_| 4096),
    ] {
        each(&format!("mov.u32 %r2, %{name}; st.global.u32 [%q1], %r2;"), f);
    }
}

#[test]
fn lanes_part_and_meet_again() {
    // Collatz steps: every lane loops as often as it needs, and then all vote together.
    let body = "add.u32 %r2, %r1, 1; mov.u32 %r3, 0;
        LOOP: setp.eq.u32 %p1, %r2, 1; @%p1 bra DONE; and.b32 %r4, %r2, 1; setp.eq.u32 %p2, %r4, 0; @%p2 bra EVEN;
        mad.lo.u32 %r2, %r2, 3, 1; bra NEXT; EVEN: shr.u32 %r2, %r2, 1; NEXT: add.u32 %r3, %r3, 1; bra LOOP;
        DONE: activemask.b32 %r5; setp.ne.u32 %p3, %r5, -1; @%p3 trap; st.global.u32 [%q1], %r3;";
    each(body, |l| {
        let (mut n, mut steps) = (l + 1, 0);
        while n != 1 {
            n = if n % 2 == 0 { n / 2 } else { 3 * n + 1 };
            steps += 1;
        }
        steps
    });
    let table = "and.b32 %r2, %r1, 3; brx.idx %r2, LIST; LIST: .branchtargets A, B, A, C;
        A: mov.u32 %r3, 1; bra END; B: mov.u32 %r3, 2; bra END; C: mov.u32 %r3, 3; END: st.global.u32 [%q1], %r3;";
    each(table, |l| [1, 2, 1, 3][l as usize % 4]);
}

#[test]
fn memory_of_all_spaces() {
    let shared = "mov.u32 %r2, s; mad.lo.u32 %r3, %r1, 16, %r2;";
    each(
        &format!(
            "{shared} st.shared.v4.u32 [%r3], {{%r1, 7, %r1, %r1}}; ld.shared.v2.u32 {{%r4, %r5}}, [%r3];
        add.u32 %r4, %r4, %r5; st.global.u32 [%q1], %r4;"
        ),
        |l| 7 + l,
    );
    // Signs are extended, other values are not, and narrow stores take the low bits.
    each(
        &format!(
            "{shared} sub.u32 %r4, %r1, 16; st.shared.u8 [%r3], %r4; ld.shared.s8 %r5, [%r3]; st.global.u32 [%q1], %r5;"
        ),
        |l| l.wrapping_sub(16),
    );
    each(
        &format!(
            "{shared} sub.u32 %r4, %r1, 16; st.shared.u16 [%r3], %r4; ld.shared.u16 %r5, [%r3]; st.global.u32 [%q1],
                %r5;"
        ),
        |l| l.wrapping_sub(16) & 0xffff,
    );
    each(
        &format!(
            "{shared} cvt.u64.u32 %q4, %r1; st.shared.b32 [%r3], %q4; ld.shared.s32 %q5, [%r3]; cvt.u32.u64 %r5, %q5;
                st.global.u32 [%q1], %r5;"
        ),
        |l| l,
    );
    // Generic addresses find their space.
    each(
        &format!(
            "{shared} cvt.u64.u32 %q4, %r3; cvta.shared.u64 %q5, %q4; st.u32 [%q5], %r1; isspacep.shared %p1,
        %q5; isspacep.global %p2, %q5;
        cvta.to.shared.u64 %q6, %q5; cvt.u32.u64 %r6, %q6; ld.shared.u32 %r5, [%r6]; selp.u32 %r7, 100, 0, %p1;
        selp.u32 %r8, 1000, 0, %p2;
        add.u32 %r5, %r5, %r7; add.u32 %r5, %r5, %r8; st.u32 [%q1], %r5;"
        ),
        |l| 100 + l,
    );
    let atomics: [(&str, &str, Fold); 8] = [
        ("add.u32", "%r1", |l| l.iter().sum()),
        ("max.u32", "%r1", |_| 31),
        ("min.s32", "%r1", |_| 0),
        ("or.b32", "%r1", |_| 31),
        ("xor.b32", "%r1", |l| l.iter().fold(0, |a, b| a ^ b)),
        ("and.b32", "%r1", |_| 0),
        ("inc.u32", "20", |_| 11),
        ("dec.u32", "20", |_| 10),
    ];
    let ids: Vec<u32> = (0..32).collect();
    for (op, source, expected) in atomics {
        let body = format!(
            "mov.u32 %r9, {source}; setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.u32 [s], 0; bar.warp.sync -1;
            atom.shared.{op} %r2, [s], %r9; bar.warp.sync -1; ld.shared.u32 %r3, [s]; st.global.u32 [%q1], %r3;"
        );
        each(&body, |_| expected(&ids));
    }
    each(
        "atom.global.cas.b32 %r2, [%q1], 0, %r1; atom.global.exch.b32 %r3, [%q1], 9; red.global.add.u32 [%q1], %r3;",
        |l| 9 + l,
    );
}

#[test]
fn matrices_are_loaded_by_rows_and_by_columns() {
    // Element (row, column) of matrix m is 64 m + 8 row + column.
    let fill = "mov.u32 %r2, s; mad.lo.u32 %r3, %r1, 16, %r2; shl.b32 %r4, %r1, 3;
        mad.lo.u32 %r5, %r4, 0x10001, 0x10000; add.u32 %r6, %r5, 0x20002; add.u32 %r7, %r5, 0x40004;
        add.u32 %r8, %r5, 0x60006;
        st.shared.v4.u32 [%r3], {%r5, %r6, %r7, %r8}; bar.warp.sync -1;";
    for trans in [false, true] {
        let suffix = if trans { ".trans" } else { "" };
        let body = format!(
            "{fill} ldmatrix.sync.aligned.m8n8.x4{suffix}.shared.b16 {{%r10, %r11, %r12, %r13}}, [%r3];
            st.global.v4.u32 [%q1], {{%r10, %r11, %r12, %r13}};"
        );
        let found = warp(Config::default(), &body, 4, &[]);
        for lane in 0..32u32 {
            for matrix in 0..4u32 {
                let at = |row: u32, column: u32| 64 * matrix + 8 * row + column;
                let (row, column) = (lane / 4, lane % 4 * 2);
                let pair =
                    if trans { [at(column, row), at(column + 1, row)] } else { [at(row, column), at(row, column + 1)] };
                assert_eq!(found[(4 * lane + matrix) as usize], pair[0] | pair[1] << 16);
            }
        }
    }
}

/// D of one `mma` with A, B and C given as functions of row and column, by the fragments of the manual.
fn mma(
    mode: MmaMode,
    form: &str,
    depth: usize,
    encode: fn(f32) -> u32,
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
    c: impl Fn(usize, usize) -> f32,
) -> [[f32; 8]; 16] {
    let per = if form.contains("tf32") { 1 } else { 2 };
    let pack = |x: &dyn Fn(usize) -> f32| (0..per).fold(0, |bits, n| bits | encode(x(n)) << (16 * n));
    let (na, nb) = (depth / (4 * per) * 2, depth / (4 * per));
    let mut input = Vec::new();
    for lane in 0..32 {
        for i in 0..na {
            let (row, column) = (lane / 4 + i % 2 * 8, i / 2 * 4 * per + lane % 4 * per);
            input.push(pack(&|n| a(row, column + n)));
        }
        for i in 0..nb {
            input.push(pack(&|n| b(i * 4 * per + lane % 4 * per + n, lane / 4)));
        }
        for i in 0..4 {
            input.push(c(lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2).to_bits());
        }
    }
    let load: String = (0..na + nb + 4).map(|n| format!("ld.global.u32 %r{}, [%q3+{}];", 10 + n, 4 * n)).collect();
    let list = |first: usize, count: usize| {
        (first..first + count).map(|n| format!("%r{}", 10 + n)).collect::<Vec<_>>().join(", ")
    };
    let (a, b, c) = (list(0, na), list(na, nb), list(na + nb, 4));
    let body =
        format!("{load} mma.sync.aligned.{form} {{{c}}}, {{{a}}}, {{{b}}}, {{{c}}}; st.global.v4.u32 [%q1], {{{c}}};");
    let out = warp(Config { mma: mode, ..Config::default() }, &body, 4, &input);
    let mut d = [[0.0; 8]; 16];
    for lane in 0..32 {
        for i in 0..4 {
            d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] = f32::from_bits(out[4 * lane + i]);
        }
    }
    d
}

const FORMS: [Form; 6] = [
    ("m16n8k16.row.col.f32.bf16.bf16.f32", 16, |x| bf16::from_f32(x).to_bits().into()),
    ("m16n8k8.row.col.f32.bf16.bf16.f32", 8, |x| bf16::from_f32(x).to_bits().into()),
    ("m16n8k16.row.col.f32.f16.f16.f32", 16, |x| f16::from_f32(x).to_bits().into()),
    ("m16n8k8.row.col.f32.f16.f16.f32", 8, |x| f16::from_f32(x).to_bits().into()),
    ("m16n8k8.row.col.f32.tf32.tf32.f32", 8, f32::to_bits),
    ("m16n8k4.row.col.f32.tf32.tf32.f32", 4, f32::to_bits),
];

#[test]
fn products_of_integers_are_exact_in_every_mode() {
    let a = |row: usize, k: usize| ((row * 7 + k * 3) % 11) as f32 - 5.0;
    let b = |k: usize, column: usize| ((column * 5 + k * 2) % 9) as f32 - 4.0;
    let c = |row: usize, column: usize| (row * 8 + column) as f32;
    for (form, depth, encode) in FORMS {
        for mode in [MmaMode::Fast, MmaMode::Ampere, MmaMode::Hopper] {
            let d = mma(mode, form, depth, encode, a, b, c);
            for (row, values) in d.iter().enumerate() {
                for (column, &value) in values.iter().enumerate() {
                    let wanted: f32 = c(row, column) + (0..depth).map(|k| a(row, k) * b(k, column)).sum::<f32>();
                    assert_eq!(value, wanted, "{form} {mode:?} {row} {column}");
                }
            }
        }
    }
}

#[test]
fn tensor_cores_cut_off_what_lies_below_their_fraction() {
    let (form, depth, encode) = FORMS[0];
    // 1 + 15 * 2^-25: each small product is below 24 bits of fraction, and at the last of 25.
    let tiny = |n: i32| move |_: usize, k: usize| if k == 0 { 1.0 } else { 2f32.powi(n) };
    let one = |_: usize, _: usize| 1.0f32;
    let zero = |_: usize, _: usize| 0.0f32;
    let first = |mode, n| mma(mode, form, depth, encode, tiny(n), one, zero)[0][0];
    assert_eq!(first(MmaMode::Ampere, -25), 1.0);
    // 15 units of 2^-25 are 3.75 of the result's last bit, cut off to 3.
    assert_eq!(first(MmaMode::Hopper, -25), 1.0 + 3.0 * 2f32.powi(-23));
    // 2^-24: Ampere adds 7 in its first sum (3.5 last bits, cut to 3), and in the second 8 (4 last bits).
    assert_eq!(first(MmaMode::Ampere, -24), 1.0 + 7.0 * 2f32.powi(-23));
    assert_eq!(first(MmaMode::Hopper, -24), 1.0 + 7.0 * 2f32.powi(-23));
    // Cutting off goes toward zero for negative sums too.
    let minus = |_: usize, _: usize| -1.0f32;
    assert_eq!(mma(MmaMode::Hopper, form, depth, encode, tiny(-25), minus, zero)[0][0], -1.0 - 3.0 * 2f32.powi(-23));
    // Infinities and NaNs are kept, and large terms cancel exactly.
    let big = |_: usize, k: usize| [1e30f32, -1e30, 3.0][k.min(2)];
    for mode in [MmaMode::Ampere, MmaMode::Hopper] {
        assert_eq!(mma(mode, form, depth, encode, |_, _| f32::INFINITY, one, zero)[0][0], f32::INFINITY);
        assert!(
            mma(mode, form, depth, encode, |_, k| [f32::INFINITY, f32::NEG_INFINITY][k % 2], one, zero)[0][0].is_nan()
        );
        let lost = mma(mode, form, depth, encode, big, one, zero)[0][0];
        assert_eq!(lost, if mode == MmaMode::Ampere { 24.0 } else { 0.0 });
    }
}

#[test]
fn lanes_of_different_masks_are_different_groups() {
    // Groups of lanes by their remainder; the value of a lane is 100 + 7 (lane xor 9), less 300 for one lane in four.
    let value = |l: u32| (100 + 7 * (l ^ 9)).wrapping_sub(if l.is_multiple_of(4) { 300 } else { 0 });
    let set = "xor.b32 %r3, %r1, 9; mad.lo.u32 %r3, %r3, 7, 100; and.b32 %r4, %r1, 3; setp.eq.u32 %p1, %r4, 0;
        @%p1 sub.u32 %r3, %r3, 300;";
    let folds: [(&str, Fold); 8] = [
        ("add.u32", |v| v.iter().fold(0, |a, b| a.wrapping_add(*b))),
        ("min.u32", |v| *v.iter().min().unwrap()),
        ("max.u32", |v| *v.iter().max().unwrap()),
        ("min.s32", |v| v.iter().map(|&x| x as i32).min().unwrap() as u32),
        ("max.s32", |v| v.iter().map(|&x| x as i32).max().unwrap() as u32),
        ("and.b32", |v| v.iter().fold(u32::MAX, |a, b| a & b)),
        ("or.b32", |v| v.iter().fold(0, |a, b| a | b)),
        ("xor.b32", |v| v.iter().fold(0, |a, b| a ^ b)),
    ];
    for groups in [1, 2, 3, 5, 31, 32] {
        let own = |l: u32| (0..32).filter(move |other| other % groups == l % groups);
        let mask = |l: u32| own(l).fold(0, |mask, other| mask | 1 << other);
        let body = |op: &str| {
            format!("{set} rem.u32 %r5, %r1, {groups}; match.any.sync.b32 %r2, %r5, -1; {op} st.global.u32 [%q1], %r6;")
        };
        each(&body("mov.u32 %r6, %r2;"), mask);
        for (op, fold) in folds {
            let expected = |l| fold(&own(l).map(value).collect::<Vec<_>>());
            each(&body(&format!("redux.sync.{op} %r6, %r3, %r2;")), expected);
        }
        let held = |l: u32| own(l).filter(|other| other % 4 == 0).fold(0, |mask, other| mask | 1 << other);
        each(&body("vote.sync.ballot.b32 %r6, %p1, %r2;"), held);
        let modes: [(&str, Holds); 3] = [
            ("all", |held, mask| held == mask),
            ("any", |held, _| held != 0),
            ("uni", |held, mask| held == 0 || held == mask),
        ];
        for (mode, holds) in modes {
            let op = format!("vote.sync.{mode}.pred %p2, %p1, %r2; selp.u32 %r6, 1, 0, %p2;");
            each(&body(&op), |l| holds(held(l), mask(l)).into());
        }
        // Matches within a group: by the lane's third bit, and by a value that all have.
        let same = |l: u32| own(l).filter(|other| other & 4 == l & 4).fold(0, |mask, other| mask | 1 << other);
        for (width, wide) in [("b32", "mov.u32 %r7, %r7;"), ("b64", "cvt.u64.u32 %q4, %r7;")] {
            let register = if width == "b32" { "%r7" } else { "%q4" };
            let op = format!("and.b32 %r7, %r1, 4; {wide} match.any.sync.{width} %r6, {register}, %r2;");
            each(&body(&op), same);
            let op = format!("and.b32 %r7, %r1, 4; {wide} match.all.sync.{width} %r6|%p2, {register}, %r2;");
            each(&body(&op), |l| if same(l) == mask(l) { mask(l) } else { 0 });
        }
        // From the first lane of the group to all of it.
        let op = "brev.b32 %r7, %r2; bfind.u32 %r7, %r7; sub.u32 %r7, 31, %r7;
            shfl.sync.idx.b32 %r6, %r3, %r7, 31, %r2;";
        each(&body(op), |l| value(l % groups));
    }
}

#[test]
fn approximate_functions_move_by_little_and_always_alike() {
    let run = |seed| {
        let body =
            "cvt.rn.f32.u32 %f1, %r1; mul.f32 %f1, %f1, 0f3DCCCCCD; ex2.approx.f32 %f2, %f1; st.global.f32 [%q1], %f2;";
        warp(Config { seed, ..Config::default() }, body, 1, &[])
    };
    let plain: Vec<u32> = (0..32).map(|l| f64::from(l as f32 * 0.1f32).exp2() as f32).map(f32::to_bits).collect();
    let (first, again, other) = (run(1), run(1), run(2));
    assert_eq!(first, again);
    assert_ne!(first, other);
    for (moved, plain) in first.iter().zip(&plain) {
        assert!(moved.abs_diff(*plain) <= 3, "{moved:#x} {plain:#x}");
    }
    assert!(first.iter().zip(&plain).any(|(moved, plain)| moved.abs_diff(*plain) >= 2));
    // 2^0 is exact by the manual.
    assert_eq!(first[0], 1f32.to_bits());
}

#[test]
fn one_seed_gives_one_report() {
    let ptx = include_str!("../kernels/warp.ptx");
    let run = || {
        let mut device = Device::new(Config { seed: 3, ..Config::default() });
        let kernel = device.load(ptx).unwrap().kernel("odds").unwrap();
        let (x, y) = (device.memory.allocate(4096).unwrap(), device.memory.allocate(4000).unwrap());
        device.memory.write(x, &[5; 4096]).unwrap();
        let params: [&[u8]; 3] = [&y.to_le_bytes(), &x.to_le_bytes(), &1024u32.to_le_bytes()];
        device.launch(&kernel, [8, 1, 1], [128, 1, 1], 0, &params).unwrap()
    };
    let (first, second) = (run(), run());
    assert_eq!(first.counters, second.counters);
    assert_eq!(first.findings.iter().map(|f| (f.fault, f.count)).collect::<Vec<_>>(), [(Fault::OutOfBounds, 24)]);
    assert_eq!(second.findings[0].count, 24);
    assert!(first.findings[0].source.starts_with("warp.cu:"), "{}", first.findings[0]);
}

/// All of these, for the sake of what they execute.
pub(super) fn all() {
    shuffles();
    votes_matches_and_reductions();
    special_registers();
    lanes_part_and_meet_again();
    memory_of_all_spaces();
    matrices_are_loaded_by_rows_and_by_columns();
    products_of_integers_are_exact_in_every_mode();
    tensor_cores_cut_off_what_lies_below_their_fraction();
    lanes_of_different_masks_are_different_groups();
    approximate_functions_move_by_little_and_always_alike();
    one_seed_gives_one_report();
}
