//! Runs one case on a backend and on the reference, and compares.

use polar_raw::Result;
use polar_raw::backend::{Backend, BackendExt};
use polar_raw::reference::Reference;
use polar_raw::tensor::{Dtype, Tensor};

use crate::case::{Allowed, Case, Operand, Role};
use crate::draw::{Class, Dtypes, epsilon};

/// How close a case came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Closeness {
    /// The largest error as a share of what is allowed; below 1.
    pub share: f64,
}

/// Runs the case; the error is the first thing that is wrong.
pub fn check(backend: &dyn Backend, case: &Case) -> Result<Closeness, String> {
    let dtypes = Dtypes::of(backend);
    let run = |backend: &dyn Backend, what: &str| {
        execute(backend, case).map_err(|e| format!("{what} refuses a call that is right: {e}"))
    };
    let expected = run(&Reference, "the reference")?;
    let got = run(backend, "the backend")?;
    let again = run(backend, "the backend")?;
    let mut closeness = Closeness::default();
    for (i, operand) in case.operands.iter().enumerate() {
        if matches!(operand.role, Role::Scratch) {
            continue;
        }
        let place = |at: usize| format!("{} {:?}", operand.name, coordinates(&operand.dims, at));
        if let Some(at) = (0..got[i].len()).find(|&at| got[i][at].to_bits() != again[i][at].to_bits()) {
            return Err(format!("two runs differ: {} is {:e} and {:e}", place(at), got[i][at], again[i][at]));
        }
        let dtype = dtypes.dtype(operand.class);
        let rounded = dtypes.round(operand.class, &expected[i]);
        for at in 0..got[i].len() {
            let (got, before) = (got[i][at], operand.values[at]);
            let Some((allowed, number)) = allowed(operand, at) else {
                if got.to_bits() != before.to_bits() && !(got.is_nan() && before.is_nan()) {
                    return Err(format!("{} was {before:e}, is not to be written and is {got:e}", place(at)));
                }
                continue;
            };
            let (exact, expected) = (matches!(allowed, Allowed::Exact), expected[i][at]);
            let error = if exact { (got - rounded[at]).abs() } else { (got - expected).abs() };
            let bound = bound(allowed, number, expected, dtype);
            // NaN, on either side, is not within it.
            if error.is_nan() || error > bound {
                return Err(format!(
                    "{} is {got:e} and not {expected:e}: {error:.2e} off, {bound:.2e} is allowed",
                    place(at)
                ));
            }
            if bound > 0.0 {
                closeness.share = closeness.share.max(error / bound);
            }
        }
    }
    Ok(closeness)
}

/// Makes the call on fresh tensors and reads back every operand.
fn execute(backend: &dyn Backend, case: &Case) -> Result<Vec<Vec<f64>>> {
    let dtypes = Dtypes::of(backend);
    let whole = |operand: &Operand| -> Result<Tensor> {
        let t = backend.tensor(dtypes.dtype(operand.class), &operand.dims)?;
        if operand.class == Class::Index {
            let ids: Vec<u32> = operand.values.iter().map(|&id| id as u32).collect();
            backend.write_u32(&t, &ids)?;
        } else {
            backend.write_f64(&t, &operand.values)?;
        }
        Ok(t)
    };
    let tensors = case.operands.iter().map(whole).collect::<Result<Vec<_>>>()?;
    let seen = |(operand, t): (&Operand, &Tensor)| match &operand.band {
        Some(band) => t.slice_cols(band.clone()),
        None => t.clone(),
    };
    let operands: Vec<Tensor> = case.operands.iter().zip(&tensors).map(seen).collect();
    (case.call)(backend, &operands)?;
    tensors.iter().map(|t| backend.read_f64(t)).collect()
}

/// What the element may be off and its number among those that the operation sees; none if it is not to be written.
fn allowed(operand: &Operand, at: usize) -> Option<(&Allowed, usize)> {
    let (Role::Overwritten(allowed) | Role::Updated(allowed)) = &operand.role else { return None };
    let Some(band) = &operand.band else { return Some((allowed, at)) };
    let (row, column) = (at / operand.dims[1], at % operand.dims[1]);
    band.contains(&column).then(|| (allowed, row * band.len() + column - band.start))
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
