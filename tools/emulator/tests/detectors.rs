//! Each detector with a kernel that has the fault and with its neighbour that has not.

use emulator::{Config, Device, Fault, Report};

/// Runs a body with shared memory `s` of 1 KiB; `%rd1` is an array of as many u32 as there are threads, which is
/// written, `%rd2` the address of this thread's element, `%r1` the thread, `%r2` the block, `%r3` four times the
/// thread.
fn run(config: Config, body: &str, grid: u32, threads: u32) -> Report {
    let ptx = format!(
        ".version 7.1 .target sm_80 .address_size 64
        .extern .shared .align 16 .b8 dynamic[];
        .visible .entry k(.param .u64 x) {{
            .reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %r<32>; .reg .b64 %rd<16>; .reg .f32 %f<8>;
            .shared .align 16 .b8 s[1024];
            .local .align 8 .b8 l[64];
            ld.param.u64 %rd1, [x];
            mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; shl.b32 %r3, %r1, 2;
            mov.u32 %r4, %ntid.x; mad.lo.s32 %r5, %r2, %r4, %r1;
            mad.wide.u32 %rd2, %r5, 4, %rd1;
            mov.u32 %r6, s; add.s32 %r7, %r6, %r3;
            {body}
        }}"
    );
    let mut device = Device::new(config);
    let module = device.load(&ptx).unwrap_or_else(|e| panic!("{e}\n{ptx}"));
    let kernel = module.kernel("k").unwrap_or_else(|e| panic!("{e}"));
    let bytes = (4 * grid * threads) as usize;
    let x = device.memory.allocate(bytes).unwrap();
    device.memory.write(x, &vec![0; bytes]).unwrap();
    device.launch(&kernel, [grid, 1, 1], [threads, 1, 1], 64, &[&x.to_le_bytes()]).unwrap()
}

/// The faults that are found in a body, under several seeds.
fn faults(body: &str, grid: u32, threads: u32) -> Vec<Fault> {
    let mut all = Vec::new();
    for seed in 0..5 {
        let report = run(Config { seed, most_instructions: 100_000, ..Config::default() }, body, grid, threads);
        let mut found: Vec<Fault> = report.findings.iter().map(|f| f.fault).collect();
        found.dedup();
        assert!(seed == 0 || found == all, "seed {seed} finds {found:?}, and seed 0 found {all:?}");
        all = found;
    }
    all
}

#[track_caller]
fn expect(fault: Fault, bad: &str, good: &str, grid: u32, threads: u32) {
    assert!(faults(bad, grid, threads).contains(&fault), "{fault} was not found in {bad}");
    assert_eq!(faults(good, grid, threads), [], "in {good}");
}

const NEIGHBOUR: &str = "add.s32 %r8, %r3, 4; and.b32 %r8, %r8, 255; add.s32 %r8, %r8, %r6;
    ld.shared.u32 %r9, [%r8]; st.global.u32 [%rd2], %r9; ret;";

#[test]
fn a_race_in_shared_memory_between_warps() {
    let write = "st.shared.u32 [%r7], %r1;";
    expect(Fault::Race, &format!("{write} {NEIGHBOUR}"), &format!("{write} bar.sync 0; {NEIGHBOUR}"), 1, 64);
}

#[test]
fn a_race_in_shared_memory_within_a_warp() {
    let write = "st.shared.u32 [%r7], %r1;";
    let read = "xor.b32 %r8, %r3, 4; add.s32 %r8, %r8, %r6; ld.shared.u32 %r9, [%r8]; st.global.u32 [%rd2], %r9; ret;";
    expect(Fault::Race, &format!("{write} {read}"), &format!("{write} bar.warp.sync -1; {read}"), 1, 32);
}

#[test]
fn a_write_after_reads_needs_a_barrier_too() {
    let begin = "st.shared.u32 [%r7], %r1; bar.sync 0; xor.b32 %r8, %r3, 252; add.s32 %r8, %r8, %r6;
        ld.shared.u32 %r9, [%r8];";
    let end = "st.shared.u32 [%r7], %r9; ret;";
    expect(Fault::Race, &format!("{begin} {end}"), &format!("{begin} bar.sync 0; {end}"), 1, 64);
}

