//! Every operation of the runtime, described once: the table of contents of the house.
//!
//! The file of an operation says which operands it reads and writes with their shapes and dtypes ([`Op::operands`]),
//! what else has to hold ([`Op::check`], [`Op::check_indices`]), what it costs ([`Op::work`]), its formula and where
//! that is from. Nothing repeats it: [`submit`](crate::backend::Operations::submit) checks before any backend runs; traces, models of cost and
//! wrappers ([`crate::wrap`]) read the description; a backend has one function an operation.
//!
//! Matrices are row-major; `T` is the number of tokens of a pack, `S` of selected rows, `H` of query heads, `K` of
//! key/value heads, `G = H / K`, `D` the head dimension. A mismatch is an error of the program, reported and never
//! undefined behaviour. Written operands may not overlap any other operand, unless the operation says so.

pub mod adamw;
pub mod attention;
pub mod bias;
pub mod copy;
pub mod count_non_finite;
pub mod embedding;
pub mod fill;
pub mod gather;
pub mod gemm;
pub mod head_rmsnorm;
pub mod linear_cross_entropy;
mod operand;
mod rebind;
pub mod reward_head;
pub mod rmsnorm;
pub mod rope;
pub mod sum_of_squares;
pub mod swiglu;
#[cfg(test)]
mod tests;
mod work;

use crate::error::{Error, Result};
use crate::tensor::{Tensor, host};
pub use operand::{Access, Dtypes, ElementKind, Operand, Operands};
use rebind::Rebind;
pub use work::{ReadIndices, Work};

/// The values of an index operand, if the host can see them.
pub type HostIndices<'a> = dyn Fn(&Tensor) -> Option<&[u32]> + 'a;

/// The description of one operation with its operands.
pub trait Op {
    /// Its operands, in order. Called after [`Op::check`].
    fn operands(&self) -> Operands<'_>;

    /// What has to hold besides what [`Op::operands`] says.
    ///
    /// # Errors
    /// What is wrong, for the program's author.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// What has to hold of index operands besides the bounds that [`Op::operands`] says, where the host can see them.
    /// Called when everything else holds.
    ///
    /// # Errors
    /// What is wrong, for the program's author.
    fn check_indices(&self, _values: &HostIndices) -> Result<(), String> {
        Ok(())
    }

    /// What it costs at least. `indices` reads an index operand, where the cost depends on what it holds.
    ///
    /// # Errors
    /// When the indices cannot be read.
    fn work(&self, indices: &ReadIndices) -> Result<Work>;
}

/// How a backend runs one operation, whose operands have been checked.
pub(crate) trait Run<O> {
    /// Runs it, or issues it to the device.
    fn run(&self, op: &O) -> Result<()>;
}

/// Of the list: a private module for the file of each operation.
macro_rules! modules {
    ($($module:ident { $($operations:tt)* })*) => {
        $(mod $module;)*
    };
}
pub(crate) use modules;

