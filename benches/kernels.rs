//! Every kernel at the shapes of POLAR-1.8B and POLAR-7B, and at sizes that no vector divides.
//!
//! On a card: time, TFLOP/s or GB/s, the share of what the card was measured to reach at most, and cuBLAS beside products
//! where its library is found. Without one: what each launch does on the emulator, at reduced shapes, in numbers that
//! are the same every time.
//!
//! ```
//! cargo bench --bench kernels                      # all
//! cargo bench --bench kernels -- attention         # those with that word in their names
//! cargo bench --bench kernels -- --emulator        # counters, on a machine that has a card too
//! cargo bench --bench kernels -- --test            # those of one model once, at the reduced shapes
//! ```

mod common;
#[path = "common/cublas.rs"]
mod cublas;

use std::process::ExitCode;

use criterion::Throughput;
use emulator::Counters;
use polar_raw::backend::{AttentionArgs, Backend, Gemm, Heads, Operations, Qkv};
use polar_raw::cuda::abi::{CrossEntropyParams, FillParams, REWARD_HEAD_FUSED_ROWS};
use polar_raw::cuda::gemm::{Description, Product, plan};
use polar_raw::cuda::{fill, linear_cross_entropy};
use polar_raw::error::{Error, Result};
use polar_raw::ops::{
    AnyOp, AttentionBackward, AttentionForward, BiasBackward, BiasForward, CountNonFinite, EmbeddingBackward,
    EmbeddingForward, Fill, GatherBackward, GatherForward, GemmOp, GemmSwigluBackward, GemmSwigluForward,
    RmsnormBackward, RmsnormForward, RopeBackward, RopeForward, SumOfSquares, SwigluBackward, SwigluForward, Work,
};

use common::launches::{self, Flat, RewardHead, at, bytes};
use common::machine::{self, Machine, moved};
use common::shapes::{Model, Pack};
use common::table::{Table, count};
use common::timing::Timer;
use cublas::Cublas;

const EPS: f64 = 1e-5;
fn main() -> ExitCode {
    machine::main(|machine, timer| {
        let mut bench = Bench::new(machine, timer)?;
        for model in Model::all(machine) {
            bench.model = model.name;
            products(&mut bench, &model)?;
            attention(&mut bench, &model)?;
            norms(&mut bench, &model)?;
            biases(&mut bench, &model)?;
            rope(&mut bench, &model)?;
            rows(&mut bench, &model)?;
            swiglu(&mut bench, &model)?;
            heads(&mut bench, &model)?;
            flat(&mut bench, &model)?;
        }
        bench.print();
        Ok(())
    })
}

/// The same product by cuBLAS.
type Beside<'b> = &'b dyn Fn(&Cublas) -> Result<()>;

struct Bench<'a> {
    machine: &'a Machine,
    timer: &'a mut Timer,
    cublas: Option<Cublas>,
    /// FLOP/s and bytes/s that this card reaches at most.
    ceilings: [f64; 2],
    model: &'static str,
    table: Table,
}

impl<'a> Bench<'a> {
    fn new(machine: &'a Machine, timer: &'a mut Timer) -> Result<Self> {
        let cublas = if machine.card { Cublas::load() } else { None };
        let head: &[&str] = if machine.card {
            &["operation", "model", "shape", "us", "TFLOP/s", "GB/s", "of the ceiling", "cuBLAS us", "of cuBLAS"]
        } else {
            &[
                "kernel",
                "model",
                "shape",
                "mma MFLOP",
                "fewest KB",
                "moved KB",
                "fewest / moved",
                "sectors",
                "coalesced",
                "bank conflicts",
                "barriers",
                "instructions",
            ]
        };
        let table = Table::new(head);
        let mut bench = Self { machine, timer, cublas, ceilings: [0.0; 2], model: "", table };
        if machine.card {
            bench.ceilings = bench.measure_ceilings()?;
        }
        Ok(bench)
    }