#[test]
fn lanes_that_write_one_place_race() {
    expect(
        Fault::Race,
        "st.shared.u32 [s], %r1; ret;",
        "setp.eq.u32 %p1, %r1, 3; @%p1 st.shared.u32 [s], %r1; ret;",
        1,
        32,
    );
    // Halves of a word are two places.
    assert_eq!(
        faults(
            "shl.b32 %r8, %r1, 1; add.s32 %r8, %r8, %r6; cvt.u16.u32 %h1, %r1; st.shared.u16 [%r8], %h1; ret;",
            1,
            32
        ),
        []
    );
}

#[test]
fn a_race_in_global_memory_within_a_block() {
    let write = "st.global.u32 [%rd2], %r1;";
    let read =
        "xor.b32 %r8, %r3, 128; cvt.u64.u32 %rd3, %r8; add.s64 %rd4, %rd1, %rd3; ld.global.u32 %r9, [%rd4]; ret;";
    expect(Fault::Race, &format!("{write} {read}"), &format!("{write} bar.sync 0; {read}"), 1, 64);
}

#[test]
fn a_race_in_global_memory_between_blocks() {
    expect(Fault::Race, "st.global.u32 [%rd1], %r1; ret;", "st.global.u32 [%rd2], %r1; ret;", 4, 1);
    // A barrier of a block orders nothing between blocks, and atomics race with nothing but plain accesses.
    let bad = "st.global.u32 [%rd2], %r1; bar.sync 0; ld.global.u32 %r9, [%rd1]; ret;";
    expect(Fault::Race, bad, "atom.global.add.u32 %r9, [%rd1], 1; ret;", 4, 1);
    expect(
        Fault::Race,
        "atom.global.add.u32 %r9, [%rd1], 1; ld.global.u32 %r8, [%rd1]; ret;",
        "red.global.add.u32 [%rd1], 1; ret;",
        4,
        1,
    );
}

#[test]
fn fences_with_an_atomic_order_blocks() {
    // Every block writes its place; the one that comes last reads the places of all.
    let with = |before: &str, after: &str| {
        format!(
            "add.s64 %rd3, %rd2, 4; st.global.u32 [%rd3], %r2; {before}
            atom.global.add.u32 %r8, [%rd1], 1; {after}
            setp.ne.u32 %p1, %r8, 2; @%p1 ret;
            ld.global.u32 %r9, [%rd1+4]; ld.global.u32 %r10, [%rd1+8]; ld.global.u32 %r11, [%rd1+12]; ret;"
        )
    };
    let run_all = |body: &str| {
        // One more element than blocks: the first one counts.
        let body = format!("mad.wide.u32 %rd2, %r2, 4, %rd1; {body}");
        let mut found = Vec::new();
        for seed in 0..5 {
            let guarded = format!("setp.ne.u32 %p2, %r1, 0; @%p2 ret; {body}");
            let report = run(Config { seed, ..Config::default() }, &guarded, 3, 2);
            found.extend(report.findings.iter().map(|f| f.fault));
        }
        found.dedup();
        found
    };
    assert_eq!(run_all(&with("membar.gl;", "membar.gl;")), []);
    assert_eq!(run_all(&with("membar.gl;", "")), [Fault::Race]);
    assert_eq!(run_all(&with("", "membar.gl;")), [Fault::Race]);
}

