//! One card: its context and stream, memory, modules loaded from the embedded PTX, and the launch of a kernel.
//!
//! `POLAR_RAW_SYNC=1` waits after every launch, so that a fault is an error of the launch that made it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::c_void;
use std::rc::Rc;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};
use emulator::Report;

use super::emulator::Emulator;
use super::jit::{self, LoadedModule};
use super::kernel::{Entry, Launch};
use super::properties::{Capability, Properties};
use super::ptx::{self, Module};
use crate::error::{Error, Result};
use crate::tensor::Storage;

/// Bytes of pinned memory through which small operands go to the device: more than the ids, positions and spans of a step
/// of a million tokens. `Cuda::reserve` empties it before the first step, and each step's read after it, so that no step
/// waits for room.
pub const STAGING: usize = 64 << 20;
/// Dynamic shared memory that a kernel may have without asking for more.
const SHARED_BY_DEFAULT: usize = 48 << 10;

/// Bytes that an allocation of `bytes` takes.
pub fn taken(bytes: usize) -> usize {
    bytes.max(256)
}

/// Bytes of the scratch memory that holds `bytes`.
pub fn scratch_bytes(bytes: usize) -> usize {
    bytes.next_power_of_two().max(1 << 16)
}

/// A kernel of a loaded module.
struct Function {
    handle: sys::CUfunction,
    /// Dynamic shared memory that it may have.
    shared: usize,
}

/// A kernel's target and name.
type Key = (&'static str, &'static str);

/// The modules that are loaded. Kernels go first when it is dropped.
#[derive(Default)]
struct Kernels {
    functions: HashMap<Key, Function>,
    modules: Vec<LoadedModule>,
}

/// A card, or what stands in for one.
pub struct Device {
    name: String,
    emulator: Option<Emulator>,
    properties: Properties,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    kernels: RefCell<Kernels>,
    /// Whether each launch is waited for.
    synchronous: Cell<bool>,
    staging: RefCell<Staging>,
    scratch: RefCell<Option<Rc<Storage>>>,
    allocations: Cell<usize>,
    waits: Cell<usize>,
}

/// The error of a call of the driver.
pub fn failed(what: &str) -> impl Fn(DriverError) -> Error + '_ {
    move |error| {
        let text = |text: Result<&std::ffi::CStr, DriverError>| match text {
            Ok(text) => text.to_string_lossy().into_owned(),
            Err(_) => "unknown error".into(),
        };
        let (name, about) = (text(error.error_name()), text(error.error_string()));
        Error::machine(format!("CUDA: cannot {what}: {name}, {about}"))
    }
}

