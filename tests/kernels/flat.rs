//! Flat buffers: fill, the sum of squares, the count of what is not finite, AdamW.

use polar_raw::backend::{AdamW, Operations};
use polar_raw::cuda::abi::{self, AdamwParams, FillParams, FlatSumParams};
use polar_raw::cuda::kernel::Launch;
use polar_raw::cuda::kernels::{ADAMW, FILL_BF16, FILL_F32};
use polar_raw::cuda::{count_non_finite as count_kernels, sum_of_squares as square_kernels};
use polar_raw::reference::Reference;

use crate::device::{Device, Kernels};
use crate::values::{BF16, Draw, F32, close, empty, tensor, values_of};

/// Lengths round a vector's and a block's, and where each begins: aligned, and two or four bytes behind.
const LENGTHS: [usize; 5] = [1, 3, 4, 1025, 4099];

pub fn fill_writes_all_and_nothing_else(kernels: &Kernels) {
    for n in LENGTHS {
        for behind in [0, 1] {
            let device = Device::new(kernels);
            let (f32s, bf16s) = (device.poisoned(4 * (n + 2)), device.poisoned(2 * (n + 2)));
            let params = |out| FillParams { out, count: n as u64, value: -1.5 };
            device.launch(&FILL_F32.on([3, 1]), &params(f32s + 4 * behind));
            device.launch(&FILL_BF16.on([3, 1]), &params(bf16s + 2 * behind));
            for got in [device.read_f32(f32s, n + 2), device.read_bf16(bf16s, n + 2)] {
                for (i, x) in got.iter().enumerate() {
                    let inside = (behind as usize..behind as usize + n).contains(&i);
                    assert!(if inside { *x == -1.5 } else { x.is_nan() }, "{n} {behind} [{i}] is {x}");
                }
            }
        }
    }
}

/// What the launches of `plan` make of `x`, from `behind` elements behind an aligned address on.
fn flat_sum(device: &Device, plan: fn(usize) -> [Launch<FlatSumParams>; 2], x: &[f64], behind: usize) -> f64 {
    let chunks = x.len().div_ceil(abi::FLAT_SUM_CHUNK as usize);
    let params = FlatSumParams {
        sum: device.poisoned(4),
        x: device.f32(&[vec![f64::NAN; behind], x.to_vec()].concat()) + 4 * behind as u64,
        partials: device.poisoned(4 * chunks),
        count: x.len() as u64,
    };
    for launch in plan(x.len()) {
        device.launch(&launch, &params);
    }
    device.read_f32(params.sum, 1)[0]
}

/// Lengths of flat buffers whose chunks have 32,768 elements, and how far behind an aligned address they begin.
const FLAT: [(usize, usize); 9] =
    [(1, 0), (4, 0), (5, 1), (2048, 0), (32_767, 0), (32_768, 0), (32_769, 1), (100_003, 0), (100_003, 1)];

pub fn sum_of_squares(kernels: &Kernels) {
    for (n, behind) in FLAT {
        let (device, mut draw) = (Device::new(kernels), Draw::new(n as u64));
        let x = draw.f32(n, 3.0);
        let want = empty(&[1]);
        Reference.sum_of_squares(&want, &tensor(&x, &[n])).unwrap();
        close("sum", &[flat_sum(&device, square_kernels::plan, &x, behind)], &values_of(&want), 200.0 * F32, 0.0);
    }
}

/// The second kernel alone: so many chunks that a thread adds up several, which is more than fits in a test otherwise.
pub fn sum_of_squares_of_many_chunks(kernels: &Kernels) {
    for chunks in [1400, 3000] {
        let (device, mut draw) = (Device::new(kernels), Draw::new(chunks as u64));
        let squares: Vec<f64> = draw.f32(chunks, 9.0).iter().map(|x| x.abs()).collect();
        let params = FlatSumParams {
            sum: device.poisoned(4),
            x: 0,
            partials: device.f32(&squares),
            count: (chunks * abi::FLAT_SUM_CHUNK as usize - 5) as u64,
        };
        let [_, finish] = square_kernels::plan(params.count as usize);
        device.launch(&finish, &params);
        close("sum", &device.read_f32(params.sum, 1), &[squares.iter().sum()], 200.0 * F32, 0.0);
    }
}

/// NaNs and infinities of both signs anywhere, the ends too; the largest and smallest numbers there are do not count.
pub fn count_non_finite(kernels: &Kernels) {
    for (n, behind) in FLAT {
        let (device, mut draw) = (Device::new(kernels), Draw::new(n as u64));
        let mut x = draw.f32(n, 3.0);
        x[n / 2] = f64::from(f32::MAX);
        x[n / 3] = f64::from(f32::from_bits(1));
        assert_eq!(flat_sum(&device, count_kernels::plan, &x, behind), 0.0, "{n} finite numbers");
        for (i, wrong) in [(0, f64::NAN), (n - 1, f64::INFINITY), (2 * n / 3, f64::NEG_INFINITY)] {
            x[i] = wrong;
        }
        let want = empty(&[1]);
        Reference.count_non_finite(&want, &tensor(&x, &[n])).unwrap();
        assert_eq!(vec![flat_sum(&device, count_kernels::plan, &x, behind)], values_of(&want), "{n} {behind}");
    }
}