#[test]
fn outside_of_arrays() {
    // Behind the end and before the beginning, of each memory.
    expect(Fault::OutOfBounds, "st.global.u32 [%rd2+4], %r1; ret;", "st.global.u32 [%rd2], %r1; ret;", 1, 32);
    expect(Fault::OutOfBounds, "ld.global.u32 %r8, [%rd2+-4]; ret;", "ld.global.u32 %r8, [%rd2]; ret;", 1, 32);
    expect(Fault::OutOfBounds, "st.shared.u32 [s+1024], %r1; ret;", "st.shared.u32 [s+1020], %r1; ret;", 1, 1);
    expect(Fault::OutOfBounds, "st.shared.u32 [dynamic+64], %r1; ret;", "st.shared.u32 [dynamic+60], %r1; ret;", 1, 1);
    expect(Fault::OutOfBounds, "st.shared.u32 [dynamic+-4], %r1; ret;", "st.shared.u32 [dynamic], %r1; ret;", 1, 1);
    expect(Fault::OutOfBounds, "st.local.u32 [l+64], %r1; ret;", "st.local.u32 [l+60], %r1; ret;", 1, 1);
    expect(Fault::OutOfBounds, "mov.u64 %rd3, 0; ld.u32 %r8, [%rd3]; ret;", "ld.u32 %r8, [%rd2]; ret;", 1, 1);
    expect(
        Fault::OutOfBounds,
        "mov.u64 %rd3, s; st.shared.v4.u32 [%rd3+1016], {%r1, %r1, %r1, %r1}; ret;",
        "mov.u64 %rd3, s; st.shared.v4.u32 [%rd3+1008], {%r1, %r1, %r1, %r1}; ret;",
        1,
        1,
    );
}

#[test]
fn misaligned_addresses() {
    expect(
        Fault::Misaligned,
        "ld.global.v2.u32 {%r8, %r9}, [%rd1+4]; ret;",
        "ld.global.v2.u32 {%r8, %r9}, [%rd1+8]; ret;",
        1,
        4,
    );
    expect(Fault::Misaligned, "st.shared.u32 [s+2], %r1; ret;", "st.shared.u32 [s+4], %r1; ret;", 1, 1);
}

#[test]
fn memory_that_nobody_wrote() {
    expect(
        Fault::Uninitialised,
        "ld.shared.u32 %r8, [s]; ret;",
        "st.shared.u32 [s], 1; ld.shared.u32 %r8, [s]; ret;",
        1,
        1,
    );
    expect(
        Fault::Uninitialised,
        "st.local.u16 [l], 1; ld.local.u32 %r8, [l]; ret;",
        "st.local.u32 [l], 1; ld.local.u32 %r8, [l]; ret;",
        1,
        1,
    );
    // Device memory: an allocation of which one half was written.
    let ptx = ".version 7.1 .target sm_80 .address_size 64
        .visible .entry k(.param .u64 x) { .reg .b64 %rd<4>; .reg .b32 %r<4>;
        ld.param.u64 %rd1, [x]; ld.global.u32 %r1, [%rd1+32]; ret; }";
    let mut device = Device::new(Config::default());
    let kernel = device.load(ptx).unwrap().kernel("k").unwrap();
    let x = device.memory.allocate(64).unwrap();
    device.memory.write(x, &[0; 32]).unwrap();
    let launch = |device: &Device| device.launch(&kernel, [1; 3], [1; 3], 0, &[&x.to_le_bytes()]).unwrap().findings;
    assert_eq!(launch(&device).iter().map(|f| f.fault).collect::<Vec<_>>(), [Fault::Uninitialised]);
    device.memory.write(x + 32, &[0; 4]).unwrap();
    assert_eq!(launch(&device), []);
}

#[test]
fn use_after_free_says_so() {
    let ptx = ".version 7.1 .target sm_80 .address_size 64
        .visible .entry k(.param .u64 x) { .reg .b64 %rd<4>; .reg .b32 %r<4>;
        ld.param.u64 %rd1, [x]; ld.global.u32 %r1, [%rd1]; ret; }";
    let mut device = Device::new(Config::default());
    let kernel = device.load(ptx).unwrap().kernel("k").unwrap();
    let x = device.memory.allocate(64).unwrap();
    device.memory.free(x).unwrap();
    let findings = device.launch(&kernel, [1; 3], [1; 3], 0, &[&x.to_le_bytes()]).unwrap().findings;
    assert_eq!(findings[0].fault, Fault::OutOfBounds);
    assert!(findings[0].detail.contains("were freed"), "{}", findings[0]);
}

