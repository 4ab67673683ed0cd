//! A tensor-core GEMM that nvcc compiled, against the host.

use emulator::{Config, Device, Fault, MmaMode, Report};
use half::bf16;

const PTX: &str = include_str!("kernels/gemm.ptx");

/// C[m, n] = A[m, k] B[n, k]^T of small integers, which is exact in every mode.
fn gemm(config: Config, m: usize, n: usize, k: usize) -> Report {
    let (report, wrong) = run(PTX, config, m, n, k);
    assert_eq!(wrong, 0, "{m}x{n}x{k}");
    report
}

/// The report, and how many elements are not what they should be.
fn run(ptx: &str, config: Config, m: usize, n: usize, k: usize) -> (Report, usize) {
    let mut device = Device::new(config);
    let module = device.load(ptx).unwrap();
    let kernel = module.kernel("gemm").unwrap();
    let a: Vec<f32> = (0..m * k).map(|i| ((i * 7 + i / 13) % 9) as f32 - 4.0).collect();
    let b: Vec<f32> = (0..n * k).map(|i| ((i * 5 + i / 11) % 7) as f32 - 3.0).collect();
    let bytes = |x: &[f32]| x.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect::<Vec<u8>>();
    let memory = &mut device.memory;
    let [pa, pb, pc] = [2 * m * k, 2 * n * k, 4 * m * n].map(|bytes| memory.allocate(bytes).unwrap());
    memory.write(pa, &bytes(&a)).unwrap();
    memory.write(pb, &bytes(&b)).unwrap();
    let mut params = Vec::new();
    [pa, pb, pc].iter().for_each(|p| params.extend_from_slice(&p.to_le_bytes()));
    [m, n, k].iter().for_each(|&v| params.extend_from_slice(&(v as u32).to_le_bytes()));
    params.resize(48, 0);
    let grid = [n.div_ceil(64) as u32, m.div_ceil(64) as u32, 1];
    let report = device.launch(&kernel, grid, [128, 1, 1], 3 * 2 * 64 * 64, &[&params]).unwrap();
    let mut out = vec![0; 4 * m * n];
    device.memory.read(pc, &mut out).unwrap();
    let wrong = out.chunks_exact(4).enumerate().filter(|(at, value)| {
        let (row, column) = (at / n, at % n);
        let wanted: f32 = (0..k).map(|i| a[row * k + i] * b[column * k + i]).sum();
        f32::from_le_bytes((*value).try_into().unwrap()) != wanted
    });
    (report, wrong.count())
}

#[test]
fn ragged_products_are_right_in_every_mode() {
    for (seed, mma) in [(1, MmaMode::Fast), (2, MmaMode::Ampere), (3, MmaMode::Hopper)] {
        for (m, n, k) in [(64, 64, 64), (65, 63, 40), (1, 3, 8), (130, 70, 200)] {
            let report = gemm(Config { seed, mma, ..Config::default() }, m, n, k);
            let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
            assert!(findings.is_empty(), "{m}x{n}x{k}: {findings:#?}");
        }
    }
}

#[test]
fn counters_are_those_of_the_kernel() {
    let counters = gemm(Config::default(), 128, 128, 96).counters;
    // 2x2 blocks of 4 warps, 3 steps of 2x8 products of 2x8 tiles each.
    assert_eq!(counters.mma, 4 * 4 * 3 * 2 * 8);
    assert_eq!(counters.mma_operations, 2 * 128 * 128 * 96);
    assert_eq!((counters.shared_loads.conflicts, counters.shared_stores.conflicts), (0, 0));
    assert_eq!(counters.loads.footprint_sectors, 2 * 128 * 96 * 2 / 32);
    assert_eq!(counters.loads.sectors, counters.loads.fewest_sectors);
    assert_eq!(counters.stores.footprint_sectors, 128 * 128 * 4 / 32);
    assert_eq!(counters.barriers, 4 * 4 * 3);
}

/// What is found when a text in the kernel is replaced by another: faults, and whether the result is wrong.
fn mutant(from: &str, to: &str) -> (Vec<Fault>, bool) {
    assert!(PTX.contains(from), "{from}");
    let (report, wrong) = run(&PTX.replace(from, to), Config::default(), 70, 66, 104);
    let mut faults: Vec<Fault> = report.findings.iter().map(|f| f.fault).collect();
    faults.sort();
    faults.dedup();
    (faults, wrong > 0)
}

#[test]
fn mutants_do_not_survive() {
    assert!(mutant("bar.sync \t0;", "").0.contains(&Fault::Race));
    assert!(mutant("cp.async.wait_group 1;", "cp.async.wait_group 2;").0.contains(&Fault::CopyInFlight));
    assert!(mutant("cp.async.wait_group 1;", "").0.contains(&Fault::CopyInFlight));
    assert!(mutant("cp.async.commit_group;", "").0.contains(&Fault::CopyInFlight));
    // The last row, and the last column: bounds that are one too far.
    for bound in ["%r608;", "%r611;"] {
        let further = |l: &str| if l.ends_with(bound) { l.replace("setp.ge.u32", "setp.gt.u32") } else { l.to_owned() };
        let ptx = PTX.lines().map(further).collect::<Vec<_>>().join("\n");
        let (report, wrong) = run(&ptx, Config::default(), 70, 66, 104);
        assert!(wrong > 0 || !report.findings.is_empty(), "{bound}");
    }
    // Two registers of a fragment swapped, and columns taken for rows.
    let first = PTX.lines().find(|l| l.contains("mma.sync")).unwrap();
    let registers: Vec<&str> = first.split(['{', ',', '}']).map(str::trim).filter(|r| r.starts_with('%')).collect();
    let swapped = first.replacen(registers[4], "%swap", 1).replacen(registers[5], registers[4], 1);
    assert!(mutant(first, &swapped.replacen("%swap", registers[5], 1)).1);
    assert!(mutant("m8n8.x4.shared", "m8n8.x4.trans.shared").1);
}
