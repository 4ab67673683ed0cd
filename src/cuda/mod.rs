//! The CUDA backend: kernels of our own, launched through cudarc. Weights and activations are bf16; statistics,
//! gradients, masters and the optimiser's state f32.
//!
//! A file of an operation's name has its `plan`, a pure function of sizes and the device's properties that chooses among
//! the kernels and gives grid, threads and shared memory, and its launcher, which adds the operands. Operations are issued to one stream and run in order; only [`Backend::read`] waits.

#[allow(missing_docs, clippy::pedantic, reason = "generated from kernels/abi.h, whose comments are its documentation")]
pub mod abi;
pub mod adamw;
pub mod attention;
pub mod bias;
mod device;
pub mod embedding;
mod emulator;
pub mod fill;
pub mod gather;
pub mod gemm;
pub mod global_norm;
mod jit;
pub mod kernel;
pub mod kernels;
pub mod linear_cross_entropy;
pub mod properties;
pub mod ptx;
pub mod reward_head;
pub mod rmsnorm;
pub mod rope;
pub mod swiglu;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::backend::checks::Checks;
use crate::backend::{AdamW, AttentionArgs, Backend, Extent, Footprint, Gemm, Heads, PairLoss, Qkv, RewardHeadGrads};
use crate::error::{Error, Result};
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
    /// Rotary frequencies by head dimension and the bits of theta.
    frequencies: RefCell<HashMap<(usize, u64), Rc<Storage>>>,
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

    fn checks(&self, operation: &'static str) -> Checks {
        Checks::new(operation, Dtype::Bf16, Dtype::F32)
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
        global_norm::scratch(extent.parameters),
        reward_head::scratch(extent.tokens),
        attention::scratch(extent.tokens, extent.heads),
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
        self.device.load_all()?;
        self.device.scratch(scratch(extent))?;
        self.frequencies(extent.heads.dim, extent.theta)?;
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

    fn copy(&self, to: &Tensor, from: &Tensor) -> Result<()> {
        self.checks("copy").copy(to, from)?;
        self.device.copy(at(to), at(from), from.len() * from.dtype().size())
    }

    fn fill(&self, x: &Tensor, value: f64) -> Result<()> {
        self.checks("fill").fill(x)?;
        fill::fill(&self.device, x, value as f32)
    }

    fn gemm(&self, layout: Gemm, out: &Tensor, a: &Tensor, b: &Tensor, addend: Option<&Tensor>) -> Result<()> {
        let shape = self.checks("gemm").gemm(layout, out, a, b, addend)?;
        gemm::gemm(&self.device, layout, shape, out, a, b, addend)
    }

    fn gemm_swiglu_forward(&self, y: &Tensor, gate_up: &Tensor, x: &Tensor, w13: &Tensor) -> Result<()> {
        let shape = self.checks("gemm_swiglu_forward").gemm_swiglu_forward(y, gate_up, x, w13)?;
        if gemm::swiglu_forward(&self.device, shape, y, gate_up, x, w13)? {
            return Ok(());
        }
        self.gemm(Gemm::Nt, gate_up, x, w13, None)?;
        self.swiglu_forward(y, gate_up)
    }

    fn gemm_swiglu_backward(&self, gate_up: &Tensor, dy: &Tensor, dout: &Tensor, w2: &Tensor) -> Result<()> {
        let shape = self.checks("gemm_swiglu_backward").gemm_swiglu_backward(gate_up, dy, dout, w2)?;
        if gemm::swiglu_backward(&self.device, shape, gate_up, dout, w2)? {
            return Ok(());
        }
        self.gemm(Gemm::Nn, dy, dout, w2, None)?;
        self.swiglu_backward(gate_up, dy, gate_up)
    }

    fn bias_forward(&self, y: &Tensor, bias: &Tensor) -> Result<()> {
        self.checks("bias_forward").bias(y, bias, false)?;
        bias::forward(&self.device, y, bias)
    }

    fn bias_backward(&self, dbias: &Tensor, dy: &Tensor) -> Result<()> {
        self.checks("bias_backward").bias(dy, dbias, true)?;
        bias::backward(&self.device, dbias, dy)
    }

    fn embedding_forward(&self, y: &Tensor, ids: &Tensor, table: &Tensor) -> Result<()> {
        self.checks("embedding_forward").embedding(y, ids, table, false)?;
        embedding::forward(&self.device, y, ids, table)
    }

    fn embedding_backward(&self, dtable: &Tensor, ids: &Tensor, dy: &Tensor) -> Result<()> {
        self.checks("embedding_backward").embedding(dy, ids, dtable, true)?;
        embedding::backward(&self.device, dtable, ids, dy)
    }

    fn rmsnorm_forward(&self, y: &Tensor, rstd: &Tensor, x: &Tensor, weight: &Tensor, eps: f64) -> Result<()> {
        self.checks("rmsnorm_forward").rmsnorm_forward(y, rstd, x, weight)?;
        rmsnorm::forward(&self.device, y, rstd, x, weight, eps as f32)
    }

    fn rmsnorm_backward(
        &self,
        dx: &Tensor,
        dweight: &Tensor,
        dy: &Tensor,
        x: &Tensor,
        rstd: &Tensor,
        weight: &Tensor,
    ) -> Result<()> {
        self.checks("rmsnorm_backward").rmsnorm_backward(dx, dweight, dy, x, rstd, weight)?;
        rmsnorm::backward(&self.device, dx, dweight, dy, x, rstd, weight)
    }

    fn rope_forward(&self, dst: Qkv, src: &Tensor, positions: &Tensor, heads: Heads, theta: f64) -> Result<()> {
        self.checks("rope_forward").rope(src, dst, positions, heads, false)?;
        rope::rope(&self.device, src, dst, positions, heads, self.frequencies(heads.dim, theta)?, false)
    }

    fn rope_backward(&self, dsrc: &Tensor, grads: Qkv, positions: &Tensor, heads: Heads, theta: f64) -> Result<()> {
        self.checks("rope_backward").rope(dsrc, grads, positions, heads, true)?;
        rope::rope(&self.device, dsrc, grads, positions, heads, self.frequencies(heads.dim, theta)?, true)
    }

    fn attention_forward(
        &self,
        out: &Tensor,
        lse: &Tensor,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        args: AttentionArgs,
    ) -> Result<()> {
        self.checks("attention_forward").attention_forward(out, lse, [q, k, v], &args)?;
        attention::forward(&self.device, out, lse, [q, k, v], &args)
    }

    fn attention_backward(
        &self,
        dqkv: [&Tensor; 3],
        dout: &Tensor,
        out: &Tensor,
        lse: &Tensor,
        qkv: [&Tensor; 3],
        args: AttentionArgs,
    ) -> Result<()> {
        self.checks("attention_backward").attention_backward(dqkv, dout, out, lse, qkv, &args)?;
        attention::backward(&self.device, dqkv, dout, out, lse, qkv, &args)
    }

    fn swiglu_forward(&self, y: &Tensor, gate_up: &Tensor) -> Result<()> {
        self.checks("swiglu_forward").swiglu_forward(y, gate_up)?;
        swiglu::forward(&self.device, y, gate_up)
    }

    fn swiglu_backward(&self, dgate_up: &Tensor, dy: &Tensor, gate_up: &Tensor) -> Result<()> {
        self.checks("swiglu_backward").swiglu_backward(dgate_up, dy, gate_up)?;
        swiglu::backward(&self.device, dgate_up, dy, gate_up)
    }

    fn gather_forward(&self, y: &Tensor, x: &Tensor, rows: &Tensor) -> Result<()> {
        self.checks("gather_forward").gather(y, x, rows, false)?;
        gather::forward(&self.device, y, x, rows)
    }

    fn gather_backward(&self, dx: &Tensor, dy: &Tensor, rows: &Tensor) -> Result<()> {
        self.checks("gather_backward").gather(dy, dx, rows, true)?;
        gather::backward(&self.device, dx, dy, rows)
    }

    fn reward_head_forward(&self, scores: &Tensor, x: &Tensor, norm: &Tensor, head: &Tensor, eps: f64) -> Result<()> {
        self.checks("reward_head_forward").reward_head_forward(scores, x, norm, head)?;
        reward_head::forward(&self.device, scores, x, norm, head, eps as f32)
    }

    fn reward_head_loss(
        &self,
        scores: &Tensor,
        loss: &Tensor,
        grads: RewardHeadGrads,
        x: &Tensor,
        norm: &Tensor,
        head: &Tensor,
        pairs: &Tensor,
        pair_loss: &PairLoss,
        eps: f64,
    ) -> Result<()> {
        self.checks("reward_head_loss").reward_head_loss(scores, loss, &grads, x, norm, head, pairs)?;
        reward_head::loss(&self.device, scores, loss, &grads, [x, norm, head], pairs, pair_loss, eps as f32)
    }

    fn linear_cross_entropy(
        &self,
        loss: &Tensor,
        grads: Option<(&Tensor, &Tensor)>,
        x: &Tensor,
        table: &Tensor,
        targets: &Tensor,
        weights: &Tensor,
        scratch: &Tensor,
    ) -> Result<()> {
        let checks = self.checks("linear_cross_entropy");
        checks.linear_cross_entropy(loss, grads, x, table, targets, weights, scratch)?;
        linear_cross_entropy::run(&self.device, loss, grads, x, table, targets, weights, scratch)
    }

    fn global_norm(&self, norm: &Tensor, x: &Tensor) -> Result<()> {
        self.checks("global_norm").global_norm(norm, x)?;
        global_norm::global_norm(&self.device, norm, x)
    }

    fn adamw(
        &self,
        params: &Tensor,
        master: &Tensor,
        m: &Tensor,
        v: &Tensor,
        grads: &Tensor,
        norm: &Tensor,
        update: &AdamW,
    ) -> Result<()> {
        self.checks("adamw").adamw(params, master, m, v, grads, norm, update)?;
        adamw::adamw(&self.device, params, master, [m, v], grads, norm, update)
    }
}

impl Cuda {
    /// The address of `[dim / 2]` frequencies, which are the same for every position.
    fn frequencies(&self, dim: usize, theta: f64) -> Result<u64> {
        let mut known = self.frequencies.borrow_mut();
        let key = (dim, theta.to_bits());
        if let Some(storage) = known.get(&key) {
            return Ok(storage.address() as u64);
        }
        let values: Vec<f32> = (0..dim / 2).map(|i| crate::backend::rope_frequency(i, dim, theta)).collect();
        let storage = self.device.allocate(frequencies_bytes(dim))?;
        let address = storage.address() as u64;
        self.device.write(address, bytemuck::cast_slice(&values))?;
        known.insert(key, storage);
        Ok(address)
    }
}
