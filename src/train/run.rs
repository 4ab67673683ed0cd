//! A run from its first step to its report, in a folder that can be picked up again at any moment.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::backend::Backend;
use crate::config::Config;
use crate::error::Result;
use crate::run::config::Machine;
use crate::train::Trainer;
use crate::train::finish::Outcome;
use crate::train::run_folder::{self, Found};
use crate::train::setup::Setup;
use crate::train::step_loop::StepLoop;

/// What is to be run, where.
pub struct Request {
    /// The resolved configuration.
    pub config: Config,
    /// The run's folder.
    pub run: PathBuf,
    /// Whether to go on with what stands there.
    pub resume: bool,
    /// Whether a run may go on on another device, or with another number of threads, and so to other bits.
    pub accept_other_bits: bool,
    /// The device.
    pub backend: Rc<dyn Backend>,
    /// Set from outside to save and stop after the current step.
    pub stop: Arc<AtomicBool>,
}

/// How a run ended.
pub enum Ended {
    /// With the report.
    Finished(Outcome),
    /// It was told to stop; its state is saved.
    Stopped,
    /// Before: nothing was changed.
    Before {
        /// The model's folder.
        model: PathBuf,
        /// The report.
        report: PathBuf,
    },
}

/// Trains, evaluates and reports.
pub fn run(request: Request) -> Result<Ended> {
    let Request { config, run, resume, accept_other_bits, backend, stop } = request;
    let mut found = Found::look(&run, &config, resume)?;
    if let Some([model, report]) = found.finished() {
        return Ok(Ended::Before { model, report });
    }
    let machine = Machine::of(&*backend);
    found.check_machine(&machine, accept_other_bits)?;
    let setup = Setup::new(&config, run_folder::start(&config, &run))?;
    // What does not fit the device is refused before anything is written.
    let plan = setup.sizes().choose(&backend.footprint(), config.train.keep, backend.free_memory()?)?;
    let initial = setup.initial_model(backend, found.initial_weights(&config).as_deref())?;
    let folder = found.take(&setup, &initial, machine)?;
    let notes: Vec<String> = setup.notes.iter().chain(&initial.notes).cloned().collect();
    let warnings: Vec<String> = setup.warnings.iter().chain(&initial.warnings).cloned().collect();
    let trainer = Trainer::new(Rc::new(initial.model), initial.state, &config.objective, &config.optimizer, &plan)?;
    let mut steps = StepLoop::open(folder, setup, trainer, &stop)?;
    notes.iter().for_each(|note| steps.note(note));
    warnings.iter().for_each(|warning| steps.warn(warning));
    if !steps.train()? {
        return Ok(Ended::Stopped);
    }
    Ok(steps.finish()?.map_or(Ended::Stopped, Ended::Finished))
}
