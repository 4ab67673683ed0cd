//! Every operation of the runtime, once: the table of contents of the house.
//!
//! The reference (f64, scalar), the CPU and the GPU implement this trait; the model is written against it alone.
//! Operations write their first arguments and read the rest. Matrices are row-major; `T` is the number of tokens of a
//! pack, `S` of selected rows, `H` of query heads, `K` of key/value heads, `G = H / K`, `D` the head dimension.
//! Shapes are checked; a mismatch is an error of the program, reported and never undefined behaviour.
//! Written operands may not overlap any other operand, unless the operation says so.

pub mod checks;

use std::rc::Rc;

use crate::config::{LossKind, PenaltyKind};
use crate::error::Result;
use crate::tensor::{Dtype, Storage, Tensor};

/// Which operand of a matrix product is transposed. The three that training needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gemm {
    /// `out[M,N] = a[M,K] b[N,K]^T`: a linear layer's forward pass.
    Nt,
    /// `out[M,N] = a[M,K] b[K,N]`: the gradient of its input.
    Nn,
    /// `out[M,N] = a[K,M]^T b[K,N]`: the gradient of its weight.
    Tn,
}

/// The heads of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads, `H`.
    pub query: usize,
    /// Key/value heads, `K`; divides `H`.
    pub kv: usize,
    /// Head dimension, `D`; even.
    pub dim: usize,
}

impl Heads {
    /// Query heads to a key/value head, `G`.
    pub fn group(&self) -> usize {
        self.query / self.kv
    }
}

/// Which parts of the fused `wqkv` projection an operation sees. In each of the `K` groups of columns come the `G`
/// query heads, then the key, then the value (the layout of InternLM2), and parts that are absent take no column.
#[derive(Clone, Copy)]
pub struct Qkv<'a> {
    /// `[K, rows, G, D]`.
    pub q: Option<&'a Tensor>,
    /// `[K, rows, D]` each.
    pub kv: Option<(&'a Tensor, &'a Tensor)>,
}

/// One run of tokens in a pack and what it may see: `[n_spans, 8]` of these as u32 are an operand of attention.
///
/// Query `i` of the span sees all keys of the prefix and those of its own run up to itself. Spans come in the order
/// of their tokens; spans of one row (a prefix and its candidates) follow each other and share `row`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Span {
    /// First query row.
    pub query_start: u32,
    /// Number of query rows.
    pub queries: u32,
    /// First token of the run.
    pub own_start: u32,
    /// Length of the run.
    pub own: u32,
    /// First token of the prefix.
    pub prefix_start: u32,
    /// Length of the prefix; 0 for none.
    pub prefix: u32,
    /// The row of the pack that the span belongs to, from 0, ascending without gaps.
    pub row: u32,
    /// Not used; keeps the record at 32 bytes.
    pub reserved: u32,
}

/// The frequency by which dimension pair `i` of a head turns a position: `1 / theta^(2i / dim)`, each of quotient, power
/// and reciprocal rounded to f32. The rounding is part of the published models: InternLM2's, Llama's and Qwen2's code
/// computes it so (`1.0 / base ** (arange(0, dim, 2).float() / dim)`), and past a thousand positions more exact
/// frequencies would be another model: an f32 that is off by its last bit turns position 16,384 by 1e-3 rad more.
///
/// The power is rounded correctly (an f64 power, rounded once more), as the C library's `powf` and so PyTorch without
/// vector instructions do; `tests/rotary.rs` holds it to PyTorch's bits.
pub fn rope_frequency(i: usize, dim: usize, theta: f64) -> f32 {
    let exponent = (2 * i) as f32 / dim as f32;
    let power = f64::from(theta as f32).powf(f64::from(exponent)) as f32;
    1.0 / power
}

/// The angle by which dimension pair `i` of a head is turned at `position`: position times [`rope_frequency`], rounded to
/// f32, as the published models' code does.
pub fn rope_angle(position: u32, i: usize, dim: usize, theta: f64) -> f32 {
    position as f32 * rope_frequency(i, dim, theta)
}

/// What attention needs besides its matrices.
#[derive(Clone, Copy)]
pub struct AttentionArgs<'a> {
    /// Heads of q, k and v.
    pub heads: Heads,
    /// `[n_spans, 8]` u32: [`Span`]s.
    pub spans: &'a Tensor,
    /// `[S]` u32: the token that each query row is.
    pub query_tokens: &'a Tensor,
    /// Multiplies the products of query and key: `1 / sqrt(D)`.
    pub scale: f64,
}

