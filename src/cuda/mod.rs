//! The CUDA backend: kernels of our own, launched through cudarc. Weights and activations are bf16; statistics,
//! gradients, masters and the optimiser's state f32.
//!
//! A file of an operation's name has its `plan`, a pure function of sizes and the device's properties that chooses among
//! the kernels and gives grid, threads and shared memory, and its launcher, which adds the operands. Operations are issued to one stream and run in order; only [`Backend::read`] waits.

#[allow(missing_docs, clippy::pedantic, reason = "generated from kernels/abi.h, whose comments are its documentation")]
pub mod abi;
mod device;
mod emulator;
mod flat_sum;
mod jit;
pub mod kernel;
pub mod kernels;
pub mod properties;
pub mod ptx;

macro_rules! public_modules {
    ($($module:ident { $($operations:tt)* })*) => {
        $(pub mod $module;)*
    };
}
operations!(public_modules);

use std::cell::RefCell;
use std::rc::Rc;

use crate::backend::{Backend, Checked, Extent, Footprint, Rotary, rope_frequency};
use crate::error::{Error, Result};
use crate::ops::operations;
use crate::tensor::{Dtype, Storage, Tensor};
pub use device::Device;
use properties::{Capability, Card, Properties};

/// Whether there is a driver. Without one nothing else of this module may be called: cudarc panics.
pub fn is_present() -> bool {
    // SAFETY: only looks for the library.
    unsafe { cudarc::driver::sys::is_culib_present() }
}

/// A card, or the emulator in place of one.
pub struct Cuda {
    device: Device,
    /// Rotary frequencies of heads of a dimension: one entry for each model.
    frequencies: RefCell<Vec<(usize, Rotary, Rc<Storage>)>>,
}

impl Cuda {
    /// Opens the card number `ordinal`, counted as the driver does.
    ///
    /// # Errors
    /// The user's when there is no driver, no such card, or one that is too old.
    pub fn open(ordinal: usize) -> Result<Self> {
        if !is_present() {
            return Err(Error::user("there is no CUDA driver (libcuda) on this machine: use --device cpu"));
        }
        Ok(Self { device: Device::open(ordinal)?, frequencies: RefCell::default() })
    }

    /// Opens the emulator, which executes the same PTX on the CPU, slowly, and is stricter than a card: a race or a read
    /// of memory that nobody wrote is an error of the next [`Backend::read`]. Not beside a card in one process. It stands
    /// in for a device of the compute capability that `POLAR_RAW_EMULATOR_CAPABILITY` says, such as 9.0, or of 8.0.
    ///
    /// # Errors
    /// The user's when the emulator's library does not lie beside the program.
    pub fn emulated() -> Result<Self> {
        Self::emulated_as(emulator::capability()?)
    }

    /// The same, as a device of a capability.
    ///
    /// # Errors
    /// As [`Cuda::emulated`].
    pub fn emulated_as(capability: Capability) -> Result<Self> {
        Ok(Self { device: Device::emulated(capability)?, frequencies: RefCell::default() })
    }

    /// What the device says of itself.
    pub fn properties(&self) -> &Properties {
        self.device.properties()
    }

    /// What is published of the card, if it is a known one.
    pub fn card(&self) -> Option<&'static Card> {
        Card::matching(self.device.name())
    }

    /// The device, on which any kernel of [`ptx`] can be launched by hand with the structures of [`abi`].
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What the emulator counted and found in each launch since the last call or [`Backend::read`]; nothing on a card.
    ///
    /// # Errors
    /// When the emulator's library is of another build.
    pub fn reports(&self) -> Result<Vec<::emulator::Report>> {
        self.device.reports()
    }

    /// How many times memory was taken on the device.
    pub fn allocations(&self) -> usize {
        self.device.allocations()
    }

    /// How many times the host waited for the device.
    pub fn waits(&self) -> usize {
        self.device.waits()
    }
}

/// Rows of logits at a time. A product of 1024 rows does 1024 operations for each byte of the table that it reads, three
/// times what a card needs to be busy; the gradient, which is f32 and read and written, a quarter of that.
const LOGIT_ROWS: usize = 1024;

/// What decides how much memory a computation takes on a card, whichever it is.
pub fn footprint() -> Footprint {
    Footprint {
        float: Dtype::Bf16,
        accumulator: Dtype::F32,
        logit_rows: LOGIT_ROWS,
        scratch: |extent| device::scratch_bytes(scratch(extent)) + device::taken(frequencies_bytes(extent.heads.dim)),
        staging: device::STAGING,
    }
}

