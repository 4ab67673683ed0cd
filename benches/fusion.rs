//! Fused against unfused: launches, bytes, and on a card time.
//!
//! Each row is one step of training done in both ways, which give the same numbers (`cargo test --release --test kernels`
//! holds both to the reference). Bytes are what the launches move when caches are endless: counted by the emulator at
//! reduced shapes, and by formula on a card. A copy counts as a launch.
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
use polar_raw::cuda::gather;
use polar_raw::cuda::gemm::{Product, Variant, variants};
use polar_raw::error::{Error, Result};
use polar_raw::tensor::Tensor;

use common::launches::{self, Flat, RewardHead, bytes};
use common::machine::{self, Machine, moved};
use common::shapes::{Model, Pack};
use common::table::{Table, count};
use common::timing::Timer;

const EPS: f64 = 1e-5;
const NT: Product = Product::Plain(Gemm::Nt);

/// The kernel of a product with the largest tile.
fn large(product: Product) -> &'static Variant {
    &variants(product, true)[0]
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
            rmsnorm(&mut bench, &model)?;
            rope(&mut bench, &model)?;
            reward_head(&mut bench, &model)?;
            adamw(&mut bench, &model)?;
        }
        let (name, by) = (machine.cuda.name(), if machine.card { "bytes by formula" } else { "reduced shapes" });
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

    let unfused = Way::new([bytes(&[&x, &w13, &gate_up]), bytes(&[&gate_up, &y])], || {
        launches::gemm(machine, NT, large(NT), [&gate_up, &x, &w13], None, None)?;
        launches::swiglu(machine, &y, &gate_up, None)
    });
    let fused = Way::new([bytes(&[&x, &w13, &gate_up, &y])], || {
        let product = Product::SwigluForward;
        launches::gemm(machine, product, large(product), [&y, &x, &w13], None, Some(&gate_up))
    });
    bench.compare("gemm_nt_swiglu", shape.clone(), &unfused, &fused)?;

    let unfused = Way::new([bytes(&[&x, &w2, &y]), bytes(&[&y, &gate_up, &gate_up])], || {
        let product = Product::Plain(Gemm::Nn);
        launches::gemm(machine, product, large(product), [&y, &x, &w2], None, None)?;
        launches::swiglu(machine, &y, &gate_up, Some(&gate_up))
    });
    let fused = Way::new([bytes(&[&x, &w2, &gate_up, &gate_up])], || {
        let product = Product::SwigluBackward;
        launches::gemm(machine, product, large(product), [&gate_up, &x, &w2], None, Some(&gate_up))
    });
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
        let product = |addend: &Tensor| launches::gemm(machine, NT, large(NT), [&out, &x, &w], Some(addend), None);
        let fewest = bytes(&[&x, &w, &residual, &out]);
        let unfused = Way::new([fewest], || {
            machine.cuda.copy(&out, &residual)?;
            product(&out)
        })
        .with_copy(bytes(&[&residual, &out]));
        let fused = Way::new([fewest], || product(&residual));
        bench.compare("gemm addend", format!("{} {m}x{}x{}", linear.name, linear.n, linear.k), &unfused, &fused)?;
    }
    Ok(())
}

