//! Adapters merged into the weights that they are beside.

use crate::backend::Heads;
use crate::config::Projection;
use crate::error::Result;
use crate::model::Model;
use crate::model::params::{Factor, LayerParam, Param, TensorSpec};

impl Model {
    /// Adds `alpha / rank B A` of every adapter beside the weight `spec` to its `values`: sums in f64, each rounded once.
    /// `get` reads a tensor of this model.
    ///
    /// # Errors
    /// What `get` returns.
    pub fn merge_adapters(
        &self,
        spec: &TensorSpec,
        values: &mut [f32],
        get: &dyn Fn(&TensorSpec) -> Result<Vec<f32>>,
    ) -> Result<()> {
        let (Some(lora), Param::Layer(layer, weight)) = (&self.config().lora, spec.param) else { return Ok(()) };
        let width = spec.elements() / spec.shape[0];
        for target in lora.targets.iter().filter(|target| target.weight() == weight) {
            let factor = |factor| {
                let param = Param::Adapter(layer, *target, factor);
                self.specs().iter().find(|spec| spec.param == param).map_or(Ok(Vec::new()), get)
            };
            let (a, b) = (factor(Factor::A)?, factor(Factor::B)?);
            let mut sums = vec![0.0; width];
            for (row, b) in target.rows(self.config().attention_heads(), spec.shape[0]).zip(b.chunks(lora.rank)) {
                sums.fill(0.0);
                for (b, a) in b.iter().zip(a.chunks(width)) {
                    sums.iter_mut().zip(a).for_each(|(sum, a)| *sum += f64::from(*b) * f64::from(*a));
                }
                let values = &mut values[row * width..(row + 1) * width];
                let add = |(value, sum): (&mut f32, &f64)| *value = (f64::from(*value) + lora.scale() * sum) as f32;
                values.iter_mut().zip(&sums).for_each(add);
            }
        }
        Ok(())
    }
}

impl Projection {
    /// The weight that holds it.
    pub fn weight(self) -> LayerParam {
        match self {
            Self::Q | Self::K | Self::V => LayerParam::Wqkv,
            Self::O => LayerParam::Wo,
            Self::Gate => LayerParam::W1,
            Self::Up => LayerParam::W3,
            Self::Down => LayerParam::W2,
        }
    }

    /// The rows of its weight, of `all` rows, that are its own, in order: `wqkv` holds for each key/value head its queries,
    /// then its key, then its value.
    fn rows(self, heads: Heads, all: usize) -> Box<dyn Iterator<Item = usize>> {
        let (group, dim) = (heads.group() * heads.dim, heads.dim);
        let (first, count) = match self {
            Self::Q => (0, group),
            Self::K => (group, dim),
            Self::V => (group + dim, dim),
            _ => return Box::new(0..all),
        };
        Box::new((0..heads.kv).flat_map(move |kv| {
            let start = kv * (group + 2 * dim) + first;
            start..start + count
        }))
    }
}
