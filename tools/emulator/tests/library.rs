//! Functions that are not inlined, and what nvcc takes from the CUDA library, in kernels that it compiled.

use emulator::{Config, Device, Fault, Report};
use std::io::Write;
use std::sync::{Arc, Mutex};

const CALLS: &str = include_str!("kernels/calls.ptx");
const LIBRARY: &str = include_str!("kernels/library.ptx");
const MASKS: &str = include_str!("kernels/masks.ptx");

fn bytes<T: Copy, const N: usize>(values: &[T], to: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&v| to(v)).collect()
}

/// Launches a kernel on an array, and then what further parameters there are; the array afterwards.
fn run(ptx: &str, kernel: &str, threads: u32, array: &[u32], more: &[&[u8]]) -> (Vec<u32>, Report) {
    let mut device = Device::new(Config::default());
    let kernel = device.load(ptx).and_then(|m| m.kernel(kernel)).unwrap_or_else(|e| panic!("{e}"));
    let at = device.memory.allocate(4 * array.len()).unwrap();
    device.memory.write(at, &bytes(array, u32::to_le_bytes)).unwrap();
    let address = at.to_le_bytes();
    let params: Vec<&[u8]> = [&address[..]].into_iter().chain(more.iter().copied()).collect();
    let report = device.launch(&kernel, [1; 3], [threads, 1, 1], 0, &params).unwrap();
    let mut out = vec![0; 4 * array.len()];
    device.memory.read(at, &mut out).unwrap();
    (out.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect(), report)
}

/// What each thread makes of its own element, without findings.
#[track_caller]
fn each(ptx: &str, kernel: &str, input: impl Fn(u32) -> u32, expected: impl Fn(u32, u32) -> u32) -> Report {
    let array: Vec<u32> = (0..64).map(input).collect();
    let (out, report) = run(ptx, kernel, 64, &array, &[]);
    assert_eq!(report.findings, []);
    let wanted: Vec<u32> = (0..).zip(&array).map(|(t, &v)| expected(t, v)).collect();
    assert_eq!(out, wanted);
    report
}

#[test]
fn functions_take_and_return_values_and_structures() {
    let line = |x: f32| x * 2.0 + 1.0;
    let f = |t: u32| t as f32 * 0.5;
    let report = each(
        CALLS,
        "plain",
        |t| f(t).to_bits(),
        |t, v| {
            let x = line(f32::from_bits(v));
            if t % 2 == 1 { (x + line(3.0)).to_bits() } else { x.to_bits() }
        },
    );
    // Two warps call it once with all lanes and once with half of them.
    assert_eq!(report.counters.mix["call.uni"], 4);
    each(
        CALLS,
        "structs",
        |t| t * 5 % 11,
        |t, k| {
            let mut c = [7u32; 3];
            c[k as usize % 3] = k;
            (t + k) * 1000 + (0.5 * f64::from(t)) as u32 + c[0] + 10 * c[1] + 100 * c[2]
        },
    );
    each(
        CALLS,
        "locals",
        |t| t * 3,
        |t, v| {
            let (mut p, mut l) = (v as i32, [1, 2, 3, t as i32]);
            for _ in 0..2 {
                let x = l.map(|l| l + p);
                l = [x[3], x[2], x[1], x[0]];
                if p <= 100 {
                    p += x[(p & 3) as usize];
                }
            }
            (p + l[(p & 3) as usize]) as u32
        },
    );
    // All lanes come back before they shuffle again.
    each(CALLS, "together", |t| t, |t, _| if t < 32 { 496 - 32 } else { 496 + 1024 - 32 });
}

