//! RMSNorm of each head's queries or keys. An element may be off as in `rmsnorm`, over the elements of a head;
//! the weight's gradient is a sum over the vectors of all heads and tokens.

use polar_raw::backend::Operations;

use super::Row;
use super::rmsnorm::inverse_rms;
use crate::arithmetic::Arithmetic;
use crate::case::{Allowed, Case, Given, Spec, input, result, sum_error, updated};
use crate::draw::{Class, Draw};

/// The operations of this file.
pub const ROWS: &[Row] = &[
    Row { operation: "head_rmsnorm_forward", cases: forward },
    Row { operation: "head_rmsnorm_backward", cases: backward },
];

/// Qwen3's.
const EPS: f64 = 1e-6;

/// Queries `[K, T, G, D]` and keys `[K, T, D]`: the shortest heads, odd ones, usual ones; vectors around those that
/// a block of a kernel has at one time, and more than one block sums; more partial sums than warps add up at one time.
const SHAPES: [&[usize]; 13] = [
    &[1, 1, 2],
    &[1, 3, 2, 7],
    &[2, 5, 8],
    &[2, 3, 2, 64],
    &[2, 5, 2, 128],
    &[1, 17, 128],
    &[2, 9, 63],
    &[1, 3, 4, 120],
    &[2, 130, 3, 128],
    &[1, 257, 4, 64],
    &[3, 129, 127],
    &[1, 1100, 2, 33],
    &[1, 8333, 8],
];

/// A shape and the size of the rows' elements: so small that `eps` counts, of a normal size, large.
struct Shape {
    dims: &'static [usize],
    size: f64,
}

impl Shape {
    fn dim(&self) -> usize {
        self.dims[self.dims.len() - 1]
    }

    fn vectors(&self) -> usize {
        self.len() / self.dim()
    }

    fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// A result with a vector of `inner` for each head.
    fn of_heads(&self, result: Given, inner: usize) -> Given {
        match self.dims {
            [_, _, group, _] if *group > 1 => result.with_heads(*group, inner),
            _ => result,
        }
    }

    fn spec(&self, draw: impl Fn(&Shape, &mut Draw) -> Case + 'static) -> Spec {
        let Shape { dims, size } = *self;
        Spec::new(format!("{dims:?} of {size}"), super::small(self.len()), move |d| draw(&Shape { dims, size }, d))
    }
}

fn table(draw: fn(&Shape, &mut Draw) -> Case) -> Vec<Spec> {
    let sizes = [1e-3, 1.0, 300.0];
    SHAPES.iter().enumerate().map(|(i, dims)| Shape { dims, size: sizes[i % 3] }.spec(draw)).collect()
}

fn relative(terms: usize, draw: &Draw) -> f64 {
    sum_error(terms, draw.sum_eps()) + 4.0 * draw.sum_eps()
}

pub fn forward() -> Vec<Spec> {
    table(|shape, draw| {
        let (dims, dim) = (shape.dims, shape.dim());
        let relative = || Allowed::Relative(relative(dim, draw));
        let y = result(dims, relative());
        let rstd = result(&dims[..dims.len() - 1], relative());
        let operands = vec![
            shape.of_heads(y, dim),
            // Each is a sum of its own.
            shape.of_heads(rstd, 1).in_units_of(1),
            input(dims, draw.within(Class::Float, shape.len(), shape.size)),
            input(&[dim], draw.values(Class::Float, dim)),
        ];
        Case::modelled(
            operands,
            |backend, x| backend.head_rmsnorm_forward(&x[0], &x[1], &x[2], &x[3], EPS),
            |a, x| {
                let (x, weight) = (&x[2], &x[3]);
                let (mut y, mut rstds) = (Vec::with_capacity(x.len()), Vec::new());
                for x in x.chunks(weight.len()) {
                    let rstd = inverse_rms(a, x, EPS);
                    for (x, weight) in x.iter().zip(weight) {
                        let n = a.single(x * rstd);
                        y.push(a.float(n * weight));
                    }
                    rstds.push(rstd);
                }
                vec![y, rstds]
            },
        )
    })
}

pub fn backward() -> Vec<Spec> {
    table(|shape, draw| {
        let (dims, dim) = (shape.dims, shape.dim());
        let x = draw.within(Class::Float, shape.len(), shape.size);
        let rstd: Vec<f64> =
            x.chunks(dim).map(|x| (x.iter().map(|x| x * x).sum::<f64>() / dim as f64 + EPS).sqrt().recip()).collect();
        let rstd = draw.round(Class::Sum, &rstd);
        let (weight, dy) = (draw.values(Class::Float, dim), draw.values(Class::Float, shape.len()));
        let dweight = draw.values(Class::Sum, dim);
        let mut dx_scale = Vec::with_capacity(shape.len());
        let mut dweight_scale: Vec<f64> = dweight.iter().map(|x| x.abs()).collect();
        for ((x, dy), rstd) in x.chunks(dim).zip(dy.chunks(dim)).zip(&rstd) {
            let n = |j: usize| (x[j] * rstd).abs();
            let wdy = |j: usize| (weight[j] * dy[j]).abs();
            let mean = (0..dim).map(|j| n(j) * wdy(j)).sum::<f64>() / dim as f64;
            dx_scale.extend((0..dim).map(|j| rstd * (wdy(j) + n(j) * mean)));
            dweight_scale.iter_mut().enumerate().for_each(|(j, scale)| *scale += n(j) * dy[j].abs());
        }
        let each = |scale: &[f64], terms| {
            let error = relative(terms, draw);
            Allowed::Each(scale.iter().map(|s| s * error).collect())
        };
        let dx = result(dims, each(&dx_scale, dim));
        let operands = vec![
            shape.of_heads(dx, dim),
            updated(&[dim], dweight, each(&dweight_scale, shape.vectors())),
            input(dims, dy),
            input(dims, x),
            input(&dims[..dims.len() - 1], rstd),
            input(&[dim], weight),
        ];
        Case::modelled(
            operands,
            |backend, x| backend.head_rmsnorm_backward(&x[0], &x[1], &x[2], &x[3], &x[4], &x[5]),
            gradients,
        )
    })
}

/// The model of the backward pass: `dx`, and what is added to `dweight`, stored.
fn gradients(a: &mut Arithmetic, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let (dweight, dy, x, rstd, weight) = (&x[1], &x[2], &x[3], &x[4], &x[5]);
    let dim = weight.len();
    let (mut dx, mut normal) = (Vec::with_capacity(x.len()), Vec::with_capacity(x.len()));
    for ((x, dy), rstd) in x.chunks(dim).zip(dy.chunks(dim)).zip(rstd) {
        let n: Vec<f64> = x.iter().map(|x| a.single(x * rstd)).collect();
        let wdy: Vec<f64> = dy.iter().zip(weight).map(|(dy, w)| a.single(dy * w)).collect();
        let product = a.total(n.iter().zip(&wdy).map(|(n, wdy)| n * wdy));
        let mean = a.single(product / dim as f64);
        for (n, wdy) in n.iter().zip(&wdy) {
            let difference = a.chain([*wdy, -n * mean]);
            dx.push(a.float(rstd * difference));
        }
        normal.extend(n);
    }
    let column = |j: usize| (j..normal.len()).step_by(dim);
    let sums = dweight.iter().enumerate().map(|(j, before)| {
        let sum = a.add(*before, column(j).map(|i| normal[i] * dy[i]));
        a.single(sum)
    });
    let dweight = sums.collect();
    vec![dx, dweight]
}