const COPY: &str = "mad.wide.u32 %rd3, %r1, 16, %rd1; shl.b32 %r8, %r1, 4; add.s32 %r8, %r8, %r6;
    cp.async.cg.shared.global [%r8], [%rd3], 16; cp.async.commit_group;";

#[test]
fn copies_that_were_not_waited_for() {
    let guarded = |rest: &str| format!("setp.ge.u32 %p1, %r1, 8; @%p1 bra END; {COPY} {rest} END: ret;");
    let read = "ld.shared.u32 %r9, [%r8];";
    expect(
        Fault::CopyInFlight,
        &guarded(&format!("cp.async.wait_group 1; {read}")),
        &guarded(&format!("cp.async.wait_group 0; {read}")),
        1,
        32,
    );
    expect(
        Fault::CopyInFlight,
        &guarded("st.shared.u32 [%r8], 1;"),
        &guarded("cp.async.wait_all; st.shared.u32 [%r8], 1;"),
        1,
        32,
    );
}

#[test]
fn copies_are_seen_by_others_after_a_barrier() {
    let read = "xor.b32 %r9, %r8, 16; ld.shared.u32 %r10, [%r9]; ret;";
    let body = |between: &str| format!("{COPY} cp.async.wait_group 0; {between} {read}");
    // 32 threads copy 16 bytes each: only an array of as many bytes is large enough.
    let body = |between: &str| format!("setp.ge.u32 %p1, %r1, 8; @%p1 ret; {}", body(between));
    expect(Fault::Race, &body(""), &body("bar.warp.sync 255;"), 1, 32);
}

#[test]
fn the_source_of_a_copy_is_read_when_it_lands() {
    // What is written to the source after the copy began is what arrives.
    let body = "mov.u32 %r8, s; cp.async.ca.shared.global [%r8], [%rd2], 4; st.global.u32 [%rd2], 7;
        cp.async.wait_all; ld.shared.u32 %r9, [%r8]; setp.ne.u32 %p1, %r9, 7; @%p1 trap; ret;";
    assert_eq!(faults(body, 1, 1), []);
}

#[test]
fn zeros_fill_what_a_copy_does_not_read() {
    let body = "st.global.u32 [%rd2], -1; mov.u32 %r8, s; mov.u32 %r10, 2;
        cp.async.ca.shared.global [%r8], [%rd2], 4, %r10; cp.async.wait_all;
        ld.shared.u32 %r9, [%r8]; setp.ne.u32 %p1, %r9, 65535; @%p1 trap; ret;";
    assert_eq!(faults(body, 1, 1), []);
}

#[test]
fn the_last_block_reads_what_atomics_of_the_others_left() {
    // Every block adds to sums, counts itself, and the last one reads them: `%rd1` is the counter, the sums lie behind.
    let body = |fence: &str, after: &str| {
        format!(
            "mov.u32 %r9, 1; atom.global.add.u32 %r8, [%rd3], %r9; {fence} bar.sync 0;
            setp.ne.u32 %p1, %r1, 0; @%p1 bra ALL; {fence} atom.global.add.u32 %r10, [%rd1], %r9; {after}
            st.shared.u32 [%r6], %r10;
            ALL: bar.sync 0; ld.shared.u32 %r10, [%r6]; mov.u32 %r11, %nctaid.x; sub.u32 %r11, %r11, 1;
            setp.ne.u32 %p1, %r10, %r11; @%p1 ret; {after} ld.global.u32 %r12, [%rd3]; ret;"
        )
    };
    let place = "add.s32 %r8, %r3, 4; cvt.u64.u32 %rd3, %r8; add.s64 %rd3, %rd3, %rd1;";
    let with = |fence, after| format!("{place} {}", body(fence, after));
    expect(Fault::Race, &with("", ""), &with("membar.gl;", "membar.gl;"), 16, 64);
    expect(Fault::Race, &with("", "membar.gl;"), &with("fence.acq_rel.gpu;", "fence.acq_rel.gpu;"), 16, 64);
    // Two blocks suffice, and so does a warp.
    expect(Fault::Race, &with("", ""), &with("membar.gl;", "membar.gl;"), 2, 32);
}

