//! Memory and operations of one device.
//!
//! The reference (f64, scalar), the CPU and the GPU implement [`Backend`]: memory, copies, and one function that runs an
//! operation. The operations are those of [`crate::ops`], which also checks them; the model is written against
//! [`Operations`] alone.

use std::rc::Rc;

use crate::error::Result;
pub use crate::ops::Checked;
pub use crate::ops::adamw::AdamW;
pub use crate::ops::attention::{AttentionArgs, Span};
pub use crate::ops::gemm::Gemm;
pub use crate::ops::reward_head::{PairLoss, RewardHeadGrads};
pub use crate::ops::rope::{Heads, Llama3, Qkv, Rotary};
use crate::ops::{self, AnyOp, Dtypes};
use crate::tensor::{Dtype, Storage, Tensor};

/// The frequency by which dimension pair `i` of a head turns a position: `1 / theta^(2i / dim)`, each of quotient,
/// power and reciprocal rounded to f32, then scaled if `rotary` says so. The rounding is part of the published models:
/// InternLM2's, Llama's and Qwen2's code computes it so (`1.0 / base ** (arange(0, dim, 2).float() / dim)`), and past a
/// thousand positions more exact frequencies would be another model: an f32 that is off by its last bit turns position
/// 16,384 by 1e-3 rad more.
///
/// The power is rounded correctly (an f64 power, rounded once more), as the C library's `powf` and so PyTorch without
/// vector instructions do; `tests/rotary.rs` holds it to PyTorch's bits.
pub fn rope_frequency(i: usize, dim: usize, rotary: impl Into<Rotary>) -> f32 {
    let Rotary { theta, llama3 } = rotary.into();
    let exponent = (2 * i) as f32 / dim as f32;
    let power = f64::from(theta as f32).powf(f64::from(exponent)) as f32;
    let frequency = 1.0 / power;
    llama3.map_or(frequency, |llama3| llama3.scale(frequency))
}

/// The angle by which dimension pair `i` of a head is turned at `position`: position times [`rope_frequency`], rounded to
/// f32, as the published models' code does.
pub fn rope_angle(position: u32, i: usize, dim: usize, rotary: impl Into<Rotary>) -> f32 {
    position as f32 * rope_frequency(i, dim, rotary)
}

/// The largest operands that a computation has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extent {
    /// Rows of matrices: tokens of a pack.
    pub tokens: usize,
    /// Columns of what is normalised.
    pub hidden: usize,
    /// Heads of attention.
    pub heads: Heads,
    /// Whether queries and keys have a norm of their own.
    pub qk_norm: bool,
    /// The rotary frequencies.
    pub rotary: Rotary,
    /// Elements of flat buffers.
    pub parameters: usize,
}

/// What decides how much memory a computation takes on a device. It is known without the device.
#[derive(Clone, Copy)]
pub struct Footprint {
    /// [`Backend::float`].
    pub float: Dtype,
    /// [`Backend::accumulator`].
    pub accumulator: Dtype,
    /// [`Backend::logit_rows`].
    pub logit_rows: usize,
    /// Bytes that [`Backend::reserve`] takes on the device.
    pub scratch: fn(&Extent) -> usize,
    /// Bytes of the host's memory through which small operands go to the device.
    pub staging: usize,
}

/// What of a host that computes decides the order of sums, and so their last bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// Threads that work is divided among.
    pub threads: usize,
    /// The widest vector instructions that it has.
    pub instructions: &'static str,
}

/// Memory and operations of one device.
pub trait Backend {
    /// What a person calls it: `cpu`, `reference`, a card's name.
    fn name(&self) -> String;

    /// The dtype of weights and activations.
    fn float(&self) -> Dtype;

    /// The dtype of statistics, gradients and optimiser state.
    fn accumulator(&self) -> Dtype;

    /// The published rate of dense matrix products of its floats, in FLOP/s, where the device is a known one: what MFU
    /// counts against.
    fn published_peak(&self) -> Option<f64> {
        None
    }

    /// The host, where it computes and so decides the bits of results.
    fn host(&self) -> Option<Host> {
        None
    }

    /// The backend that this one is around, if it is around one: what it does beside operations is no measure of it.
    fn wrapped(&self) -> Option<&dyn Backend> {
        None
    }

    /// What decides how much memory a computation takes here.
    fn footprint(&self) -> Footprint {
        let (float, accumulator, logit_rows) = (self.float(), self.accumulator(), self.logit_rows());
        Footprint { float, accumulator, logit_rows, scratch: |_| 0, staging: 0 }
    }

    /// Bytes of the device's memory that are free, if it has memory of its own.
    fn free_memory(&self) -> Result<Option<usize>> {
        Ok(None)
    }