    /// The fastest of a large product, ours or cuBLAS's, and of a large copy, which reads and writes.
    fn measure_ceilings(&self) -> Result<[f64; 2]> {
        // The best of several samples, each the mean of several runs.
        const SAMPLES: u64 = 5;
        const RUNS: u64 = 4;
        let (side, copied) = if self.machine.reduced { (256, 1 << 20) } else { (8192, 1 << 30) };
        let [a, b, out] = [(); 3].map(|()| self.machine.bf16(&[side, side]));
        let (a, b, out) = (a?, b?, out?);
        let operands = [&out, &a, &b];
        let rate = |work: f64, run: &dyn Fn() -> Result<()>| -> Result<f64> {
            self.machine.time(1, run)?;
            let mut best = 0.0f64;
            for _ in 0..SAMPLES {
                best = best.max(work * RUNS as f64 / self.machine.time(RUNS, run)?.as_secs_f64());
            }
            Ok(best)
        };
        let operations = 2.0 * (side as f64).powi(3);
        let product = Product::Plain(Gemm::Nt);
        let large = &launches::fitting(self.machine, product, true)[0];
        let mut products = rate(operations, &|| launches::gemm(self.machine, product, large, operands, None, None))?;
        if let Some(cublas) = &self.cublas {
            products = products.max(rate(operations, &|| cublas.gemm(Gemm::Nt, operands, false))?);
        }
        let [from, to] = [self.machine.bf16(&[copied / 2])?, self.machine.bf16(&[copied / 2])?];
        let copy = rate(2.0 * copied as f64, &|| self.machine.cuda.copy(&to, &from))?;
        Ok([products, copy])
    }