#[test]
fn barriers_that_not_all_reach() {
    let half = "setp.lt.u32 %p1, %r1, 16; @%p1 bar.sync 0; ret;";
    expect(Fault::DivergentBarrier, half, "bar.sync 0; ret;", 1, 32);
    let two = "setp.lt.u32 %p1, %r1, 16; @%p1 bra L; bar.sync 0; ret; L: bar.sync 0; ret;";
    expect(Fault::DivergentBarrier, two, "setp.lt.u32 %p1, %r1, 16; @%p1 bra L; L: bar.sync 0; ret;", 1, 32);
}

#[test]
fn barriers_do_not_wait_for_threads_that_have_ended() {
    // The manual: of a barrier without a count the threads that have not exited take part. 24 ends within a warp.
    for bound in [1, 24, 32, 40, 64, 95] {
        for wait in ["bar.sync 0;", "barrier.sync 0;", "bar.red.popc.u32 %r10, 0, %p2;"] {
            let body = format!(
                "setp.ge.u32 %p1, %r1, {bound}; setp.ge.u32 %p2, %r1, 0; @%p1 ret; st.shared.u32 [%r7], %r1;
                mov.u32 %r10, {bound}; {wait} setp.ne.u32 %p3, %r10, {bound}; @%p3 trap;
                sub.s32 %r8, {}, %r3; add.s32 %r8, %r8, %r6; ld.shared.u32 %r9, [%r8]; st.global.u32 [%rd2], %r9; ret;",
                4 * (bound - 1)
            );
            assert_eq!(faults(&body, 2, 96), [], "{body}");
        }
    }
    // Those who end while others wait already: a warp that comes late, and lanes of the warp that waits.
    let late =
        "setp.lt.u32 %p1, %r1, 40; @%p1 bra W; mov.u32 %r8, 0; L: add.u32 %r8, %r8, 1; setp.lt.u32 %p2, %r8, 999;
        @%p2 bra L; ret; W: barrier.sync 0; ret;";
    assert_eq!(faults(late, 1, 96), []);
    // A warp whose rest arrives counts in full where threads are counted.
    let counted = "setp.eq.u32 %p1, %r1, 7; @%p1 ret; bar.sync 1, 64; ret;";
    assert_eq!(faults(counted, 1, 64), []);
}

#[test]
fn a_barrier_that_never_opens() {
    let bad = "setp.lt.u32 %p1, %r1, 32; @%p1 bra L; bar.sync 1, 64; ret; L: bar.sync 2, 64; ret;";
    expect(Fault::Deadlock, bad, &bad.replace("bar.sync 2", "bar.sync 1"), 1, 64);
}

#[test]
fn named_barriers_order_their_warps() {
    // The first warp writes and arrives, the second waits and reads.
    let body = |arrive: &str| {
        format!(
            "setp.ge.u32 %p1, %r1, 32; @%p1 bra READ; st.shared.u32 [%r7], %r1; {arrive} ret;
            READ: bar.sync 3, 64; and.b32 %r8, %r3, 127; add.s32 %r8, %r8, %r6; ld.shared.u32 %r9, [%r8]; ret;"
        )
    };
    expect(Fault::Deadlock, &body(""), &body("bar.arrive 3, 64;"), 1, 64);
    let late = body("bar.arrive 3, 64; st.shared.u32 [%r7], 0;");
    assert!(faults(&late, 1, 64).contains(&Fault::Race));
}

#[test]
fn lanes_that_are_named_and_not_there() {
    let bad = "setp.lt.u32 %p1, %r1, 16; @%p1 shfl.sync.bfly.b32 %r8, %r1, 1, 31, -1; ret;";
    expect(Fault::DivergentWarp, bad, &bad.replace("-1;", "65535;"), 1, 32);
}

