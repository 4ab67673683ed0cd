//! Launches by hand: of variants that the backend does not choose by itself, or not at these sizes.

use polar_raw::backend::{Gemm, Operations};
use polar_raw::cuda::abi::{self, AdamwParams, GemmParams, RewardHeadParams, RmsnormParams, RowsParams, SwigluParams};
use polar_raw::cuda::gemm::{Product, Variant};
use polar_raw::cuda::kernel::Launch;
use polar_raw::cuda::{adamw, reward_head, rmsnorm, swiglu};
use polar_raw::error::Result;
use polar_raw::tensor::{Dtype, Tensor};

use super::machine::Machine;

/// The address of a tensor.
pub fn at(tensor: &Tensor) -> u64 {
    tensor.address() as u64
}

/// Bytes of tensors.
pub fn bytes(tensors: &[&Tensor]) -> u64 {
    tensors.iter().map(|t| (t.len() * t.dtype().size()) as u64).sum()
}

/// `out = op(a) op(b) + addend` by a kernel of one of the products, or of those that are fused with SwiGLU.
pub fn gemm(
    machine: &Machine,
    product: Product,
    variant: &Variant,
    [out, a, b]: [&Tensor; 3],
    addend: Option<&Tensor>,
    gate_up: Option<&Tensor>,
) -> Result<()> {
    let (m, n, k) = match product {
        Product::Plain(Gemm::Nt) => (a.rows(), b.rows(), a.cols()),
        Product::SwigluForward => (a.rows(), b.rows() / 2, a.cols()),
        Product::Plain(Gemm::Nn) | Product::SwigluBackward => (a.rows(), b.cols(), a.cols()),
        Product::Plain(Gemm::Tn) => (a.cols(), b.cols(), a.rows()),
    };
    let params = GemmParams {
        out: at(out),
        a: at(a),
        b: at(b),
        addend: addend.map_or(0, at),
        gate_up: gate_up.map_or(0, at),
        m: m as u32,
        n: n as u32,
        k: k as u32,
        lda: a.cols() as u32,
        ldb: b.cols() as u32,
        ldout: out.cols() as u32,
        ldaddend: addend.map_or(0, Tensor::cols) as u32,
        ldgate_up: gate_up.map_or(0, Tensor::cols) as u32,
        out_is_f32: u32::from(out.dtype() == Dtype::F32),
    };
    // SAFETY: the shapes are those of the operands, and the launch the kernel's for them.
    unsafe { machine.cuda.device().launch(&variant.launch(m, n), &params) }
}

/// `sum = x + branch` and `y`, the norm of that, in one launch.
pub fn rmsnorm_with_branch(
    machine: &Machine,
    [y, sum]: [&Tensor; 2],
    rstd: &Tensor,
    [x, branch]: [&Tensor; 2],
    weight: &Tensor,
) -> Result<()> {
    let columns = x.cols();
    let params = RmsnormParams {
        y: at(y),
        rstd: at(rstd),
        x: at(x),
        branch: at(branch),
        sum: at(sum),
        weight: at(weight),
        rows: x.rows() as u32,
        columns: columns as u32,
        eps: 1e-5,
    };
    let launch = rmsnorm::plan_forward(x.rows(), columns, columns.is_multiple_of(8))?;
    // SAFETY: as in `gemm`.
    unsafe { machine.cuda.device().launch(&launch, &params) }
}

/// SwiGLU forward (`y` from `gate_up`), or backward with `dgate_up` (from `y`, which is then its gradient).
pub fn swiglu(machine: &Machine, y: &Tensor, gate_up: &Tensor, dgate_up: Option<&Tensor>) -> Result<()> {
    let plan = if dgate_up.is_some() { swiglu::plan_backward } else { swiglu::plan_forward };
    let params = SwigluParams {
        y: at(y),
        gate_up: at(gate_up),
        dgate_up: dgate_up.map_or(0, at),
        rows: y.rows() as u32,
        columns: y.cols() as u32,
    };
    let launch = plan(y.len(), y.cols().is_multiple_of(8), &machine.properties());
    // SAFETY: as in `gemm`.
    unsafe { machine.cuda.device().launch(&launch, &params) }
}

/// Flat buffers that AdamW updates.
pub struct Flat {
    pub master: Tensor,
    pub weights: Tensor,
    pub m: Tensor,
    pub v: Tensor,
    pub grads: Tensor,
    pub norm: Tensor,
}

impl Flat {
    /// Those of `len` parameters.
    pub fn new(machine: &Machine, len: usize) -> Result<Self> {
        let flat = Self {
            master: machine.f32(&[len])?,
            weights: machine.bf16(&[len])?,
            m: machine.f32(&[len])?,
            v: machine.f32(&[len])?,
            grads: machine.f32(&[len])?,
            norm: machine.f32(&[1])?,
        };
        machine.cuda.fill(&flat.v, 0.01)?;
        machine.cuda.fill(&flat.norm, 2.0)?;
        Ok(flat)
    }