#[test]
fn functions_call_themselves_and_each_other() {
    fn fibonacci(n: u32) -> u32 {
        if n < 2 { n } else { fibonacci(n - 1) + fibonacci(n - 2) }
    }
    fn up(n: u32, p: &mut [u32; 2]) -> u32 {
        let mut here = [n, n + 1];
        if n == 0 {
            return 1;
        }
        p[0] = p[0].wrapping_add(down(n - 1, &mut here));
        p[0].wrapping_add(here[n as usize & 1])
    }
    fn down(n: u32, p: &mut [u32; 2]) -> u32 {
        if n == 0 {
            return 2;
        }
        p[n as usize & 1] += 1;
        up(n - 1, p).wrapping_mul(3)
    }
    each(CALLS, "recursive", |_| 0, |t, _| fibonacci(t % 8));
    each(
        CALLS,
        "mutual",
        |_| 0,
        |t, _| {
            let mut mine = [t, 5];
            let result = up(t % 16, &mut mine);
            result.wrapping_add(mine[0]).wrapping_add(mine[1])
        },
    );
    // There is an end to it, and it is said where.
    let (_, report) = run(CALLS, "bottomless", 1, &[0; 64], &[]);
    let last = report.findings.last().unwrap();
    assert_eq!(last.fault, Fault::StackOverflow);
    assert!(last.source.starts_with("calls.cu:3"), "{last}");
}

#[test]
fn a_finding_in_a_function_names_the_call() {
    let (_, report) = run(CALLS, "outside", 64, &[0; 100], &[]);
    let found: Vec<_> = report.findings.iter().map(|f| (f.fault, f.count, f.source.as_str())).collect();
    assert_eq!(found, [(Fault::OutOfBounds, 28, "calls.cu:81")]);
}

#[test]
fn calls_that_cannot_be_made_are_refused_by_name() {
    let error = |ptx: &str| {
        let module = Device::new(Config::default()).load(ptx).unwrap();
        let found = module.kernels().find_map(|name| module.kernel(name).err());
        found.unwrap().message
    };
    let message = error(include_str!("kernels/indirect.ptx"));
    assert!(message.contains("calls through a register"), "{message}");
    let declared = |call: &str| {
        format!(
            ".version 7.8 .target sm_80 .address_size 64
            .extern .func (.param .b64 r) malloc (.param .b64 n);
            .func (.param .b32 r) f (.param .b64 x) {{ .reg .b32 %r<2>; mov.u32 %r1, 5; st.param.b32 [r], %r1; ret; }}
            .visible .entry k() {{
                .reg .b32 %r<4>; .reg .b64 %q<4>; .param .b64 a; .param .b32 b; .param .b64 c; {call} ret;
            }}"
        )
    };
    for (call, words) in [
        ("call.uni (c), malloc, (a);", "`malloc`"),
        ("call.uni (b), nowhere, (a);", "`nowhere`"),
        ("call.uni (b), f, (b);", "`b` has 4 bytes, and `x` has 8"),
        ("call.uni (b), f;", "`f` takes 1 values, and 0 are given"),
        ("call.uni f, (a);", "`f` returns 1 values, and 0 are given"),
        ("call.uni (b), f, (%q1);", "`x` has to be given in a variable in `.param`"),
        ("mov.u64 %q1, f;", "`f` is a function"),
        ("call.uni vprintf, (a);", "`vprintf` takes 2 values, and 1 are given"),
    ] {
        let message = error(&declared(call));
        assert!(message.contains(words), "{call}: {message}");
    }
    let module = Device::new(Config::default()).load(&declared("call.uni (b), f, (a); @!%p call f;"));
    assert!(module.is_err_and(|e| e.message.contains("%p")));
}

#[test]
fn an_assertion_is_found_with_its_words() {
    let n = 90u32.to_le_bytes();
    // Nothing but a comparison where it holds.
    let (out, report) = run(CALLS, "asserts", 64, &(0..64).collect::<Vec<u32>>(), &[&n]);
    assert_eq!((report.findings.len(), out[63]), (0, 64));
    assert!(!report.counters.mix.contains_key("call.uni"));
    let (out, report) = run(CALLS, "asserts", 64, &(0..64).map(|t| 2 * t).collect::<Vec<u32>>(), &[&n]);
    assert_eq!(out[63], 126, "who fails an assertion does not go on");
    let [finding] = &report.findings[..] else { panic!("{:?}", report.findings) };
    assert_eq!((finding.fault, finding.count), (Fault::Assert, 19));
    assert_eq!(
        finding.detail,
        "calls.cu:85: void asserts(int *, int): block: [0, 0, 0], thread: [45, 0, 0] Assertion `p[i] < n && \"small\"` \
         failed."
    );
}