    /// Measures an operation as the backend runs it.
    fn operation<'o>(&mut self, shape: String, op: impl Into<AnyOp<'o>>) -> Result<()> {
        let (op, cuda) = (op.into(), &self.machine.cuda);
        self.run(op.name(), shape, self.work(op)?, &|| cuda.submit(op))
    }

    /// What an operation costs at least, by its own description.
    fn work<'o>(&self, op: impl Into<AnyOp<'o>>) -> Result<Work> {
        self.machine.work(op)
    }

    fn run(&mut self, name: &str, shape: String, work: Work, run: &dyn Fn() -> Result<()>) -> Result<()> {
        self.run_beside(name, shape, work, run, None)
    }

    /// Measures an operation, on a card beside what cuBLAS takes for it.
    fn run_beside(
        &mut self,
        name: &str,
        shape: String,
        work: Work,
        run: &dyn Fn() -> Result<()>,
        beside: Option<Beside>,
    ) -> Result<()> {
        let id = format!("{name} {} {shape}", self.model);
        if !self.machine.wants(&id) {
            return Ok(());
        }
        if self.machine.card {
            self.time(name, &id, shape, &work, run, beside)
        } else {
            self.count(name, shape, &work, run)
        }
    }

    fn time(
        &mut self,
        name: &str,
        id: &str,
        shape: String,
        work: &Work,
        run: &dyn Fn() -> Result<()>,
        beside: Option<Beside>,
    ) -> Result<()> {
        let throughput = || match work.matrix {
            0 => Throughput::Bytes(work.bytes),
            operations => Throughput::Elements(operations),
        };
        let Some(seconds) = self.timer.median(self.machine, id, throughput(), run)? else { return Ok(()) };
        let theirs = match (&self.cublas, beside) {
            (Some(cublas), Some(beside)) => {
                self.timer.median(self.machine, &format!("cuBLAS {id}"), throughput(), &|| beside(cublas))?
            }
            _ => None,
        };
        let (operations, fewest) = (work.matrix as f64, work.bytes as f64);
        let ceiling = match work.matrix {
            0 => fewest / seconds / self.ceilings[1],
            _ => operations / seconds / self.ceilings[0],
        };
        self.table.push(vec![
            name.into(),
            self.model.into(),
            shape,
            format!("{:.1}", 1e6 * seconds),
            if work.matrix > 0 { format!("{:.1}", 1e-12 * operations / seconds) } else { "-".into() },
            format!("{:.0}", 1e-9 * fewest / seconds),
            percent(ceiling, 1.0),
            theirs.map_or("-".into(), |theirs| format!("{:.1}", 1e6 * theirs)),
            theirs.map_or("-".into(), |theirs| percent(theirs, seconds)),
        ]);
        Ok(())
    }

    /// Counts what the launches do. Fewer bytes than the floor mean that the floor is wrong.
    fn count(&mut self, name: &str, shape: String, work: &Work, run: &dyn Fn() -> Result<()>) -> Result<()> {
        let reports = self.machine.reports(run)?;
        let several = reports.len() > 1;
        let mut all = Counted::default();
        for report in &reports {
            let counted = Counted::from(&report.counters);
            all.add(&counted);
            // What an operation of several launches has to move is known of all together.
            let fewest = (!several).then_some(work.bytes);
            self.table.push(counted.row(&report.kernel, self.model, &shape, fewest));
        }
        if several {
            self.table.push(all.row(&format!("{name}, all"), self.model, &shape, Some(work.bytes)));
        }
        if all.moved < work.bytes {
            let Work { bytes, .. } = work;
            return Err(Error::machine(format!(
                "{name} {shape}: moved {} B, fewer than its floor {bytes} B",
                all.moved
            )));
        }
        Ok(())
    }

    fn print(&self) {
        let name = self.machine.cuda.name();
        if !self.machine.card {
            self.table.print(&format!("Kernels on {name}, reduced shapes"));
            return;
        }
        let [products, copies] = self.ceilings;
        let cublas = if self.cublas.is_some() { "found" } else { "not found" };
        let published = self.machine.cuda.card().map_or("is not in the table of cards".into(), |card| {
            let (peak, bandwidth) = (card.dense_bf16_flops, card.bandwidth);
            format!("has {:.0} TFLOP/s and {:.0} GB/s by its data sheet", 1e-12 * peak, 1e-9 * bandwidth)
        });
        self.table.print(&format!(
            "Kernels on {name}, which {published}: at most {:.1} TFLOP/s (a large product) and {:.0} GB/s (a large copy) \
             measured; L2 flushed before each run; cuBLAS {cublas}",
            1e-12 * products,
            1e-9 * copies
        ));
    }
}

/// What one launch did, or several.
#[derive(Default)]
struct Counted {
    products: u64,
    moved: u64,
    sectors: u64,
    fewest_sectors: u64,
    conflicts: u64,
    barriers: u64,
    instructions: u64,
}

impl From<&Counters> for Counted {
    fn from(counters: &Counters) -> Self {
        let (loads, stores) = (counters.loads, counters.stores);
        Self {
            products: counters.mma_operations,
            moved: moved(counters),
            sectors: loads.sectors + stores.sectors,
            fewest_sectors: loads.fewest_sectors + stores.fewest_sectors,
            conflicts: counters.shared_loads.conflicts + counters.shared_stores.conflicts,
            barriers: counters.barriers,
            instructions: counters.instructions,
        }
    }
}

impl Counted {
    fn add(&mut self, other: &Self) {
        self.products += other.products;
        self.moved += other.moved;
        self.sectors += other.sectors;
        self.fewest_sectors += other.fewest_sectors;
        self.conflicts += other.conflicts;
        self.barriers += other.barriers;
        self.instructions += other.instructions;
    }

