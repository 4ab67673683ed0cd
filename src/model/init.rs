use rand_distr::{Distribution, StandardNormal};

use super::Model;
use super::params::Init;
use crate::error::Result;
use crate::rng;

impl Model {
    /// Draws all weights from `N(0, initializer_range)` and sets the norms to one and biases to zero, as the Hugging Face
    /// model does. Each tensor has a random stream of its own, so that heads can be added without changing the rest.
    pub fn initialise(&self, seed: u64) -> Result<()> {
        for spec in self.specs() {
            let values: Vec<f32> = match spec.param.init() {
                Init::Ones => vec![1.0; spec.elements()],
                Init::Zeros => vec![0.0; spec.elements()],
                Init::Normal => {
                    let mut stream = rng::stream(seed, &spec.name, 0);
                    let scale = self.config().initializer_range as f32;
                    (0..spec.elements())
                        .map(|_| scale * Distribution::<f32>::sample(&StandardNormal, &mut stream))
                        .collect()
                }
            };
            self.set(spec, &values)?;
        }
        Ok(())
    }
}
