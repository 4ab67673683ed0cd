//! Random operands, rounded to the dtypes of the backend under test.

use polar_raw::backend::{Backend, BackendExt};
use polar_raw::reference::Reference;
use polar_raw::rng::stream;
use polar_raw::tensor::Dtype;
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// What an operand's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Weights and activations, of the backend's `float` dtype.
    Float,
    /// Statistics and gradients, of its `accumulator` dtype.
    Sum,
    /// Ids and positions.
    Index,
}

/// The dtypes of a backend.
#[derive(Clone, Copy, Debug)]
pub struct Dtypes {
    float: Dtype,
    sum: Dtype,
}

impl Dtypes {
    /// Those of `backend`.
    pub fn of(backend: &dyn Backend) -> Self {
        Self { float: backend.float(), sum: backend.accumulator() }
    }

    /// The dtype of a class of operands.
    pub fn dtype(&self, class: Class) -> Dtype {
        match class {
            Class::Float => self.float,
            Class::Sum => self.sum,
            Class::Index => Dtype::U32,
        }
    }

    /// The values as that class of operands holds them.
    pub fn round(&self, class: Class, values: &[f64]) -> Vec<f64> {
        let t = Reference.tensor(self.dtype(class), &[values.len()]).expect("memory for operands");
        Reference.write_f64(&t, values).and_then(|()| Reference.read_f64(&t)).expect("host memory can be copied")
    }
}

/// The distance from 1 to the next number.
pub fn epsilon(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F64 => f64::EPSILON,
        Dtype::F32 => f64::from(f32::EPSILON),
        Dtype::F16 => 2f64.powi(-10),
        Dtype::Bf16 => 2f64.powi(-7),
        Dtype::U32 => 0.0,
    }
}

/// The source of one case's inputs.
pub struct Draw {
    rng: ChaCha8Rng,
    dtypes: Dtypes,
}

impl Draw {
    /// The source of the case `label` of `operation` under `seed`.
    pub fn new(dtypes: Dtypes, seed: u64, operation: &str, label: &str) -> Self {
        Self { rng: stream(seed, &format!("verify {operation} {label}"), 0), dtypes }
    }

    /// Machine epsilon of the backend's floats.
    pub fn eps(&self) -> f64 {
        epsilon(self.dtypes.float)
    }

    /// Machine epsilon of the backend's sums.
    pub fn sum_eps(&self) -> f64 {
        epsilon(self.dtypes.sum)
    }

    /// Values between -1 and 1.
    pub fn values(&mut self, class: Class, count: usize) -> Vec<f64> {
        self.within(class, count, 1.0)
    }

    /// Values between `-bound` and `bound`.
    pub fn within(&mut self, class: Class, count: usize, bound: f64) -> Vec<f64> {
        let values: Vec<f64> = (0..count).map(|_| self.rng.random_range(-bound..bound)).collect();
        self.dtypes.round(class, &values)
    }

    /// Integers between `-bound` and `bound`, which every float dtype holds exactly.
    pub fn integers(&mut self, count: usize, bound: i32) -> Vec<f64> {
        (0..count).map(|_| f64::from(self.rng.random_range(-bound..=bound))).collect()
    }

    /// Numbers below `bound`.
    pub fn below(&mut self, count: usize, bound: usize) -> Vec<u32> {
        (0..count).map(|_| self.rng.random_range(0..bound as u32)).collect()
    }

    /// Different numbers below `bound`, in random order.
    pub fn distinct(&mut self, count: usize, bound: usize) -> Vec<u32> {
        let mut all: Vec<u32> = (0..bound as u32).collect();
        all.shuffle(&mut self.rng);
        all.truncate(count);
        all
    }

    /// The values as a class of operands holds them.
    pub fn round(&self, class: Class, values: &[f64]) -> Vec<f64> {
        self.dtypes.round(class, values)
    }
}
