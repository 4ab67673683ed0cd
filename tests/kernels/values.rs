//! Numbers that are drawn, and how far results may be from the reference's.

use approx::abs_diff_eq;
use polar_raw::backend::{Backend, BackendExt};
use polar_raw::reference::Reference;
use polar_raw::tensor::{Dtype, Tensor};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The unit roundoff of bf16.
pub const BF16: f64 = 1.0 / 256.0;
/// The unit roundoff of f32.
pub const F32: f64 = 1.0 / 16_777_216.0;

/// A stream of random inputs.
pub struct Draw(ChaCha8Rng);

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Values within `[-size, size]` that bf16 holds.
    pub fn bf16(&mut self, n: usize, size: f64) -> Vec<f64> {
        self.f32(n, size).into_iter().map(round_bf16).collect()
    }

    /// Values within `[-size, size]` that f32 holds.
    pub fn f32(&mut self, n: usize, size: f64) -> Vec<f64> {
        (0..n).map(|_| f64::from((self.0.random_range(-1.0..1.0) * size) as f32)).collect()
    }

    /// Numbers below `bound`.
    pub fn below(&mut self, n: usize, bound: u32) -> Vec<u32> {
        (0..n).map(|_| self.0.next_u32() % bound).collect()
    }

    /// `n` different numbers below `bound`, shuffled.
    pub fn distinct(&mut self, n: usize, bound: u32) -> Vec<u32> {
        let mut all: Vec<u32> = (0..bound).collect();
        for i in 0..n {
            let j = self.0.random_range(i..all.len());
            all.swap(i, j);
        }
        all.truncate(n);
        all
    }
}

pub fn round_bf16(x: f64) -> f64 {
    half::bf16::from_f64(x).to_f64()
}

/// A tensor of the reference.
pub fn tensor(values: &[f64], dims: &[usize]) -> Tensor {
    let t = Reference.tensor(Dtype::F64, dims).unwrap();
    Reference.write_f64(&t, values).unwrap();
    t
}

/// A tensor of the reference that holds nothing yet.
pub fn empty(dims: &[usize]) -> Tensor {
    tensor(&vec![f64::NAN; dims.iter().product()], dims)
}

/// Ids, positions, row numbers.
pub fn indices(values: &[u32], dims: &[usize]) -> Tensor {
    let t = Reference.tensor(Dtype::U32, dims).unwrap();
    Reference.write(&t, bytemuck::cast_slice(values)).unwrap();
    t
}

pub fn values_of(t: &Tensor) -> Vec<f64> {
    Reference.read_f64(t).unwrap()
}

/// Requires each result within `relative` of its own magnitude and `absolute` of the reference's.
pub fn close(what: &str, got: &[f64], want: &[f64], relative: f64, absolute: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let off = |i: &usize| !abs_diff_eq!(got[*i], want[*i], epsilon = relative * want[*i].abs() + absolute);
    let wrong: Vec<usize> = (0..want.len()).filter(off).collect();
    if let Some(&first) = wrong.first() {
        let shown = |i: usize| format!("[{i}] is {} and not {}", got[i], want[i]);
        let some: Vec<String> = wrong.iter().take(6).map(|&i| shown(i)).collect();
        panic!("{what}: {} of {} are off, the first at {first}: {}", wrong.len(), want.len(), some.join(", "));
    }
}