    fn row(&self, name: &str, model: &str, shape: &str, fewest: Option<u64>) -> Vec<String> {
        vec![
            name.into(),
            model.into(),
            shape.into(),
            format!("{:.1}", 1e-6 * self.products as f64),
            fewest.map_or("-".into(), |fewest| format!("{:.1}", 1e-3 * fewest as f64)),
            format!("{:.1}", 1e-3 * self.moved as f64),
            fewest.map_or("-".into(), |fewest| percent(fewest as f64, self.moved as f64)),
            count(self.sectors),
            percent(self.fewest_sectors as f64, self.sectors as f64),
            count(self.conflicts),
            count(self.barriers),
            count(self.instructions),
        ]
    }
}

fn products(bench: &mut Bench, model: &Model) -> Result<()> {
    let machine = bench.machine;
    let m = model.tokens;
    for linear in model.linears() {
        let (n, k) = (linear.n, linear.k);
        let x = machine.bf16(&[m, k])?;
        let w = machine.bf16(&[n, k])?;
        let y = machine.bf16(&[m, n])?;
        let dw = machine.f32(&[n, k])?;
        for layout in [Gemm::Nt, Gemm::Nn, Gemm::Tn] {
            // The gradient of a weight is added to what is there; so is the residual, in what ends a branch.
            let accumulate = layout == Gemm::Tn || layout == Gemm::Nt && matches!(linear.name, "wo" | "w2");
            let operands = match layout {
                Gemm::Nt => [&y, &x, &w],
                Gemm::Nn => [&x, &y, &w],
                Gemm::Tn => [&dw, &y, &x],
            };
            let [out_rows, out_columns] = [operands[0].rows(), operands[0].cols()];
            let depth = if layout == Gemm::Tn { operands[1].rows() } else { operands[1].cols() };
            let rows_are_aligned = operands[1..].iter().all(|t| t.cols().is_multiple_of(8));
            // All of a layout's tiles once; otherwise the one that training takes, which is the largest in the sizes that
            // the reduced shapes stand for.
            let product = Product::Plain(layout);
            let tiles = |aligned| launches::fitting(machine, product, aligned);
            let all = match (rows_are_aligned, linear.name) {
                (true, "wo") => [tiles(true), tiles(false)].concat(),
                (true, _) if machine.card => {
                    let description = Description { product, m: out_rows, n: out_columns, k: depth, aligned: true };
                    let chosen = plan(&description, &machine.properties()).map(|launch| launch.kernel);
                    tiles(true).into_iter().filter(|tile| Some(tile.kernel) == chosen).collect()
                }
                (true, _) => tiles(true)[..1].to_vec(),
                (false, _) => tiles(false),
            };
            let addend = accumulate.then_some(operands[0]);
            for variant in &all {
                let kernel = variant.kernel.entry().name;
                let [out, a, b] = operands;
                let work = bench.work(GemmOp { layout, out, a, b, addend })?;
                let shape = format!("{} {out_rows}x{out_columns}x{depth}", linear.name);
                let ours = || launches::gemm(machine, product, variant, [out, a, b], addend, None);
                bench.run_beside(
                    kernel,
                    shape,
                    work,
                    &ours,
                    Some(&|cublas| cublas.gemm(layout, [out, a, b], accumulate)),
                )?;
            }
        }
    }
    if !model.is_aligned() {
        return Ok(());
    }
    let [_, _, w13, w2] = model.linears();
    let (k, ffn) = (w13.k, w2.k);
    let x = machine.bf16(&[m, k])?;
    let [w13, w2] = [machine.bf16(&[2 * ffn, k])?, machine.bf16(&[k, ffn])?];
    let [y, gate_up] = [machine.bf16(&[m, ffn])?, machine.bf16(&[m, 2 * ffn])?];
    let product = Product::SwigluForward;
    for variant in &launches::fitting(machine, product, true) {
        let kernel = variant.kernel.entry().name;
        let work = bench.work(GemmSwigluForward { y: &y, gate_up: &gate_up, x: &x, w13: &w13 })?;
        let run = || launches::gemm(machine, product, variant, [&y, &x, &w13], None, Some(&gate_up));
        bench.run(kernel, format!("{m}x{}x{k}", 2 * ffn), work, &run)?;
    }
    let product = Product::SwigluBackward;
    for variant in &launches::fitting(machine, product, true) {
        let kernel = variant.kernel.entry().name;
        let work = bench.work(GemmSwigluBackward { gate_up: &gate_up, dy: &y, dout: &x, w2: &w2 })?;
        let run = || launches::gemm(machine, product, variant, [&gate_up, &x, &w2], None, Some(&gate_up));
        bench.run(kernel, format!("{m}x{ffn}x{k}"), work, &run)?;
    }
    Ok(())
}

