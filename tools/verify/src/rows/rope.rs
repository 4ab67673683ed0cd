//! Rotary embeddings. The values move without change. Angles are the same everywhere by definition, so a turned pair is
//! off by the roundings of a sine, a cosine, two products and their sum: 4 epsilons of its length.

use polar_raw::Result;
use polar_raw::backend::{Backend, Heads, Operations, Qkv, rope_angle};
use polar_raw::tensor::Tensor;

use super::Row;
use crate::arithmetic::Arithmetic;
use crate::case::{Allowed, Case, Given, Spec, index, input, result};
use crate::draw::{Class, Draw};

/// The operations of this file.
pub const ROWS: &[Row] =
    &[Row { operation: "rope_forward", cases: forward }, Row { operation: "rope_backward", cases: backward }];

/// The length of a pair of values below 1.
const LONGEST: f64 = std::f64::consts::SQRT_2;

/// Which parts of the projection there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parts {
    Q,
    Kv,
    Qkv,
}

#[derive(Clone, Copy)]
struct Rope {
    rows: usize,
    heads: Heads,
    parts: Parts,
    theta: f64,
    furthest: usize,
}

fn table() -> Vec<Rope> {
    let heads = |query, kv, dim| Heads { query, kv, dim };
    let mut all = Vec::new();
    for (rows, heads, theta, furthest) in [
        (1, heads(1, 1, 2), 1e4, 1),
        (3, heads(4, 2, 6), 100.0, 10),
        (64, heads(6, 2, 8), 1e4, 64),
        (65, heads(3, 1, 32), 5e7, 4096),
        (63, heads(8, 8, 16), 1e6, 512),
        (7, heads(4, 1, 128), 5e7, 16_384),
        (521, heads(6, 3, 64), 1e4, 2000),
    ] {
        for parts in [Parts::Qkv, Parts::Q, Parts::Kv] {
            all.push(Rope { rows, heads, parts, theta, furthest });
        }
    }
    all
}

impl Rope {
    fn label(&self) -> String {
        let Self { rows, heads, parts, theta, .. } = self;
        format!("{rows} rows of {}/{}x{} {parts:?} theta {theta:e}", heads.query, heads.kv, heads.dim)
    }

    /// Elements of the query heads, and of the keys or values.
    fn dims(&self) -> ([usize; 4], [usize; 3]) {
        let Heads { kv, dim, .. } = self.heads;
        ([kv, self.rows, self.heads.group(), dim], [kv, self.rows, dim])
    }

    /// Vectors in one group of columns, and how many of them turn.
    fn vectors(&self) -> (usize, usize) {
        let group = self.heads.group();
        match self.parts {
            Parts::Q => (group, group),
            Parts::Kv => (2, 1),
            Parts::Qkv => (group + 2, group + 1),
        }
    }

    fn columns(&self) -> usize {
        self.heads.kv * self.vectors().0 * self.heads.dim
    }