    /// Takes `bytes` of zeroed memory.
    fn allocate(&self, bytes: usize) -> Result<Rc<Storage>>;

    /// Takes now what operations need beside their operands, for operands of at most `extent`, so that none of them
    /// takes memory later.
    fn reserve(&self, extent: &Extent) -> Result<()>;

    /// Rows of the scratch memory with which [`Operations::linear_cross_entropy`] is at its best: every so many rows it
    /// reads the whole table, and adds to its whole gradient.
    fn logit_rows(&self) -> usize {
        128
    }

    /// Copies `bytes` from the host into a dense tensor of that size.
    fn write(&self, to: &Tensor, bytes: &[u8]) -> Result<()>;

    /// Copies a dense tensor into `bytes` of its size, after everything issued before.
    fn read(&self, from: &Tensor, bytes: &mut [u8]) -> Result<()>;

    /// The elements of a dense u32 tensor, if the host can see them without waiting: for the checks of indices. A device
    /// with memory of its own says no, and relies on what the pack's own checks have seen.
    fn host_indices<'t>(&self, _indices: &'t Tensor) -> Option<&'t [u32]> {
        None
    }

    /// Runs an operation whose operands have been checked, or issues it to the device: operations run in order. Callers
    /// use [`Operations`], whose functions check and then call this.
    ///
    /// # Errors
    /// Those of the device; a backend that computes in the host's memory refuses operands that lie elsewhere.
    ///
    /// # Safety
    /// `op` was checked for this backend, or for one around it of the same [`Backend::float`], [`Backend::accumulator`]
    /// and [`Backend::host_indices`]: a backend indexes without looking again.
    unsafe fn execute(&self, op: &Checked) -> Result<()>;
}

