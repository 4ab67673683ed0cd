//! One call of an operation: its operands, how far each result may be off, and how to make the call.

use std::ops::Range;

use polar_raw::Result;
use polar_raw::backend::{Backend, BackendExt};
use polar_raw::reference::Reference;
use polar_raw::tensor::{Dtype, Tensor};

use crate::draw::{Class, Draw};

/// How far a result may be from the reference's, beyond the rounding of what is stored.
pub enum Allowed {
    /// Not at all: it is the reference's, rounded once.
    Exact,
    /// Absolutely, for each element.
    Each(Vec<f64>),
    /// Absolutely, for all elements.
    All(f64),
    /// Relative to the reference's value.
    Relative(f64),
}

/// What the operation does with an operand.
pub enum Role {
    /// Reads it. It must stay as it was.
    Read,
    /// Writes it. The harness fills it with NaN before.
    Overwritten(Allowed),
    /// Adds to it, or works in place.
    Updated(Allowed),
    /// Uses it as it likes. The harness fills it with NaN before and does not look at it after.
    Scratch,
}

/// One operand of a call.
pub struct Operand {
    pub(crate) name: &'static str,
    pub(crate) class: Class,
    pub(crate) dims: Vec<usize>,
    pub(crate) values: Vec<f64>,
    pub(crate) role: Role,
    pub(crate) band: Option<Range<usize>>,
}

/// An operand that is only read.
pub fn read(name: &'static str, class: Class, dims: &[usize], values: Vec<f64>) -> Operand {
    Operand { name, class, dims: dims.to_vec(), values, role: Role::Read, band: None }
}

/// An operand of ids, positions or row numbers.
pub fn index(name: &'static str, dims: &[usize], values: &[u32]) -> Operand {
    read(name, Class::Index, dims, values.iter().map(|&id| f64::from(id)).collect())
}

/// An operand that is overwritten.
pub fn overwritten(name: &'static str, class: Class, dims: &[usize], allowed: Allowed) -> Operand {
    let values = vec![f64::NAN; dims.iter().product()];
    Operand { name, class, dims: dims.to_vec(), values, role: Role::Overwritten(allowed), band: None }
}

/// An operand that is added to or changed in place.
pub fn updated(name: &'static str, class: Class, dims: &[usize], values: Vec<f64>, allowed: Allowed) -> Operand {
    Operand { name, class, dims: dims.to_vec(), values, role: Role::Updated(allowed), band: None }
}

/// An operand that is working memory.
pub fn scratch(name: &'static str, class: Class, dims: &[usize]) -> Operand {
    let values = vec![f64::NAN; dims.iter().product()];
    Operand { name, class, dims: dims.to_vec(), values, role: Role::Scratch, band: None }
}

impl Operand {
    /// Makes the matrix a band of a wider one, `before` columns from its left edge and `after` from its right. The
    /// columns beside it hold NaN, which poisons whoever reads them, and must hold it afterwards.
    #[must_use]
    pub fn beside(self, before: usize, after: usize) -> Self {
        let (rows, cols) = (self.dims[0], self.dims[1]);
        let wide = before + cols + after;
        let mut values = vec![f64::NAN; rows * wide];
        for row in 0..rows {
            values[row * wide + before..][..cols].copy_from_slice(&self.values[row * cols..][..cols]);
        }
        Self { dims: vec![rows, wide], values, band: Some(before..before + cols), ..self }
    }
}

/// The call of an operation on operands in their order.
pub type Call = Box<dyn Fn(&dyn Backend, &[Tensor]) -> Result<()>>;

/// One call of an operation with its operands.
pub struct Case {
    pub(crate) operands: Vec<Operand>,
    pub(crate) call: Call,
}

impl Case {
    /// `call` gets the operands as tensors, in their order.
    pub fn new(operands: Vec<Operand>, call: impl Fn(&dyn Backend, &[Tensor]) -> Result<()> + 'static) -> Self {
        Self { operands, call: Box::new(call) }
    }
}

/// A case before its inputs are drawn.
pub struct Spec {
    /// What sets it apart from the operation's other cases.
    pub label: String,
    /// Whether it belongs to the quick table.
    pub quick: bool,
    /// Draws the inputs.
    pub draw: Box<dyn Fn(&mut Draw) -> Case>,
}

impl Spec {
    /// A case that belongs to the quick table if `quick`.
    pub fn new(label: impl Into<String>, quick: bool, draw: impl Fn(&mut Draw) -> Case + 'static) -> Self {
        Self { label: label.into(), quick, draw: Box::new(draw) }
    }
}

/// What a sum of `terms` rounded terms may be off, relative to the sum of their magnitudes.
pub fn sum_error(terms: usize, eps: f64) -> f64 {
    4.0 * eps * (terms.max(1) as f64).sqrt()
}

/// A tensor of the reference, for bounds and operands that are results themselves.
pub fn reference(dims: &[usize], values: &[f64]) -> Tensor {
    let t = Reference.tensor(Dtype::F64, dims).expect("memory for operands");
    Reference.write_f64(&t, values).expect("values as many as the tensor holds");
    t
}

/// An index tensor of the reference.
pub fn reference_index(dims: &[usize], values: &[u32]) -> Tensor {
    let t = Reference.tensor(Dtype::U32, dims).expect("memory for operands");
    Reference.write_u32(&t, values).expect("values as many as the tensor holds");
    t
}

/// The values of a tensor of the reference.
pub fn values(t: &Tensor) -> Vec<f64> {
    Reference.read_f64(t).expect("host memory can be copied")
}

/// The magnitudes.
pub fn absolute(values: &[f64]) -> Vec<f64> {
    values.iter().map(|x| x.abs()).collect()
}

/// The largest Euclidean length of vectors of `dim`.
pub fn longest(values: &[f64], dim: usize) -> f64 {
    values.chunks(dim).map(|v| v.iter().map(|x| x * x).sum::<f64>().sqrt()).fold(0.0, f64::max)
}
