//! Flat buffers: fill, the global norm, AdamW.

use polar_raw::backend::{AdamW, Operations};
use polar_raw::cuda::abi::{self, AdamwParams, FillParams, GlobalNormParams};
use polar_raw::cuda::global_norm::plan;
use polar_raw::cuda::kernels::{ADAMW, FILL_BF16, FILL_F32};
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

pub fn global_norm(kernels: &Kernels) {
    // A chunk has 32,768. The second number says how far behind an aligned address the buffer begins.
    for (n, behind) in
        [(1, 0), (4, 0), (5, 1), (2048, 0), (32_767, 0), (32_768, 0), (32_769, 1), (100_003, 0), (100_003, 1)]
    {
        let (device, mut draw) = (Device::new(kernels), Draw::new(n as u64));
        let x = draw.f32(n, 3.0);
        let chunks = n.div_ceil(abi::GLOBAL_NORM_CHUNK as usize);
        let params = GlobalNormParams {
            norm: device.poisoned(4),
            x: device.f32(&[vec![f64::NAN; behind], x.clone()].concat()) + 4 * behind as u64,
            partials: device.poisoned(4 * chunks),
            count: n as u64,
        };
        plan(n).iter().for_each(|launch| drop(device.launch(launch, &params)));
        let want = empty(&[1]);
        Reference.global_norm(&want, &tensor(&x, &[n])).unwrap();
        close("norm", &device.read_f32(params.norm, 1), &values_of(&want), 100.0 * F32, 0.0);
    }
}

/// The second kernel alone: so many chunks that a thread adds up several, which is more than fits in a test otherwise.
pub fn global_norm_of_many_chunks(kernels: &Kernels) {
    for chunks in [1400, 3000] {
        let (device, mut draw) = (Device::new(kernels), Draw::new(chunks as u64));
        let squares: Vec<f64> = draw.f32(chunks, 9.0).iter().map(|x| x.abs()).collect();
        let params = GlobalNormParams {
            norm: device.poisoned(4),
            x: 0,
            partials: device.f32(&squares),
            count: (chunks * abi::GLOBAL_NORM_CHUNK as usize - 5) as u64,
        };
        let [_, finish] = plan(params.count as usize);
        device.launch(&finish, &params);
        let want = squares.iter().sum::<f64>().sqrt();
        close("norm", &device.read_f32(params.norm, 1), &[want], 100.0 * F32, 0.0);
    }
}

pub fn adamw(kernels: &Kernels) {
    for (n, step, max_norm, behind) in [(1, 1, 0.0, 0), (1027, 1, 1.0, 0), (4096, 5, 0.5, 0), (515, 100, 1e9, 1)] {
        let (device, mut draw) = (Device::new(kernels), Draw::new(n as u64));
        let [p, m, g] = [1.0, 0.1, 0.3].map(|size| draw.f32(n, size));
        let v: Vec<f64> = draw.f32(n, 0.1).iter().map(|x| x.abs()).collect();
        let norm = f64::from(g.iter().map(|x| x * x).sum::<f64>().sqrt() as f32);
        let update = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, max_norm, step };
        let at = |values: &[f64]| device.f32(&[vec![0.0; behind], values.to_vec()].concat()) + 4 * behind as u64;
        let weights = device.poisoned(2 * n);
        let params = AdamwParams {
            master: at(&p),
            weights,
            m: at(&m),
            v: at(&v),
            grads: at(&g),
            norm: device.f32(&[norm]),
            count: n as u64,
            max_norm: max_norm as f32,
            beta1: 0.9,
            beta2: 0.95,
            rest1: (1.0 - update.beta1) as f32,
            rest2: (1.0 - update.beta2) as f32,
            decay: (1.0 - update.lr * update.weight_decay) as f32,
            rate: (update.lr / (1.0 - update.beta1.powi(step as i32))) as f32,
            root: (1.0 / (1.0 - update.beta2.powi(step as i32)).sqrt()) as f32,
            eps: update.eps as f32,
        };
        device.launch(&ADAMW.on([2, 1]), &params);
        let [p, m, v, g] = [&p, &m, &v, &g].map(|values| tensor(values, &[n]));
        Reference.adamw(&p, &p, &m, &v, &g, &tensor(&[norm], &[1]), &update).unwrap();
        for (what, at, want) in [("p", params.master, &p), ("m", params.m, &m), ("v", params.v, &v)] {
            close(what, &device.read_f32(at, n), &values_of(want), 10.0 * F32, 10.0 * F32 * update.lr);
        }
        close("weights", &device.read_bf16(weights, n), &values_of(&p), BF16, 1e-7);
    }
}
