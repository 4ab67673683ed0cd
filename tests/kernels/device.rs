//! A device of the emulator with all detectors on: a finding fails the case that launched.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use emulator::{Config, Kernel, MmaMode, Report};
use half::bf16;
use polar_raw::cuda::kernel::{Entry, Launch};
use polar_raw::cuda::properties::{Card, Properties};
use polar_raw::cuda::ptx::Module;

/// Instructions that the warps of a block may execute: many times what any case needs, so that a hang is soon found.
const MOST_INSTRUCTIONS: u64 = 5_000_000;

/// The kernels that a case runs.
pub struct Kernels {
    /// One that is not the committed one.
    changed: Option<(&'static Entry, Kernel)>,
}

impl Kernels {
    /// Those of the committed PTX.
    pub fn committed() -> &'static Self {
        static COMMITTED: Kernels = Kernels { changed: None };
        &COMMITTED
    }

    /// The same, but one comes from the text of another module.
    #[allow(dead_code, reason = "for mutants, another test that runs these cases")]
    pub fn with(entry: &'static Entry, ptx: &str) -> emulator::Result<Self> {
        let kernel = emulator::Device::new(config(entry)).load(ptx)?.kernel(entry.name)?;
        Ok(Self { changed: Some((entry, kernel)) })
    }

    fn of(&self, entry: &'static Entry) -> Kernel {
        match &self.changed {
            Some((changed, kernel)) if *changed == entry => kernel.clone(),
            _ => committed(entry),
        }
    }
}

/// The device of one test case.
pub struct Device<'a> {
    kernels: &'a Kernels,
    device: RefCell<emulator::Device>,
}

impl<'a> Device<'a> {
    pub fn new(kernels: &'a Kernels) -> Self {
        Self::with(kernels, Config::default())
    }

    /// One with another order of blocks and warps, and nothing else that a seed decides.
    pub fn in_order(kernels: &'a Kernels, seed: u64) -> Self {
        Self::with(kernels, Config { seed, perturb: false, mma: MmaMode::Hopper, ..Config::default() })
    }

    fn with(kernels: &'a Kernels, config: Config) -> Self {
        let config = Config { most_instructions: MOST_INSTRUCTIONS, ..config };
        Self { kernels, device: RefCell::new(emulator::Device::new(config)) }
    }

    /// Memory that nobody has written: it reads as NaN, and a kernel that reads it is reported.
    pub fn poisoned(&self, bytes: usize) -> u64 {
        self.device.borrow_mut().memory.allocate(bytes).unwrap()
    }

    pub fn upload(&self, bytes: &[u8]) -> u64 {
        let at = self.poisoned(bytes.len());
        self.device.borrow().memory.write(at, bytes).unwrap();
        at
    }

    pub fn bf16(&self, values: &[f64]) -> u64 {
        let values: Vec<bf16> = values.iter().map(|&x| bf16::from_f64(x)).collect();
        self.upload(bytemuck::cast_slice(&values))
    }

    pub fn f32(&self, values: &[f64]) -> u64 {
        let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
        self.upload(bytemuck::cast_slice(&values))
    }

    pub fn u32(&self, values: &[u32]) -> u64 {
        self.upload(bytemuck::cast_slice(values))
    }

    pub fn read_bf16(&self, at: u64, n: usize) -> Vec<f64> {
        self.read(at, vec![bf16::ZERO; n]).into_iter().map(f64::from).collect()
    }

    pub fn read_f32(&self, at: u64, n: usize) -> Vec<f64> {
        self.read(at, vec![0.0f32; n]).into_iter().map(f64::from).collect()
    }

    fn read<T: bytemuck::Pod>(&self, at: u64, mut values: Vec<T>) -> Vec<T> {
        self.device.borrow().memory.read(at, bytemuck::cast_slice_mut(&mut values)).unwrap();
        values
    }

    /// What the launchers would plan for: few multiprocessors, so that flat kernels' blocks have several turns.
    #[allow(dead_code, reason = "not every test plans by it")]
    pub fn properties() -> Properties {
        Properties { sms: 1, ..Card::named("a100").unwrap().properties() }
    }

    /// Launches a kernel, which takes `params` by value.
    pub fn launch<P: Copy>(&self, launch: &Launch<P>, params: &P) -> Report {
        // SAFETY: the structures of the ABI are plain numbers without gaps between them.
        let params = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(params).cast::<u8>(), size_of::<P>()) };
        let Launch { kernel, grid: [x, y], threads, shared } = *launch;
        let (grid, kernel) = ([x as u32, y as u32, 1], self.kernels.of(kernel.entry()));
        let report = self.device.borrow().launch(&kernel, grid, [threads, 1, 1], shared, &[params]).unwrap();
        let findings: Vec<String> = report.findings.iter().take(5).map(ToString::to_string).collect();
        assert!(findings.is_empty(), "{}", findings.join("\n"));
        report
    }
}

/// A device that loads PTX for a kernel's target.
fn config(entry: &Entry) -> Config {
    let capability = entry.target.capability;
    Config { capability: (capability.major, capability.minor), ..Config::default() }
}

/// A kernel of the committed PTX, decoded once.
fn committed(entry: &'static Entry) -> Kernel {
    static DECODED: Mutex<Option<HashMap<(&str, &str), Kernel>>> = Mutex::new(None);
    let mut decoded = DECODED.lock().unwrap_or_else(PoisonError::into_inner);
    let decoded = decoded.get_or_insert_default();
    let key = |entry: &'static Entry| (entry.target.name, entry.name);
    if let Some(kernel) = decoded.get(&key(entry)) {
        return kernel.clone();
    }
    let Module { kernels, ptx, .. } = polar_raw::cuda::ptx::module_of(entry).unwrap();
    let loaded = emulator::Device::new(config(entry)).load(ptx).unwrap();
    for kernel in *kernels {
        decoded.insert(key(kernel), loaded.kernel(kernel.name).unwrap());
    }
    decoded[&key(entry)].clone()
}
