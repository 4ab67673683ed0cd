//! Matrix products, alone and with SwiGLU. A product of `K` terms may be off by [`sum_error`] of the product of the
//! magnitudes, which the reference computes; integers whose sums stay below 2^8 times `K` are exact in every dtype that
//! sums in f32. What is computed from a product may be off by its slope times what the product may be off, which
//! includes its rounding: whether it is stored in between is the backend's choice.

use polar_raw::backend::{Backend, Gemm, Operations};
use polar_raw::reference::Reference;
use polar_raw::tensor::Tensor;

use super::Row;
use crate::arithmetic::Arithmetic;
use crate::case::{Allowed, Case, Spec, absolute, input, reference, result, scratch, sum_error, updated, values};
use crate::draw::{Class, Draw};
use crate::rows::swiglu;

/// The operations of this file.
pub const ROWS: &[Row] = &[
    Row { operation: "gemm", cases },
    Row { operation: "gemm_swiglu_forward", cases: swiglu_forward },
    Row { operation: "gemm_swiglu_backward", cases: swiglu_backward },
];

/// What is added to a product.
#[derive(Clone, Copy, PartialEq)]
enum Addend {
    None,
    /// What the output holds.
    Out,
    Other,
}

/// One product. `banded` operands lie in wider matrices.
#[derive(Clone, Copy)]
struct Product {
    layout: Gemm,
    m: usize,
    n: usize,
    k: usize,
    integers: bool,
    addend: Addend,
    banded: bool,
    out: Class,
}

impl Product {
    fn label(&self) -> String {
        let Self { layout, m, n, k, integers, addend, banded, out } = *self;
        let flags = [
            (integers, " integers"),
            (addend == Addend::Out, " accumulate"),
            (addend == Addend::Other, " addend"),
            (banded, " bands"),
        ];
        let flags: String = flags.iter().filter(|f| f.0).map(|f| f.1).collect();
        format!("{layout:?} {m}x{n}x{k} {out:?}{flags}")
    }

    fn dims(&self) -> ([usize; 2], [usize; 2]) {
        match self.layout {
            Gemm::Nt => ([self.m, self.k], [self.n, self.k]),
            Gemm::Nn => ([self.m, self.k], [self.k, self.n]),
            Gemm::Tn => ([self.k, self.m], [self.k, self.n]),
        }
    }

    fn draw(self, draw: &mut Draw) -> Case {
        let Self { layout, m, n, k, integers, addend, banded, out } = self;
        let (a_dims, b_dims) = self.dims();
        let mut matrix = |class, dims: [usize; 2]| {
            let count = dims[0] * dims[1];
            if integers { draw.integers(count, 3) } else { draw.values(class, count) }
        };
        let (a, b, addend_values) = (matrix(Class::Float, a_dims), matrix(Class::Float, b_dims), matrix(out, [m, n]));
        let allowed = if integers {
            Allowed::Exact
        } else {
            let added = if addend == Addend::None { vec![0.0; m * n] } else { absolute(&addend_values) };
            let scale = magnitudes(layout, (&a, a_dims), (&b, b_dims), &added);
            Allowed::Each(scale.iter().map(|s| s * sum_error(k, draw.sum_eps())).collect())
        };
        let mut operands = vec![
            match addend {
                Addend::Out => updated(&[m, n], addend_values.clone(), allowed),
                _ => result(&[m, n], allowed),
            }
            .of_class(out)
            .in_units_of(1),
            input(&a_dims, a),
            input(&b_dims, b),
        ];
        if addend == Addend::Other {
            operands.push(input(&[m, n], addend_values).of_class(out));
        }
        if banded {
            let edges = [(3, 2), (0, 5), (16, 1), (1, 4)];
            operands = operands.into_iter().zip(edges).map(|(o, (before, after))| o.beside(before, after)).collect();
        }
        let call = move |backend: &dyn Backend, x: &[Tensor]| {
            let added = match addend {
                Addend::None => None,
                Addend::Out => Some(&x[0]),
                Addend::Other => Some(&x[3]),
            };
            backend.gemm(layout, &x[0], &x[1], &x[2], added)
        };
        if integers {
            return Case::exact(operands, call);
        }
        Case::modelled(operands, call, move |a, x| {
            let added = match addend {
                Addend::None => None,
                Addend::Out => Some(&x[0]),
                Addend::Other => Some(&x[3]),
            };
            vec![product_model(a, layout, (m, n, k), [&x[1], &x[2]], out, added.map(Vec::as_slice))]
        })
    }
}

