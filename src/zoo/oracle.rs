//! The ceiling: how well one who recovers every habit from the texts could tell policies apart.

use super::policy::{DIMENSIONS, Policy, SIZES, Style, TEMPERATURES};

/// Log-likelihood of `style` under `policy`: what one who knows the policy's parameters would score it by.
pub fn log_likelihood(policy: &Policy, style: &Style) -> f64 {
    let (habits, values) = (policy.habits.values(), style.values());
    (0..DIMENSIONS)
        .map(|d| {
            let chance = policy.temperature[d] / SIZES[d] as f64;
            let habit = if habits[d] == values[d] { 1.0 - policy.temperature[d] } else { 0.0 };
            (habit + chance).ln()
        })
        .sum()
}

/// Log-likelihood ratio that two samples are of one policy rather than of two, with nothing known of the policies but
/// how they are drawn: the best that a discriminator can do from the habits.
pub fn same_policy(a: &Style, b: &Style) -> f64 {
    let (a, b) = (a.values(), b.values());
    // Probability that both samples follow the habit: the mean of (1 - t)^2 over even temperatures t.
    let cube = |t: f64| (1.0 - t).powi(3);
    let both = (cube(TEMPERATURES.start) - cube(TEMPERATURES.end)) / (3.0 * (TEMPERATURES.end - TEMPERATURES.start));
    (0..DIMENSIONS)
        .map(|d| {
            // Values are even by themselves, so P(a) P(b) = 1/size^2. If both follow, a = b has probability 1/size;
            // if not, they are independent.
            let equal = if a[d] == b[d] { SIZES[d] as f64 } else { 0.0 };
            (both * equal + 1.0 - both).ln()
        })
        .sum()
}
