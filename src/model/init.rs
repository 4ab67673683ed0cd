use rand::RngExt;
use rand_distr::{Distribution, StandardNormal};

use super::Model;
use super::params::{Init, TensorSpec};
use crate::error::Result;
use crate::rng;

impl Model {
    /// Sets every tensor to its [`Model::initial`] values.
    pub fn initialise(&self, seed: u64) -> Result<()> {
        self.specs().iter().try_for_each(|spec| self.set(spec, &self.initial(spec, seed)))
    }

    /// The values with which a tensor begins: drawn from `N(0, initializer_range)`, norms one and biases zero, as in the
    /// Hugging Face model, and adapters as PEFT begins them: `A` Kaiming uniform, `B` zero. Each tensor has a random stream of its own, so that heads can be added without changing the
    /// rest.
    pub fn initial(&self, spec: &TensorSpec, seed: u64) -> Vec<f32> {
        match spec.param.init() {
            Init::Ones => vec![1.0; spec.elements()],
            Init::Zeros => vec![0.0; spec.elements()],
            Init::Normal => {
                let mut stream = rng::stream(seed, &spec.name, 0);
                let scale = self.config().initializer_range as f32;
                let sample = |_| scale * Distribution::<f32>::sample(&StandardNormal, &mut stream);
                (0..spec.elements()).map(sample).collect()
            }
            Init::KaimingUniform => {
                let mut stream = rng::stream(seed, &spec.name, 0);
                let bound = 1.0 / (spec.elements() as f32 / spec.shape[0] as f32).sqrt();
                (0..spec.elements()).map(|_| stream.random_range(-bound..bound)).collect()
            }
        }
    }
}