    /// The heads among the operands.
    fn parts<'a>(&self, heads: &'a [Tensor]) -> Qkv<'a> {
        match self.parts {
            Parts::Q => Qkv { q: Some(&heads[0]), kv: None },
            Parts::Kv => Qkv { q: None, kv: Some((&heads[0], &heads[1])) },
            Parts::Qkv => Qkv { q: Some(&heads[0]), kv: Some((&heads[1], &heads[2])) },
        }
    }

    fn positions(&self, draw: &mut Draw) -> Vec<u32> {
        draw.below(self.rows, self.furthest)
    }

    fn forward(self, draw: &mut Draw) -> Case {
        let (positions, (q_dims, kv_dims)) = (self.positions(draw), self.dims());
        let error = 4.0 * draw.sum_eps() * LONGEST;
        let turned = || Allowed::All(error);
        let mut operands = vec![
            input(&[self.rows, self.columns()], draw.values(Class::Float, self.rows * self.columns())),
            index(&[self.rows], &positions),
        ];
        if self.parts != Parts::Kv {
            let [heads, group] = [self.heads.kv, self.heads.group()];
            let q = result(&q_dims, turned());
            let q = if group > 1 {
                q.with_heads(group, self.heads.dim)
            } else {
                q.with_heads(heads, self.rows * self.heads.dim)
            };
            operands.push(q);
        }
        if self.parts != Parts::Q {
            let heads = |o: Given| o.with_heads(self.heads.kv, self.rows * self.heads.dim);
            operands.push(heads(result(&kv_dims, turned())));
            operands.push(heads(result(&kv_dims, Allowed::Exact)));
        }
        let call = move |backend: &dyn Backend, x: &[Tensor]| -> Result<()> {
            backend.rope_forward(self.parts(&x[2..]), &x[0], &x[1], self.heads, self.theta.into())
        };
        Case::modelled(operands, call, move |a, x| {
            let angles = self.angles(a, &x[1]);
            let mut heads = self.empty();
            self.each(|part, to, t, from, turns| {
                let src = &x[0][from..from + self.heads.dim];
                let turned = if turns { turn(a, src, &angles[t], 1.0) } else { src.to_vec() };
                heads[part][to..to + self.heads.dim].copy_from_slice(&turned);
            });
            heads
        })
    }

    /// Cosines and sines of a token's angles, which all its heads have in common.
    fn angles(&self, a: &mut Arithmetic, positions: &[f64]) -> Vec<Vec<[f64; 2]>> {
        let dim = self.heads.dim;
        let mut one = |position: f64, i: usize| {
            let (sin, cos) = f64::from(rope_angle(position as u32, i, dim, self.theta)).sin_cos();
            // Near a zero they are as far off as elsewhere.
            [a.function_of_size(cos, 1.0), a.function_of_size(sin, 1.0)]
        };
        positions.iter().map(|&position| (0..dim / 2).map(|i| one(position, i)).collect()).collect()
    }

    /// The heads, as zeros, in the order of the operands.
    fn empty(&self) -> Vec<Vec<f64>> {
        let (q, kv) = self.dims();
        let [q, kv]: [usize; 2] = [q.iter().product(), kv.iter().product()];
        let lengths = match self.parts {
            Parts::Q => vec![q],
            Parts::Kv => vec![kv, kv],
            Parts::Qkv => vec![q, kv, kv],
        };
        lengths.into_iter().map(|n| vec![0.0; n]).collect()
    }

    /// Of every head of every token: the operand, its place there, the token, its place in the projection, and whether
    /// it turns.
    fn each(&self, mut f: impl FnMut(usize, usize, usize, usize, bool)) {
        let (vectors, turning) = self.vectors();
        let Heads { kv, dim, .. } = self.heads;
        let queries = if self.parts == Parts::Kv { 0 } else { self.heads.group() };
        for head in 0..kv {
            for t in 0..self.rows {
                for vector in 0..vectors {
                    let row = head * self.rows + t;
                    let (part, to) = match vector < queries {
                        true => (0, row * queries + vector),
                        false => (usize::from(queries > 0) + vector - queries, row),
                    };
                    f(part, to * dim, t, ((t * kv + head) * vectors + vector) * dim, vector < turning);
                }
            }
        }
    }

    fn backward(self, draw: &mut Draw) -> Case {
        let (positions, error) = (self.positions(draw), 4.0 * draw.sum_eps() * LONGEST);
        let (vectors, turning) = self.vectors();
        let turns = |i: usize| i / self.heads.dim % vectors < turning;
        let each = (0..self.rows * self.columns()).map(|i| if turns(i) { error } else { 0.0 }).collect();
        let mut operands = vec![
            result(&[self.rows, self.columns()], Allowed::Each(each))
                .with_heads(self.columns() / self.heads.dim, self.heads.dim),
            index(&[self.rows], &positions),
        ];
        let (q_dims, kv_dims) = self.dims();
        let mut head = |dims: &[usize]| input(dims, draw.values(Class::Float, dims.iter().product()));
        if self.parts != Parts::Kv {
            operands.push(head(&q_dims));
        }
        if self.parts != Parts::Q {
            operands.extend([head(&kv_dims), head(&kv_dims)]);
        }
        let call = move |backend: &dyn Backend, x: &[Tensor]| -> Result<()> {
            backend.rope_backward(&x[0], self.parts(&x[2..]), &x[1], self.heads, self.theta.into())
        };
        Case::modelled(operands, call, move |a, x| {
            let angles = self.angles(a, &x[1]);
            let mut dsrc = vec![0.0; self.rows * self.columns()];
            self.each(|part, from, t, to, turns| {
                let grad = &x[2 + part][from..from + self.heads.dim];
                let turned = if turns { turn(a, grad, &angles[t], -1.0) } else { grad.to_vec() };
                dsrc[to..to + self.heads.dim].copy_from_slice(&turned);
            });
            vec![dsrc]
        })
    }
}

/// A head turned by the angles, or back.
fn turn(a: &mut Arithmetic, x: &[f64], angles: &[[f64; 2]], sign: f64) -> Vec<f64> {
    let half = x.len() / 2;
    let mut turned = vec![0.0; x.len()];
    for (i, [cos, sin]) in angles.iter().enumerate() {
        let (low, high) = (x[i], x[i + half]);
        let sums = [a.chain([low * cos, -high * sign * sin]), a.chain([high * cos, low * sign * sin])];
        [turned[i], turned[i + half]] = sums.map(|sum| a.float(sum));
    }
    turned
}

fn specs(draw: fn(Rope, &mut Draw) -> Case) -> Vec<Spec> {
    let spec = |rope: Rope| Spec::new(rope.label(), rope.rows < 500, move |d| draw(rope, d));
    table().into_iter().map(spec).collect()
}

pub fn forward() -> Vec<Spec> {
    specs(Rope::forward)
}

pub fn backward() -> Vec<Spec> {
    specs(Rope::backward)
}
