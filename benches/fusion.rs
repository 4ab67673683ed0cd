//! Fused against unfused: launches, bytes, and on a card time.
//!
//! Each row is one step of training done in both ways, which give the same numbers (`cargo test --release --test kernels`
//! holds both to the reference). Bytes are what the launches move when caches are endless: counted by the emulator at
//! reduced shapes, and on a card by what the operations say of themselves. A copy counts as a launch.
//!
//! ```
//! cargo bench --bench fusion                       # all
//! cargo bench --bench fusion -- adamw              # those with that word in their names
//! cargo bench --bench fusion -- --emulator         # counters, on a machine that has a card too
//! cargo bench --bench fusion -- --test             # those of one model once, at the reduced shapes
//! ```

mod common;

use std::process::ExitCode;

use criterion::Throughput;
use polar_raw::backend::{Backend, Gemm, Operations, Qkv};
use polar_raw::cuda::abi::REWARD_HEAD_FUSED_ROWS;
use polar_raw::cuda::gemm::{Product, Variant};
use polar_raw::error::{Error, Result};
use polar_raw::ops::{AnyOp, CopyOp, GemmOp, GemmSwigluBackward, GemmSwigluForward, RopeBackward, RopeForward};
use polar_raw::tensor::Tensor;

use common::launches::{self, Flat, RewardHead};
use common::machine::{self, Machine, moved};
use common::shapes::{Model, Pack};
use common::table::{Table, count};
use common::timing::Timer;

const NT: Product = Product::Plain(Gemm::Nt);

/// The kernel of a product with the largest tile.
fn large(machine: &Machine, product: Product) -> Variant {
    launches::fitting(machine, product, true)[0]
}

fn main() -> ExitCode {
    machine::main(|machine, timer| {
        let head: &[&str] = if machine.card {
            &["fusion", "model", "shape", "launches", "fused", "MB", "fused", "ratio", "us", "fused", "ratio"]
        } else {
            &["fusion", "model", "shape", "launches", "fused", "KB", "fused", "ratio", "instructions", "fused", "ratio"]
        };
        let mut bench = Bench { machine, timer, model: "", table: Table::new(head) };
        for model in Model::all(machine).into_iter().filter(Model::is_aligned) {
            bench.model = model.name;
            swiglu(&mut bench, &model)?;
            addend(&mut bench, &model)?;
            rope(&mut bench, &model)?;
            reward_head(&mut bench, &model)?;
            adamw(&mut bench, &model)?;
        }
        let (name, by) = (machine.cuda.name(), if machine.card { "fewest bytes" } else { "reduced shapes" });
        bench.table.print(&format!("Unfused against fused on {name}, {by}"));
        Ok(())
    })
}

struct Bench<'a> {
    machine: &'a Machine,
    timer: &'a mut Timer,
    model: &'static str,
    table: Table,
}

/// One of two ways to the same result.
struct Way<'a> {
    /// The fewest bytes of each launch.
    launches: Vec<u64>,
    /// Bytes that a copy reads and writes, if there is one.
    copy: Option<u64>,
    run: Box<dyn Fn() -> Result<()> + 'a>,
}

impl<'a> Way<'a> {
    fn new(launches: impl Into<Vec<u64>>, run: impl Fn() -> Result<()> + 'a) -> Self {
        Self { launches: launches.into(), copy: None, run: Box::new(run) }
    }

    /// Operations of one launch each, which say by themselves what they move.
    fn of(
        machine: &Machine,
        ops: impl IntoIterator<Item = AnyOp<'a>>,
        run: impl Fn() -> Result<()> + 'a,
    ) -> Result<Self> {
        let bytes = ops.into_iter().map(|op| Ok(machine.work(op)?.bytes));
        Ok(Self::new(bytes.collect::<Result<Vec<_>>>()?, run))
    }

    fn with_copy(self, bytes: u64) -> Self {
        Self { copy: Some(bytes), ..self }
    }

    fn steps(&self) -> usize {
        self.launches.len() + usize::from(self.copy.is_some())
    }
}

/// What a way costs: bytes, and microseconds or instructions.
struct Cost {
    bytes: f64,
    effort: f64,
}

