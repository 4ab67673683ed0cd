//! Every backward pass of the f64 reference equals the central finite differences of its forward pass.

mod attention;
mod layers;
mod losses;
mod updates;

use polar_raw::backend::BackendExt;
use polar_raw::reference::Reference;
use polar_raw::rng::stream;
use polar_raw::tensor::{Dtype, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// What gradients that are added to start from, so that overwriting them is noticed.
const BASE: f64 = 0.75;

/// Random tensors of one test.
struct Random(ChaCha8Rng);

impl Random {
    fn new(test: &str) -> Self {
        Self(stream(20260, test, 0))
    }

    fn values(&mut self, count: usize) -> Vec<f64> {
        (0..count).map(|_| self.0.random_range(-1.5..1.5)).collect()
    }

    fn tensor(&mut self, dims: &[usize]) -> Tensor {
        holding(dims, &self.values(dims.iter().product()))
    }
}

fn holding(dims: &[usize], values: &[f64]) -> Tensor {
    let t = Reference.tensor(Dtype::F64, dims).unwrap();
    Reference.write_f64(&t, values).unwrap();
    t
}

fn full(dims: &[usize], value: f64) -> Tensor {
    holding(dims, &vec![value; dims.iter().product()])
}

/// A tensor that an operation has to overwrite.
fn poisoned(dims: &[usize]) -> Tensor {
    full(dims, f64::NAN)
}

fn indices(dims: &[usize], values: &[u32]) -> Tensor {
    let t = Reference.tensor(Dtype::U32, dims).unwrap();
    Reference.write_u32(&t, values).unwrap();
    t
}

fn read(t: &Tensor) -> Vec<f64> {
    Reference.read_f64(t).unwrap()
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    read(a).iter().zip(read(b)).map(|(a, b)| a * b).sum()
}

/// Requires that `grad - base` is the gradient of `objective` by `input`, element by element as one vector: the norm
/// of the difference is at most 1e-6 of the gradient's.
fn assert_gradient(what: &str, objective: &dyn Fn() -> f64, input: &Tensor, grad: &Tensor, base: f64) {
    const STEP: f64 = 1e-5;
    let (at, grad) = (read(input), read(grad));
    let (mut difference, mut size) = (0.0, 0.0);
    for i in 0..at.len() {
        let moved = |by: f64| {
            let mut values = at.clone();
            values[i] += by;
            Reference.write_f64(input, &values).unwrap();
            objective()
        };
        let expected = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
        difference += (grad[i] - base - expected).powi(2);
        size += expected.powi(2);
    }
    Reference.write_f64(input, &at).unwrap();
    assert!(size > 0.0, "{what}: the objective does not depend on the input");
    let relative = (difference / size).sqrt();
    assert!(relative < 1e-6, "{what}: relative error {relative:e}");
}