/// Bytes that the kernels leave for one another, at most.
fn scratch(extent: &Extent) -> usize {
    let widest = extent.hidden.max((extent.heads.query + 2 * extent.heads.kv) * extent.heads.dim);
    let needed = [
        rmsnorm::scratch(extent.tokens, extent.hidden),
        bias::scratch(extent.tokens, widest),
        flat_sum::scratch(extent.parameters),
        reward_head::scratch(extent.tokens),
        attention::scratch(extent.tokens, extent.heads),
        if extent.qk_norm { head_rmsnorm::scratch(extent.tokens * extent.heads.query, extent.heads.dim) } else { 0 },
    ];
    needed.into_iter().fold(0, usize::max)
}

/// Bytes of the rotary frequencies of heads of `dim`.
fn frequencies_bytes(dim: usize) -> usize {
    dim / 2 * size_of::<f32>()
}

/// The address of a tensor's first element, as the card sees it.
fn at(tensor: &Tensor) -> u64 {
    tensor.address() as u64
}

/// Whether rows of `columns` bf16 of all `tensors` begin at multiples of 16 bytes and end there.
fn vec8(columns: usize, tensors: &[&Tensor]) -> bool {
    columns.is_multiple_of(8) && tensors.iter().all(|t| at(t).is_multiple_of(16))
}

/// A size as kernels take it.
fn size(n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| Error::machine(format!("{n} elements are too many for a kernel")))
}

impl Backend for Cuda {
    fn name(&self) -> String {
        self.device.name().to_string()
    }

    fn float(&self) -> Dtype {
        Dtype::Bf16
    }

    fn accumulator(&self) -> Dtype {
        Dtype::F32
    }

    fn published_peak(&self) -> Option<f64> {
        self.card().map(|card| card.dense_bf16_flops)
    }

    fn allocate(&self, bytes: usize) -> Result<Rc<Storage>> {
        self.device.allocate(bytes)
    }

    fn reserve(&self, extent: &Extent) -> Result<()> {
        rmsnorm::check(extent.hidden)?;
        attention::check(extent.heads.dim)?;
        if extent.qk_norm {
            head_rmsnorm::check(extent.heads.dim)?;
        }
        self.device.load_all()?;
        self.device.scratch(scratch(extent))?;
        self.frequencies(extent.heads.dim, extent.rotary)?;
        // Weights were written before.
        self.device.empty_staging()
    }

    fn logit_rows(&self) -> usize {
        LOGIT_ROWS
    }

    fn footprint(&self) -> Footprint {
        footprint()
    }

    fn free_memory(&self) -> Result<Option<usize>> {
        self.device.free_memory().map(Some)
    }

    fn write(&self, to: &Tensor, bytes: &[u8]) -> Result<()> {
        if bytes.len() != to.len() * to.dtype().size() || !to.is_dense() {
            return Err(Error::machine(format!("write: {} bytes into {to:?}", bytes.len())));
        }
        self.device.write(at(to), bytes)
    }

    fn read(&self, from: &Tensor, bytes: &mut [u8]) -> Result<()> {
        if bytes.len() != from.len() * from.dtype().size() || !from.is_dense() {
            return Err(Error::machine(format!("read: {} bytes from {from:?}", bytes.len())));
        }
        self.device.read(at(from), bytes)
    }

    unsafe fn execute(&self, op: &Checked) -> Result<()> {
        op.run_on(self)
    }
}

impl Cuda {
    /// The address of `[dim / 2]` frequencies, which are the same for every position.
    fn frequencies(&self, dim: usize, rotary: Rotary) -> Result<u64> {
        let mut known = self.frequencies.borrow_mut();
        if let Some((.., storage)) = known.iter().find(|known| (known.0, known.1) == (dim, rotary)) {
            return Ok(storage.address() as u64);
        }
        let values: Vec<f32> = (0..dim / 2).map(|i| rope_frequency(i, dim, rotary)).collect();
        let storage = self.device.allocate(frequencies_bytes(dim))?;
        let address = storage.address() as u64;
        self.device.write(address, bytemuck::cast_slice(&values))?;
        known.push((dim, rotary, storage));
        Ok(address)
    }
}