#[test]
fn calls_have_guards_and_functions_tables_shared_memory_and_early_returns() {
    let ptx = ".version 7.8 .target sm_80 .address_size 64
        .func (.param .b32 r) f (.param .align 4 .b8 x[8]) {
            .reg .pred %p<2>; .reg .b32 %r<6>; .reg .b64 %q<2>; .shared .b32 count;
            mov.b64 %q1, x; ld.param.b32 %r1, [%q1]; ld.param.b32 %r2, [x+4];
            mov.u32 %r3, 1000; st.param.b32 [r], %r3;
            setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.u32 [count], %r1;
            setp.ge.u32 %p1, %r1, 40; @%p1 ret;
            and.b32 %r1, %r1, 3; brx.idx %r1, LIST; LIST: .branchtargets A, B, A, C;
            A: add.u32 %r2, %r2, 1; bra END; B: add.u32 %r2, %r2, 2; bra END; C: add.u32 %r2, %r2, 3;
            END: st.param.b32 [r], %r2;
        }
        .func g () { .shared .b32 count; st.shared.b32 [count], 7; ret; }
        .visible .entry k(.param .u64 out) {
            .reg .pred %p<4>; .reg .b32 %r<8>; .reg .b64 %q<4>; .param .align 4 .b8 a[8]; .param .b32 b;
            ld.param.u64 %q1, [out]; mov.u32 %r1, %tid.x; mad.wide.u32 %q1, %r1, 4, %q1;
            setp.eq.u32 %p2, %r1, 0; @%p2 call g;
            st.param.b32 [a], %r1; st.param.b32 [a+4], 100; mov.u32 %r2, 5; st.param.b32 [b], %r2;
            setp.lt.u32 %p1, %r1, 50; @%p1 call.uni (b), f, (a); ld.param.b32 %r2, [b];
            @!%p1 call.uni (b), f, (a); ld.param.b32 %r3, [b]; mad.lo.u32 %r2, %r2, 10000, %r3;
            st.global.b32 [%q1], %r2; ret;
        }";
    each(
        ptx,
        "k",
        |_| 0,
        |t, _| {
            let f = |t: u32| if t >= 40 { 1000 } else { 100 + [1, 2, 1, 3][t as usize % 4] };
            let first = if t < 50 { f(t) } else { 5 };
            first * 10_000 + if t < 50 { first } else { f(t) }
        },
    );
}

/// A writer whose text can be read afterwards.
#[derive(Clone, Default)]
struct Text(Arc<Mutex<Vec<u8>>>);

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn kernels_print() {
    let mut device = Device::new(Config::default());
    let text = Text::default();
    device.print_to(text.clone());
    let taken = || String::from_utf8(std::mem::take(&mut *text.0.lock().unwrap())).unwrap();
    let module = device.load(CALLS).unwrap();
    let words = device.memory.allocate(6).unwrap();
    device.memory.write(words, b"hello\0").unwrap();
    let params: [&[u8]; 3] = [&42u32.to_le_bytes(), &1234.5678f64.to_le_bytes(), &words.to_le_bytes()];
    let report = device.launch(&module.kernel("prints").unwrap(), [1; 3], [32, 1, 1], 0, &params).unwrap();
    assert_eq!(report.findings, []);
    let line = |letter: char, lane: u32| {
        format!(
            "-42 42 2a 0X2A -123456789012345 18446744073709551615 1234.567800 1.234568e+03 1234.57 hello {letter} \
             {words:#x} % [   42|42   |00042|+42] [1234.568|  1.23e+03|ab      |xy] {lane}\n"
        )
    };
    assert_eq!(taken(), line('A', 0) + &line('B', 16));

    // What it returns is how many values it took, and what does not fit pushes out the oldest.
    let out = device.memory.allocate(128).unwrap();
    let kernel = module.kernel("counts").unwrap();
    device.printf_bytes = 30;
    let report = device.launch(&kernel, [1; 3], [32, 1, 1], 0, &[&out.to_le_bytes()]).unwrap();
    assert_eq!(report.findings, []);
    assert_eq!(taken(), "30 of many\n31 of many\n");
    let mut counts = [0; 128];
    device.memory.read(out, &mut counts).unwrap();
    assert_eq!(counts[..8], [2, 0, 0, 0, 2, 0, 0, 0]);
}