/// The model of a product, stored as `out`.
pub fn product_model(
    a: &mut Arithmetic,
    layout: Gemm,
    (m, n, k): (usize, usize, usize),
    [left, right]: [&[f64]; 2],
    out: Class,
    added: Option<&[f64]>,
) -> Vec<f64> {
    let mut result = Vec::with_capacity(m * n);
    for i in 0..m {
        for j in 0..n {
            let at = |l: usize| match layout {
                Gemm::Nt => left[i * k + l] * right[j * k + l],
                Gemm::Nn => left[i * k + l] * right[l * n + j],
                Gemm::Tn => left[l * m + i] * right[l * n + j],
            };
            let sum = a.add(added.map_or(0.0, |added| added[i * n + j]), (0..k).map(at));
            result.push(a.store(out, sum));
        }
    }
    result
}

/// The product of the magnitudes, and `added` to it: what its error is relative to.
fn magnitudes(
    layout: Gemm,
    (a, a_dims): (&[f64], [usize; 2]),
    (b, b_dims): (&[f64], [usize; 2]),
    added: &[f64],
) -> Vec<f64> {
    let (rows, columns) = match layout {
        Gemm::Nt => (a_dims[0], b_dims[0]),
        Gemm::Nn => (a_dims[0], b_dims[1]),
        Gemm::Tn => (a_dims[1], b_dims[1]),
    };
    let scale = reference(&[rows, columns], added);
    let (a, b) = (reference(&a_dims, &absolute(a)), reference(&b_dims, &absolute(b)));
    Reference.gemm(layout, &scale, &a, &b, Some(&scale)).expect("the shapes fit");
    values(&scale)
}

pub fn cases() -> Vec<Spec> {
    let edges = [1, 2, 7, 31, 63, 64, 65, 97];
    let mut shapes: Vec<(usize, usize, usize)> = Vec::new();
    for m in edges {
        for n in edges {
            shapes.extend(edges.map(|k| (m, n, k)));
        }
    }
    shapes.extend([
        (0, 3, 5),
        (3, 5, 0),
        (3, 5, 4099),
        (1, 517, 129),
        (130, 300, 70),
        (257, 33, 1021),
        (513, 257, 191),
    ]);
    let mut specs = Vec::new();
    for (i, (m, n, k)) in shapes.into_iter().enumerate() {
        for layout in [Gemm::Nt, Gemm::Nn, Gemm::Tn] {
            let random = Product {
                layout,
                m,
                n,
                k,
                integers: false,
                addend: [Addend::Out, Addend::None, Addend::Other, Addend::None][i % 4],
                banded: i % 3 == 0,
                out: if i % 5 < 3 { Class::Float } else { Class::Sum },
            };
            // Integer sums of f32 are exact; a dtype of fewer bits rounds the result once, as the comparison does.
            let exact = Product {
                integers: true,
                addend: [Addend::None, Addend::Out, Addend::None, Addend::Other][i % 4],
                banded: i % 3 == 1,
                out: Class::Sum,
                ..random
            };
            let quick = i % 7 == 0 || m * n * k == 0 || k > 4000;
            specs.extend([random, exact].map(|p| Spec::new(p.label(), quick, move |draw| p.draw(draw))));
        }
    }
    specs
}

/// Rows, columns of the result, and terms of the product: around the tiles, one, odd, many.
const NETWORKS: [(usize, usize, usize); 12] = [
    (1, 1, 1),
    (0, 3, 8),
    (3, 5, 7),
    (1, 8, 8),
    (63, 31, 40),
    (65, 33, 64),
    (64, 32, 31),
    (127, 136, 32),
    (129, 64, 200),
    (40, 264, 72),
    (200, 300, 96),
    (257, 129, 191),
];

