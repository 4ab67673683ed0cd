//! A card, or the emulator in its place.

use std::env;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use cudarc::driver::result;
use emulator::{Counters, Report};
use half::bf16;
use polar_raw::backend::BackendExt;
use polar_raw::cuda::{self, Cuda};
use polar_raw::error::{Error, Result};
use polar_raw::tensor::{Dtype, Tensor};

use super::timing::Timer;

/// Values that are drawn; longer operands repeat them.
const DRAWN: usize = 1 << 18;
/// Blocks that share the work of a flat kernel on the emulator, however many cores execute them.
const EMULATED_BLOCKS: usize = 16;

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
}

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
    let machine = Machine { cuda, card, reduced: tried || !card, tried, filter };
    match bench(&machine, &mut Timer::new(card)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &Error) -> ExitCode {
    eprintln!("{error}");
    ExitCode::FAILURE
}

impl Machine {
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

    /// Blocks for a kernel whose blocks share `elements` of work, `each` at a time: as the launchers have it on a card.
    pub fn blocks(&self, elements: usize, each: usize) -> usize {
        if self.card {
            self.cuda.device().properties().blocks(elements, each)
        } else {
            elements.div_ceil(each).min(EMULATED_BLOCKS)
        }
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

    /// The time of `iterations` runs on a card, from the first launch to the end of the last.
    pub fn time(&self, iterations: u64, run: &dyn Fn() -> Result<()>) -> Result<Duration> {
        self.wait()?;
        let start = Instant::now();
        for _ in 0..iterations {
            run()?;
        }
        self.wait()?;
        Ok(start.elapsed())
    }

    fn wait(&self) -> Result<()> {
        result::ctx::synchronize().map_err(|error| Error::machine(format!("CUDA: cannot wait for the card: {error}")))
    }
}

/// Bytes that a launch moves if caches are endless: each sector of 32 that it reads, and each that it writes, once.
pub fn moved(counters: &Counters) -> u64 {
    32 * (counters.loads.footprint_sectors + counters.stores.footprint_sectors)
}