#[test]
fn early_exits_release_the_barrier() {
    for n in [40u32, 32, 1] {
        let array: Vec<u32> = (0..64).map(|t| (t as f32).to_bits()).collect();
        let (out, report) = run(LIBRARY, "early", 64, &array, &[&n.to_le_bytes()]);
        assert_eq!(report.findings, []);
        let wanted: Vec<u32> = (0..64).map(|t| (if t < n { n - 1 - t } else { t } as f32).to_bits()).collect();
        assert_eq!(out, wanted);
    }
}

/// A function: its name, the host's, and how many units in the last place it may be off.
type Function = (&'static str, fn(f64) -> f64, u64);

/// The library's functions as nvcc inlines them, against the host's: within so many units in the last place, of
/// results that are normal numbers.
#[test]
fn double_precision_is_the_host_s() {
    let mut state = 5u64;
    let mut draw = |from: i32, to: i32| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let exponent = (1023 + from) as u64 + (state >> 40) % (to - from) as u64;
        f64::from_bits((state << 12) >> 12 | exponent << 52 | state >> 33 << 63)
    };
    let mut values: Vec<f64> = (0..96).map(|n| if n % 2 == 0 { draw(-8, 9) } else { draw(-300, 300) }).collect();
    values.extend([0.0, -0.0, 1.0, -1.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, f64::MAX, 709.5, -708.0, 710.0]);
    values.extend([-745.2, -746.0, 5e-324, 2.2e-308, f64::MIN_POSITIVE, 0.5, 2.0, 1e-17, 1e300, 100.0]);
    values.resize(128, 1.5);
    let mut device = Device::new(Config::default());
    let kernel = device.load(LIBRARY).unwrap().kernel("doubles").unwrap();
    let (y, x) = (device.memory.allocate(128 * 64).unwrap(), device.memory.allocate(128 * 8).unwrap());
    device.memory.write(x, &bytes(&values, f64::to_le_bytes)).unwrap();
    let report = device.launch(&kernel, [2, 1, 1], [64, 1, 1], 0, &[&y.to_le_bytes(), &x.to_le_bytes()]).unwrap();
    assert_eq!(report.findings, []);
    let mut out = vec![0; 128 * 64];
    device.memory.read(y, &mut out).unwrap();
    let out: Vec<f64> = out.chunks_exact(8).map(|c| f64::from_le_bytes(c.try_into().unwrap())).collect();
    // The bounds of the CUDA C++ Programming Guide, one more for the host's own.
    let functions: [Function; 8] = [
        ("exp", f64::exp, 2),
        ("sqrt", |x| x.abs().sqrt(), 0),
        ("log", |x| x.abs().ln(), 2),
        ("1 / x", |x| 1.0 / x, 0),
        ("x / 3", |x| x / 3.0, 0),
        ("rsqrt", |x| 1.0 / x.abs().sqrt(), 2),
        ("tanh", f64::tanh, 3),
        ("pow", |x| x.abs().powf(1.25), 3),
    ];
    for (x, results) in values.iter().zip(out.chunks_exact(8)) {
        for ((name, f, units), found) in functions.iter().zip(results) {
            let wanted = f(*x);
            let near = found.to_bits().abs_diff(wanted.to_bits()) <= *units || found.is_nan() && wanted.is_nan();
            assert!(near, "{name} of {x:e} gives {found:e}, and not {wanted:e}");
        }
    }
}

