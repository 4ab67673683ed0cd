//! A device: its memory, the modules that are loaded, and launches.

use crate::decode::{self, Program};
use crate::error::{Error, Result};
use crate::execute::{self, Config, Launch, Printed, Report};
use crate::memory::Memory;
use crate::parse::{self, Module, Space};
use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a module's variables, at most: a line of text may ask for a gigabyte, and what is zero is written.
const MOST_VARIABLES: usize = 16 << 20;

/// A device of the emulator.
pub struct Device {
    /// Its memory.
    pub memory: Memory,
    /// How strict it is.
    pub config: Config,
    /// The most bytes of text that a launch prints (`CU_LIMIT_PRINTF_FIFO_SIZE`, which begins as 1 MiB): of more the
    /// oldest is lost.
    pub printf_bytes: usize,
    output: Mutex<Box<dyn Write + Send>>,
}

impl Default for Device {
    fn default() -> Self {
        Self::new(Config::default())
    }
}

/// A module that is loaded: its variables have addresses.
pub struct LoadedModule {
    module: Module,
    pub(crate) globals: HashMap<String, u64>,
}

/// A kernel that can be launched.
#[derive(Clone)]
pub struct Kernel {
    pub(crate) program: Arc<Program>,
}

impl Device {
    /// A device with empty memory.
    pub fn new(config: Config) -> Self {
        Self {
            memory: Memory::default(),
            config,
            printf_bytes: 1 << 20,
            output: Mutex::new(Box::new(std::io::stdout())),
        }
    }

    /// Has what kernels print written to `writer`, at the end of each launch, and no longer to the standard output.
    pub fn print_to(&mut self, writer: impl Write + Send + 'static) {
        self.output = Mutex::new(Box::new(writer));
    }

    /// Parses a module and gives its variables memory, with what they begin with.
    ///
    /// # Errors
    /// Names the line of what was not understood.
    pub fn load(&mut self, ptx: &str) -> Result<LoadedModule> {
        let module = parse::parse(ptx)?;
        self.accepts(&module.target)?;
        let mut globals = HashMap::new();
        let variables = || module.variables.iter().filter(|v| matches!(v.space, Space::Global | Space::Const));
        let total = variables().fold(0_usize, |total, variable| total.saturating_add(variable.size));
        if total > MOST_VARIABLES {
            return Err(Error::new(format!(
                "the module's variables take {total} bytes; at most {MOST_VARIABLES} are given: allocate memory instead"
            )));
        }
        for variable in variables() {
            if variable.external {
                return Err(Error::at(variable.line, format!("`{}` is defined in no module", variable.name)));
            }
            let address = self.memory.allocate(variable.size.max(1))?;
            let mut bytes = variable.initial.clone();
            bytes.resize(variable.size.max(1), 0);
            self.memory.write(address, &bytes)?;
            globals.insert(variable.name.clone(), address);
        }
        Ok(LoadedModule { module, globals })
    }

    /// Refuses PTX that is for another device: `sm_80` runs on it and all newer ones, `sm_90a` on 9.0 alone.
    fn accepts(&self, target: &str) -> Result<()> {
        let (major, minor) = self.config.capability;
        let name = target.split(',').next().unwrap_or_default().trim();
        let number = name.strip_prefix("sm_").unwrap_or_default();
        let digits = number.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let wanted: u32 = digits.parse().map_err(|_| Error::new(format!(".target {target} is not an architecture")))?;
        let (exact, here) = (digits != number, 10 * major + minor);
        if here == wanted || here > wanted && !exact {
            return Ok(());
        }
        Err(Error::new(format!(
            ".target {name} does not run on compute capability {major}.{minor}; the setting `capability` says what the \
             emulator stands in for"
        )))
    }

    /// Launches a kernel and waits for it. `params` are the bytes of each parameter in order.
    ///
    /// # Errors
    /// If the kernel does not take such parameters, blocks, or so much shared memory, or what it printed cannot be
    /// written. What is wrong with the kernel's execution is no error, but in the report.
    pub fn launch(
        &self,
        kernel: &Kernel,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        params: &[&[u8]],
    ) -> Result<Report> {
        let program = &*kernel.program;
        let layout = &program.layout;
        let fits =
            params.len() == layout.params.len() && params.iter().zip(&layout.params).all(|(p, l)| p.len() == l.size);
        if !fits {
            let wanted: Vec<usize> = layout.params.iter().map(|p| p.size).collect();
            let given: Vec<usize> = params.iter().map(|p| p.len()).collect();
            return Err(Error::new(format!(
                "`{}` takes parameters of {wanted:?} bytes, and {given:?} were given",
                program.name
            )));
        }
        let mut bytes = vec![0; layout.param_bytes];
        for (param, place) in params.iter().zip(&layout.params) {
            bytes[place.start..place.start + place.size].copy_from_slice(param);
        }
        let launch = Launch {
            program,
            memory: &self.memory,
            config: &self.config,
            grid,
            block,
            dynamic_shared,
            params: &bytes,
            published: Mutex::default(),
            printed: Mutex::new(Printed::new(self.printf_bytes)),
        };
        let report = execute::launch(&launch)?;
        let printed = launch.printed.into_inner().unwrap_or_else(PoisonError::into_inner);
        if !printed.is_empty() {
            let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
            printed
                .write(&mut *output)
                .map_err(|error| Error::new(format!("what `{}` printed cannot be written: {error}", program.name)))?;
        }
        Ok(report)
    }
}

impl LoadedModule {
    /// Decodes a kernel.
    ///
    /// # Errors
    /// Names the line and the instruction of what is not supported, or says that there is no such kernel.
    pub fn kernel(&self, name: &str) -> Result<Kernel> {
        let Some(function) = self.module.kernels.iter().find(|k| k.name == name) else {
            let names: Vec<&str> = self.module.kernels.iter().map(|k| k.name.as_str()).collect();
            return Err(Error::new(format!("the module has no kernel `{name}`; it has {}", names.join(", "))));
        };
        Ok(Kernel { program: Arc::new(decode::decode(&self.module, function, &self.globals)?) })
    }

    /// The address and size of a variable of the module.
    pub fn variable(&self, name: &str) -> Option<(u64, usize)> {
        let variable = self.module.variables.iter().find(|v| v.name == name)?;
        Some((*self.globals.get(name)?, variable.size))
    }

    /// The names of its kernels.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.module.kernels.iter().map(|k| k.name.as_str())
    }
}
