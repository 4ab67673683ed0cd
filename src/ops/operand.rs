//! What an operation says of its operands, and what is asked of all operands alike.

use super::{HostIndices, Work};
use crate::tensor::{Dtype, Shape, Tensor};

/// What an operation does with an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads it.
    Read,
    /// Overwrites it, whatever it held.
    Write,
    /// Adds to it: what it held is a term of what it holds then.
    Add,
    /// Changes it in place: what it held counts.
    Update,
    /// Uses it as working memory: what it held does not count, and is lost.
    Scratch,
}

impl Access {
    /// Whether elements may change.
    pub fn writes(self) -> bool {
        self != Self::Read
    }
}

/// Which of a backend's dtypes an operand has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementKind {
    /// Weights and activations: [`float`](crate::backend::Backend::float).
    Float,
    /// Statistics, gradients of weights, optimiser state: [`accumulator`](crate::backend::Backend::accumulator).
    Sum,
    /// One of both.
    FloatOrSum,
    /// Token ids, positions, row numbers, spans: u32.
    Index,
    /// Whatever it is.
    Any,
}

/// The dtypes of a backend's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dtypes {
    /// Of weights and activations.
    pub float: Dtype,
    /// Of statistics, gradients of weights, optimiser state.
    pub sum: Dtype,
}

impl Dtypes {
    /// Whether a tensor of `dtype` can be an operand of `kind`.
    pub fn fit(self, kind: ElementKind, dtype: Dtype) -> bool {
        match kind {
            ElementKind::Float => dtype == self.float,
            ElementKind::Sum => dtype == self.sum,
            ElementKind::FloatOrSum => dtype == self.float || dtype == self.sum,
            ElementKind::Index => dtype == Dtype::U32,
            ElementKind::Any => true,
        }
    }
}

/// One operand of an operation.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    /// What the operation calls it.
    pub name: &'static str,
    /// Where it lies.
    pub tensor: &'a Tensor,
    /// What happens to it.
    pub access: Access,
    /// Which dtype it has to have.
    pub kind: ElementKind,
    /// The shape it has to have.
    pub dims: Shape,
    /// Whether it may be a band of columns of a wider matrix.
    pub band: bool,
    /// The other operand that may be the very same elements.
    pub same_as: Option<&'static str>,
    /// For indices: what all of them are below.
    pub below: Option<usize>,
    /// How many elements have to be moved at least: all of them, unless indices choose.
    pub moved: usize,
}

impl Operand<'_> {
    /// Whether it is the same elements as the operand that it may share with.
    fn shares_with(&self, other: &Operand) -> bool {
        self.same_as == Some(other.name) && self.tensor.same_place(other.tensor)
    }
}

/// The most operands that an operation has.
const MOST: usize = 12;

/// The operands of one operation, in order. Takes no memory: a training step makes thousands.
#[derive(Clone, Copy, Default)]
pub struct Operands<'a> {
    list: [Option<Operand<'a>>; MOST],
}

impl<'a> Operands<'a> {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn and(
        mut self,
        access: Access,
        name: &'static str,
        kind: ElementKind,
        tensor: &'a Tensor,
        dims: &[usize],
    ) -> Self {
        let at = self.list.iter().position(Option::is_none).expect("an operation has at most twelve operands");
        let dims = Shape::new(dims);
        let moved = tensor.len();
        self.list[at] =
            Some(Operand { name, tensor, access, kind, dims, band: false, same_as: None, below: None, moved });
        self
    }

    /// An operand that is read, of shape `dims`.
    pub fn read(self, name: &'static str, kind: ElementKind, tensor: &'a Tensor, dims: &[usize]) -> Self {
        self.and(Access::Read, name, kind, tensor, dims)
    }

    /// An operand that is overwritten.
    pub fn write(self, name: &'static str, kind: ElementKind, tensor: &'a Tensor, dims: &[usize]) -> Self {
        self.and(Access::Write, name, kind, tensor, dims)
    }