const UPDATE: AdamW = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, max_norm: 1.0, step: 1 };

fn adamw_params(update: &AdamW) -> AdamwParams {
    AdamwParams {
        max_norm: update.max_norm as f32,
        beta1: update.beta1 as f32,
        beta2: update.beta2 as f32,
        rest1: (1.0 - update.beta1) as f32,
        rest2: (1.0 - update.beta2) as f32,
        decay: (1.0 - update.lr * update.weight_decay) as f32,
        rate: (update.lr / (1.0 - update.beta1.powi(update.step as i32))) as f32,
        root: (1.0 / (1.0 - update.beta2.powi(update.step as i32)).sqrt()) as f32,
        eps: update.eps as f32,
        ..AdamwParams::default()
    }
}

pub fn adamw(kernels: &Kernels) {
    for (n, step, max_norm, behind) in [(1, 1, 0.0, 0), (1027, 1, 1.0, 0), (4096, 5, 0.5, 0), (515, 100, 1e9, 1)] {
        let (device, mut draw) = (Device::new(kernels), Draw::new(n as u64));
        let [p, m, g] = [1.0, 0.1, 0.3].map(|size| draw.f32(n, size));
        let v: Vec<f64> = draw.f32(n, 0.1).iter().map(|x| x.abs()).collect();
        let squares = f64::from(g.iter().map(|x| x * x).sum::<f64>() as f32);
        let update = AdamW { max_norm, step, ..UPDATE };
        let at = |values: &[f64]| device.f32(&[vec![0.0; behind], values.to_vec()].concat()) + 4 * behind as u64;
        let weights = device.poisoned(2 * n);
        let params = AdamwParams {
            master: at(&p),
            weights,
            m: at(&m),
            v: at(&v),
            grads: at(&g),
            squares: device.f32(&[squares]),
            losses: device.f32(&[0.5, -3.0]),
            count: n as u64,
            n_losses: 2,
            ..adamw_params(&update)
        };
        device.launch(&ADAMW.on([2, 1]), &params);
        let [p, m, v, g] = [&p, &m, &v, &g].map(|values| tensor(values, &[n]));
        let (squares, losses) = (tensor(&[squares], &[1]), tensor(&[0.5, -3.0], &[2]));
        Reference.adamw(&p, &p, &m, &v, &g, &squares, &losses, &update).unwrap();
        for (what, at, want) in [("p", params.master, &p), ("m", params.m, &m), ("v", params.v, &v)] {
            close(what, &device.read_f32(at, n), &values_of(want), 10.0 * F32, 10.0 * F32 * update.lr);
        }
        close("weights", &device.read_bf16(weights, n), &values_of(&p), BF16, 1e-7);
    }
}

/// No bit changes where the norm or a loss is not finite: neither masters, moments nor weights.
pub fn adamw_leaves_out_what_is_not_finite(kernels: &Kernels) {
    let n = 1027;
    for (squares, losses) in [
        (f64::NAN, [0.5, 0.5]),
        (f64::INFINITY, [0.5, 0.5]),
        (2.0, [f64::NAN, 0.5]),
        (2.0, [0.5, f64::INFINITY]),
        (2.0, [f64::NEG_INFINITY, 0.5]),
    ] {
        // Without clipping too: then nothing else looks at the norm.
        for max_norm in [0.0, 1.0] {
            let (device, mut draw) = (Device::new(kernels), Draw::new(5));
            let before = [1.0, 0.1, 0.2].map(|size| draw.f32(n, size).iter().map(|x| x.abs()).collect::<Vec<f64>>());
            let weights = draw.bf16(n, 1.0);
            let params = AdamwParams {
                master: device.f32(&before[0]),
                m: device.f32(&before[1]),
                v: device.f32(&before[2]),
                weights: device.bf16(&weights),
                grads: device.f32(&draw.f32(n, 1.0)),
                squares: device.f32(&[squares]),
                losses: device.f32(&losses),
                count: n as u64,
                n_losses: 2,
                ..adamw_params(&AdamW { max_norm, ..UPDATE })
            };
            device.launch(&ADAMW.on([2, 1]), &params);
            for (at, before) in [params.master, params.m, params.v].into_iter().zip(&before) {
                assert_eq!(&device.read_f32(at, n), before, "{squares} {losses:?}");
            }
            assert_eq!(device.read_bf16(params.weights, n), weights, "{squares} {losses:?}");
        }
    }
}
