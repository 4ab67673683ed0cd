//! Launches by hand: of variants that the backend does not choose by itself, or not at these sizes.

use polar_raw::backend::{AdamW, Gemm, Operations};
use polar_raw::cuda::abi::{self, AdamwParams, GemmParams, RewardHeadParams, SwigluParams};
use polar_raw::cuda::gemm::{Product, Variant, variants};
use polar_raw::cuda::kernel::Launch;
use polar_raw::cuda::{adamw, reward_head, swiglu};
use polar_raw::error::{Error, Result};
use polar_raw::ops::reward_head::{LossKind, PairLoss, PenaltyKind, RewardHeadGrads};
use polar_raw::ops::{AdamwOp, RewardHeadForward, RewardHeadLoss};
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

/// The kernels of a product that a block of this device has the shared memory for, the largest tile first.
pub fn fitting(machine: &Machine, product: Product, aligned: bool) -> Vec<Variant> {
    let room = machine.properties().shared_per_block;
    variants(product, aligned).iter().filter(|variant| variant.kernel.shared as usize <= room).copied().collect()
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

/// One update of parameters.
const UPDATE: AdamW = AdamW { lr: 1e-5, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0, max_norm: 1.0, step: 1 };

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

    /// Their update as the operation that it is.
    pub fn op(&self) -> AdamwOp<'_> {
        let Self { master, weights: params, m, v, grads, norm } = self;
        AdamwOp { params, master, m, v, grads, norm, update: &UPDATE }
    }

    /// Updates them all, by the launch that is planned for this machine.
    pub fn adamw(&self, machine: &Machine) -> Result<()> {
        let count = self.master.len();
        let params = AdamwParams {
            master: at(&self.master),
            weights: at(&self.weights),
            m: at(&self.m),
            v: at(&self.v),
            grads: at(&self.grads),
            norm: at(&self.norm),
            count: count as u64,
            max_norm: UPDATE.max_norm as f32,
            beta1: UPDATE.beta1 as f32,
            beta2: UPDATE.beta2 as f32,
            rest1: 0.1,
            rest2: 0.05,
            decay: 1.0,
            rate: UPDATE.lr as f32,
            root: 1.0,
            eps: UPDATE.eps as f32,
        };
        // SAFETY: the buffers have that many elements.
        unsafe { machine.cuda.device().launch(&adamw::plan(count, &machine.properties()), &params) }
    }
}

/// The loss of every pair.
const PAIR_LOSS: PairLoss =
    PairLoss { kind: LossKind::Ranking, penalty: PenaltyKind::None, penalty_weight: 0.0, scale: 1.0 };
const EPS: f64 = 1e-5;

/// The reward head of one pack.
pub struct RewardHead {
    x: Tensor,
    norm: Tensor,
    head: Tensor,
    pairs: Tensor,
    scores: Tensor,
    rstd: Tensor,
    dscores: Tensor,
    loss: Tensor,
    dx: Tensor,
    dnorm: Tensor,
    dhead: Tensor,
}

impl RewardHead {
    /// For the rows of `x`, each in one pair.
    pub fn new(machine: &Machine, x: &Tensor) -> Result<Self> {
        let (rows, columns) = (x.rows(), x.cols());
        let pairs: Vec<u32> = (0..rows as u32).collect();
        Ok(Self {
            x: x.clone(),
            norm: machine.bf16(&[columns])?,
            head: machine.bf16(&[1, columns])?,
            pairs: machine.u32(&pairs, &[rows / 2, 2])?,
            scores: machine.f32(&[rows])?,
            rstd: machine.f32(&[rows])?,
            dscores: machine.f32(&[rows])?,
            loss: machine.f32(&[1])?,
            dx: machine.bf16(&[rows, columns])?,
            dnorm: machine.f32(&[columns])?,
            dhead: machine.f32(&[1, columns])?,
        })
    }

    /// All of it as the operation that it is.
    pub fn op(&self) -> RewardHeadLoss<'_> {
        let Self { x, norm, head, pairs, scores, loss, dx, dnorm, dhead, .. } = self;
        let grads = RewardHeadGrads { dx, dnorm, dhead };
        RewardHeadLoss { scores, loss, grads, x, norm, head, pairs, pair_loss: &PAIR_LOSS, eps: EPS }
    }

    fn size(&self) -> (usize, usize) {
        (self.x.rows(), self.x.cols())
    }

    fn launch(&self, machine: &Machine, launch: &Launch<RewardHeadParams>) -> Result<()> {
        let (rows, columns) = self.size();
        let params = RewardHeadParams {
            scores: at(&self.scores),
            rstd: at(&self.rstd),
            dscores: at(&self.dscores),
            loss: at(&self.loss),
            dx: at(&self.dx),
            dnorm: at(&self.dnorm),
            dhead: at(&self.dhead),
            x: at(&self.x),
            norm: at(&self.norm),
            head: at(&self.head),
            pairs: at(&self.pairs),
            rows: rows as u32,
            columns: columns as u32,
            n_pairs: self.pairs.rows() as u32,
            loss_kind: abi::LOSS_RANKING,
            penalty_kind: abi::PENALTY_NONE,
            penalty_weight: 0.0,
            scale: PAIR_LOSS.scale as f32,
            eps: EPS as f32,
        };
        // SAFETY: `new` made the operands for these sizes.
        unsafe { machine.cuda.device().launch(launch, &params) }
    }

    pub fn forward(&self, machine: &Machine) -> Result<()> {
        self.launch(machine, &reward_head::plan_forward(self.x.rows()))
    }

    pub fn pair_loss(&self, machine: &Machine) -> Result<()> {
        let (rows, columns) = self.size();
        self.launch(machine, &reward_head::plan_unfused(rows, columns)[1])
    }

    pub fn backward(&self, machine: &Machine) -> Result<()> {
        let (rows, columns) = self.size();
        self.launch(machine, &reward_head::plan_unfused(rows, columns)[2])
    }

    /// All of these in one launch; more rows than it takes are an error.
    pub fn loss(&self, machine: &Machine) -> Result<()> {
        let (rows, columns) = self.size();
        let too_many = || Error::machine(format!("{rows} rows are more than one launch takes"));
        self.launch(machine, &reward_head::plan_loss(rows, columns).ok_or_else(too_many)?)
    }

    /// The fewest bytes of each of the first three. No operation is a part, hence they are added up here: each moves what
    /// the operation moves that it belongs to, and what is handed on, `rstd` and `scores` and their gradients.
    pub fn floors_of_parts(&self, machine: &Machine) -> Result<[u64; 3]> {
        let Self { x, norm, head, pairs, scores, rstd, dscores, loss, .. } = self;
        let forward = machine.work(RewardHeadForward { scores, x, norm, head, eps: EPS })?.bytes + bytes(&[rstd]);
        let pair_loss = bytes(&[scores, dscores, pairs, loss, loss]);
        // Of the whole, all but what the pairs' launch has done.
        let backward = machine.work(self.op())?.bytes - bytes(&[scores, pairs, loss, loss]) + bytes(&[rstd, dscores]);
        Ok([forward, pair_loss, backward])
    }
}
