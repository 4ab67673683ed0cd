//! What is not understood is named, with its line; and no text makes the parser panic.

use emulator::{Config, Device, Error};
use proptest::prelude::*;

const GEMM: &str = include_str!("kernels/gemm.ptx");
const WARP: &str = include_str!("kernels/warp.ptx");

/// Loads a module and decodes all its kernels.
fn load(ptx: &str) -> Result<(), Error> {
    let module = Device::new(Config::default()).load(ptx)?;
    module.kernels().try_for_each(|name| module.kernel(name).map(drop))
}

/// The error of a kernel with a body.
fn error(body: &str) -> (Option<u32>, String) {
    let head = ".version 7.1\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 x)\n{\n";
    let registers = ".reg .pred %p<4>; .reg .b16 %h<4>; .reg .b32 %r<4>; .reg .b64 %q<4>;\n";
    let error = load(&format!("{head}{registers}{body}\n}}\n")).unwrap_err();
    (error.line, error.message)
}

#[test]
fn errors_name_the_line_and_the_thing() {
    for (body, line, words) in [
        ("frobnicate.u32 %r1, %r2;", 7, "`frobnicate.u32`"),
        ("\nadd.f128 %r1, %r2, %r3;", 8, "`add.f128`"),
        ("add.u32 %r1, %r9, %r3;", 7, "%r9"),
        ("add.u32 %r1, %r2;", 7, "operands"),
        ("add.u32 %r1, %q2, %p3;", 7, "another size"),
        ("add.u32 5, %r2, %r3;", 7, "destination"),
        ("add.u32 %r1, %r2 %r3;", 7, "`,` or `;`"),
        ("bra NOWHERE;", 7, "NOWHERE"),
        ("@%p9 ret;", 7, "%p9"),
        ("L: L: ret;", 7, "twice"),
        ("call.uni f, (%r1);", 7, "`f`"),
        ("call (%r2), %q1, (%r1), L;", 7, "through a register"),
        ("nanosleep.u64 %q1;", 7, "nanosleep.u64"),
        ("redux.sync.add.abs.u32 %r1, %r2, -1;", 7, "go with .f32"),
        ("elect.sync %r1, -1;", 7, "lane|predicate"),
        ("ld.global.u32 %r1, %q1;", 7, "address"),
        ("ld.global.v4.u32 {%r1, %r2}, [%q1];", 7, "4 elements"),
        ("ld.global.u64 %r1, [%q1];", 7, "too small"),
        ("mov.u32 %r1, nothing;", 7, "nothing"),
        ("mma.sync.aligned.m8n8k4.row.col.f16.f16.f16.f16 {%r1}, {%r1}, {%r1}, {%r1};", 7, "m8n8k4"),
        ("cp.async.bulk.commit_group;", 7, "cp.async.bulk"),
        ("cp.async.cg.shared.global [%r1], [%q1], 8;", 7, "16 bytes"),
        ("setp.maybe.u32 %p1, %r1, %r2;", 7, "comparison"),
        ("cvt.f32.s32 %r1, %r2;", 7, "rounding"),
        ("wgmma.fence.sync.aligned;", 7, "wgmma"),
        ("mov.u32 %r1, 0x;", 7, "0x"),
        ("mov.u32 %r1, 99999999999999999999;", 7, "not a number"),
        (".reg .b32 %z<99999999>;", 7, "number of registers"),
        ("/* never closed", 7, "comment"),
        ("ld.global.u32 %r1, [%q1", 8, "`]`"),
    ] {
        let (at, message) = error(body);
        assert_eq!(at, Some(line), "{body}: {message}");
        assert!(message.contains(words), "{body}: {message}");
    }
}

#[test]
fn modules_are_refused_with_a_reason() {
    for (ptx, words) in [
        (".address_size 32", "64"),
        (".entry k() { ret;", "ends"),
        (".global .u32 x = {1, 2};", "more bytes"),
        (".global .u32 x[];", "length"),
        (".global .align 3 .b8 x[4];", "power of two"),
        (".global .u64 p = q;", "`q`"),
        (".entry k() { ret; } .entry k() { ret; }", "twice"),
        (
            ".version 7.1 .target sm_80 .address_size 64 .global .b8 x[9000000]; .const .b8 y[9000000];",
            "18000000 bytes",
        ),
        (".surprise", ".surprise"),
        ("\u{1}", "character"),
    ] {
        let error = load(ptx).unwrap_err();
        assert!(error.to_string().contains(words), "{ptx}: {error}");
    }
}

#[test]
fn launches_are_refused_with_a_reason() {
    let mut device = Device::new(Config::default());
    let module = device.load(WARP).unwrap();
    let kernel = module.kernel("odds").unwrap();
    let params: [&[u8]; 3] = [&[0; 8], &[0; 8], &[0; 4]];
    let message = |result: Result<emulator::Report, Error>| result.unwrap_err().to_string();
    assert!(message(device.launch(&kernel, [1; 3], [2048, 1, 1], 0, &params)).contains("1 to 1024 threads"));
    assert!(message(device.launch(&kernel, [0, 1, 1], [32, 1, 1], 0, &params)).contains("grid"));
    assert!(message(device.launch(&kernel, [1; 3], [32, 1, 1], 1 << 20, &params)).contains("shared memory"));
    assert!(message(device.launch(&kernel, [1; 3], [32, 1, 1], 0, &params[1..])).contains("[8, 8, 4]"));
    assert!(module.kernel("evens").err().unwrap().to_string().contains("softmax"));
}

/// A text with some pieces of another cut out, doubled or overwritten.
fn mangled() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just(";"),
        Just(","),
        Just("%r1"),
        Just("-"),
        Just("@"),
        Just("::"),
        Just(".v4"),
        Just("0x"),
        Just("\""),
        Just("/*"),
        Just("99999999999999999999"),
        Just(".loc 1"),
        Just(".reg .b32 %r<9>;"),
        Just(""),
        Just("é"),
    ];
    (any::<bool>(), prop::collection::vec((any::<prop::sample::Index>(), 0usize..40, pieces), 1..4)).prop_map(
        |(gemm, edits)| {
            let mut text = (if gemm { GEMM } else { WARP }).to_owned();
            for (at, length, piece) in edits {
                let start = at.index(text.len());
                let end = (start + length).min(text.len());
                if text.is_char_boundary(start) && text.is_char_boundary(end) {
                    text.replace_range(start..end, piece);
                }
            }
            text
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn no_text_makes_it_panic(text in "[ -~\n\t]{0,400}") {
        let _ = load(&text);
    }

    #[test]
    fn no_mangled_kernel_makes_it_panic(text in mangled()) {
        let _ = load(&text);
    }
}
