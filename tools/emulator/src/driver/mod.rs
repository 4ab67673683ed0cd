//! The library form: what a program finds that loads `libcuda.so`.
//!
//! All work is done when it is asked for: a stream is a name, and what a program reads back is there. Besides the
//! functions of the CUDA driver there are four of the emulator's own, in [`own`].

mod api;
mod attributes;
mod own;

use crate::device::{Device, Kernel, LoadedModule};
use crate::error::{Error, Result};
use crate::execute::Report;
use crate::{Config, Fault};
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Results of driver functions, by their names in `cuda.h` without the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Status {
    Success = 0,
    InvalidValue = 1,
    OutOfMemory = 2,
    InvalidDevice = 101,
    InvalidContext = 201,
    NoBinaryForGpu = 209,
    InvalidPtx = 218,
    InvalidHandle = 400,
    NotFound = 500,
    IllegalAddress = 700,
    Assert = 710,
    HardwareStackError = 714,
    MisalignedAddress = 716,
    LaunchFailed = 719,
    NotSupported = 801,
    Unknown = 999,
}

/// Launches whose reports are kept until somebody asks for them; the oldest go first.
const MOST_REPORTS: usize = 1 << 16;
/// What the device says it has.
const TOTAL_MEMORY: usize = 64 << 30;
/// What a kernel may take without asking.
const SHARED_WITHOUT_ASKING: u32 = 48 << 10;

/// A kernel with what the program has asked for it.
struct Function {
    kernel: Kernel,
    most_dynamic_shared: u32,
}

/// Everything behind the handles.
struct Driver {
    device: Device,
    print: bool,
    reports: VecDeque<Report>,
    last_error: String,
    modules: HashMap<usize, LoadedModule>,
    functions: HashMap<usize, Function>,
    /// The function of a module and name, so that asking twice gives one handle.
    names: HashMap<(usize, String), usize>,
    events: HashMap<usize, Option<Instant>>,
    allocated: HashMap<u64, usize>,
    next: usize,
}

static DRIVER: LazyLock<Mutex<Driver>> = LazyLock::new(|| {
    let mut driver = Driver {
        device: Device::new(Config::default()),
        print: false,
        reports: VecDeque::new(),
        last_error: String::new(),
        modules: HashMap::new(),
        functions: HashMap::new(),
        names: HashMap::new(),
        events: HashMap::new(),
        allocated: HashMap::new(),
        next: 0x1000,
    };
    if let Ok(settings) = std::env::var("EMULATOR")
        && let Err(error) = driver.configure(&settings)
    {
        eprintln!("emulator: in the environment variable EMULATOR: {error}");
    }
    Mutex::new(driver)
});

fn driver() -> MutexGuard<'static, Driver> {
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a function of the driver returns; a panic stops at the border to C.
fn answer(work: impl FnOnce(&mut Driver) -> std::result::Result<(), Status>) -> i32 {
    let result = catch_unwind(AssertUnwindSafe(|| work(&mut driver())));
    result.unwrap_or(Err(Status::Unknown)).err().unwrap_or(Status::Success) as i32
}

impl Driver {
    /// `name=value`, with commas between.
    fn configure(&mut self, settings: &str) -> Result<()> {
        for setting in settings.split(',').map(str::trim).filter(|s| !s.is_empty()) {
            match setting.split_once('=') {
                Some(("print", value @ ("on" | "off"))) => self.print = value == "on",
                Some((name, value)) => self.device.config.set(name, value)?,
                None => return Err(Error::new(format!("`{setting}` is not a setting; settings are `name=value`"))),
            }
        }
        Ok(())
    }

    fn handle(&mut self) -> usize {
        self.next += 8;
        self.next
    }

    /// Remembers what went wrong, and says it.
    fn fail<T>(&mut self, status: Status, error: &Error) -> std::result::Result<T, Status> {
        self.last_error = error.to_string();
        eprintln!("emulator: {error}");
        Err(status)
    }

