//! The embedding: data movement forward; backward sums of the rows of equal ids, which may be off by [`sum_error`] of
//! their magnitudes.

use polar_raw::backend::Operations;

use super::Row;
use crate::case::{Allowed, Case, Spec, index, input, result, sum_error, updated};
use crate::draw::Class;

/// The operations of this file.
pub const ROWS: &[Row] =
    &[Row { operation: "embedding_forward", cases: forward }, Row { operation: "embedding_backward", cases: backward }];

/// Tokens, vocabulary and hidden size. Small vocabularies repeat ids.
const SHAPES: [(usize, usize, usize); 8] = [
    (1, 1, 1),
    (5, 3, 7),
    (64, 2, 65),
    (65, 257, 64),
    (300, 1, 33),
    (129, 1000, 63),
    (1021, 97, 128),
    (700, 2048, 257),
];

pub fn forward() -> Vec<Spec> {
    let spec = |(tokens, vocabulary, hidden): (usize, usize, usize)| {
        let quick = super::small(tokens * hidden);
        Spec::new(format!("{tokens} of {vocabulary}x{hidden}"), quick, move |draw| {
            let operands = vec![
                result(&[tokens, hidden], Allowed::Exact),
                index(&[tokens], &draw.below(tokens, vocabulary)),
                input(&[vocabulary, hidden], draw.values(Class::Float, vocabulary * hidden)),
            ];
            Case::exact(operands, |backend, x| backend.embedding_forward(&x[0], &x[1], &x[2]))
        })
    };
    SHAPES.into_iter().map(spec).collect()
}

pub fn backward() -> Vec<Spec> {
    let spec = |(tokens, vocabulary, hidden): (usize, usize, usize), integers: bool| {
        let quick = super::small(tokens * hidden);
        let kind = if integers { "integers" } else { "random" };
        Spec::new(format!("{tokens} of {vocabulary}x{hidden} {kind}"), quick, move |draw| {
            let ids = draw.below(tokens, vocabulary);
            let mut matrix = |class, rows: usize| {
                if integers { draw.integers(rows * hidden, 9) } else { draw.values(class, rows * hidden) }
            };
            let (dtable, dy) = (matrix(Class::Sum, vocabulary), matrix(Class::Float, tokens));
            let mut scale: Vec<f64> = dtable.iter().map(|x| x.abs()).collect();
            for (t, &id) in ids.iter().enumerate() {
                for j in 0..hidden {
                    scale[id as usize * hidden + j] += dy[t * hidden + j].abs();
                }
            }
            let each = scale.iter().map(|s| s * sum_error(tokens, draw.sum_eps())).collect();
            let allowed = if integers { Allowed::Exact } else { Allowed::Each(each) };
            let operands = vec![
                updated(&[vocabulary, hidden], dtable, allowed).in_units_of(1),
                index(&[tokens], &ids),
                input(&[tokens, hidden], dy),
            ];
            Case::modelled(
                operands,
                |backend, x| backend.embedding_backward(&x[0], &x[1], &x[2]),
                move |a, x| {
                    let mut tokens = vec![Vec::new(); vocabulary];
                    x[1].iter().enumerate().for_each(|(t, &id)| tokens[id as usize].push(t));
                    let mut dtable = x[0].clone();
                    for (id, tokens) in tokens.iter().enumerate().filter(|(_, tokens)| !tokens.is_empty()) {
                        for j in 0..hidden {
                            let to = &mut dtable[id * hidden + j];
                            let sum = a.add(*to, tokens.iter().map(|t| x[2][t * hidden + j]));
                            *to = a.single(sum);
                        }
                    }
                    vec![dtable]
                },
            )
        })
    };
    SHAPES.into_iter().flat_map(|shape| [spec(shape, false), spec(shape, true)]).collect()
}