impl Device {
    /// Opens the card number `ordinal`. The driver must be there: see [`super::is_present`].
    pub fn open(ordinal: usize) -> Result<Self> {
        let context = CudaContext::new(ordinal).map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_NO_DEVICE
            | sys::CUresult::CUDA_ERROR_INVALID_DEVICE
            | sys::CUresult::CUDA_ERROR_STUB_LIBRARY => {
                let cards = match CudaContext::device_count() {
                    Ok(0) | Err(_) => "no card: use --device cpu".into(),
                    Ok(1) => "one card, number 0".into(),
                    Ok(count) => format!("{count} cards, numbers 0 to {}", count - 1),
                };
                Error::user(format!("there is no card number {ordinal}: the CUDA driver has {cards}"))
            }
            _ => failed("open the card")(error),
        })?;
        let name = context.name().map_err(failed("ask for the card's name"))?;
        let properties = properties(&context)?;
        if properties.capability < Capability::new(8, 0) {
            return Err(Error::user(format!(
                "{name} has compute capability {}, and the kernels need 8.0 (A100, RTX 30) or newer: use --device cpu",
                properties.capability
            )));
        }
        let stream = context.new_stream().map_err(failed("make a stream"))?;
        let staging = Staging::new(&context)?;
        Ok(Self {
            name,
            emulator: None,
            properties,
            context,
            stream,
            kernels: RefCell::default(),
            synchronous: Cell::new(std::env::var_os("POLAR_RAW_SYNC").is_some_and(|value| value == "1")),
            staging: RefCell::new(staging),
            scratch: RefCell::default(),
            allocations: Cell::new(0),
            waits: Cell::new(0),
        })
    }

    /// The emulator in the card's place, as a device of a capability.
    pub fn emulated(capability: Capability) -> Result<Self> {
        let emulator = Emulator::load(capability)?;
        Ok(Self { emulator: Some(emulator), ..Self::open(0)? })
    }

    /// See [`super::Cuda::reports`].
    pub fn reports(&self) -> Result<Vec<Report>> {
        self.emulator.as_ref().map_or_else(|| Ok(Vec::new()), Emulator::reports)
    }

    /// Refuses what was launched since the last call if the emulator found something wrong with it.
    fn check(&self) -> Result<()> {
        self.emulator.as_ref().map_or(Ok(()), Emulator::check)
    }

    /// What the driver calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it says of itself.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Bytes of its memory that nobody has taken.
    pub fn free_memory(&self) -> Result<usize> {
        self.bind()?;
        result::mem_get_info().map(|(free, _)| free).map_err(failed("ask for the free memory"))
    }

    /// How many times memory was taken.
    pub fn allocations(&self) -> usize {
        self.allocations.get()
    }

    /// How many times the host waited for the device.
    pub fn waits(&self) -> usize {
        self.waits.get()
    }

    /// How many kernels are loaded.
    pub fn kernels(&self) -> usize {
        self.kernels.borrow().functions.len()
    }

    /// Whether to wait after each launch, as `POLAR_RAW_SYNC=1` asks for from the beginning: slower, and a fault is an
    /// error of the launch that made it, not of the next call that waits.
    pub fn wait_after_each_launch(&self, wait: bool) {
        self.synchronous.set(wait);
    }

    /// Waits for everything that was issued.
    ///
    /// # Errors
    /// When something issued before went wrong.
    pub fn wait(&self) -> Result<()> {
        self.bind()?;
        self.synchronize()
    }

    /// The stream on which everything runs.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Takes `bytes` of zeroed memory.
    pub fn allocate(&self, bytes: usize) -> Result<Rc<Storage>> {
        let bytes = taken(bytes);
        self.bind()?;
        // SAFETY: the context is bound to this thread.
        let address = unsafe { result::malloc_sync(bytes) }.map_err(|error| {
            let free = result::mem_get_info().map_or_else(|_| String::new(), |(free, _)| format!(", {free} are free"));
            let what = format!("take {bytes} bytes of memory on {}{free}: use a smaller model or pack", self.name);
            failed(&what)(error)
        })?;
        let owner = Allocation { address, context: self.context.clone() };
        // SAFETY: the memory was taken just now and is as long as that.
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream.cu_stream()) }
            .map_err(failed("clear memory"))?;
        self.allocations.set(self.allocations.get() + 1);
        // SAFETY: `owner` frees the memory when the storage is dropped, and nobody else knows of it.
        Ok(Rc::new(unsafe { Storage::new(address as *mut u8, bytes, Box::new(owner)) }))
    }

    /// The address of at least `bytes` of memory for what a kernel leaves for the next one. Kernels run in order, so all
    /// share it.
    pub fn scratch(&self, bytes: usize) -> Result<u64> {
        let mut scratch = self.scratch.borrow_mut();
        let held = match &*scratch {
            Some(storage) if storage.bytes() >= bytes => storage,
            // Freed memory is not reused before what was issued on it is done: freeing waits for the device.
            _ => scratch.insert(self.allocate(scratch_bytes(bytes))?),
        };
        Ok(held.address() as u64)
    }

    /// Copies `bytes` to `address`, after everything issued before. `bytes` may be changed once it returns.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.bind()?;
        let mut staging = self.staging.borrow_mut();
        for (i, piece) in bytes.chunks(STAGING).enumerate() {
            let offset = address + (i * STAGING) as u64;
            if staging.room() < piece.len() {
                self.synchronize()?;
                staging.used = 0;
            }
            let pinned = staging.push(piece);
            // SAFETY: the tensor has room for it, and the pinned copy stays as it is until the stream was waited for.
            unsafe { result::memcpy_htod_async(offset, pinned, self.stream.cu_stream()) }
                .map_err(failed("copy to the card"))?;
        }
        Ok(())
    }

    /// Waits for everything issued before and copies from `address` to `bytes`.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.bind()?;
        // SAFETY: the tensor is as long as `bytes`, which stays borrowed until the stream was waited for.
        unsafe { result::memcpy_dtoh_async(bytes, address, self.stream.cu_stream()) }
            .map_err(failed("copy from the card"))?;
        self.synchronize()?;
        self.staging.borrow_mut().used = 0;
        self.check()
    }

    /// Copies `bytes` on the device.
    pub fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: both tensors are as long as that, and do not overlap.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }
            .map_err(failed("copy on the card"))
    }

    /// Waits for the copies that were begun, so that all of the staging memory is free again.
    pub fn empty_staging(&self) -> Result<()> {
        self.bind()?;
        self.synchronize()?;
        self.staging.borrow_mut().used = 0;
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        self.waits.set(self.waits.get() + 1);
        self.stream.synchronize().map_err(failed("finish what was begun"))
    }

    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(failed("use the card from this thread"))
    }

    /// Starts a kernel. Nothing happens on an empty grid.
    ///
    /// # Safety
    /// What `params` points to must be as the kernel expects, and the launch one that the kernel is made for: an
    /// operation's `plan` for these sizes.
    pub unsafe fn launch<P>(&self, launch: &Launch<P>, params: &P) -> Result<()> {
        let Launch { kernel, grid, threads, shared } = *launch;
        if grid.contains(&0) {
            return Ok(());
        }
        let entry = kernel.entry();
        let name = entry.name;
        let too_large = || Error::machine(format!("{name}: a grid of {grid:?} blocks is too large: use shorter packs"));
        let x = i32::try_from(grid[0]).map_err(|_| too_large())? as u32;
        let y = u16::try_from(grid[1]).map_err(|_| too_large())?.into();
        let function = self.function(entry, shared)?;
        self.bind()?;
        let mut arguments = [std::ptr::from_ref(params).cast_mut().cast::<c_void>()];
        let (grid, block) = ((x, y, 1), (threads, 1, 1));
        // SAFETY: the kernel takes one structure by value, of the type of `params`, which the driver copies before it
        // returns; the rest by the caller's promise.
        let started =
            unsafe { result::launch_kernel(function, grid, block, shared, self.stream.cu_stream(), &mut arguments) };
        match started {
            Ok(()) if self.synchronous.get() => self.look_at(name),
            Ok(()) => Ok(()),
            // The emulator has executed the kernel by now, and knows more of it.
            Err(error) => self.check().and(Err(failed(&format!("start {name}"))(error))),
        }
    }

    /// Waits for the kernel that was just started, and names it if it, or the emulator, found a fault.
    fn look_at(&self, kernel: &str) -> Result<()> {
        self.waits.set(self.waits.get() + 1);
        self.stream.synchronize().map_err(failed(&format!("finish {kernel}")))?;
        self.check().map_err(|error| Error::machine(format!("{kernel}: {error}")))
    }

    /// The driver's handle of a kernel that may have so much dynamic shared memory.
    fn function(&self, kernel: &'static Entry, shared: u32) -> Result<sys::CUfunction> {
        let key = (kernel.target.name, kernel.name);
        if !self.kernels.borrow().functions.contains_key(&key) {
            let module = ptx::module_of(kernel).ok_or_else(|| {
                Error::machine(format!("there is no PTX with the kernel {} in this build", kernel.name))
            })?;
            self.load(module)?;
        }
        let mut kernels = self.kernels.borrow_mut();
        let function = kernels
            .functions
            .get_mut(&key)
            .ok_or_else(|| Error::machine(format!("the kernel {} was not loaded with its module", kernel.name)))?;
        function.allow(kernel.name, shared as usize)?;
        Ok(function.handle)
    }

    /// Loads all kernels that the card can run, which means that its driver compiles them, unless it finds them in its
    /// cache.
    pub fn load_all(&self) -> Result<()> {
        let missing: Vec<&Module> = {
            let loaded = &self.kernels.borrow().functions;
            let is_missing = |module: &&Module| {
                module.kernels.iter().any(|kernel| !loaded.contains_key(&(kernel.target.name, kernel.name)))
            };
            ptx::loadable(ptx::MODULES, self.properties.capability).filter(is_missing).collect()
        };
        jit::load_all(&self.context, &missing)?.into_iter().for_each(|module| self.keep(module));
        Ok(())
    }

    /// Loads the kernels of a module.
    ///
    /// # Errors
    /// When the card cannot run it, and with its compiler's log when that refuses it.
    pub fn load(&self, module: &Module) -> Result<()> {
        let (Module { name, target, .. }, capability) = (module, self.properties.capability);
        if !target.runs_on(capability) {
            let only = if target.exact { "alone" } else { "or newer" };
            return Err(Error::machine(format!(
                "the kernels of ptx/{}/{name}.ptx are for compute capability {} {only}, and {} has {capability}",
                target.name, target.capability, self.name
            )));
        }
        self.keep(jit::load(&self.context, module)?);
        Ok(())
    }

    fn keep(&self, module: LoadedModule) {
        let mut kernels = self.kernels.borrow_mut();
        for (entry, handle) in module.kernels() {
            let key = (entry.target.name, entry.name);
            kernels.functions.insert(key, Function { handle, shared: SHARED_BY_DEFAULT });
        }
        kernels.modules.push(module);
    }
}