/// Of the list: [`AnyOp`] and which function of a backend runs what.
macro_rules! describe {
    ($($module:ident {
        $($(#[$doc:meta])* $op:ident = $call:ident($($arg:ident: $type:ty),* $(,)?);)*
    })*) => {
        $(pub use $module::{$($op),*};)*

        /// The names of all operations, as functions, launchers, verify's rows and traces have them.
        pub const NAMES: &[&str] = &[$($(stringify!($call)),*),*];

        /// Any one operation with its operands.
        #[derive(Clone, Copy)]
        pub enum AnyOp<'a> {
            $($($(#[$doc])* $op($op<'a>),)*)*
        }

        impl<'a> AnyOp<'a> {
            /// The operation's name.
            pub fn name(&self) -> &'static str {
                match self {
                    $($(Self::$op(_) => stringify!($call),)*)*
                }
            }

            /// Its description.
            pub fn op(&self) -> &(dyn Op + 'a) {
                match self {
                    $($(Self::$op(op) => op,)*)*
                }
            }

            /// The same operation on other tensors: `tensor` says which takes the place of an operand.
            pub fn with_tensors<'b>(&self, tensor: &dyn Fn(&Tensor) -> &'b Tensor) -> AnyOp<'b>
            where
                'a: 'b,
            {
                match *self {
                    $($(Self::$op($op { $($arg),* }) => AnyOp::$op($op { $($arg: $arg.rebind(tensor)),* }),)*)*
                }
            }

            /// Hands it to the backend's function for it.
            fn run_on<B: RunAll>(&self, backend: &B) -> Result<()> {
                match self {
                    $($(Self::$op(op) => backend.run(op),)*)*
                }
            }
        }

        $($(
            impl<'a> From<$op<'a>> for AnyOp<'a> {
                fn from(op: $op<'a>) -> Self {
                    Self::$op(op)
                }
            }
        )*)*

        /// A backend that runs every operation.
        pub(crate) trait RunAll: $($(for<'a> Run<$op<'a>> +)*)* {}

        impl<B: $($(for<'a> Run<$op<'a>> +)*)*> RunAll for B {}
    };
}

/// The list of all operations by the file that has them, handed to the macro `$then`. Here it makes [`AnyOp`], in
/// [`crate::backend`] the functions that the model calls; in each backend, and in the table of `tools/verify`, the
/// modules: a file of the operation's name in each of those folders.
#[doc(hidden)]
#[macro_export]
macro_rules! operations {
    ($then:ident) => { $then! {
        copy {
            /// `to = from`, both dense and of one dtype and size.
            CopyOp = copy(to: &Tensor, from: &Tensor);
        }

        fill {
            /// `x = value` everywhere; `x` is dense.
            Fill = fill(x: &Tensor, value: f64);
        }

        gemm {
            /// `out = op(a) op(b) + addend`; each operand may be a band of columns of a wider matrix. The addend, of `out`'s
            /// shape and dtype, is the residual stream in the forward pass; where gradients are added up it is `out` itself.
            GemmOp = gemm(layout: Gemm, out: &Tensor, a: &Tensor, b: &Tensor, addend: Option<&Tensor>);

            /// The product into SwiGLU: `gate_up[T, 2F] = x[T, N] w13[2F, N]^T` and `y[T, F] = silu(gate) up`. One pass where
            /// a backend has it so.
            GemmSwigluForward = gemm_swiglu_forward(y: &Tensor, gate_up: &Tensor, x: &Tensor, w13: &Tensor);

            /// The way back through the product that SwiGLU's result goes into, and through SwiGLU: `gate_up[T, 2F]` becomes
            /// its own gradient, from `dout[T, N]` by way of `dy = dout w2[N, F]`. `dy[T, F]` is scratch: its content is lost.
            GemmSwigluBackward = gemm_swiglu_backward(gate_up: &Tensor, dy: &Tensor, dout: &Tensor, w2: &Tensor);
        }

        bias {
            /// `y[T, N] += bias` in every row. `bias[P, N / P]`, whose rows one after the other are as long as a row of `y`,
            /// may be a band of columns of a wider matrix: what the groups of a fused `wqkv` have in common.
            BiasForward = bias_forward(y: &Tensor, bias: &Tensor);

            /// `dbias[P, N / P] +=` the sum of the rows of `dy[T, N]`; `dbias` may be a band as well.
            BiasBackward = bias_backward(dbias: &Tensor, dy: &Tensor);
        }

        embedding {
            /// `y[T, hidden] = table[ids]`.
            EmbeddingForward = embedding_forward(y: &Tensor, ids: &Tensor, table: &Tensor);

            /// `dtable[ids] += dy`, in the order of the tokens.
            EmbeddingBackward = embedding_backward(dtable: &Tensor, ids: &Tensor, dy: &Tensor);
        }

        rmsnorm {
            /// `y = x rstd weight` with `rstd = 1 / sqrt(mean(x^2) + eps)` of each row.
            RmsnormForward = rmsnorm_forward(y: &Tensor, rstd: &Tensor, x: &Tensor, weight: &Tensor, eps: f64);

            /// `dx += d/dx`, `dweight += d/dweight`.
            RmsnormBackward = rmsnorm_backward(
                dx: &Tensor, dweight: &Tensor, dy: &Tensor, x: &Tensor, rstd: &Tensor, weight: &Tensor,
            );
        }

        head_rmsnorm {
            /// RMSNorm of the vectors of `x[.., D]`, queries `[K, T, G, D]` or keys `[K, T, D]`, with one weight for all
            /// heads: `y = x rstd weight` with `rstd[..] = 1 / sqrt(mean(x^2) + eps)` of each vector.
            HeadRmsnormForward = head_rmsnorm_forward(
                y: &Tensor, rstd: &Tensor, x: &Tensor, weight: &Tensor, eps: f64,
            );

            /// Overwrites `dx`; `dweight += d/dweight`.
            HeadRmsnormBackward = head_rmsnorm_backward(
                dx: &Tensor, dweight: &Tensor, dy: &Tensor, x: &Tensor, rstd: &Tensor, weight: &Tensor,
            );
        }

        rope {
            /// Splits `src[rows, K * columns]` into heads and turns q and k by `positions`.
            RopeForward = rope_forward(dst: Qkv, src: &Tensor, positions: &Tensor, heads: Heads, rotary: Rotary);

            /// The reverse: gathers gradients of the heads into `dsrc`, turned back.
            RopeBackward = rope_backward(dsrc: &Tensor, grads: Qkv, positions: &Tensor, heads: Heads, rotary: Rotary);
        }

        attention {
            /// `out[S, H D] = softmax(scale q k^T) v` over the keys that each query sees; `lse[K, S, G]` is the logarithm of
            /// the sum of exponentials.
            AttentionForward = attention_forward(
                out: &Tensor, lse: &Tensor, q: &Tensor, k: &Tensor, v: &Tensor, args: AttentionArgs,
            );

            /// Overwrites `dq`, `dk`, `dv`.
            AttentionBackward = attention_backward(
                dqkv: [&Tensor; 3], dout: &Tensor, out: &Tensor, lse: &Tensor, qkv: [&Tensor; 3], args: AttentionArgs,
            );
        }

        swiglu {
            /// `y[T, F] = silu(gate) up` with `gate_up[T, 2F]`.
            SwigluForward = swiglu_forward(y: &Tensor, gate_up: &Tensor);

            /// `dgate_up[T, 2F]` from `dy[T, F]`; may be the same tensor as `gate_up`.
            SwigluBackward = swiglu_backward(dgate_up: &Tensor, dy: &Tensor, gate_up: &Tensor);
        }

        gather {
            /// `y[S, hidden] = x[rows]`.
            GatherForward = gather_forward(y: &Tensor, x: &Tensor, rows: &Tensor);

            /// `dx[rows] += dy`; no row occurs twice.
            GatherBackward = gather_backward(dx: &Tensor, dy: &Tensor, rows: &Tensor);
        }

        reward_head {
            /// `scores[S] = head . rmsnorm(x)`: final norm and scalar head of each selected row.
            RewardHeadForward = reward_head_forward(
                scores: &Tensor, x: &Tensor, norm: &Tensor, head: &Tensor, eps: f64,
            );

            /// Final norm, head, pair loss and all their gradients: `scores[S]` as in the forward pass; `loss[1] +=` the loss
            /// of `pairs[P, 2]`, the rows of chosen and rejected among the `S`; `grads` for `d loss`.
            RewardHeadLoss = reward_head_loss(
                scores: &Tensor, loss: &Tensor, grads: RewardHeadGrads, x: &Tensor, norm: &Tensor, head: &Tensor,
                pairs: &Tensor, pair_loss: &PairLoss, eps: f64,
            );
        }

        linear_cross_entropy {
            /// `loss[1] += sum(weights * -log softmax(x table^T)[targets])` over rows of `x[S, hidden]` with
            /// `table[V, hidden]`; if `grads` are given, `dx` is overwritten and `dtable` accumulated. At most the rows of
            /// `scratch[R, V]` have logits at one time.
            LinearCrossEntropy = linear_cross_entropy(
                loss: &Tensor, grads: Option<(&Tensor, &Tensor)>, x: &Tensor, table: &Tensor, targets: &Tensor,
                weights: &Tensor, scratch: &Tensor,
            );
        }

        sum_of_squares {
            /// `sum[1] = sum(x^2)`, in an order that does not depend on the number of threads. Its root, once the sums of
            /// all ranges of a gradient are added, is the norm that AdamW clips by.
            SumOfSquares = sum_of_squares(sum: &Tensor, x: &Tensor);
        }

        count_non_finite {
            /// `count[1]`, the number of elements of `x` that are NaN or infinite; exact up to 2^24, and never 0 above.
            CountNonFinite = count_non_finite(count: &Tensor, x: &Tensor);
        }

        adamw {
            /// One update of the flat parameters and both moments from the flat gradient and `squares[1]`, the sum of the
            /// squares of the whole gradient; none at all where its root, the norm, or one of `losses` is not finite.
            /// `master` holds the parameters as sums; `params` becomes a copy of it as floats, and is the same tensor
            /// where those are one.
            AdamwOp = adamw(
                params: &Tensor, master: &Tensor, m: &Tensor, v: &Tensor, grads: &Tensor, squares: &Tensor,
                losses: &Tensor, update: &AdamW,
            );
        }
    } };
}
pub use operations;

operations!(describe);

/// An operation whose operands were found to be right for the backend that it was submitted to, which may then index
/// without looking again. Only [`submit`](crate::backend::Operations::submit) makes one; a backend around another hands
/// it on to one with the same dtypes and the same memory ([`host_indices`](crate::backend::Backend::host_indices)).
#[derive(Clone, Copy)]
pub struct Checked<'a>(AnyOp<'a>);

