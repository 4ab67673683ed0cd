//! How fast the emulator is: lane-instructions of arithmetic and tensor-core products each second, by the time of one
//! core. `cargo run --release -p polar-raw-emulator --example speed`

use emulator::{Config, Device, MmaMode, Result};

/// Seconds that the processor has worked for this process: what other processes take does not count.
fn processor_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is valid.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// A loop of integer and float arithmetic in registers.
const ARITHMETIC: &str = "
    .version 7.1
    .target sm_80
    .address_size 64
    .visible .entry k(.param .u64 out) {
        .reg .pred %p<2>; .reg .b32 %r<16>; .reg .f32 %f<16>; .reg .b64 %rd<4>;
        ld.param.u64 %rd1, [out];
        mov.u32 %r1, %tid.x; mov.u32 %r2, 0; mov.u32 %r3, 1; cvt.rn.f32.u32 %f1, %r1; mov.f32 %f2, 0f3F800000;
    LOOP:
        fma.rn.f32 %f2, %f2, 0f3F7FFFFF, %f1; mul.f32 %f3, %f2, 0f3F000000; add.f32 %f4, %f3, %f1;
        max.f32 %f5, %f4, %f3;
        mad.lo.s32 %r3, %r3, 1664525, %r1; shr.u32 %r4, %r3, 7; xor.b32 %r5, %r4, %r3; and.b32 %r6, %r5, 255;
        add.s32 %r3, %r5, %r6; selp.f32 %f2, %f5, %f2, %p1; add.s32 %r2, %r2, 1;
        setp.lt.u32 %p1, %r2, 20000; @%p1 bra LOOP;
        cvt.rn.f32.u32 %f6, %r3; add.f32 %f2, %f2, %f6;
        mad.wide.u32 %rd2, %r1, 4, %rd1; st.global.f32 [%rd2], %f2; ret;
    }";

fn main() -> Result<()> {
    let strict = Config::default();
    let loose = Config { races: false, uninitialised: false, perturb: false, ..Config::default() };
    let mut device = Device::new(loose.clone());
    let kernel = device.load(ARITHMETIC)?.kernel("k")?;
    let out = device.memory.allocate(4 * 128)?;
    let start = processor_seconds();
    let report = device.launch(&kernel, [1; 3], [128, 1, 1], 0, &[&out.to_le_bytes()])?;
    let seconds = processor_seconds() - start;
    println!("arithmetic: {:.0} M lane-instructions/s", report.counters.lane_instructions as f64 / seconds / 1e6);

    for (name, config) in [
        ("no detectors, fast", loose.clone()),
        ("no detectors, Ampere", Config { mma: MmaMode::Ampere, ..loose.clone() }),
        ("no detectors, Hopper", Config { mma: MmaMode::Hopper, ..loose }),
        ("all detectors, fast", strict.clone()),
        ("all detectors, Hopper", Config { mma: MmaMode::Hopper, ..strict }),
    ] {
        let mut device = Device::new(config);
        let kernel = device.load(include_str!("../tests/kernels/gemm.ptx"))?.kernel("gemm")?;
        let n = 256u32;
        let size = (n * n) as usize;
        let [a, b, c] = [2 * size, 2 * size, 4 * size].map(|bytes| device.memory.allocate(bytes));
        let (a, b, c) = (a?, b?, c?);
        device.memory.fill(a, &[0x80, 0x3f], size)?;
        device.memory.fill(b, &[0x80, 0x3f], size)?;
        let mut params: Vec<u8> = [a, b, c].iter().flat_map(|p| p.to_le_bytes()).collect();
        params.extend([n, n, n].iter().flat_map(|v| v.to_le_bytes()));
        params.resize(48, 0);
        let start = processor_seconds();
        let report = device.launch(&kernel, [n / 64, n / 64, 1], [128, 1, 1], 3 * 2 * 64 * 64, &[&params])?;
        let seconds = processor_seconds() - start;
        let c = &report.counters;
        report.findings.iter().for_each(|finding| println!("{finding}"));
        println!(
            "GEMM {n}^3, {name}: {:.1} ms, {:.0} M lane-instructions/s, {} mma at {:.2} us each, all else counted in",
            seconds * 1e3,
            c.lane_instructions as f64 / seconds / 1e6,
            c.mma,
            seconds * 1e6 / c.mma as f64
        );
    }
    Ok(())
}