#[test]
fn single_precision_is_near_the_host_s() {
    let values: Vec<f32> = (0..128).map(|n| (n as f32 - 60.0) * 0.11).collect();
    let mut device = Device::new(Config::default());
    let kernel = device.load(LIBRARY).unwrap().kernel("singles").unwrap();
    let (y, x) = (device.memory.allocate(128 * 16).unwrap(), device.memory.allocate(128 * 4).unwrap());
    device.memory.write(x, &bytes(&values, f32::to_le_bytes)).unwrap();
    let report = device.launch(&kernel, [2, 1, 1], [64, 1, 1], 0, &[&y.to_le_bytes(), &x.to_le_bytes()]).unwrap();
    assert_eq!(report.findings, []);
    let mut out = vec![0; 128 * 16];
    device.memory.read(y, &mut out).unwrap();
    let out: Vec<f32> = out.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect();
    // The error function by its series, which converges everywhere.
    let erf = |x: f64| {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    };
    for (x, results) in values.iter().zip(out.chunks_exact(4)) {
        let x = f64::from(*x);
        let wanted =
            [x.sin(), x.abs().powf(f64::from(1.3f32)), if x.abs() < 4.0 { erf(x) } else { x.signum() }, x.exp()];
        for (n, (found, wanted)) in results.iter().zip(wanted).enumerate() {
            let near = (f64::from(*found) - wanted).abs() <= 1e-6 * wanted.abs().max(1e-2);
            assert!(near, "function {n} of {x} gives {found:e}, and not {wanted:e}");
        }
    }
}

#[test]
fn clocks_go_on() {
    let (out, report) = run(LIBRARY, "clocks", 32, &[0; 64], &[]);
    assert_eq!(report.findings, []);
    let wanted: Vec<u32> = (0..32).flat_map(|_| [0xffff_ff0f, 0xff]).collect();
    assert_eq!(out, wanted);
}

#[test]
fn groups_of_lanes_reduce_by_themselves() {
    let group = |t: u32| (0..32).filter(|o| o % 3 == t % 3).fold(0u32, |m, o| m | 1 << o);
    let (out, report) = run(MASKS, "groups", 32, &[0; 160], &[]);
    assert_eq!(report.findings, []);
    let by = |f: &dyn Fn(u32) -> u32| (0..32).map(f).collect::<Vec<_>>();
    let greatest = |t: u32| 31 - group(t).leading_zeros();
    let wanted =
        [by(&greatest), by(&|t| group(t).count_ones()), by(&group), by(&|t| t % 3), by(&|t| group(t) & 0xaaaa_aaaa)];
    assert_eq!(out, wanted.concat());
    let (out, report) = run(MASKS, "partition", 32, &[0; 96], &[]);
    assert_eq!(report.findings, []);
    let wanted = [by(&greatest), by(&|t| group(t).count_ones()), by(&|t| t / 3)];
    assert_eq!(out, wanted.concat());
}

#[test]
fn a_last_block_without_its_fence_races() {
    let mut device = Device::new(Config::default());
    let kernel = device.load(MASKS).unwrap().kernel("last_block").unwrap();
    let [s, f, o] = [256, 4, 256].map(|n| device.memory.allocate(n).unwrap());
    for _ in 0..8 {
        device.memory.fill(s, &[0], 256).unwrap();
        device.memory.fill(f, &[0], 4).unwrap();
        let params = [s, f, o].map(u64::to_le_bytes);
        let report = device.launch(&kernel, [16, 1, 1], [64, 1, 1], 0, &[&params[0], &params[1], &params[2]]).unwrap();
        assert!(report.findings.iter().any(|f| f.fault == Fault::Race), "{:?}", report.findings);
    }
}