fn attention(bench: &mut Bench, model: &Model) -> Result<()> {
    // Smaller heads have kernels of their own.
    let dims: &[usize] = if model.name == "1.8B" { &[128, 64, 32] } else { &[model.heads.dim] };
    for &dim in dims {
        let heads = Heads { dim, ..model.heads };
        attention_of(bench, heads, "prefix and candidates", &Pack::ragged(model.tokens))?;
        // Rows without a prefix, as attention is measured elsewhere.
        let length = model.tokens.min(8192);
        attention_of(bench, heads, "causal", &Pack::new((0..model.tokens / length).map(|_| vec![length as u32])))?;
    }
    Ok(())
}

fn attention_of(bench: &mut Bench, heads: Heads, mask: &str, pack: &Pack) -> Result<()> {
    let machine = bench.machine;
    let (tokens, Heads { query, kv, dim }) = (pack.positions.len(), heads);
    let dims = [kv, tokens, heads.group(), dim];
    let [q, dq] = [machine.bf16(&dims)?, machine.bf16(&dims)?];
    let [k, v, dk, dv] = [(); 4].map(|()| machine.bf16(&[kv, tokens, dim]));
    let (k, v, dk, dv) = (k?, v?, dk?, dv?);
    let [out, dout] = [machine.bf16(&[tokens, query * dim])?, machine.bf16(&[tokens, query * dim])?];
    let lse = machine.f32(&[kv, tokens, heads.group()])?;
    let spans = machine.u32(bytemuck::cast_slice(&pack.spans), &[pack.spans.len(), 8])?;
    let query_tokens = machine.u32(&(0..tokens as u32).collect::<Vec<_>>(), &[tokens])?;
    let args = AttentionArgs { heads, spans: &spans, query_tokens: &query_tokens, scale: 1.0 / (dim as f64).sqrt() };
    let shape = format!("{tokens} tokens, {query}/{kv} heads of {dim}, {mask}");
    let forward = AttentionForward { out: &out, lse: &lse, q: &q, k: &k, v: &v, args };
    bench.operation(shape.clone(), forward)?;
    // The backward pass wants statistics that fit.
    machine.cuda.submit(forward.into())?;
    let (dqkv, qkv) = ([&dq, &dk, &dv], [&q, &k, &v]);
    bench.operation(shape, AttentionBackward { dqkv, dout: &dout, out: &out, lse: &lse, qkv, args })
}

fn norms(bench: &mut Bench, model: &Model) -> Result<()> {
    let machine = bench.machine;
    let (rows, hidden) = (model.rows, model.hidden);
    let [x, y, dx, dy] = [(); 4].map(|()| machine.bf16(&[rows, hidden]));
    let (x, y, dx, dy) = (x?, y?, dx?, dy?);
    let (rstd, weight, dweight) = (machine.f32(&[rows])?, machine.bf16(&[hidden])?, machine.f32(&[hidden])?);
    let shape = format!("{rows}x{hidden}");
    let (x, y, rstd, weight) = (&x, &y, &rstd, &weight);
    bench.operation(shape.clone(), RmsnormForward { y, rstd, x, weight, eps: EPS })?;
    bench.operation(shape, RmsnormBackward { dx: &dx, dweight: &dweight, dy: &dy, x, rstd, weight })
}

