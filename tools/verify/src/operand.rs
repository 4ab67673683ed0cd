//! What a row says of its operands, put together with what the operation's description says of them.

use std::cell::RefCell;

use polar_raw::Result;
use polar_raw::backend::{Backend, Checked};
use polar_raw::ops::{Access, ElementKind};
use polar_raw::reference::Reference;
use polar_raw::tensor::Tensor;
use polar_raw::wrap::Around;

use crate::case::{Allowed, Given};
use crate::draw::{Class, Dtypes};

/// One operand of a call.
pub struct Operand<'a> {
    /// What the operation calls it.
    pub(crate) name: &'static str,
    pub(crate) class: Class,
    /// What happens to it, in this call: one that is written and read under another name is updated.
    pub(crate) access: Access,
    /// What the row says of it.
    pub(crate) given: &'a Given,
}

/// What an operation says of one operand.
struct Said {
    name: &'static str,
    access: Access,
    kind: ElementKind,
    tensor: Tensor,
}

/// The reference, and what the operations that it has run say of their operands.
#[derive(Default)]
pub struct Described {
    operations: RefCell<Vec<(&'static str, Vec<Said>)>>,
}

impl Around for Described {
    fn inner(&self) -> &dyn Backend {
        &Reference
    }

    fn around(&self, op: &Checked) -> Result<()> {
        let operands = op.op().op().operands();
        let said =
            operands.iter().map(|o| Said { name: o.name, access: o.access, kind: o.kind, tensor: o.tensor.clone() });
        self.operations.borrow_mut().push((op.op().name(), said.collect()));
        // SAFETY: checked for the dtypes, memory and indices of the one inside, which `Around` hands on.
        unsafe { Reference.execute(op) }
    }
}

impl Described {
    /// The operation of the one call that was made, and its operands in the row's order, which lay in `tensors`.
    ///
    /// # Errors
    /// Where the row does not fit the description.
    pub fn operands<'a>(
        self,
        given: &'a [Given],
        tensors: &[Tensor],
        dtypes: Dtypes,
    ) -> Result<(&'static str, Vec<Operand<'a>>), String> {
        let mut operations = self.operations.into_inner();
        let count = operations.len();
        let (Some((operation, said)), 1) = (operations.pop(), count) else {
            return Err(format!("the row makes {count} calls and not one"));
        };
        let in_row = |said: &Said| tensors.iter().any(|tensor| tensor.same_place(&said.tensor));
        if let Some(missing) = said.iter().find(|said| !in_row(said)) {
            return Err(format!("the row has no operand {}", missing.name));
        }
        let operand = |(i, (given, tensor)): (usize, (&'a Given, &Tensor))| {
            let all: Vec<&Said> = said.iter().filter(|said| said.tensor.same_place(tensor)).collect();
            let first = all.first().ok_or_else(|| format!("operand {i} of the row is none of {operation}"))?;
            let is = |access| all.iter().any(|said| said.access == access);
            // What is written in the place of what is read, or has to stay although it would be written, counts.
            let stays = matches!(given.allowed, Some(Allowed::Exact)) && given.held;
            let access = match first.access {
                Access::Write if is(Access::Read) || stays => Access::Update,
                access => access,
            };
            let operand = Operand { name: first.name, class: class(first, given)?, access, given };
            operand.fits(dtypes).map(|()| operand)
        };
        let operands = given.iter().zip(tensors).enumerate().map(operand).collect::<Result<_, String>>()?;
        Ok((operation, operands))
    }
}

/// The class that the operation asks for; the row's own where the operation takes more than one.
fn class(said: &Said, given: &Given) -> Result<Class, String> {
    match (said.kind, given.class) {
        (ElementKind::Float, None) => Ok(Class::Float),
        (ElementKind::Sum, None) => Ok(Class::Sum),
        (ElementKind::FloatOrSum | ElementKind::Any, Some(class))
        | (ElementKind::Index, Some(class @ Class::Index)) => Ok(class),
        (kind, class) => Err(format!("{} is {kind:?}, and the row says {class:?}", said.name)),
    }
}

impl Operand<'_> {
    /// What an element may be off; none if the operation writes no element of it that counts.
    pub(crate) fn allowed(&self) -> Option<&Allowed> {
        self.given.allowed.as_ref()
    }

    /// Whether the row says of it what has to be said of such an operand, and nothing else.
    fn fits(&self, dtypes: Dtypes) -> Result<(), String> {
        let Given { held, allowed, values, .. } = self.given;
        let wrong = match (self.access, held, allowed) {
            (Access::Read | Access::Scratch, _, Some(_)) => "is no result, and the row says what it may be off",
            (Access::Write | Access::Add | Access::Update, _, None) => "is a result without a bound",
            (Access::Read | Access::Add | Access::Update, false, _) => "counts as it was, and the row has no values",
            (Access::Write | Access::Scratch, true, _) => "does not count as it was, and the row has values",
            _ if *held && !same(values, &dtypes.round(self.class, values)) => "has values that its class cannot hold",
            _ => return Ok(()),
        };
        Err(format!("{} {wrong}", self.name))
    }
}

fn same(a: &[f64], b: &[f64]) -> bool {
    a.iter().zip(b).all(|(a, b)| a == b || (a.is_nan() && b.is_nan()))
}
