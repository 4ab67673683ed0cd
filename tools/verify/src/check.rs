//! Runs one case on a backend and on the reference, and compares.

use std::cell::OnceCell;

use polar_raw::Result;
use polar_raw::backend::{Backend, BackendExt};
use polar_raw::ops::Access;
use polar_raw::tensor::{Dtype, Tensor};

use crate::arithmetic::Arithmetic;
use crate::case::{Allowed, Case, Given};
use crate::draw::{Class, Dtypes, epsilon};
use crate::operand::{Described, Operand};
use crate::rule::{self, Rounding};

/// How close a case came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Closeness {
    /// The largest error of an element as a share of what is allowed; below 1.
    pub element: f64,
    /// The largest root mean square of a result's errors as a share of what is allowed; below 1.
    pub rms: f64,
}

impl Closeness {
    fn or(self, other: Self) -> Self {
        Self { element: self.element.max(other.element), rms: self.rms.max(other.rms) }
    }
}

/// A case with what it is compared with.
pub struct Prepared<'a> {
    pub(crate) case: &'a Case,
    /// The operation that the case calls.
    pub operation: &'static str,
    pub(crate) operands: Vec<Operand<'a>>,
    pub(crate) dtypes: Dtypes,
    /// Every operand after an exact call, as the operation sees it.
    pub(crate) exact: Vec<Vec<f64>>,
    seed: u64,
    rounding: OnceCell<Vec<Option<Rounding>>>,
}

impl<'a> Prepared<'a> {
    /// Runs the case on the reference. `seed` is that of the inputs.
    ///
    /// # Errors
    /// When the reference refuses the call, or the row does not fit the operation's description.
    pub fn new(case: &'a Case, dtypes: Dtypes, seed: u64) -> Result<Self, String> {
        let described = Described::default();
        let refused = |e| format!("the reference refuses a call that is right: {e}");
        let dtype = |i: usize| if case.operands[i].class == Some(Class::Index) { Dtype::U32 } else { Dtype::F64 };
        let tensors = Tensors::new(&described, &case.operands, dtype).map_err(refused)?;
        let exact = tensors.call(&described, case).map_err(refused)?;
        let exact: Vec<Vec<f64>> = case.operands.iter().zip(&exact).map(|(o, values)| o.seen(values)).collect();
        let (operation, operands) = described.operands(&case.operands, &tensors.seen, dtypes)?;
        Ok(Self { case, operation, operands, dtypes, exact, seed, rounding: OnceCell::new() })
    }

    /// Whether operand `i`, if it is a result, is as it should be: each element, and all of them together. `got` is
    /// what the operation sees of it.
    pub fn judge(&self, i: usize, got: &[f64]) -> Result<Closeness, String> {
        let mut closeness = self.elements(i, got)?;
        if let Some(rounding) = &self.rounding()[i] {
            closeness.rms = rule::check(self.operands[i].name, self.operands[i].given, rounding, &self.exact[i], got)?;
        }
        Ok(closeness)
    }

    /// How far off rounding makes each result. Its model takes long, so it runs when somebody asks.
    fn rounding(&self) -> &[Option<Rounding>] {
        let rounding = || rule::rounding(self.case, &self.operands, self.dtypes, &self.exact, self.seed);
        self.rounding.get_or_init(rounding)
    }

    /// Whether each element of operand `i`, if it is a result, is within its own bound.
    pub fn elements(&self, i: usize, got: &[f64]) -> Result<Closeness, String> {
        let (operand, exact) = (&self.operands[i], &self.exact[i]);
        let Some(allowed) = operand.allowed() else { return Ok(Closeness::default()) };
        let dtype = self.dtypes.dtype(operand.class);
        let wanted = match allowed {
            Allowed::Exact => self.dtypes.round(operand.class, exact),
            _ => exact.clone(),
        };
        let mut closeness = Closeness::default();
        for (at, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
            let (error, bound) = ((got - wanted).abs(), bound(allowed, at, *wanted, dtype));
            // NaN, on either side, is not within it.
            if error.is_nan() || error > bound {
                return Err(format!(
                    "{} {:?} is {got:e} and not {wanted:e}: {error:.2e} off, {bound:.2e} is allowed",
                    operand.name,
                    coordinates(&operand.given.seen_dims(), at),
                ));
            }
            if bound > 0.0 {
                closeness.element = closeness.element.max(error / bound);
            }
        }
        Ok(closeness)
    }

    /// The largest difference of the model, where nothing is rounded, from the reference, relative to the result's
    /// largest element or 1.
    pub(crate) fn model_error(&self) -> f64 {
        let mut largest: f64 = 0.0;
        for (model, exact) in self.evaluate(&mut Arithmetic::exact(self.dtypes)).iter().zip(&self.exact) {
            let Some(model) = model else { continue };
            assert_eq!(model.len(), exact.len());
            let size = exact.iter().fold(1.0, |most: f64, x| most.max(x.abs()));
            largest = model.iter().zip(exact).map(|(m, e)| (m - e).abs() / size).fold(largest, f64::max);
        }
        largest
    }

    /// The case's operands on a backend of its dtypes.
    pub fn tensors(&self, backend: &dyn Backend) -> Result<Tensors> {
        Tensors::new(backend, &self.case.operands, |i| self.dtypes.dtype(self.operands[i].class))
    }