fn biases(bench: &mut Bench, model: &Model) -> Result<()> {
    let machine = bench.machine;
    let (rows, columns) = (model.rows, (model.heads.query + 2 * model.heads.kv) * model.heads.dim);
    let y = machine.bf16(&[rows, columns])?;
    let (bias, dbias) = (machine.bf16(&[1, columns])?, machine.f32(&[1, columns])?);
    let shape = format!("{rows}x{columns}");
    bench.operation(shape.clone(), BiasForward { y: &y, bias: &bias })?;
    bench.operation(shape, BiasBackward { dbias: &dbias, dy: &y })
}

fn rope(bench: &mut Bench, model: &Model) -> Result<()> {
    let machine = bench.machine;
    let (rows, heads) = (model.rows, model.heads);
    let Heads { query, kv, dim } = heads;
    let fused = machine.bf16(&[rows, (query + 2 * kv) * dim])?;
    let q = machine.bf16(&[kv, rows, heads.group(), dim])?;
    let [k, v] = [machine.bf16(&[kv, rows, dim])?, machine.bf16(&[kv, rows, dim])?];
    let positions = machine.u32(&Pack::ragged(model.tokens).positions[..rows], &[rows])?;
    let parts = Qkv { q: Some(&q), kv: Some((&k, &v)) };
    let shape = format!("{rows} tokens, {query}/{kv} heads of {dim}");
    let (positions, theta) = (&positions, model.theta);
    bench.operation(shape.clone(), RopeForward { dst: parts, src: &fused, positions, heads, rotary: theta.into() })?;
    bench.operation(shape, RopeBackward { dsrc: &fused, grads: parts, positions, heads, rotary: theta.into() })
}

/// Rows of the embedding's table, columns of logits.
fn vocab(machine: &Machine) -> usize {
    if machine.reduced { 1024 } else { 92_544 }
}

fn rows(bench: &mut Bench, model: &Model) -> Result<()> {
    let machine = bench.machine;
    let (rows, hidden, vocab) = (model.rows, model.hidden, vocab(machine));
    let shape = format!("{rows}x{hidden}");

    // Tokens that come again, as they do.
    let ids: Vec<u32> = (0..rows).map(|i| (i * i * 31 % (vocab - 1)) as u32).collect();
    let ids = machine.u32(&ids, &[rows])?;
    let x = machine.bf16(&[rows, hidden])?;
    let table = machine.bf16(&[vocab, hidden])?;
    bench.operation(shape.clone(), EmbeddingForward { y: &x, ids: &ids, table: &table })?;
    let dtable = machine.f32(&[vocab, hidden])?;
    bench.operation(shape, EmbeddingBackward { dtable: &dtable, ids: &ids, dy: &x })?;

    let candidates = model.candidates;
    let last: Vec<u32> = (1..=candidates).map(|i| (i * rows / candidates - 1) as u32).collect();
    let last = machine.u32(&last, &[candidates])?;
    let y = machine.bf16(&[candidates, hidden])?;
    let shape = format!("{candidates}x{hidden}");
    bench.operation(shape.clone(), GatherForward { y: &y, x: &x, rows: &last })?;
    bench.operation(shape, GatherBackward { dx: &x, dy: &y, rows: &last })
}

fn swiglu(bench: &mut Bench, model: &Model) -> Result<()> {
    let machine = bench.machine;
    let (rows, ffn) = (model.rows, model.ffn);
    let [y, gate_up] = [machine.bf16(&[rows, ffn])?, machine.bf16(&[rows, 2 * ffn])?];
    let shape = format!("{rows}x{ffn}");
    let work = bench.work(SwigluForward { y: &y, gate_up: &gate_up })?;
    bench.run("swiglu_forward", shape.clone(), work, &|| launches::swiglu(machine, &y, &gate_up, None))?;
    let work = bench.work(SwigluBackward { dgate_up: &gate_up, dy: &y, gate_up: &gate_up })?;
    bench.run("swiglu_backward", shape, work, &|| launches::swiglu(machine, &y, &gate_up, Some(&gate_up)))
}