fn network(spec: impl Fn(&mut Draw, usize, usize, usize) -> Case + Copy + 'static) -> Vec<Spec> {
    let of = |(t, f, n): (usize, usize, usize)| {
        Spec::new(format!("{t}x{f}x{n}"), t * f * n <= 200_000, move |draw| spec(draw, t, f, n))
    };
    NETWORKS.into_iter().map(of).collect()
}

/// What a product of `n` terms may be off, its rounding included.
fn product_error(draw: &Draw, n: usize, product: f64, scale: f64) -> f64 {
    scale * sum_error(n, draw.sum_eps()) + 0.5 * draw.eps() * product.abs()
}

pub fn swiglu_forward() -> Vec<Spec> {
    network(|draw, t, f, n| {
        let (x, w13) = (draw.values(Class::Float, t * n), draw.values(Class::Float, 2 * f * n));
        let scale = magnitudes(Gemm::Nt, (&x, [t, n]), (&w13, [2 * f, n]), &vec![0.0; t * 2 * f]);
        let product = reference(&[t, 2 * f], &vec![0.0; t * 2 * f]);
        Reference.gemm(Gemm::Nt, &product, &reference(&[t, n], &x), &reference(&[2 * f, n], &w13), None).expect("fits");
        let product = values(&product);
        let off: Vec<f64> = product.iter().zip(&scale).map(|(p, s)| product_error(draw, n, *p, *s)).collect();
        let sums = scale.iter().map(|s| s * sum_error(n, draw.sum_eps())).collect();
        let y = (0..t * f).map(|i| {
            let (gate, up) = (i / f * 2 * f + i % f, i / f * 2 * f + f + i % f);
            swiglu::error_of_product([product[gate], product[up]], [off[gate], off[up]], draw.sum_eps())
        });
        let operands = vec![
            result(&[t, f], Allowed::Each(y.collect())).in_units_of(1),
            result(&[t, 2 * f], Allowed::Each(sums)).in_units_of(1),
            input(&[t, n], x),
            input(&[2 * f, n], w13),
        ];
        Case::modelled(
            operands,
            |backend, x| backend.gemm_swiglu_forward(&x[0], &x[1], &x[2], &x[3]),
            move |a, x| {
                let gate_up = product_model(a, Gemm::Nt, (t, 2 * f, n), [&x[2], &x[3]], Class::Float, None);
                vec![swiglu::model(a, &gate_up, f), gate_up]
            },
        )
    })
}

pub fn swiglu_backward() -> Vec<Spec> {
    network(|draw, t, f, n| {
        let (dout, w2) = (draw.values(Class::Float, t * n), draw.values(Class::Float, n * f));
        let gate_up = draw.within(Class::Float, t * 2 * f, 8.0);
        let scale = magnitudes(Gemm::Nn, (&dout, [t, n]), (&w2, [n, f]), &vec![0.0; t * f]);
        let dy = reference(&[t, f], &vec![0.0; t * f]);
        Reference.gemm(Gemm::Nn, &dy, &reference(&[t, n], &dout), &reference(&[n, f], &w2), None).expect("fits");
        let dy = values(&dy);
        let mut each = Vec::with_capacity(t * 2 * f);
        for (row, both) in gate_up.chunks(2 * f).enumerate() {
            let errors = (0..f).map(|j| {
                let i = row * f + j;
                let off = product_error(draw, n, dy[i], scale[i]);
                swiglu::error_of_gradient([both[j], both[f + j]], dy[i], off, draw.sum_eps())
            });
            let (gate, up): (Vec<f64>, Vec<f64>) = errors.unzip();
            each.extend(gate);
            each.extend(up);
        }
        let operands = vec![
            updated(&[t, 2 * f], gate_up, Allowed::Each(each)).in_units_of(1),
            scratch(&[t, f]),
            input(&[t, n], dout),
            input(&[n, f], w2),
        ];
        Case::modelled(
            operands,
            |backend, x| backend.gemm_swiglu_backward(&x[0], &x[1], &x[2], &x[3]),
            move |a, x| {
                let dy = product_model(a, Gemm::Nn, (t, f, n), [&x[2], &x[3]], Class::Float, None);
                vec![swiglu::gradient_model(a, &x[0], &dy, f)]
            },
        )
    })
}