#[test]
fn masks_that_do_not_agree() {
    let vote = "vote.sync.ballot.b32 %r9, %p1, %r8;";
    // Pairs of lanes; then lane 6 does not name itself, and then it names a lane more than lane 7 does.
    let pairs = "setp.ge.u32 %p1, %r1, 0; and.b32 %r8, %r1, 30; shl.b32 %r8, 3, %r8; setp.eq.u32 %p2, %r1, 6;";
    let good = format!("{pairs} {vote} ret;");
    for wrong in ["@%p2 mov.u32 %r8, 128;", "@%p2 mov.u32 %r8, 193;"] {
        let bad = format!("{pairs} {wrong} {vote} ret;");
        expect(Fault::DivergentWarp, &bad, &good, 1, 32);
        let report = run(Config::default(), &bad, 1, 32);
        assert!(report.findings[0].to_string().contains("lanes 0x00000040"), "{}", report.findings[0]);
        assert_eq!(faults(&bad.replace(vote, "bar.warp.sync %r8;"), 1, 32), [Fault::DivergentWarp]);
    }
    let ended = format!("{pairs} @%p2 ret; {vote} ret;");
    assert_eq!(faults(&ended, 1, 32), [Fault::DivergentWarp]);
    // A group that is whole goes on while another one waits, and it is what the late lane waits for.
    let late = "setp.eq.u32 %p3, %r1, 7; @%p3 bra LATE; L: vote.sync.ballot.b32 %r9, %p1, %r8;
        setp.eq.u32 %p4, %r1, 0; mov.u32 %r10, 1; @%p4 atom.shared.exch.b32 %r11, [%r6+512], %r10; ret;
        LATE: atom.shared.add.u32 %r11, [%r6+512], 0; setp.ne.u32 %p4, %r11, 1; @%p4 bra LATE; bra L;";
    let zero = "@%p2 st.shared.u32 [%r6+512], 0; bar.warp.sync -1;";
    assert_eq!(faults(&format!("{pairs} {zero} {late}"), 1, 32), []);
}

#[test]
fn traps_and_loops_without_end() {
    expect(Fault::Trap, "setp.eq.u32 %p1, %r1, 5; @%p1 trap; ret;", "setp.eq.u32 %p1, %r1, 50; @%p1 trap; ret;", 1, 32);
    expect(Fault::Hang, "L: bra L;", "bra L; L: ret;", 1, 32);
}

#[test]
fn blocks_may_wait_for_each_other() {
    // The second block spins until the first has set a flag, in whichever order they begin.
    let body = "setp.eq.u32 %p1, %r2, 0; @%p1 bra SET;
        WAIT: ld.volatile.global.u32 %r8, [%rd1]; setp.eq.u32 %p2, %r8, 0; @%p2 bra WAIT; ret;
        SET: st.volatile.global.u32 [%rd1], 1; ret;";
    for seed in 0..3 {
        assert_eq!(run(Config { seed, ..Config::default() }, body, 2, 1).findings, []);
    }
}

#[test]
fn findings_name_lines_and_count() {
    let report = run(Config::default(), "\n\n st.shared.u32 [s+1024], %r1;\n ret;", 3, 32);
    let [finding] = &report.findings[..] else { panic!("{:?}", report.findings) };
    assert_eq!((finding.fault, finding.count, finding.kernel.as_str()), (Fault::OutOfBounds, 96, "k"));
    assert_eq!(finding.opcode, "st.shared.u32");
    assert_eq!(finding.line, 14);
    assert!(finding.to_string().contains("PTX line 14"), "{finding}");
}