/// What a part of an operation moves at least.
fn least(bytes: u64) -> Work {
    Work { bytes, ..Work::default() }
}

/// The reward head, and the language model's.
fn heads(bench: &mut Bench, model: &Model) -> Result<()> {
    let machine = bench.machine;
    let candidates = model.candidates;
    let head = RewardHead::new(machine, &machine.bf16(&[candidates, model.hidden])?)?;
    let shape = format!("{candidates}x{}", model.hidden);
    let [forward, pair_loss, backward] = head.floors_of_parts(machine)?;
    bench.run("reward_head_forward", shape.clone(), least(forward), &|| head.forward(machine))?;
    bench.run("reward_head_pair_loss", shape.clone(), least(pair_loss), &|| head.pair_loss(machine))?;
    bench.run("reward_head_backward", shape.clone(), least(backward), &|| head.backward(machine))?;
    if candidates <= REWARD_HEAD_FUSED_ROWS as usize {
        bench.run("reward_head_loss", shape, bench.work(head.op())?, &|| head.loss(machine))?;
    }

    // A chunk of the rows of a pack; the products around it are among the products.
    let (rows, vocab) = (model.rows.min(2048), vocab(machine) - usize::from(!model.is_aligned()));
    let logits = machine.bf16(&[rows, vocab])?;
    let targets = machine.u32(&(0..rows as u32).collect::<Vec<_>>(), &[rows])?;
    let [weights, losses, total] = [machine.f32(&[rows])?, machine.f32(&[rows])?, machine.f32(&[1])?];
    let params = CrossEntropyParams {
        logits: at(&logits),
        targets: at(&targets),
        weights: at(&weights),
        losses: at(&losses),
        loss: at(&total),
        rows: rows as u32,
        columns: vocab as u32,
        gradient: 1,
    };
    let [softmax, sum] = linear_cross_entropy::plan(rows, vocab.is_multiple_of(8));
    let work = least(bytes(&[&logits, &logits, &targets, &weights, &total, &total]));
    bench.run("linear_cross_entropy", format!("{rows}x{vocab}"), work, &|| {
        // SAFETY: the operands were made for these sizes, and the targets lie below the vocabulary's.
        unsafe {
            let device = machine.cuda.device();
            device.launch(&softmax, &params)?;
            device.launch(&sum, &params)
        }
    })
}

/// Kernels over flat buffers: as many elements as a layer has parameters.
fn flat(bench: &mut Bench, model: &Model) -> Result<()> {
    let machine = bench.machine;
    let of_a_layer = model.linears().iter().map(|linear| linear.n * linear.k).sum::<usize>() + 2 * model.hidden;
    let len = if machine.reduced { (1 << 17) + 3 } else { of_a_layer };
    let flat = Flat::new(machine, len)?;
    let shape = len.to_string();
    let Flat { weights, m, grads, squares, .. } = &flat;
    let work = bench.work(flat.op())?;
    bench.run("adamw", shape.clone(), work, &|| flat.adamw(machine))?;
    bench.operation(shape.clone(), SumOfSquares { sum: squares, x: grads })?;
    bench.operation(shape.clone(), CountNonFinite { count: squares, x: grads })?;

    for x in [m, weights] {
        let launch = fill::plan(x.dtype(), len, &machine.properties());
        let params = FillParams { out: at(x), count: len as u64, value: 0.5 };
        let work = bench.work(Fill { x, value: 0.5 })?;
        bench.run(launch.kernel.name, shape.clone(), work, &|| {
            // SAFETY: the buffer has that many elements of the kernel's type.
            unsafe { machine.cuda.device().launch(&launch, &params) }
        })?;
    }
    Ok(())
}

/// Part of a whole in percent; a dash if there is no whole.
fn percent(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:.1} %", 100.0 * part / whole) } else { "-".into() }
}