/// The functions that the model calls, one an operation.
macro_rules! calls {
    ($($module:ident {
        $($(#[$doc:meta])* $op:ident = $call:ident($($arg:ident: $type:ty),* $(,)?);)*
    })*) => {
        /// Every operation as a function of a backend. Operations write their first arguments and read the rest; what
        /// they ask of them is in [`crate::ops`].
        pub trait Operations: Backend {
            /// Checks an operation and runs it: the one way to a backend.
            ///
            /// # Errors
            /// When operands do not fit, before any element is touched; and the backend's own.
            fn submit(&self, op: AnyOp<'_>) -> Result<()> {
                let dtypes = Dtypes { float: self.float(), sum: self.accumulator() };
                let checked = Checked::new(op, dtypes, &|indices| self.host_indices(indices))?;
                // SAFETY: checked for this very backend.
                unsafe { self.execute(&checked) }
            }

            $($(
                $(#[$doc])*
                fn $call(&self, $($arg: $type),*) -> Result<()> {
                    self.submit(AnyOp::$op(ops::$op { $($arg),* }))
                }
            )*)*
        }

        impl<B: Backend + ?Sized> Operations for B {}
    };
}

ops::operations!(calls);

/// Conveniences over [`Backend`] that convert between host slices and a tensor's dtype.
pub trait BackendExt: Backend {
    /// Allocates a tensor of its own, zeroed.
    fn tensor(&self, dtype: Dtype, dims: &[usize]) -> Result<Tensor> {
        let bytes = dims.iter().product::<usize>() * dtype.size();
        Tensor::new(self.allocate(bytes)?, dtype, dims)
    }

    /// Writes u32 values into a dense u32 tensor.
    fn write_u32(&self, to: &Tensor, values: &[u32]) -> Result<()> {
        self.write(to, bytemuck::cast_slice(values))
    }

    /// Converts f32 values to the tensor's dtype and writes them; f32 ones as they are.
    fn write_f32(&self, to: &Tensor, values: &[f32]) -> Result<()> {
        if to.dtype() == Dtype::F32 {
            return self.write(to, bytemuck::cast_slice(values));
        }
        self.write_f64(to, &values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>())
    }

    /// Rounds f64 values to the tensor's dtype and writes them: to 16 bits by way of f32, since `half`'s conversion from
    /// f64 drops bits before it looks for a tie, and would round an f32 otherwise than a card does.
    fn write_f64(&self, to: &Tensor, values: &[f64]) -> Result<()> {
        match to.dtype() {
            Dtype::F64 => self.write(to, bytemuck::cast_slice(values)),
            Dtype::F32 => self.write(to, bytemuck::cast_slice(&values.iter().map(|&v| v as f32).collect::<Vec<_>>())),
            Dtype::Bf16 => {
                let rounded: Vec<_> = values.iter().map(|&v| half::bf16::from_f32(v as f32)).collect();
                self.write(to, bytemuck::cast_slice(&rounded))
            }
            Dtype::F16 => {
                let rounded: Vec<_> = values.iter().map(|&v| half::f16::from_f32(v as f32)).collect();
                self.write(to, bytemuck::cast_slice(&rounded))
            }
            Dtype::U32 => self.write_u32(to, &values.iter().map(|&v| v as u32).collect::<Vec<_>>()),
        }
    }

    /// Reads a dense tensor as f32.
    fn read_f32(&self, from: &Tensor) -> Result<Vec<f32>> {
        let mut values = vec![0.0; from.len()];
        self.read_f32_into(from, &mut values)?;
        Ok(values)
    }

    /// Reads a dense tensor as f32 into `values` of its length; a tensor of f32 without taking memory.
    fn read_f32_into(&self, from: &Tensor, values: &mut [f32]) -> Result<()> {
        if from.dtype() == Dtype::F32 {
            return self.read(from, bytemuck::cast_slice_mut(values));
        }
        values.iter_mut().zip(self.read_f64(from)?).for_each(|(to, from)| *to = from as f32);
        Ok(())
    }

    /// Measures what matrix products can reach here at most, in FLOP/s: products of growing sides, as long as one takes
    /// little time, each in batches that take long enough to time, after one that is not timed (it may have to load a
    /// kernel).
    fn measure_peak(&self) -> Result<f64> {
        const LONG_ENOUGH: f64 = 0.05;
        const LITTLE: f64 = 0.02;
        let mut peak = 0.0f64;
        for n in [256, 1024, 4096] {
            let flops = 2.0 * (n * n * n) as f64;
            if peak > 0.0 && flops / peak > LITTLE {
                break;
            }
            let [a, b, c] = [(); 3].map(|()| self.tensor(self.float(), &[n, n]));
            let (a, b, c) = (a?, b?, c?);
            self.fill(&a, 0.5)?;
            self.fill(&b, 0.25)?;
            let mut one = vec![0; c.dtype().size()];
            let mut time = |products: usize| -> Result<f64> {
                let start = std::time::Instant::now();
                (0..products).try_for_each(|_| self.gemm(Gemm::Nt, &c, &a, &b, None))?;
                self.read(&c.first(&[1]), &mut one)?;
                Ok(start.elapsed().as_secs_f64())
            };
            time(1)?;
            let mut products = 1;
            while time(products)? < LONG_ENOUGH {
                products *= 2;
            }
            let best =
                (0..3).map(|_| time(products)).collect::<Result<Vec<_>>>()?.into_iter().fold(f64::INFINITY, f64::min);
            peak = peak.max(products as f64 * flops / best);
        }
        Ok(peak)
    }

    /// Reads a dense tensor of f32 or f64 as f64 into `values` of its length, without taking memory.
    fn read_f64_into(&self, from: &Tensor, values: &mut [f64]) -> Result<()> {
        if from.dtype() == Dtype::F64 {
            return self.read(from, bytemuck::cast_slice_mut(values));
        }
        // The f32 come to lie in the first half of the memory; the last one moves first, so that none is overwritten.
        let n = values.len();
        let halves: &mut [f32] = bytemuck::cast_slice_mut(values);
        self.read(from, bytemuck::cast_slice_mut(&mut halves[..n]))?;
        for i in (0..n).rev() {
            let value = bytemuck::cast_slice::<f64, f32>(values)[i];
            values[i] = f64::from(value);
        }
        Ok(())
    }

    /// Reads a tensor of one element, f32 or f64, without taking memory.
    fn read_one(&self, from: &Tensor) -> Result<f64> {
        let mut value = [0.0];
        self.read_f64_into(from, &mut value)?;
        Ok(value[0])
    }

    /// Reads a dense tensor of any dtype as f64.
    fn read_f64(&self, from: &Tensor) -> Result<Vec<f64>> {
        let mut bytes = vec![0u8; from.len() * from.dtype().size()];
        self.read(from, &mut bytes)?;
        Ok(match from.dtype() {
            Dtype::F64 => bytemuck::allocation::pod_collect_to_vec::<u8, f64>(&bytes),
            Dtype::F32 => {
                bytemuck::allocation::pod_collect_to_vec::<u8, f32>(&bytes).into_iter().map(f64::from).collect()
            }
            Dtype::Bf16 => bytemuck::allocation::pod_collect_to_vec::<u8, half::bf16>(&bytes)
                .into_iter()
                .map(half::bf16::to_f64)
                .collect(),
            Dtype::F16 => bytemuck::allocation::pod_collect_to_vec::<u8, half::f16>(&bytes)
                .into_iter()
                .map(half::f16::to_f64)
                .collect(),
            Dtype::U32 => {
                bytemuck::allocation::pod_collect_to_vec::<u8, u32>(&bytes).into_iter().map(f64::from).collect()
            }
        })
    }
}

impl<B: Backend + ?Sized> BackendExt for B {}
