//! A card, or the emulator in its place.

use std::env;
use std::process::{Command, ExitCode};
use std::rc::Rc;
use std::time::Duration;

use cudarc::driver::{result, sys};
use emulator::{Counters, Report};
use half::bf16;
use polar_raw::backend::{Backend, BackendExt, Operations};
use polar_raw::cuda::properties::Properties;
use polar_raw::cuda::{self, Cuda};
use polar_raw::error::{Error, Result};
use polar_raw::ops::{AnyOp, Work};
use polar_raw::tensor::{Dtype, Storage, Tensor};
use polar_raw::wrap;

use super::clocks::Nvml;
use super::timing::Timer;

/// Values that are drawn; longer operands repeat them.
const DRAWN: usize = 1 << 18;
/// Multiprocessors that the plans of flat kernels see on the emulator, however many cores execute their blocks, so that
/// counters are the same on every machine.
const EMULATED_SMS: usize = 2;

/// What kernels run on.
pub struct Machine {
    pub cuda: Cuda,
    /// Whether there is time to measure; otherwise there are counters.
    pub card: bool,
    /// Whether shapes are small: on the emulator, and where a bench is only tried.
    pub reduced: bool,
    /// Whether the bench is only tried, with the first model.
    pub tried: bool,
    filter: Option<String>,
    /// Memory larger than L2, which is written between runs so that none finds its operands there.
    flushed: Rc<Storage>,
    nvml: Option<Nvml>,
}

/// Runs that are timed before the host waits for them.
const AT_ONCE: u64 = 32;