impl Bench<'_> {
    fn compare(&mut self, name: &str, shape: String, unfused: &Way, fused: &Way) -> Result<()> {
        let id = format!("{name} {} {shape}", self.model);
        if !self.machine.wants(&id) {
            return Ok(());
        }
        let (Some(before), Some(after)) =
            (self.cost(&format!("unfused {id}"), unfused)?, self.cost(&format!("fused {id}"), fused)?)
        else {
            return Ok(());
        };
        let ratio = |before: f64, after: f64| format!("{:.2}", before / after);
        let scaled = |x: f64| if self.machine.card { format!("{:.2}", 1e-6 * x) } else { format!("{:.1}", 1e-3 * x) };
        let effort = |x: f64| if self.machine.card { format!("{x:.1}") } else { count(x as u64) };
        self.table.push(vec![
            name.into(),
            self.model.into(),
            shape,
            unfused.steps().to_string(),
            fused.steps().to_string(),
            scaled(before.bytes),
            scaled(after.bytes),
            ratio(before.bytes, after.bytes),
            effort(before.effort),
            effort(after.effort),
            ratio(before.effort, after.effort),
        ]);
        Ok(())
    }

    /// Nothing if criterion's filter leaves it out.
    fn cost(&mut self, id: &str, way: &Way) -> Result<Option<Cost>> {
        let copied = way.copy.unwrap_or(0);
        if self.machine.card {
            let bytes = way.launches.iter().sum::<u64>() + copied;
            let seconds = self.timer.median(self.machine, id, Throughput::Bytes(bytes), &*way.run)?;
            return Ok(seconds.map(|seconds| Cost { bytes: bytes as f64, effort: 1e6 * seconds }));
        }
        let reports = self.machine.reports(&*way.run)?;
        if reports.len() != way.launches.len() {
            let (launched, known) = (reports.len(), way.launches.len());
            return Err(Error::machine(format!(
                "{id}: {launched} launches, and the fewest bytes of {known} are known"
            )));
        }
        let bytes = reports.iter().map(|report| moved(&report.counters)).sum::<u64>() + copied;
        let instructions: u64 = reports.iter().map(|report| report.counters.instructions).sum();
        Ok(Some(Cost { bytes: bytes as f64, effort: instructions as f64 }))
    }
}

/// The product into SwiGLU, and its gradient's product with SwiGLU's.
fn swiglu(bench: &mut Bench, model: &Model) -> Result<()> {
    let machine = bench.machine;
    let [_, _, w13, w2] = model.linears();
    let (m, k, ffn) = (model.tokens, w13.k, w2.k);
    let x = machine.bf16(&[m, k])?;
    let [w13, w2] = [machine.bf16(&[2 * ffn, k])?, machine.bf16(&[k, ffn])?];
    let [y, gate_up] = [machine.bf16(&[m, ffn])?, machine.bf16(&[m, 2 * ffn])?];
    let shape = format!("{m}x{ffn}x{k}");

    let op = GemmSwigluForward { y: &y, gate_up: &gate_up, x: &x, w13: &w13 };
    let unfused = Way::of(machine, op.unfused(), || {
        launches::gemm(machine, NT, &large(machine, NT), [&gate_up, &x, &w13], None, None)?;
        launches::swiglu(machine, &y, &gate_up, None)
    })?;
    let fused = Way::of(machine, [op.into()], || {
        let product = Product::SwigluForward;
        launches::gemm(machine, product, &large(machine, product), [&y, &x, &w13], None, Some(&gate_up))
    })?;
    bench.compare("gemm_nt_swiglu", shape.clone(), &unfused, &fused)?;

    let op = GemmSwigluBackward { gate_up: &gate_up, dy: &y, dout: &x, w2: &w2 };
    let unfused = Way::of(machine, op.unfused(), || {
        let product = Product::Plain(Gemm::Nn);
        launches::gemm(machine, product, &large(machine, product), [&y, &x, &w2], None, None)?;
        launches::swiglu(machine, &y, &gate_up, Some(&gate_up))
    })?;
    let fused = Way::of(machine, [op.into()], || {
        let product = Product::SwigluBackward;
        launches::gemm(machine, product, &large(machine, product), [&gate_up, &x, &w2], None, Some(&gate_up))
    })?;
    bench.compare("gemm_nn_swiglu", shape, &unfused, &fused)
}

/// The residual stream added to the product that ends a branch. Unfused, it is copied to where the product adds itself.
fn addend(bench: &mut Bench, model: &Model) -> Result<()> {
    let machine = bench.machine;
    let m = model.tokens;
    let [_, wo, _, w2] = model.linears();
    for linear in [wo, w2] {
        let [x, w] = [machine.bf16(&[m, linear.k])?, machine.bf16(&[linear.n, linear.k])?];
        let [residual, out] = [machine.bf16(&[m, linear.n])?, machine.bf16(&[m, linear.n])?];
        let product =
            |addend: &Tensor| launches::gemm(machine, NT, &large(machine, NT), [&out, &x, &w], Some(addend), None);
        let op = |addend| AnyOp::from(GemmOp { layout: Gemm::Nt, out: &out, a: &x, b: &w, addend: Some(addend) });
        let unfused = Way::of(machine, [op(&out)], || {
            machine.cuda.copy(&out, &residual)?;
            product(&out)
        })?
        .with_copy(machine.work(CopyOp { to: &out, from: &residual })?.bytes);
        let fused = Way::of(machine, [op(&residual)], || product(&residual))?;
        bench.compare("gemm addend", format!("{} {m}x{}x{}", linear.name, linear.n, linear.k), &unfused, &fused)?;
    }
    Ok(())
}