    fn load(&mut self, ptx: &str) -> std::result::Result<usize, Status> {
        let module = match self.device.load(ptx) {
            Ok(module) => module,
            Err(error) => return self.fail(Status::InvalidPtx, &error),
        };
        let names: Vec<String> = module.kernels().map(str::to_owned).collect();
        let id = self.handle();
        for name in names {
            let kernel = match module.kernel(&name) {
                Ok(kernel) => kernel,
                Err(error) => return self.fail(Status::InvalidPtx, &error),
            };
            let function = self.handle();
            self.functions.insert(function, Function { kernel, most_dynamic_shared: SHARED_WITHOUT_ASKING });
            self.names.insert((id, name), function);
        }
        self.modules.insert(id, module);
        Ok(id)
    }

    fn unload(&mut self, id: usize) -> std::result::Result<(), Status> {
        let module = self.modules.remove(&id).ok_or(Status::InvalidHandle)?;
        for address in module.globals.values() {
            let _ = self.device.memory.free(*address);
        }
        let gone: Vec<_> = self.names.keys().filter(|key| key.0 == id).cloned().collect();
        for key in gone {
            if let Some(function) = self.names.remove(&key) {
                self.functions.remove(&function);
            }
        }
        Ok(())
    }

    fn allocate(&mut self, bytes: usize) -> std::result::Result<u64, Status> {
        if bytes == 0 {
            return Err(Status::InvalidValue);
        }
        if self.allocated.values().sum::<usize>().saturating_add(bytes) > TOTAL_MEMORY {
            return Err(Status::OutOfMemory);
        }
        let address = self.device.memory.allocate(bytes).map_err(|_| Status::OutOfMemory)?;
        self.allocated.insert(address, bytes);
        Ok(address)
    }

    fn free(&mut self, address: u64) -> std::result::Result<(), Status> {
        self.allocated.remove(&address);
        match self.device.memory.free(address) {
            Ok(()) => Ok(()),
            Err(error) => self.fail(Status::InvalidValue, &error),
        }
    }

    /// What a host copy or fill answers.
    fn checked(&mut self, result: Result<()>) -> std::result::Result<(), Status> {
        match result {
            Ok(()) => Ok(()),
            Err(error) => self.fail(Status::InvalidValue, &error),
        }
    }

    fn launch(
        &mut self,
        function: usize,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        params: &[&[u8]],
    ) -> std::result::Result<(), Status> {
        let function = self.functions.get(&function).ok_or(Status::InvalidHandle)?;
        let kernel = function.kernel.clone();
        if dynamic_shared > function.most_dynamic_shared {
            let (name, most) = (&kernel.program.name, function.most_dynamic_shared);
            let text = format!(
                "`{name}` is launched with {dynamic_shared} bytes of dynamic shared memory, and was allowed {most}; \
                 CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES allows more"
            );
            return self.fail(Status::InvalidValue, &Error::new(text));
        }
        let report = match self.device.launch(&kernel, grid, block, dynamic_shared, params) {
            Ok(report) => report,
            Err(error) => return self.fail(Status::InvalidValue, &error),
        };
        if self.print {
            report.findings.iter().for_each(|finding| eprintln!("emulator: {finding}"));
        }
        let worst = report.findings.iter().find_map(|finding| match finding.fault {
            Fault::OutOfBounds => Some(Status::IllegalAddress),
            Fault::Misaligned => Some(Status::MisalignedAddress),
            Fault::Assert => Some(Status::Assert),
            Fault::StackOverflow => Some(Status::HardwareStackError),
            Fault::Trap | Fault::Deadlock | Fault::Hang => Some(Status::LaunchFailed),
            _ => None,
        });
        if worst.is_some() {
            self.last_error = report.findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        }
        if self.reports.len() == MOST_REPORTS {
            self.reports.pop_front();
        }
        self.reports.push_back(report);
        worst.map_or(Ok(()), Err)
    }
}
