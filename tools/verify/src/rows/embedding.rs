//! The embedding: data movement forward; backward sums of the rows of equal ids, which may be off by [`sum_error`] of
//! their magnitudes.

use polar_raw::backend::Operations;

use crate::case::{Allowed, Case, Spec, index, overwritten, read, sum_error, updated};
use crate::draw::Class;

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
                overwritten("y", Class::Float, &[tokens, hidden], Allowed::Exact),
                index("ids", &[tokens], &draw.below(tokens, vocabulary)),
                read("table", Class::Float, &[vocabulary, hidden], draw.values(Class::Float, vocabulary * hidden)),
            ];
            Case::new(operands, |backend, x| backend.embedding_forward(&x[0], &x[1], &x[2]))
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
                updated("dtable", Class::Sum, &[vocabulary, hidden], dtable, allowed),
                index("ids", &[tokens], &ids),
                read("dy", Class::Float, &[tokens, hidden], dy),
            ];
            Case::new(operands, |backend, x| backend.embedding_backward(&x[0], &x[1], &x[2]))
        })
    };
    SHAPES.into_iter().flat_map(|shape| [spec(shape, false), spec(shape, true)]).collect()
}