/// The ranking loss of one pack.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairLoss {
    /// Bradley-Terry or focal.
    pub kind: LossKind,
    /// Penalty on the scores.
    pub penalty: PenaltyKind,
    /// Weight of the penalty.
    pub penalty_weight: f64,
    /// Multiplies everything: one over the pairs of the whole optimiser step.
    pub scale: f64,
}

/// Where the gradients of the reward head go.
#[derive(Clone, Copy)]
pub struct RewardHeadGrads<'a> {
    /// `[S, hidden]`, overwritten.
    pub dx: &'a Tensor,
    /// `[hidden]`, accumulated.
    pub dnorm: &'a Tensor,
    /// `[1, hidden]`, accumulated.
    pub dhead: &'a Tensor,
}

/// One AdamW update (Loshchilov and Hutter, arXiv 1711.05101), as PyTorch computes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients are scaled by `min(1, max_norm / (norm + 1e-6))`; 0 leaves them alone.
    pub max_norm: f64,
    /// 1 for the first update.
    pub step: u64,
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
    /// Base of the rotary frequencies.
    pub theta: f64,
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

    /// Rows of the scratch memory with which [`Backend::linear_cross_entropy`] is at its best: every so many rows it
    /// reads the whole table, and adds to its whole gradient.
    fn logit_rows(&self) -> usize {
        128
    }

    /// Copies `bytes` from the host into a dense tensor of that size.
    fn write(&self, to: &Tensor, bytes: &[u8]) -> Result<()>;

    /// Copies a dense tensor into `bytes` of its size, after everything issued before.
    fn read(&self, from: &Tensor, bytes: &mut [u8]) -> Result<()>;

    /// `to = from`, both dense and of one dtype and size.
    fn copy(&self, to: &Tensor, from: &Tensor) -> Result<()>;

    /// `x = value` everywhere; `x` is dense.
    fn fill(&self, x: &Tensor, value: f64) -> Result<()>;

    /// `out = op(a) op(b) + addend`; each operand may be a band of columns of a wider matrix. The addend, of `out`'s
    /// shape and dtype, is the residual stream in the forward pass; where gradients are added up it is `out` itself.
    fn gemm(&self, layout: Gemm, out: &Tensor, a: &Tensor, b: &Tensor, addend: Option<&Tensor>) -> Result<()>;

    /// The product into SwiGLU: `gate_up[T, 2F] = x[T, N] w13[2F, N]^T` and `y[T, F] = silu(gate) up`. One pass where a
    /// backend has it so.
    fn gemm_swiglu_forward(&self, y: &Tensor, gate_up: &Tensor, x: &Tensor, w13: &Tensor) -> Result<()> {
        self.gemm(Gemm::Nt, gate_up, x, w13, None)?;
        self.swiglu_forward(y, gate_up)
    }

    /// The way back through the product that SwiGLU's result goes into, and through SwiGLU: `gate_up[T, 2F]` becomes its
    /// own gradient, from `dout[T, N]` by way of `dy = dout w2[N, F]`. `dy[T, F]` is scratch: its content is lost.
    fn gemm_swiglu_backward(&self, gate_up: &Tensor, dy: &Tensor, dout: &Tensor, w2: &Tensor) -> Result<()> {
        self.gemm(Gemm::Nn, dy, dout, w2, None)?;
        self.swiglu_backward(gate_up, dy, gate_up)
    }

    /// `y[T, N] += bias` in every row. `bias[P, N / P]`, whose rows one after the other are as long as a row of `y`, may
    /// be a band of columns of a wider matrix: what the groups of a fused `wqkv` have in common.
    fn bias_forward(&self, y: &Tensor, bias: &Tensor) -> Result<()>;

    /// `dbias[P, N / P] +=` the sum of the rows of `dy[T, N]`; `dbias` may be a band as well.
    fn bias_backward(&self, dbias: &Tensor, dy: &Tensor) -> Result<()>;

    /// `y[T, hidden] = table[ids]`.
    fn embedding_forward(&self, y: &Tensor, ids: &Tensor, table: &Tensor) -> Result<()>;

    /// `dtable[ids] += dy`, in the order of the tokens.
    fn embedding_backward(&self, dtable: &Tensor, ids: &Tensor, dy: &Tensor) -> Result<()>;

    /// `y = x rstd weight` with `rstd = 1 / sqrt(mean(x^2) + eps)` of each row (Zhang and Sennrich, arXiv 1910.07467).
    fn rmsnorm_forward(&self, y: &Tensor, rstd: &Tensor, x: &Tensor, weight: &Tensor, eps: f64) -> Result<()>;

    /// `dx += d/dx`, `dweight += d/dweight`.
    fn rmsnorm_backward(
        &self,
        dx: &Tensor,
        dweight: &Tensor,
        dy: &Tensor,
        x: &Tensor,
        rstd: &Tensor,
        weight: &Tensor,
    ) -> Result<()>;

    /// Splits `src[rows, K * columns]` into heads and turns q and k by `positions` (rotary embeddings, Su et al.,
    /// arXiv 2104.09864, in the half-split form of GPT-NeoX).
    fn rope_forward(&self, dst: Qkv, src: &Tensor, positions: &Tensor, heads: Heads, theta: f64) -> Result<()>;

    /// The reverse: gathers gradients of the heads into `dsrc`, turned back.
    fn rope_backward(&self, dsrc: &Tensor, grads: Qkv, positions: &Tensor, heads: Heads, theta: f64) -> Result<()>;

    /// `out[S, H D] = softmax(scale q k^T) v` over the keys that each query sees; `lse[K, S, G]` is the logarithm of
    /// the sum of exponentials. Computed tile by tile: no matrix of scores is kept (Dao, arXiv 2307.08691).
    fn attention_forward(
        &self,
        out: &Tensor,
        lse: &Tensor,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        args: AttentionArgs,
    ) -> Result<()>;

    /// Overwrites `dq`, `dk`, `dv`.
    fn attention_backward(
        &self,
        dqkv: [&Tensor; 3],
        dout: &Tensor,
        out: &Tensor,
        lse: &Tensor,
        qkv: [&Tensor; 3],
        args: AttentionArgs,
    ) -> Result<()>;

    /// `y[T, F] = silu(gate) up` with `gate_up[T, 2F]` (Shazeer, arXiv 2002.05202).
    fn swiglu_forward(&self, y: &Tensor, gate_up: &Tensor) -> Result<()>;

    /// `dgate_up[T, 2F]` from `dy[T, F]`; may be the same tensor as `gate_up`.
    fn swiglu_backward(&self, dgate_up: &Tensor, dy: &Tensor, gate_up: &Tensor) -> Result<()>;

    /// `y[S, hidden] = x[rows]`.
    fn gather_forward(&self, y: &Tensor, x: &Tensor, rows: &Tensor) -> Result<()>;

    /// `dx[rows] += dy`; no row occurs twice.
    fn gather_backward(&self, dx: &Tensor, dy: &Tensor, rows: &Tensor) -> Result<()>;

    /// `scores[S] = head . rmsnorm(x)`: final norm and scalar head of each selected row.
    fn reward_head_forward(&self, scores: &Tensor, x: &Tensor, norm: &Tensor, head: &Tensor, eps: f64) -> Result<()>;

    /// Final norm, head, pair loss and all their gradients: `scores[S]` as in the forward pass; `loss[1] +=` the loss
    /// of `pairs[P, 2]`, the rows of chosen and rejected among the `S`; `grads` for `d loss`.
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
    ) -> Result<()>;

    /// `loss[1] += sum(weights * -log softmax(x table^T)[targets])` over rows of `x[S, hidden]` with `table[V, hidden]`;
    /// if `grads` are given, `dx` is overwritten and `dtable` accumulated. At most the rows of `scratch[R, V]` have
    /// logits at one time.
    fn linear_cross_entropy(
        &self,
        loss: &Tensor,
        grads: Option<(&Tensor, &Tensor)>,
        x: &Tensor,
        table: &Tensor,
        targets: &Tensor,
        weights: &Tensor,
        scratch: &Tensor,
    ) -> Result<()>;

    /// `norm[1] = sqrt(sum(x^2))`, in an order that does not depend on the number of threads.
    fn global_norm(&self, norm: &Tensor, x: &Tensor) -> Result<()>;

    /// One update of the flat parameters and both moments from the flat gradient and its global norm. `master` holds the
    /// parameters as `accumulator`; `params` becomes a copy of it as `float`, and is the same tensor where those are one.
    fn adamw(
        &self,
        params: &Tensor,
        master: &Tensor,
        m: &Tensor,
        v: &Tensor,
        grads: &Tensor,
        norm: &Tensor,
        update: &AdamW,
    ) -> Result<()>;
}

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
