//! The norm that gradients are clipped by: Pascanu et al., arXiv 1211.5063, section 3.2.

/// `sqrt(sum(x^2))`.
pub fn global_norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}