    /// An operand that is added to.
    pub fn add(self, name: &'static str, kind: ElementKind, tensor: &'a Tensor, dims: &[usize]) -> Self {
        self.and(Access::Add, name, kind, tensor, dims)
    }

    /// An operand that is changed in place.
    pub fn update(self, name: &'static str, kind: ElementKind, tensor: &'a Tensor, dims: &[usize]) -> Self {
        self.and(Access::Update, name, kind, tensor, dims)
    }

    /// An operand that is working memory.
    pub fn scratch(self, name: &'static str, kind: ElementKind, tensor: &'a Tensor, dims: &[usize]) -> Self {
        self.and(Access::Scratch, name, kind, tensor, dims)
    }

    fn last(mut self, change: impl FnOnce(&mut Operand<'a>)) -> Self {
        change(self.list.iter_mut().flatten().last().expect("an operand to say something of"));
        self
    }

    /// The last operand may be a band of columns of a wider matrix.
    pub fn band(self) -> Self {
        self.last(|operand| operand.band = true)
    }

    /// The last operand may be the very same elements as the operand `name`.
    pub fn or_same_as(self, name: &'static str) -> Self {
        self.last(|operand| operand.same_as = Some(name))
    }

    /// The last operand's indices are all below `bound`.
    pub fn below(self, bound: usize) -> Self {
        self.last(|operand| operand.below = Some(bound))
    }

    /// Only `elements` of the last operand, which indices choose, have to be moved.
    pub fn moving(self, elements: usize) -> Self {
        self.last(|operand| operand.moved = elements)
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &Operand<'a>> {
        self.list.iter().flatten()
    }

    /// The fewest bytes that have to be moved: what is read once, what is written once, what is updated twice.
    pub fn moves(&self) -> Work {
        let bytes = |operand: &Operand| {
            let times = match operand.access {
                Access::Scratch => 0,
                // Two names of one tensor, which the other writes.
                Access::Write if self.iter().any(|other| operand.shares_with(other)) => 0,
                Access::Read | Access::Write => 1,
                Access::Add | Access::Update => 2,
            };
            times * (operand.moved * operand.tensor.dtype().size()) as u64
        };
        Work { bytes: self.iter().map(bytes).sum(), ..Work::default() }
    }

    /// Refuses shapes and dtypes other than those asked for, gaps, and written operands that overlap others.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, dtypes: Dtypes) -> Result<(), String> {
        for Operand { name, tensor, kind, dims, band, .. } in self.iter() {
            if tensor.dims() != dims.dims() || !dtypes.fit(*kind, tensor.dtype()) {
                return Err(format!("{name} is {tensor:?} and not {kind:?}{dims:?}"));
            }
            if !band && !tensor.is_dense() {
                return Err(format!("{name} has gaps between its rows"));
            }
        }
        for (i, written) in self.iter().enumerate().filter(|(_, operand)| operand.access.writes()) {
            for (j, other) in self.iter().enumerate() {
                // Of two that are written each pair is looked at once.
                let seen = i == j || (j < i && other.access.writes());
                let shared = written.shares_with(other) || other.shares_with(written);
                if !seen && !shared && written.tensor.overlaps(other.tensor) {
                    return Err(format!("{}, which is written, overlaps {}", written.name, other.name));
                }
            }
        }
        Ok(())
    }

    /// Refuses indices that are not below their bound, where `values` can be seen.
    ///
    /// # Errors
    /// The first that is too large.
    pub fn check_indices(&self, values: &HostIndices) -> Result<(), String> {
        for operand in self.iter() {
            let Some(bound) = operand.below else { continue };
            let Some(values) = values(operand.tensor) else { continue };
            if let Some(id) = values.iter().find(|&&id| id as usize >= bound) {
                return Err(format!("{} has {id}, which is not below {bound}", operand.name));
            }
        }
        Ok(())
    }
}
