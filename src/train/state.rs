//! What the optimizer keeps of the parameters, apart from model and trainer: it belongs to whoever owns a range of them.

use std::ops::Range;

use serde::Serialize;

use crate::backend::{AdamW, BackendExt, Footprint, Operations};
use crate::error::{Error, Result};
use crate::model::{Model, TensorSpec};
use crate::run::PARAMS;
use crate::tensor::Tensor;
use crate::train::checkpoint::{Checkpoint, Checkpoints, SavedRange, pieces};

/// The parameters of one range of the flat buffer in full precision.
pub struct Masters {
    range: Range<usize>,
    /// As `accumulator`: the model's own parameters, where those are of that type.
    tensor: Tensor,
}

/// Masters and both moments of AdamW for one range of what is trained of the flat buffer. Ranges that together cover that,
/// on one device or on several, make the update that one over all of it makes, bit for bit.
pub struct OptimizerState {
    master: Masters,
    m: Tensor,
    v: Tensor,
}

impl OptimizerState {
    /// The names of the buffers, as [`OptimizerState::buffers`] has them.
    pub const NAMES: [&str; 3] = [PARAMS, "m", "v"];

    /// Takes the memory for `range` of the parameters of `model`, whose present values the masters are; the moments are
    /// zero.
    ///
    /// # Errors
    /// When there is not enough memory, or the range exceeds what is trained.
    pub fn new(model: &Model, range: Range<usize>) -> Result<Self> {
        let state = Self::zeroed(model, range.clone())?;
        if state.master.are_apart(model) {
            let mut values = Vec::new();
            for piece in pieces(range.clone()) {
                values.resize(piece.len(), 0.0);
                let backend = model.backend();
                backend.read_f32_into(&model.params().window(piece.start, &[piece.len()]), &mut values)?;
                backend.write_f32(&state.master.tensor.window(piece.start - range.start, &[piece.len()]), &values)?;
            }
        }
        Ok(state)
    }

    /// As [`OptimizerState::new`], with masters that are still to be set.
    pub fn zeroed(model: &Model, range: Range<usize>) -> Result<Self> {
        let trained = model.trained();
        if range.start < trained.start || range.end > trained.end || range.start > range.end {
            return Err(Error::machine(format!("parameters {range:?} of a model that trains {trained:?}")));
        }
        let backend = model.backend();
        let zeros = || backend.tensor(backend.accumulator(), &[range.len()]);
        let master = match backend.float() == backend.accumulator() {
            true => model.params().window(range.start, &[range.len()]),
            false => zeros()?,
        };
        Ok(Self { master: Masters { tensor: master, range: range.clone() }, m: zeros()?, v: zeros()? })
    }

    /// Bytes that the state of `elements` parameters takes on a device of such a `footprint`: masters and moments.
    pub fn planned_bytes(footprint: &Footprint, elements: usize) -> [usize; 2] {
        let flat = elements * footprint.accumulator.size();
        [if footprint.float == footprint.accumulator { 0 } else { flat }, 2 * flat]
    }

    /// Bytes that it takes, the model's own parameters not counted.
    pub fn bytes(&self, model: &Model) -> usize {
        let buffers = if self.master.are_apart(model) { 3 } else { 2 };
        buffers * self.m.len() * self.m.dtype().size()
    }

    /// The parameters that it is for, as elements of the flat buffer.
    pub fn range(&self) -> Range<usize> {
        self.master.range.clone()
    }

    /// The parameters of its range in the most precise form that there is.
    pub fn master(&self) -> &Tensor {
        &self.master.tensor
    }

    /// The masters alone; the memory of the moments is free again.
    pub fn into_masters(self) -> Masters {
        self.master
    }

    /// Both moments.
    pub fn moments(&self) -> [&Tensor; 2] {
        [&self.m, &self.v]
    }

    /// Everything that a resumed run needs, in the order of [`OptimizerState::NAMES`].
    pub fn buffers(&self) -> [&Tensor; 3] {
        [&self.master.tensor, &self.m, &self.v]
    }

    /// One AdamW update of its range of the model's parameters, from the same range of the flat gradient `grads` of what is
    /// trained and the sum of the squares of the whole; none where that or one of `losses` is not finite.
    pub fn update(
        &self,
        model: &Model,
        grads: &Tensor,
        squares: &Tensor,
        losses: &Tensor,
        update: &AdamW,
    ) -> Result<()> {
        let range = &self.master.range;
        let params = model.params().window(range.start, &[range.len()]);
        let grads = grads.window(range.start - model.trained().start, &[range.len()]);
        model.backend().adamw(&params, &self.master.tensor, &self.m, &self.v, &grads, squares, losses, update)
    }

    /// [`Masters::set_rows`].
    pub fn set_rows(&self, model: &Model, spec: &TensorSpec, row: usize, values: &[f32]) -> Result<()> {
        self.master.set_rows(model, spec, row, values)
    }

    /// Sets model and masters to the values with which a run begins.
    pub fn initialise(&self, model: &Model, seed: u64) -> Result<()> {
        model.specs().iter().try_for_each(|spec| self.set_rows(model, spec, 0, &model.initial(spec, seed)))
    }

    /// [`Masters::get`].
    pub fn get(&self, model: &Model, spec: &TensorSpec) -> Result<Vec<f32>> {
        self.master.get(model, spec)
    }