/// The norm that adds a branch to the residual stream first. Unfused, the addition is `gather_backward` of every row.
fn rmsnorm(bench: &mut Bench, model: &Model) -> Result<()> {
    let machine = bench.machine;
    let (rows, hidden) = (model.rows, model.hidden);
    let [x, branch] = [machine.bf16(&[rows, hidden])?, machine.bf16(&[rows, hidden])?];
    let [y, sum] = [machine.bf16(&[rows, hidden])?, machine.bf16(&[rows, hidden])?];
    let [rstd, weight] = [machine.f32(&[rows])?, machine.bf16(&[hidden])?];
    let every = machine.u32(&(0..rows as u32).collect::<Vec<_>>(), &[rows])?;
    let add = gather::plan_backward(rows, model.is_aligned());
    let unfused = Way::new([bytes(&[&x, &x, &branch, &every]), bytes(&[&x, &y, &rstd, &weight])], || {
        launches::rows(machine, &add, &x, &branch, &every)?;
        machine.cuda.rmsnorm_forward(&y, &rstd, &x, &weight, EPS)
    });
    let fused = Way::new([bytes(&[&x, &branch, &sum, &y, &rstd, &weight])], || {
        launches::rmsnorm_with_branch(machine, [&y, &sum], &rstd, [&x, &branch], &weight)
    });
    bench.compare("rmsnorm_forward branch", format!("{rows}x{hidden}"), &unfused, &fused)
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
    let table = bytes(&[&positions]) + 2 * heads.dim as u64;
    let [all, only_q, only_kv] =
        [Qkv { q: Some(&q), kv: Some((&k, &v)) }, Qkv { q: Some(&q), kv: None }, Qkv { q: None, kv: Some((&k, &v)) }];
    let unfused = Way::new([bytes(&[&wq, &q]) + table, bytes(&[&wkv, &k, &v]) + table], || {
        machine.cuda.rope_forward(only_q, &wq, &positions, heads, theta)?;
        machine.cuda.rope_forward(only_kv, &wkv, &positions, heads, theta)
    });
    let fused = Way::new([bytes(&[&wqkv, &q, &k, &v]) + table], || {
        machine.cuda.rope_forward(all, &wqkv, &positions, heads, theta)
    });
    bench.compare("rope_forward", format!("{rows} tokens"), &unfused, &fused)?;
    let unfused = Way::new([bytes(&[&wq, &q]) + table, bytes(&[&wkv, &k, &v]) + table], || {
        machine.cuda.rope_backward(&wq, only_q, &positions, heads, theta)?;
        machine.cuda.rope_backward(&wkv, only_kv, &positions, heads, theta)
    });
    let fused = Way::new([bytes(&[&wqkv, &q, &k, &v]) + table], || {
        machine.cuda.rope_backward(&wqkv, all, &positions, heads, theta)
    });
    bench.compare("rope_backward", format!("{rows} tokens"), &unfused, &fused)
}

/// Scores, loss and gradients in one launch, and scores straight from the rows of the residual stream.
fn reward_head(bench: &mut Bench, model: &Model) -> Result<()> {
    let machine = bench.machine;
    let (rows, candidates, hidden) = (model.rows, model.candidates, model.hidden);
    let x = machine.bf16(&[candidates, hidden])?;
    let head = RewardHead::new(machine, &x, None, candidates)?;
    let shape = format!("{candidates}x{hidden}");
    let [forward, pair_loss, backward, all] = head.floors();
    let unfused = Way::new([forward, pair_loss, backward], || {
        head.forward(machine)?;
        head.pair_loss(machine)?;
        head.backward(machine)
    });
    let fused = Way::new([all], || head.loss(machine));
    bench.compare("reward_head_loss", shape.clone(), &unfused, &fused)?;

    let stream = machine.bf16(&[rows, hidden])?;
    let last: Vec<u32> = (1..=candidates).map(|i| (i * rows / candidates - 1) as u32).collect();
    let last = machine.u32(&last, &[candidates])?;
    let gathering = RewardHead::new(machine, &stream, Some(&last), candidates)?;
    let gather = gather::plan_forward(candidates, model.is_aligned());
    let unfused = Way::new([bytes(&[&x, &x, &last]), forward], || {
        launches::rows(machine, &gather, &x, &stream, &last)?;
        head.forward(machine)
    });
    let fused = Way::new([forward + bytes(&[&last])], || gathering.forward(machine));
    bench.compare("reward_head_forward select", shape, &unfused, &fused)
}

/// The update of a layer's tensors, which lie in one buffer.
fn adamw(bench: &mut Bench, model: &Model) -> Result<()> {
    let machine = bench.machine;
    let mut tensors: Vec<usize> = model.linears().iter().map(|linear| linear.n * linear.k).collect();
    tensors.extend([model.hidden; 2]);
    let len = tensors.iter().sum();
    let flat = Flat::new(machine, len)?;
    let unfused = Way::new(tensors.iter().map(|&n| 30 * n as u64 + 4).collect::<Vec<_>>(), || {
        let mut first = 0;
        for &count in &tensors {
            flat.adamw(machine, first, count)?;
            first += count;
        }
        Ok(())
    });
    let fused = Way::new([30 * len as u64 + 4], || flat.adamw(machine, 0, len));
    bench.compare("adamw", format!("{len} in {} tensors", tensors.len()), &unfused, &fused)
}
