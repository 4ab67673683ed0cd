//! Matrix products. A product of `K` terms may be off by [`sum_error`] of the product of the magnitudes, which the
//! reference computes; integers whose sums stay below 2^8 times `K` are exact in every dtype that sums in f32.

use polar_raw::backend::{Backend, Gemm};
use polar_raw::reference::Reference;

use crate::case::{Allowed, Case, Spec, absolute, overwritten, read, reference, sum_error, updated, values};
use crate::draw::{Class, Draw};

/// One product. `banded` operands lie in wider matrices.
#[derive(Clone, Copy)]
struct Product {
    layout: Gemm,
    m: usize,
    n: usize,
    k: usize,
    integers: bool,
    accumulate: bool,
    banded: bool,
    out: Class,
}

impl Product {
    fn label(&self) -> String {
        let Self { layout, m, n, k, integers, accumulate, banded, out } = *self;
        let flags = [(integers, " integers"), (accumulate, " accumulate"), (banded, " bands")];
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
        let Self { layout, m, n, k, integers, accumulate, banded, out } = self;
        let (a_dims, b_dims) = self.dims();
        let mut matrix = |class, dims: [usize; 2]| {
            let count = dims[0] * dims[1];
            if integers { draw.integers(count, 3) } else { draw.values(class, count) }
        };
        let (a, b, base) = (matrix(Class::Float, a_dims), matrix(Class::Float, b_dims), matrix(out, [m, n]));
        let allowed = if integers {
            Allowed::Exact
        } else {
            let scale = reference(&[m, n], &if accumulate { absolute(&base) } else { vec![0.0; m * n] });
            let (a, b) = (reference(&a_dims, &absolute(&a)), reference(&b_dims, &absolute(&b)));
            Reference.gemm(layout, &scale, &a, &b, true).expect("the shapes fit");
            Allowed::Each(values(&scale).iter().map(|s| s * sum_error(k, draw.sum_eps())).collect())
        };
        let out = match accumulate {
            true => updated("out", out, &[m, n], base, allowed),
            false => overwritten("out", out, &[m, n], allowed),
        };
        let mut operands = vec![out, read("a", Class::Float, &a_dims, a), read("b", Class::Float, &b_dims, b)];
        if banded {
            let edges = [(3, 2), (0, 5), (16, 1)];
            operands = operands.into_iter().zip(edges).map(|(o, (before, after))| o.beside(before, after)).collect();
        }
        Case::new(operands, move |backend, x| backend.gemm(layout, &x[0], &x[1], &x[2], accumulate))
    }
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
                accumulate: i % 2 == 0,
                banded: i % 3 == 0,
                out: if i % 5 < 3 { Class::Float } else { Class::Sum },
            };
            // Integer sums of f32 are exact; a dtype of fewer bits rounds the result once, as the comparison does.
            let exact =
                Product { integers: true, accumulate: i % 2 == 1, banded: i % 3 == 1, out: Class::Sum, ..random };
            let quick = i % 7 == 0 || m * n * k == 0 || k > 4000;
            specs.extend([random, exact].map(|p| Spec::new(p.label(), quick, move |draw| p.draw(draw))));
        }
    }
    specs
}