    /// Saves it with `totals` as the checkpoint after `step` steps, a piece at a time: what is trained and no more, each
    /// buffer counted from there.
    ///
    /// # Errors
    /// As [`Checkpoints::save`].
    pub fn save(&self, model: &Model, checkpoints: &Checkpoints, step: u64, totals: &impl Serialize) -> Result<()> {
        let range = of_trained(model, self.range());
        let reader = |buffer: &Tensor| {
            let (buffer, start) = (buffer.clone(), range.start);
            move |at: usize, values: &mut [f32]| {
                model.backend().read_f32_into(&buffer.window(at - start, &[values.len()]), values)
            }
        };
        let [mut master, mut m, mut v] = self.buffers().map(reader);
        let [of_master, of_m, of_v] = Self::NAMES;
        let mut parts = [
            SavedRange { name: of_master, range: range.clone(), read: &mut master },
            SavedRange { name: of_m, range: range.clone(), read: &mut m },
            SavedRange { name: of_v, range: range.clone(), read: &mut v },
        ];
        checkpoints.save(step, &mut parts, totals)
    }

    /// Restores its range of what was saved, whoever saved it, and the model's parameters of that range; a piece at a
    /// time.
    ///
    /// # Errors
    /// As [`Checkpoint::read`].
    pub fn restore(&self, model: &Model, checkpoint: &Checkpoint) -> Result<()> {
        let (backend, trained, range) = (model.backend(), model.trained(), of_trained(model, self.range()));
        for (name, buffer) in Self::NAMES.into_iter().zip(self.buffers()) {
            let master_apart = buffer.same_place(self.master()) && self.master.are_apart(model);
            checkpoint.read(name, trained.len(), range.clone(), &mut |at, values| {
                backend.write_f32(&buffer.window(at - range.start, &[values.len()]), values)?;
                match master_apart {
                    true => backend.write_f32(&model.params().window(trained.start + at, &[values.len()]), values),
                    false => Ok(()),
                }
            })?;
        }
        Ok(())
    }

    /// Refuses masters or moments that are not finite: an update can overflow although its gradient did not.
    ///
    /// # Errors
    /// Names the tensor and `updates`, after which it was found.
    pub fn check(&self, model: &Model, updates: u64) -> Result<()> {
        let backend = model.backend();
        let count = backend.tensor(backend.accumulator(), &[1])?;
        let bad = |buffer: &Tensor, range: Range<usize>| -> Result<bool> {
            backend.count_non_finite(&count, &buffer.window(range.start, &[range.len()]))?;
            Ok(backend.read_one(&count)? != 0.0)
        };
        for (what, buffer) in ["weight", "first moment of", "second moment of"].into_iter().zip(self.buffers()) {
            if !bad(buffer, 0..buffer.len())? {
                continue;
            }
            // Which tensor it is, is looked for on the device as well.
            let range = self.range();
            let mut name = "padding";
            for spec in model.specs() {
                let of = spec.offset.max(range.start)..(spec.offset + spec.elements()).min(range.end);
                if !of.is_empty() && bad(buffer, of.start - range.start..of.end - range.start)? {
                    name = &spec.name;
                    break;
                }
            }
            return Err(Error::machine(format!(
                "the {what} {name} is not finite after update {updates}. It was not saved; what was saved before is \
                 whole. Try a lower optimizer.lr"
            )));
        }
        Ok(())
    }
}

/// A range of the flat buffer, counted from the first element that is trained.
fn of_trained(model: &Model, range: Range<usize>) -> Range<usize> {
    let start = model.trained().start;
    range.start - start..range.end - start
}

impl Masters {
    /// Sets a tensor's rows from `row` on, as many as there are values for: in the model, and in the masters as far as
    /// they are of its range.
    pub fn set_rows(&self, model: &Model, spec: &TensorSpec, row: usize, values: &[f32]) -> Result<()> {
        model.set_rows(spec, row, values)?;
        if !self.are_apart(model) {
            return Ok(());
        }
        let first = spec.offset + row * spec.shape.iter().skip(1).product::<usize>();
        let common = first.max(self.range.start)..(first + values.len()).min(self.range.end);
        if common.is_empty() {
            return Ok(());
        }
        let master = self.tensor.window(common.start - self.range.start, &[common.len()]);
        model.backend().write_f32(&master, &values[common.start - first..common.end - first])
    }

    /// One tensor in the most precise form that there is: its masters, which must be of its range, or, if it is not
    /// trained, what the model computes with.
    pub fn get(&self, model: &Model, spec: &TensorSpec) -> Result<Vec<f32>> {
        if spec.offset < model.trained().start {
            return model.get(model.params(), spec);
        }
        let outside = || Error::machine(format!("{} is not of the parameters {:?}", spec.name, self.range));
        let start = spec.offset.checked_sub(self.range.start).ok_or_else(outside)?;
        if start + spec.elements() > self.range.len() {
            return Err(outside());
        }
        model.backend().read_f32(&self.tensor.window(start, &[spec.elements()]))
    }

    /// Whether the model's own parameters are another buffer.
    fn are_apart(&self, model: &Model) -> bool {
        model.backend().float() != model.backend().accumulator()
    }
}