/// Queries, keys and values out of one projection in one pass; unfused, of the queries' and of the others' projection.
fn rope(bench: &mut Bench, model: &Model) -> Result<()> {
    let machine = bench.machine;
    let (rows, heads, theta) = (model.rows, model.heads, model.theta);
    let (of_q, of_kv) = (heads.query * heads.dim, 2 * heads.kv * heads.dim);
    let wqkv = machine.bf16(&[rows, of_q + of_kv])?;
    let [wq, wkv] = [machine.bf16(&[rows, of_q])?, machine.bf16(&[rows, of_kv])?];
    let q = machine.bf16(&[heads.kv, rows, heads.group(), heads.dim])?;
    let [k, v] = [machine.bf16(&[heads.kv, rows, heads.dim])?, machine.bf16(&[heads.kv, rows, heads.dim])?];
    let positions = machine.u32(&Pack::ragged(model.tokens).positions[..rows], &[rows])?;
    let positions = &positions;
    let [all, only_q, only_kv] =
        [Qkv { q: Some(&q), kv: Some((&k, &v)) }, Qkv { q: Some(&q), kv: None }, Qkv { q: None, kv: Some((&k, &v)) }];
    let submit = |ops: &[AnyOp]| ops.iter().try_for_each(|&op| machine.cuda.submit(op));
    let forward = |dst, src| AnyOp::from(RopeForward { dst, src, positions, heads, rotary: theta.into() });
    let (parts, whole) = ([forward(only_q, &wq), forward(only_kv, &wkv)], [forward(all, &wqkv)]);
    let unfused = Way::of(machine, parts, || submit(&parts))?;
    let fused = Way::of(machine, whole, || submit(&whole))?;
    bench.compare("rope_forward", format!("{rows} tokens"), &unfused, &fused)?;
    let backward = |grads, dsrc| AnyOp::from(RopeBackward { dsrc, grads, positions, heads, rotary: theta.into() });
    let (parts, whole) = ([backward(only_q, &wq), backward(only_kv, &wkv)], [backward(all, &wqkv)]);
    let unfused = Way::of(machine, parts, || submit(&parts))?;
    let fused = Way::of(machine, whole, || submit(&whole))?;
    bench.compare("rope_backward", format!("{rows} tokens"), &unfused, &fused)
}

/// Scores, loss and gradients in one launch, of as many candidates as it takes.
fn reward_head(bench: &mut Bench, model: &Model) -> Result<()> {
    let machine = bench.machine;
    let (candidates, hidden) = (model.candidates.min(REWARD_HEAD_FUSED_ROWS as usize), model.hidden);
    let head = RewardHead::new(machine, &machine.bf16(&[candidates, hidden])?)?;
    let shape = format!("{candidates}x{hidden}");
    let unfused = Way::new(head.floors_of_parts(machine)?, || {
        head.forward(machine)?;
        head.pair_loss(machine)?;
        head.backward(machine)
    });
    let fused = Way::of(machine, [head.op().into()], || head.loss(machine))?;
    bench.compare("reward_head_loss", shape, &unfused, &fused)
}

/// The `count` parameters from number `first` on of flat buffers.
fn part(flat: &Flat, first: usize, count: usize) -> Flat {
    let part = |t: &Tensor| t.window(first, &[count]);
    Flat {
        master: part(&flat.master),
        weights: part(&flat.weights),
        m: part(&flat.m),
        v: part(&flat.v),
        grads: part(&flat.grads),
        squares: flat.squares.clone(),
        losses: flat.losses.clone(),
    }
}

/// The update of a layer's tensors, which lie in one buffer.
fn adamw(bench: &mut Bench, model: &Model) -> Result<()> {
    let machine = bench.machine;
    let mut tensors: Vec<usize> = model.linears().iter().map(|linear| linear.n * linear.k).collect();
    tensors.extend([model.hidden; 2]);
    let len = tensors.iter().sum();
    let flat = Flat::new(machine, len)?;
    let mut first = 0;
    let parts: Vec<Flat> = tensors
        .iter()
        .map(|&count| {
            first += count;
            part(&flat, first - count, count)
        })
        .collect();
    let unfused = Way::of(machine, parts.iter().map(|part| part.op().into()), || {
        parts.iter().try_for_each(|part| part.adamw(machine))
    })?;
    let fused = Way::of(machine, [flat.op().into()], || flat.adamw(machine))?;
    bench.compare("adamw", format!("{len} in {} tensors", tensors.len()), &unfused, &fused)
}