impl<'a> Checked<'a> {
    /// Checks shapes, dtypes, density and overlap of all operands, parameters, and the indices that the host can see
    /// (`values`).
    /// Indices that only a device sees come from a [`crate::passes::Pack`], which was validated when it was made.
    pub(crate) fn new(op: AnyOp<'a>, dtypes: Dtypes, values: &HostIndices) -> Result<Self> {
        let check = || {
            op.op().check()?;
            let operands = op.op().operands();
            operands.check(dtypes)?;
            operands.check_indices(values)?;
            op.op().check_indices(values)
        };
        match check() {
            Ok(()) => Ok(Self(op)),
            Err(what) => Err(Error::machine(format!("{}: {what} (this is a mistake in the program)", op.name()))),
        }
    }

    /// The operation.
    pub fn op(&self) -> &AnyOp<'a> {
        &self.0
    }

    /// Hands it to the backend's function for it.
    pub(crate) fn run_on<B: RunAll>(&self, backend: &B) -> Result<()> {
        self.0.run_on(backend)
    }

    /// As [`Checked::run_on`], for backends that compute in the host's memory: refuses operands that lie elsewhere.
    pub(crate) fn run_on_host<B: RunAll>(&self, backend: &B) -> Result<()> {
        let operands = self.0.op().operands();
        let all = operands.iter().try_for_each(|operand| host::check(operand.tensor));
        all.map_err(|e| e.context(self.0.name()))?;
        self.run_on(backend)
    }
}
