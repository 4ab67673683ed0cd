//! Pairwise logistic regression: minimises `mean log(1 + exp(-w.x)) + l2/2 |w|^2` over the rows `x` (the features of
//! the chosen text less those of the rejected one) by L-BFGS (Nocedal and Wright, "Numerical Optimization", 7.2).

use rayon::prelude::*;

/// Weights of the penalty that are tried, strongest first, so that each start is warm.
const PENALTIES: [f64; 5] = [1.0, 1e-1, 1e-2, 1e-3, 1e-4];
/// The penalty where there are too few rows to choose by.
const SAFE_PENALTY: f64 = 1e-2;
/// Rows under which none is held back to choose the penalty by.
const FEWEST_TO_CHOOSE: usize = 50;
/// Past steps that L-BFGS remembers.
const MEMORY: usize = 12;
/// Iterations, at most.
const ITERATIONS: usize = 200;
/// Gradient norm at which it has converged.
const TOLERANCE: f64 = 1e-4;
/// Rows in a parallel piece: fixed, so that sums have one order whatever the number of threads.
const PIECE: usize = 512;

/// Rows of features, each column divided by its root mean square and those that are always zero left out.
pub struct FeatureMatrix {
    /// Columns of the rows as they came.
    all: usize,
    /// Which of them are kept, and their root mean squares.
    kept: Vec<(usize, f64)>,
    /// Row-major values of the kept columns.
    data: Vec<f32>,
}

impl FeatureMatrix {
    /// Standardises rows of one length. Columns are not centred: a pair has no first and second.
    pub fn new(rows: &[Vec<f64>]) -> Self {
        let all = rows.first().map_or(0, Vec::len);
        let mean_square = |column: usize| rows.iter().map(|row| row[column].powi(2)).sum::<f64>() / rows.len() as f64;
        let kept: Vec<(usize, f64)> = (0..all).map(|c| (c, mean_square(c).sqrt())).filter(|(_, s)| *s > 0.0).collect();
        let data = rows.iter().flat_map(|row| kept.iter().map(|(c, s)| (row[*c] / s) as f32)).collect();
        Self { all, kept, data }
    }
}

/// The weights for features as they came, the penalty being the best on a held-back tenth of the rows.
pub fn fit(matrix: &FeatureMatrix) -> Vec<f64> {
    let mut weights = vec![0.0; matrix.all];
    if !matrix.kept.is_empty() {
        let standardised = fit_standardised(&matrix.data, matrix.kept.len());
        for ((column, scale), weight) in matrix.kept.iter().zip(standardised) {
            weights[*column] = weight / scale;
        }
    }
    weights
}

fn fit_standardised(rows: &[f32], columns: usize) -> Vec<f64> {
    let count = rows.len() / columns;
    let start = vec![0.0; columns];
    if count < FEWEST_TO_CHOOSE {
        return minimise(rows, SAFE_PENALTY, start);
    }
    let (held_back, fitted) = rows.split_at(count / 10 * columns);
    let mut best = (f64::INFINITY, start.clone(), SAFE_PENALTY);
    let mut weights = start;
    for penalty in PENALTIES {
        weights = minimise(fitted, penalty, weights);
        let (loss, _) = loss_and_gradient(held_back, 0.0, &weights);
        if loss < best.0 {
            best = (loss, weights.clone(), penalty);
        }
    }
    minimise(rows, best.2, best.1)
}

/// L-BFGS with backtracking to Armijo's condition.
fn minimise(rows: &[f32], penalty: f64, mut weights: Vec<f64>) -> Vec<f64> {
    let (mut loss, mut gradient) = loss_and_gradient(rows, penalty, &weights);
    let mut history: Vec<(Vec<f64>, Vec<f64>)> = Vec::new();
    for _ in 0..ITERATIONS {
        if dot(&gradient, &gradient).sqrt() < TOLERANCE {
            break;
        }
        let direction = direction(&gradient, &history);
        let slope = dot(&direction, &gradient);
        let mut length = 1.0;
        let step = loop {
            let moved: Vec<f64> = weights.iter().zip(&direction).map(|(w, d)| w + length * d).collect();
            let (new_loss, new_gradient) = loss_and_gradient(rows, penalty, &moved);
            if new_loss <= loss + 1e-4 * length * slope {
                break Some((moved, new_loss, new_gradient));
            }
            length /= 2.0;
            if length < 1e-10 {
                break None;
            }
        };
        // No step goes down: the minimum is reached as closely as rounding lets it be.
        let Some((moved, new_loss, new_gradient)) = step else { break };
        let s: Vec<f64> = moved.iter().zip(&weights).map(|(a, b)| a - b).collect();
        let y: Vec<f64> = new_gradient.iter().zip(&gradient).map(|(a, b)| a - b).collect();
        if dot(&s, &y) > 0.0 {
            if history.len() == MEMORY {
                history.remove(0);
            }
            history.push((s, y));
        }
        (weights, loss, gradient) = (moved, new_loss, new_gradient);
    }
    weights
}