/// What the card says of itself.
fn properties(context: &CudaContext) -> Result<Properties> {
    use sys::CUdevice_attribute as Attribute;
    let ask = |attribute| {
        let value = context.attribute(attribute).map_err(failed("ask for the card's properties"))?;
        Ok::<_, Error>(usize::try_from(value).unwrap_or(0))
    };
    let (major, minor) = context.compute_capability().map_err(failed("ask for the card's architecture"))?;
    Ok(Properties {
        capability: Capability::new(major as u32, minor as u32),
        sms: ask(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1),
        threads_per_sm: ask(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?,
        shared_per_sm: ask(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?,
        shared_per_block: ask(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        shared_reserved: ask(Attribute::CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK)?,
        l2_bytes: ask(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
        clock: 1e3 * ask(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)? as f64,
    })
}

impl Function {
    /// Lets the kernel have `shared` bytes of dynamic shared memory.
    fn allow(&mut self, kernel: &str, shared: usize) -> Result<()> {
        if shared > self.shared {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let what = format!("give {kernel} {shared} bytes of shared memory");
            // SAFETY: the module of the kernel is loaded.
            unsafe { result::function::set_function_attribute(self.handle, attribute, shared as i32) }
                .map_err(failed(&what))?;
            self.shared = shared;
        }
        Ok(())
    }
}

struct Allocation {
    address: u64,
    context: Arc<CudaContext>,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // An error here has been reported by a call before, and there is nobody to tell.
        // SAFETY: taken by `allocate`, freed once.
        let _ = self.context.bind_to_thread().and_then(|()| unsafe { result::free_sync(self.address) });
    }
}

/// Memory that the card can read while the host goes on.
struct Staging {
    address: *mut u8,
    used: usize,
    context: Arc<CudaContext>,
}

impl Staging {
    fn new(context: &Arc<CudaContext>) -> Result<Self> {
        context.bind_to_thread().map_err(failed("use the card from this thread"))?;
        // SAFETY: the context is bound to this thread.
        let address: *mut c_void =
            unsafe { result::malloc_host(STAGING, 0) }.map_err(failed("take pinned memory of the host"))?;
        Ok(Self { address: address.cast(), used: 0, context: context.clone() })
    }

    fn room(&self) -> usize {
        STAGING - self.used
    }

    /// Appends a copy of `bytes`, for which there must be room.
    fn push(&mut self, bytes: &[u8]) -> &[u8] {
        assert!(bytes.len() <= self.room(), "the staging memory is full");
        // SAFETY: there is room, and nothing else lies there.
        let copy = unsafe {
            let to = self.address.add(self.used);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
            std::slice::from_raw_parts(to, bytes.len())
        };
        self.used += bytes.len();
        copy
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // As in `Allocation`.
        // SAFETY: taken by `new`, freed once.
        let _ = self.context.bind_to_thread().and_then(|()| unsafe { result::free_host(self.address.cast()) });
    }
}
