//! One call of an operation: its operands, how far each result may be off, how to make the call, and its formula with
//! the roundings of a kernel.

use std::ops::Range;

use polar_raw::Result;
use polar_raw::backend::{Backend, BackendExt};
use polar_raw::reference::Reference;
use polar_raw::tensor::{Dtype, Tensor};

use crate::arithmetic::Arithmetic;
use crate::draw::{Class, Draw};

/// How far an element may be from the reference's, beyond the rounding of what is stored: the outer fence, a product of
/// worst cases. What a whole result may be off is measured with the case's [`Model`].
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

/// What a row of the table says of one operand: what it holds before, and what it may be off after. Its name, its class
/// and what happens to it are the operation's to say.
pub struct Given {
    pub(crate) dims: Vec<usize>,
    pub(crate) values: Vec<f64>,
    pub(crate) held: bool,
    pub(crate) allowed: Option<Allowed>,
    pub(crate) class: Option<Class>,
    pub(crate) band: Option<Range<usize>>,
    pub(crate) unit: Option<usize>,
    pub(crate) heads: Option<HeadAxis>,
    pub(crate) sums: bool,
}

/// Where the heads of a result lie: `[.., heads, inner]`.
#[derive(Clone, Copy, Debug)]
pub struct HeadAxis {
    pub(crate) heads: usize,
    pub(crate) inner: usize,
}

fn given(dims: &[usize], held: Option<Vec<f64>>, allowed: Option<Allowed>) -> Given {
    let (is_held, dims) = (held.is_some(), dims.to_vec());
    let values = held.unwrap_or_else(|| vec![f64::NAN; dims.iter().product()]);
    Given { dims, values, held: is_held, allowed, class: None, band: None, unit: None, heads: None, sums: true }
}

/// An operand that is only read. It must stay as it was.
pub fn input(dims: &[usize], values: Vec<f64>) -> Given {
    given(dims, Some(values), None)
}

/// An operand of ids, positions or row numbers.
pub fn index(dims: &[usize], values: &[u32]) -> Given {
    input(dims, values.iter().map(|&id| f64::from(id)).collect()).of_class(Class::Index)
}

/// An operand that is overwritten. It holds NaN before.
pub fn result(dims: &[usize], allowed: Allowed) -> Given {
    given(dims, None, Some(allowed))
}

/// An operand that is added to or changed in place, or that has to stay although the operation would write it.
pub fn updated(dims: &[usize], values: Vec<f64>, allowed: Allowed) -> Given {
    given(dims, Some(values), Some(allowed))
}

/// An operand that is working memory. It holds NaN before, and is not looked at after.
pub fn scratch(dims: &[usize]) -> Given {
    given(dims, None, None)
}

impl Given {
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

    /// The operand's class, where the operation takes more than one.
    #[must_use]
    pub fn of_class(self, class: Class) -> Self {
        Self { class: Some(class), ..self }
    }

    /// The result's elements have their errors in common, `unit` at a time: what they are computed from is rounded
    /// before. Those of a row, if nothing is said.
    #[must_use]
    pub fn in_units_of(self, unit: usize) -> Self {
        Self { unit: Some(unit.max(1)), ..self }
    }

    /// The result's dimensions end with `heads` times `inner` elements.
    #[must_use]
    pub fn with_heads(self, heads: usize, inner: usize) -> Self {
        Self { heads: Some(HeadAxis { heads, inner }), ..self }
    }

    /// The result is another one, rounded: what is missing there may be too little to show here.
    #[must_use]
    pub fn without_sums(self) -> Self {
        Self { sums: false, ..self }
    }

    /// The columns that the operation sees, as a range of those that there are.
    fn columns(&self) -> Range<usize> {
        self.band.clone().unwrap_or(0..*self.dims.last().unwrap_or(&1))
    }

    /// Dimensions as the operation sees them.
    pub(crate) fn seen_dims(&self) -> Vec<usize> {
        let mut dims = self.dims.clone();
        if let Some(last) = dims.last_mut() {
            *last = self.columns().len();
        }
        dims
    }

    /// The elements that the operation sees.
    pub(crate) fn seen(&self, values: &[f64]) -> Vec<f64> {
        if self.band.is_none() {
            return values.to_vec();
        }
        values.chunks(self.dims[1]).flat_map(|row| row[self.columns()].to_vec()).collect()
    }

    /// Elements that have their errors in common, one after the other.
    pub(crate) fn unit(&self) -> usize {
        let dims = self.seen_dims();
        self.unit.unwrap_or(if dims.len() > 1 { dims[dims.len() - 1] } else { 1 }).max(1)
    }
}

/// The call of an operation on operands in their order.
pub type Call = Box<dyn Fn(&dyn Backend, &[Tensor]) -> Result<()>>;

/// The operation's formula, from the operands that it sees to its results, in their order: the reference's, with every
/// value rounded where a kernel stores it.
pub type Model = Box<dyn Fn(&mut Arithmetic, &[Vec<f64>]) -> Vec<Vec<f64>>>;

/// One call of an operation with its operands.
pub struct Case {
    pub(crate) operands: Vec<Given>,
    pub(crate) call: Call,
    pub(crate) model: Option<Model>,
}

impl Case {
    /// `call` gets the operands as tensors, in their order. All results are exact.
    pub fn exact(operands: Vec<Given>, call: impl Fn(&dyn Backend, &[Tensor]) -> Result<()> + 'static) -> Self {
        Self { operands, call: Box::new(call), model: None }
    }

    /// A case whose results are off as `model` says.
    pub fn modelled(
        operands: Vec<Given>,
        call: impl Fn(&dyn Backend, &[Tensor]) -> Result<()> + 'static,
        model: impl Fn(&mut Arithmetic, &[Vec<f64>]) -> Vec<Vec<f64>> + 'static,
    ) -> Self {
        Self { operands, call: Box::new(call), model: Some(Box::new(model)) }
    }
}

/// A case before its inputs are drawn.
pub struct Spec {
    /// What sets it apart from the operation's other cases.
    pub label: String,
    /// Whether it belongs to the quick table.
    pub quick: bool,
    /// Whether its inputs leave less to do than the operation's `work`, which does not look at all of them.
    pub less: bool,
    /// Draws the inputs.
    pub draw: Box<dyn Fn(&mut Draw) -> Case>,
}

impl Spec {
    /// A case that belongs to the quick table if `quick`.
    pub fn new(label: impl Into<String>, quick: bool, draw: impl Fn(&mut Draw) -> Case + 'static) -> Self {
        Self { label: label.into(), quick, less: false, draw: Box::new(draw) }
    }

    /// Its inputs leave less to do than the operation's `work`, if `less`.
    #[must_use]
    pub fn with_less_to_do(self, less: bool) -> Self {
        Self { less, ..self }
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