/// Minus the inverse Hessian, as far as the history knows it, times the gradient: the two-loop recursion.
fn direction(gradient: &[f64], history: &[(Vec<f64>, Vec<f64>)]) -> Vec<f64> {
    let mut q: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut alphas = Vec::with_capacity(history.len());
    for (s, y) in history.iter().rev() {
        let alpha = dot(s, &q) / dot(s, y);
        add(&mut q, -alpha, y);
        alphas.push(alpha);
    }
    if let Some((s, y)) = history.last() {
        let scale = dot(s, y) / dot(y, y);
        q.iter_mut().for_each(|q| *q *= scale);
    }
    for ((s, y), alpha) in history.iter().zip(alphas.iter().rev()) {
        let beta = dot(y, &q) / dot(s, y);
        add(&mut q, alpha - beta, s);
    }
    q
}

/// The objective and its gradient, in f64 over f32 rows.
fn loss_and_gradient(rows: &[f32], penalty: f64, weights: &[f64]) -> (f64, Vec<f64>) {
    let columns = weights.len();
    let count = (rows.len() / columns) as f64;
    let pieces: Vec<(f64, Vec<f64>)> = rows
        .par_chunks(PIECE * columns)
        .map(|piece| {
            let (mut loss, mut gradient) = (0.0, vec![0.0; columns]);
            for row in piece.chunks_exact(columns) {
                let margin: f64 = row.iter().zip(weights).map(|(x, w)| f64::from(*x) * w).sum();
                // log(1 + exp(-m)) without overflow.
                loss += (-margin.abs()).exp().ln_1p() + (-margin).max(0.0);
                let slope = -1.0 / (1.0 + margin.exp());
                for (g, x) in gradient.iter_mut().zip(row) {
                    *g += slope * f64::from(*x);
                }
            }
            (loss, gradient)
        })
        .collect();
    let mut loss = penalty / 2.0 * dot(weights, weights);
    let mut gradient: Vec<f64> = weights.iter().map(|w| penalty * w).collect();
    for (piece_loss, piece_gradient) in &pieces {
        loss += piece_loss / count;
        add(&mut gradient, 1.0 / count, piece_gradient);
    }
    (loss, gradient)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], factor: f64, from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(t, f)| *t += factor * f);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::stream;
    use approx::abs_diff_eq;
    use rand::RngExt;

    /// Rows whose sign follows a logistic model with the given weights.
    fn drawn(weights: &[f64], count: usize) -> Vec<Vec<f64>> {
        let mut rng = stream(1, "test", 0);
        let mut draw = || {
            let mut row: Vec<f64> = weights.iter().map(|_| rng.random_range(-1.0..1.0)).collect();
            if !rng.random_bool(1.0 / (1.0 + (-dot(&row, weights)).exp())) {
                row.iter_mut().for_each(|x| *x = -*x);
            }
            row
        };
        (0..count).map(|_| draw()).collect()
    }

    #[test]
    fn recovers_the_weights_of_a_logistic_model() {
        let truth = [3.0, -2.0, 0.0, 1.0];
        let found = fit(&FeatureMatrix::new(&drawn(&truth, 20_000)));
        for (found, truth) in found.iter().zip(truth) {
            assert!(abs_diff_eq!(*found, truth, epsilon = 0.2), "{found} for {truth}");
        }
    }

    #[test]
    fn the_gradient_is_that_of_the_loss() {
        let matrix = FeatureMatrix::new(&drawn(&[1.0, -1.0, 0.5], 700));
        let weights = [0.3, -0.2, 0.9];
        let (_, gradient) = loss_and_gradient(&matrix.data, 0.1, &weights);
        for (i, gradient) in gradient.iter().enumerate() {
            let loss = |by: f64| {
                let mut moved = weights;
                moved[i] += by;
                loss_and_gradient(&matrix.data, 0.1, &moved).0
            };
            let difference = (loss(1e-5) - loss(-1e-5)) / 2e-5;
            assert!(abs_diff_eq!(difference, *gradient, epsilon = 1e-8), "{difference} and {gradient}");
        }
    }

    #[test]
    fn constant_and_missing_features_get_finite_weights() {
        assert!(fit(&FeatureMatrix::new(&vec![Vec::new(); 5])).is_empty());
        let weights = fit(&FeatureMatrix::new(&vec![vec![0.0, 1.0]; 100]));
        assert!(weights[0] == 0.0 && weights[1] > 0.0 && weights[1].is_finite(), "{weights:?}");
    }
}