/// Opens what there is and runs a bench on it. `--emulator` takes the emulator beside a card; a word that is no option
/// runs only those cases whose names contain it; `--test`, or no `--bench`, runs those of one model once, reduced.
pub fn main(bench: fn(&Machine, &mut Timer) -> Result<()>) -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let has = |name: &str| args.iter().any(|arg| arg == name);
    let card = !has("--emulator") && cuda::is_present();
    let opened = if card { Cuda::open(0) } else { Cuda::emulated() };
    let cuda = match opened {
        Ok(cuda) => cuda,
        // The driver is loaded now, and the emulator would come too late in this process.
        Err(error) if card => {
            eprintln!("{error}\nno card, hence the emulator's counters");
            let again =
                env::current_exe().and_then(|program| Command::new(program).args(&args).arg("--emulator").status());
            return if again.is_ok_and(|status| status.success()) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        Err(error) => return fail(&error),
    };
    let tried = has("--test") || !has("--bench");
    // On a card the filter is criterion's, which knows which words are values of its options.
    let filter = args.iter().find(|arg| !card && !arg.starts_with('-')).cloned();
    match Machine::new(cuda, card, tried, filter).and_then(|machine| machine.run(bench)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &Error) -> ExitCode {
    eprintln!("{error}");
    ExitCode::FAILURE
}

impl Machine {
    fn new(cuda: Cuda, card: bool, tried: bool, filter: Option<String>) -> Result<Self> {
        let l2 = if card { cuda.properties().l2_bytes } else { 1 << 16 };
        let flushed = cuda.allocate(2 * l2)?;
        let nvml = if card { Nvml::load(cuda.device().stream().context().cu_device()) } else { None };
        Ok(Self { cuda, card, reduced: tried || !card, tried, filter, flushed, nvml })
    }

    /// Runs a bench, on a card between two looks at its clocks.
    fn run(&self, bench: fn(&Self, &mut Timer) -> Result<()>) -> Result<()> {
        let before = self.nvml.as_ref().map(Nvml::read);
        if self.tried && !self.card {
            // The clock of a card's benches, where there is none: it is to be seen that it runs.
            let x = self.f32(&[1 << 12])?;
            let time = self.time(3, &|| self.cuda.fill(&x, 1.0))?;
            println!("three fills by the emulator's events: {time:?}");
        }
        bench(self, &mut Timer::new(self.card))?;
        if let (Some(before), Some(nvml)) = (before, &self.nvml) {
            println!("\nClocks before: {before}; after: {}", nvml.read());
        } else if self.card {
            let most = 1e-6 * self.cuda.properties().clock;
            println!("\nClocks are not known: the driver's management library was not found; {most:.0} MHz at most");
        }
        Ok(())
    }

    /// Whether a case was asked for.
    pub fn wants(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|word| name.contains(word.as_str()))
    }

    /// A tensor of random values within `[-1, 1]`: zeros would spare a card the power that limits its clock.
    pub fn random(&self, dtype: Dtype, dims: &[usize]) -> Result<Tensor> {
        let tensor = self.cuda.tensor(dtype, dims)?;
        let drawn = tensor.len().min(DRAWN);
        let mut state = 1u32;
        let values = (0..drawn).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        });
        let base = tensor.address() as u64;
        if dtype == Dtype::Bf16 {
            let values: Vec<bf16> = values.map(bf16::from_f32).collect();
            self.cuda.device().write(base, bytemuck::cast_slice(&values))?;
        } else {
            self.cuda.device().write(base, bytemuck::cast_slice(&values.collect::<Vec<f32>>()))?;
        }
        let (mut done, all) = (drawn * dtype.size(), tensor.len() * dtype.size());
        while done < all {
            let piece = done.min(all - done);
            self.cuda.device().copy(base + done as u64, base, piece)?;
            done += piece;
        }
        Ok(tensor)
    }

    /// Weights and activations.
    pub fn bf16(&self, dims: &[usize]) -> Result<Tensor> {
        self.random(Dtype::Bf16, dims)
    }

    /// Gradients and statistics.
    pub fn f32(&self, dims: &[usize]) -> Result<Tensor> {
        self.random(Dtype::F32, dims)
    }

    /// Ids, positions, row numbers.
    pub fn u32(&self, values: &[u32], dims: &[usize]) -> Result<Tensor> {
        let tensor = self.cuda.tensor(Dtype::U32, dims)?;
        self.cuda.write_u32(&tensor, values)?;
        Ok(tensor)
    }

    /// What launches are planned by.
    pub fn properties(&self) -> Properties {
        let properties = *self.cuda.properties();
        if self.card { properties } else { Properties { sms: EMULATED_SMS, ..properties } }
    }

    /// What an operation costs at least, by its own description.
    pub fn work<'o>(&self, op: impl Into<AnyOp<'o>>) -> Result<Work> {
        wrap::work(&self.cuda, &op.into())
    }

    /// What the launches of `run` did on the emulator, which refuses a kernel that it finds fault with.
    pub fn reports(&self, run: &dyn Fn() -> Result<()>) -> Result<Vec<Report>> {
        self.cuda.reports()?;
        run()?;
        let reports = self.cuda.reports()?;
        match reports.iter().flat_map(|report| &report.findings).next() {
            Some(finding) => Err(Error::machine(format!("the emulator found a fault in a kernel: {finding}"))),
            None => Ok(reports),
        }
    }

    /// The time of `iterations` runs by the device's own events, each with an L2 that holds nothing of its operands. The
    /// host is ahead of the device meanwhile, so that what it takes to launch is not measured.
    pub fn time(&self, iterations: u64, run: &dyn Fn() -> Result<()>) -> Result<Duration> {
        let failed = |error| Error::machine(format!("CUDA: cannot time a run: {error}"));
        let device = self.cuda.device();
        let event = || device.stream().record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).map_err(failed);
        let (mut left, mut seconds) = (iterations, 0.0);
        while left > 0 {
            let mut events = Vec::new();
            for _ in 0..left.min(AT_ONCE) {
                self.flush()?;
                let start = event()?;
                run()?;
                events.push((start, event()?));
            }
            left -= events.len() as u64;
            for (start, end) in events {
                seconds += 1e-3 * f64::from(start.elapsed_ms(&end).map_err(failed)?);
            }
        }
        Ok(Duration::from_secs_f64(seconds))
    }

    /// Writes more than L2 holds.
    fn flush(&self) -> Result<()> {
        let (at, bytes) = (self.flushed.address() as u64, self.flushed.bytes());
        // SAFETY: the memory is as long as that, and nobody reads it.
        unsafe { result::memset_d8_async(at, 1, bytes, self.cuda.device().stream().cu_stream()) }
            .map_err(|error| Error::machine(format!("CUDA: cannot empty the cache: {error}")))
    }
}

/// Bytes that a launch moves if caches are endless: each sector of 32 that it reads, and each that it writes, once.
pub fn moved(counters: &Counters) -> u64 {
    32 * (counters.loads.footprint_sectors + counters.stores.footprint_sectors)
}