    /// Makes the call, on what [`Prepared::tensors`] gives, on a backend of the same memory.
    pub fn call(&self, backend: &dyn Backend, tensors: &Tensors) -> Result<()> {
        (self.case.call)(backend, &tensors.seen)
    }

    /// Makes the call on fresh tensors and reads back every operand.
    fn run(&self, backend: &dyn Backend) -> Result<Vec<Vec<f64>>> {
        self.tensors(backend)?.call(backend, self.case)
    }

    /// The results of the operation's formula where each sum lacks a term.
    pub(crate) fn without_a_term(&self) -> Vec<Option<Vec<f64>>> {
        self.evaluate(&mut Arithmetic::omitting(self.dtypes))
    }

    /// The results of the operation's formula, an operand each that is a result.
    pub(crate) fn evaluate(&self, arithmetic: &mut Arithmetic) -> Vec<Option<Vec<f64>>> {
        let operands = &self.operands;
        let Some(model) = &self.case.model else { return operands.iter().map(|_| None).collect() };
        let inputs: Vec<Vec<f64>> = operands.iter().map(|o| o.given.seen(&o.given.values)).collect();
        let mut results = model(arithmetic, &inputs).into_iter();
        operands.iter().map(|o| o.allowed().and_then(|_| results.next())).collect()
    }
}

/// Runs the case; the error is the first thing that is wrong. With it come the case's results, for who wants to know
/// whether wrong ones would be noticed.
pub fn check(backend: &dyn Backend, prepared: &Prepared) -> Result<(Closeness, Vec<Vec<f64>>), String> {
    let run = || prepared.run(backend).map_err(|e| format!("the backend refuses a call that is right: {e}"));
    let (got, again) = (run()?, run()?);
    let mut closeness = Closeness::default();
    let mut results = Vec::with_capacity(got.len());
    for (i, operand) in prepared.operands.iter().enumerate() {
        let seen = operand.given.seen(&got[i]);
        if operand.access != Access::Scratch {
            unwritten(operand, &got[i])?;
            let place = |at: usize| format!("{} {:?}", operand.name, coordinates(&operand.given.dims, at));
            if let Some(at) = (0..got[i].len()).find(|&at| got[i][at].to_bits() != again[i][at].to_bits()) {
                return Err(format!("two runs differ: {} is {:e} and {:e}", place(at), got[i][at], again[i][at]));
            }
            closeness = closeness.or(prepared.judge(i, &seen)?);
        }
        results.push(seen);
    }
    Ok((closeness, results))
}

/// The operands of a call on a backend.
pub struct Tensors {
    whole: Vec<Tensor>,
    /// What the operation sees of them.
    seen: Vec<Tensor>,
}

impl Tensors {
    /// Fresh ones of `dtype(number)`, with the values that the row gives.
    fn new(backend: &dyn Backend, given: &[Given], dtype: impl Fn(usize) -> Dtype) -> Result<Self> {
        let whole = |(i, given): (usize, &Given)| -> Result<Tensor> {
            let t = backend.tensor(dtype(i), &given.dims)?;
            backend.write_f64(&t, &given.values)?;
            Ok(t)
        };
        let whole = given.iter().enumerate().map(whole).collect::<Result<Vec<_>>>()?;
        let seen = |(given, t): (&Given, &Tensor)| match &given.band {
            Some(band) => t.slice_cols(band.clone()),
            None => t.clone(),
        };
        Ok(Self { seen: given.iter().zip(&whole).map(seen).collect(), whole })
    }

    /// Makes the call and reads back every operand.
    fn call(&self, backend: &dyn Backend, case: &Case) -> Result<Vec<Vec<f64>>> {
        (case.call)(backend, &self.seen)?;
        self.whole.iter().map(|t| backend.read_f64(t)).collect()
    }
}

/// Refuses a change of what is only read, and of what lies beside a band.
fn unwritten(operand: &Operand, got: &[f64]) -> Result<(), String> {
    let written = |at: usize| match (&operand.given.band, operand.allowed()) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(band), Some(_)) => band.contains(&(at % operand.given.dims[1])),
    };
    for (at, (got, before)) in got.iter().zip(&operand.given.values).enumerate() {
        if !written(at) && got.to_bits() != before.to_bits() && !(got.is_nan() && before.is_nan()) {
            return Err(format!(
                "{} {:?} was {before:e}, is not to be written and is {got:e}",
                operand.name,
                coordinates(&operand.given.dims, at)
            ));
        }
    }
    Ok(())
}

fn bound(allowed: &Allowed, number: usize, expected: f64, dtype: Dtype) -> f64 {
    let computed = match allowed {
        Allowed::Exact => return 0.0,
        Allowed::Each(each) => each[number],
        Allowed::All(all) => *all,
        Allowed::Relative(relative) => relative * expected.abs(),
    };
    // Half the distance to the next number is what storing costs; below the normal numbers that distance is fixed.
    let smallest = if dtype == Dtype::F64 { 0.0 } else { f64::from(f32::MIN_POSITIVE) };
    computed + epsilon(dtype) * expected.abs() + smallest
}

/// The place of an element, dimension by dimension.
fn coordinates(dims: &[usize], mut at: usize) -> Vec<usize> {
    let mut place = vec![0; dims.len()];
    for (i, &dim) in dims.iter().enumerate().rev() {
        place[i] = at % dim;
        at /= dim;
    }
    place
}