#[test]
fn copies_on_the_device_carry_what_was_written() {
    let ptx = ".version 7.1 .target sm_80 .address_size 64
        .visible .entry k(.param .u64 x) { .reg .b64 %rd<4>; .reg .b32 %r<4>;
        ld.param.u64 %rd1, [x]; ld.global.u32 %r1, [%rd1+4]; ld.global.u32 %r2, [%rd1+12]; ret; }";
    let mut device = Device::new(Config::default());
    let kernel = device.load(ptx).unwrap().kernel("k").unwrap();
    let [x, y] = [(); 2].map(|()| device.memory.allocate(24).unwrap());
    device.memory.write(x, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]).unwrap();
    device.memory.fill(y, &[1, 2, 3], 8).unwrap();
    let launch = |device: &Device| device.launch(&kernel, [1; 3], [1; 3], 0, &[&y.to_le_bytes()]).unwrap().findings;
    assert_eq!(launch(&device), []);
    // Bytes 9 and 10 of the target come from where nobody wrote; those that the kernel reads do not.
    device.memory.copy(y + 1, x + 2, 10).unwrap();
    let mut bytes = [0; 12];
    device.memory.read(y, &mut bytes).unwrap();
    assert_eq!(bytes[..9], [1, 3, 4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(launch(&device), []);
    device.memory.copy(y + 5, x + 6, 5).unwrap();
    assert_eq!(launch(&device).len(), 0);
    device.memory.copy(y + 7, x + 10, 1).unwrap();
    assert_eq!(launch(&device).iter().map(|f| f.fault).collect::<Vec<_>>(), [Fault::Uninitialised]);
    assert!(device.memory.copy(y, x, 25).is_err());
    assert!(device.memory.write(y + 20, &[0; 5]).is_err());
}

#[test]
fn the_seed_decides_the_order_of_blocks_and_warps() {
    // Each warp draws a number and leaves it at its place.
    let ptx = ".version 7.1 .target sm_80 .address_size 64
        .visible .entry k(.param .u64 x) { .reg .pred %p<2>; .reg .b64 %rd<4>; .reg .b32 %r<8>;
        ld.param.u64 %rd1, [x]; mov.u32 %r1, %tid.x; and.b32 %r2, %r1, 31; setp.ne.u32 %p1, %r2, 0; @%p1 ret;
        atom.global.add.u32 %r3, [%rd1], 1; mov.u32 %r4, %ctaid.x; shr.u32 %r5, %r1, 5; mad.lo.u32 %r6, %r4, 8, %r5;
        mad.wide.u32 %rd2, %r6, 4, %rd1; st.global.u32 [%rd2+4], %r3; ret; }";
    let (blocks, warps) = (6, 8);
    let drawn = |seed| {
        let mut device = Device::new(Config { seed, ..Config::default() });
        let kernel = device.load(ptx).unwrap().kernel("k").unwrap();
        let x = device.memory.allocate(4 * (1 + blocks * warps)).unwrap();
        device.memory.write(x, &[0; 4]).unwrap();
        let launch =
            || device.launch(&kernel, [blocks as u32, 1, 1], [32 * warps as u32, 1, 1], 0, &[&x.to_le_bytes()]);
        // On one thread, so that blocks follow each other.
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(alone.install(launch).unwrap().findings, []);
        let mut bytes = vec![0; 4 * blocks * warps];
        device.memory.read(x + 4, &mut bytes).unwrap();
        bytes.chunks_exact(4).map(|four| u32::from_le_bytes(four.try_into().unwrap())).collect::<Vec<_>>()
    };
    let order = |numbers: &[u32]| {
        let mut places: Vec<usize> = (0..numbers.len()).collect();
        places.sort_by_key(|&place| numbers[place]);
        places
    };
    let of_warps = |drawn: &[u32]| order(&drawn[..warps]);
    let of_blocks = |drawn: &[u32]| order(&drawn.chunks(warps).map(|block| block[0]).collect::<Vec<_>>());
    let all: Vec<Vec<u32>> = (0..4).map(drawn).collect();
    assert_eq!(all[3], drawn(3));
    assert!(all.iter().any(|drawn| of_warps(drawn) != of_warps(&all[0])), "warps run in one order");
    assert!(all.iter().any(|drawn| of_blocks(drawn) != of_blocks(&all[0])), "blocks run in one order");
}