    /// Updates `count` parameters from number `first` on.
    pub fn adamw(&self, machine: &Machine, first: usize, count: usize) -> Result<()> {
        let part = |t: &Tensor| at(t) + (first * t.dtype().size()) as u64;
        let params = AdamwParams {
            master: part(&self.master),
            weights: part(&self.weights),
            m: part(&self.m),
            v: part(&self.v),
            grads: part(&self.grads),
            norm: at(&self.norm),
            count: count as u64,
            max_norm: 1.0,
            beta1: 0.9,
            beta2: 0.95,
            rest1: 0.1,
            rest2: 0.05,
            decay: 1.0,
            rate: 1e-5,
            root: 1.0,
            eps: 1e-8,
        };
        // SAFETY: the buffers have that many elements.
        unsafe { machine.cuda.device().launch(&adamw::plan(count, &machine.properties()), &params) }
    }
}

/// The reward head of one pack.
pub struct RewardHead {
    pub rows: usize,
    pub columns: usize,
    /// What the kernels write and read; it owns their memory.
    _tensors: Vec<Tensor>,
    params: RewardHeadParams,
}

impl RewardHead {
    /// For `rows` candidates, each in one pair, which are `x` or what `select` names of its rows.
    pub fn new(machine: &Machine, x: &Tensor, select: Option<&Tensor>, rows: usize) -> Result<Self> {
        let columns = x.cols();
        let pairs: Vec<u32> = (0..rows as u32).collect();
        let scores = machine.f32(&[rows])?;
        let rstd = machine.f32(&[rows])?;
        let dscores = machine.f32(&[rows])?;
        let loss = machine.f32(&[1])?;
        let dx = machine.bf16(&[rows, columns])?;
        let [dnorm, dhead] = [machine.f32(&[columns])?, machine.f32(&[columns])?];
        let [norm, head] = [machine.bf16(&[columns])?, machine.bf16(&[columns])?];
        let pairs = machine.u32(&pairs, &[rows / 2, 2])?;
        let params = RewardHeadParams {
            scores: at(&scores),
            rstd: at(&rstd),
            dscores: at(&dscores),
            loss: at(&loss),
            dx: at(&dx),
            dnorm: at(&dnorm),
            dhead: at(&dhead),
            x: at(x),
            select: select.map_or(0, at),
            norm: at(&norm),
            head: at(&head),
            pairs: at(&pairs),
            rows: rows as u32,
            columns: columns as u32,
            n_pairs: rows as u32 / 2,
            loss_kind: abi::LOSS_RANKING,
            penalty_kind: abi::PENALTY_NONE,
            penalty_weight: 0.0,
            scale: 1.0,
            eps: 1e-5,
        };
        let mut tensors = vec![x.clone(), scores, rstd, dscores, loss, dx, dnorm, dhead, norm, head, pairs];
        tensors.extend(select.cloned());
        Ok(Self { rows, columns, _tensors: tensors, params })
    }

    fn launch(&self, machine: &Machine, launch: &Launch<RewardHeadParams>) -> Result<()> {
        // SAFETY: `new` made the operands for these sizes.
        unsafe { machine.cuda.device().launch(launch, &self.params) }
    }

    pub fn forward(&self, machine: &Machine) -> Result<()> {
        self.launch(machine, &reward_head::plan_forward(self.rows))
    }

    pub fn pair_loss(&self, machine: &Machine) -> Result<()> {
        self.launch(machine, &reward_head::plan_unfused(self.columns)[0])
    }

    pub fn backward(&self, machine: &Machine) -> Result<()> {
        self.launch(machine, &reward_head::plan_unfused(self.columns)[1])
    }

    /// All of these in one launch.
    pub fn loss(&self, machine: &Machine) -> Result<()> {
        self.launch(machine, &reward_head::plan_loss(self.rows, self.columns))
    }

    /// The fewest bytes of each of the four, in that order. `rstd` is written by the first and read by the third.
    pub fn floors(&self) -> [u64; 4] {
        let (rows, columns) = (self.rows as u64, self.columns as u64);
        let (x, dx, weights, grads) = (2 * rows * columns, 2 * rows * columns, 4 * columns, 16 * columns);
        let (pairs, loss) = (4 * rows, 8);
        [
            x + weights + 8 * rows,
            8 * rows + pairs + loss,
            x + dx + weights + grads + 8 * rows,
            x + dx + weights + grads + 4 * rows + pairs + loss,
        ]
    }
}

/// Moves rows by a launch of the embedding's forward pass or of gathering.
pub fn rows(machine: &Machine, launch: &Launch<RowsParams>, out: &Tensor, from: &Tensor, ids: &Tensor) -> Result<()> {
    let params =
        RowsParams { out: at(out), from: at(from), ids: at(ids), rows: ids.len() as u32, columns: out.cols() as u32 };
    // SAFETY: the ids are rows of what they index.
    unsafe { machine.cuda.device().launch(launch, &params) }
}
