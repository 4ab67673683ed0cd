//! Kernels that nvcc compiled, against the host, without findings.

use approx::abs_diff_eq;
use emulator::{Config, Device};

const PTX: &str = include_str!("kernels/warp.ptx");

fn bytes<T: Copy, const N: usize>(values: &[T], to: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&v| to(v)).collect()
}

fn floats(device: &Device, address: u64, count: usize) -> Vec<f32> {
    let mut out = vec![0; 4 * count];
    device.memory.read(address, &mut out).unwrap();
    out.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect()
}

#[test]
fn a_switch_local_arrays_and_library_code() {
    for seed in 0..3 {
        let mut device = Device::new(Config { seed, ..Config::default() });
        let kernel = device.load(PTX).unwrap().kernel("odds").unwrap();
        let n = 1000u32;
        let x: Vec<u32> = (0..n).map(|i| i.wrapping_mul(2_654_435_761) >> (i % 20)).collect();
        let (px, py) = (device.memory.allocate(4000).unwrap(), device.memory.allocate(4000).unwrap());
        device.memory.write(px, &bytes(&x, u32::to_le_bytes)).unwrap();
        let params: [&[u8]; 3] = [&py.to_le_bytes(), &px.to_le_bytes(), &n.to_le_bytes()];
        let report = device.launch(&kernel, [8, 1, 1], [128, 1, 1], 0, &params).unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        for (&v, y) in x.iter().zip(floats(&device, py, n as usize)) {
            let wanted = match v % 9 {
                0 => ((v % 1000) as f32 * 0.01).sin(),
                1 => ((v / 9 % 16) * (v / 9 % 16)) as f32 + n as f32,
                2 => half::bf16::from_f32(v as f32).to_f32(),
                3 => half::f16::from_f32(v as f32 * 0.001).to_f32(),
                4 => (v.count_ones() + v.leading_zeros() + (v.reverse_bits() >> 20)) as f32,
                5 => (v as f32).sqrt(),
                6 => (v / (n | 1)) as f32,
                7 => (v as i32 % 77) as f32,
                _ => -1.0,
            };
            let same = y == wanted || v % 9 == 0 && abs_diff_eq!(y, wanted, epsilon = 1e-6);
            assert!(same, "{v}, case {}: {y} and not {wanted}", v % 9);
        }
    }
}

#[test]
fn the_last_block_adds_up_whatever_the_order() {
    for seed in 0..4 {
        let mut device = Device::new(Config { seed, ..Config::default() });
        let module = device.load(PTX).unwrap();
        let kernel = module.kernel("last_block").unwrap();
        let (n, blocks) = (5000u32, 7u32);
        let x: Vec<f32> = (0..n).map(|i| (i % 17) as f32).collect();
        let [total, parts, px] = [4, 4 * blocks as usize, 4 * n as usize].map(|b| device.memory.allocate(b).unwrap());
        device.memory.write(px, &bytes(&x, f32::to_le_bytes)).unwrap();
        let params: [&[u8]; 4] = [&total.to_le_bytes(), &parts.to_le_bytes(), &px.to_le_bytes(), &n.to_le_bytes()];
        for _ in 0..2 {
            let report = device.launch(&kernel, [blocks, 1, 1], [128, 1, 1], 0, &params).unwrap();
            assert!(report.findings.is_empty(), "{:#?}", report.findings);
            assert_eq!(report.counters.global_atomics, u64::from(blocks));
            assert_eq!(floats(&device, total, 1), [x.iter().sum::<f32>()]);
        }
    }
}
