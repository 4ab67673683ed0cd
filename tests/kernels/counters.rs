//! What kernels move, in numbers that do not depend on time: no bank conflicts, whole sectors, and for those that memory
//! limits the fewest bytes that there can be, within 5 %.

use emulator::Report;
use polar_raw::backend::{Gemm, Heads};
use polar_raw::cuda::abi::{
    self, AdamwParams, AttentionParams, BiasParams, FlatSumParams, GemmParams, RmsnormBackwardParams, RmsnormParams,
    RopeParams, RowsParams, Span, SwigluParams,
};
use polar_raw::cuda::gemm::{Product, variants};
use polar_raw::cuda::kernels;
use polar_raw::cuda::{attention as attention_kernels, bias, count_non_finite, rmsnorm, rope, sum_of_squares};

use crate::device::{Device, Kernels};
use crate::values::Draw;

fn no_bank_conflicts(report: &Report) {
    let counters = &report.counters;
    assert!(counters.shared_loads.requests > 0, "{}", report.kernel);
    assert_eq!((counters.shared_loads.conflicts, counters.shared_stores.conflicts), (0, 0), "{}", report.kernel);
}

/// Every request touches the fewest sectors that could hold what its lanes ask for.
fn whole_sectors(report: &Report) {
    for traffic in [report.counters.loads, report.counters.stores] {
        let (touched, fewest) = (traffic.sectors, traffic.fewest_sectors);
        assert!(touched as f64 <= 1.05 * fewest as f64, "{}: {touched} sectors, {fewest} would do", report.kernel);
    }
}

/// What has to come from and go to memory is no more than `floor` bytes, within 5 %, and moves by whole sectors.
fn fewest_bytes(report: &Report, floor: usize) {
    whole_sectors(report);
    fewest_bytes_beyond_caches(report, floor);
}

/// The same, where small tables come from caches in any shape.
fn fewest_bytes_beyond_caches(report: &Report, floor: usize) {
    let moved = 32 * (report.counters.loads.footprint_sectors + report.counters.stores.footprint_sectors);
    assert!(moved as f64 <= 1.05 * floor as f64, "{}: {moved} bytes, {floor} are the fewest", report.kernel);
}

#[test]
fn products() {
    let (m, n, k) = (256, 512, 192);
    for (layout, [lda, ldb]) in [(Gemm::Nt, [k, k]), (Gemm::Nn, [k, n]), (Gemm::Tn, [m, n])] {
        for variant in variants(Product::Plain(layout), true) {
            for out_is_f32 in [0, 1] {
                let (device, mut draw) = (Device::new(Kernels::committed()), Draw::new(1));
                let params = GemmParams {
                    out: device.poisoned(4 * (m * n) as usize),
                    a: device.bf16(&draw.bf16((m * k) as usize, 1.0)),
                    b: device.bf16(&draw.bf16((n * k) as usize, 1.0)),
                    m,
                    n,
                    k,
                    lda,
                    ldb,
                    ldout: n,
                    out_is_f32,
                    ..GemmParams::default()
                };
                let report = device.launch(&variant.launch(m as usize, n as usize), &params);
                no_bank_conflicts(&report);
                whole_sectors(&report);
                assert_eq!(report.counters.mma_operations, 2 * u64::from(m * n * k), "{}", report.kernel);
            }
        }
    }
}

#[test]
fn attention() {
    for dim in [64, 128] {
        let (device, mut draw) = (Device::new(Kernels::committed()), Draw::new(2));
        let tokens = 256;
        let len = (tokens * dim) as usize;
        let spans = [Span { queries: tokens, own: tokens, ..Span::default() }];
        let spans: Vec<u32> =
            spans.iter().flat_map(|s| [s.query_start, s.queries, s.own_start, s.own, 0, 0, 0, 0]).collect();
        let params = AttentionParams {
            q: device.bf16(&draw.bf16(len, 1.0)),
            k: device.bf16(&draw.bf16(len, 1.0)),
            v: device.bf16(&draw.bf16(len, 1.0)),
            out: device.poisoned(2 * len),
            lse: device.poisoned(4 * tokens as usize),
            spans: device.u32(&spans),
            query_tokens: device.u32(&(0..tokens).collect::<Vec<u32>>()),
            n_spans: 1,
            queries: tokens,
            tokens,
            kv_heads: 1,
            group: 1,
            dim,
            scale: 1.0 / (dim as f32).sqrt(),
        };
        let heads = Heads { query: 1, kv: 1, dim: dim as usize };
        let report = device.launch(&attention_kernels::plan_forward(heads, tokens as usize).unwrap(), &params);
        no_bank_conflicts(&report);
        whole_sectors(&report);
        // The upper of the two tiles of 128 rows sees 128 keys, the lower 256: a quarter of the square is never touched.
        let products = 2 * 2 * u64::from(128 * 128 * dim) * 3;
        assert_eq!(report.counters.mma_operations, products, "{}", report.kernel);
    }
}

const ROWS: usize = 64;
const COLUMNS: usize = 2048;
const N: usize = ROWS * COLUMNS;

#[test]
fn norms() {
    let (device, mut draw) = (Device::new(Kernels::committed()), Draw::new(3));
    let forward = rmsnorm::plan_forward(ROWS, COLUMNS, true).unwrap();
    let params = RmsnormParams {
        y: device.poisoned(2 * N),
        rstd: device.poisoned(4 * ROWS),
        x: device.bf16(&draw.bf16(N, 1.0)),
        weight: device.bf16(&draw.bf16(COLUMNS, 1.0)),
        columns: COLUMNS as u32,
        eps: 1e-5,
    };
    fewest_bytes(&device.launch(&forward, &params), 4 * N);

    let blocks = ROWS as u32 / abi::RMSNORM_BACKWARD_ROWS;
    let params = RmsnormBackwardParams {
        dx: device.bf16(&draw.bf16(N, 1.0)),
        dweight: device.f32(&draw.f32(COLUMNS, 1.0)),
        partials: device.poisoned(4 * blocks as usize * COLUMNS),
        dy: device.bf16(&draw.bf16(N, 1.0)),
        x: device.bf16(&draw.bf16(N, 1.0)),
        rstd: device.f32(&draw.f32(ROWS, 1.0)),
        weight: device.bf16(&draw.bf16(COLUMNS, 1.0)),
        rows: ROWS as u32,
        columns: COLUMNS as u32,
    };
    // A row of partial sums in f32 for 16 rows that are moved.
    let [of_rows, _] = rmsnorm::plan_backward(ROWS, COLUMNS, true).unwrap();
    let report = device.launch(&of_rows, &params);
    fewest_bytes_beyond_caches(&report, 8 * N + 4 * N / abi::RMSNORM_BACKWARD_ROWS as usize);
}

#[test]
fn biases() {
    let (device, mut draw) = (Device::new(Kernels::committed()), Draw::new(6));
    let params = BiasParams {
        y: device.bf16(&draw.bf16(N, 1.0)),
        bias: device.bf16(&draw.bf16(COLUMNS, 1.0)),
        dbias: device.f32(&draw.f32(COLUMNS, 1.0)),
        partials: device.poisoned(4 * N / abi::BIAS_ROWS as usize),
        rows: ROWS as u32,
        columns: COLUMNS as u32,
        part: COLUMNS as u32,
        ldbias: COLUMNS as u32,
    };
    fewest_bytes(&device.launch(&bias::plan_forward(ROWS, COLUMNS, true), &params), 4 * N);
    // A row of partial sums in f32 for the rows of a block.
    let floor = 2 * N + 4 * N / abi::BIAS_ROWS as usize;
    let [partial, _] = bias::plan_backward(ROWS, COLUMNS, true);
    fewest_bytes_beyond_caches(&device.launch(&partial, &params), floor);
}

#[test]
fn rows() {
    let (device, mut draw) = (Device::new(Kernels::committed()), Draw::new(4));
    let params = RowsParams {
        out: device.bf16(&draw.bf16(N, 1.0)),
        from: device.bf16(&draw.bf16(N, 1.0)),
        ids: device.u32(&draw.distinct(ROWS, ROWS as u32)),
        columns: COLUMNS as u32,
    };
    let grid = [ROWS, 1];
    for (kernel, bytes) in
        [(kernels::EMBEDDING_FORWARD_VEC8, 4), (kernels::GATHER_FORWARD_VEC8, 4), (kernels::GATHER_BACKWARD_VEC8, 6)]
    {
        fewest_bytes(&device.launch(&kernel.on(grid), &params), bytes * N);
    }

    let params = SwigluParams {
        y: device.bf16(&draw.bf16(N, 1.0)),
        gate_up: device.bf16(&draw.bf16(2 * N, 1.0)),
        dgate_up: device.poisoned(4 * N),
        rows: ROWS as u32,
        columns: COLUMNS as u32,
    };
    fewest_bytes(&device.launch(&kernels::SWIGLU_BACKWARD_VEC8.on([16, 1]), &params), 10 * N);
    fewest_bytes(&device.launch(&kernels::SWIGLU_FORWARD_VEC8.on([16, 1]), &params), 6 * N);

    let (kv_heads, group, dim) = (8, 2, 128);
    let len = ROWS * kv_heads * (group + 2) * dim;
    let params = RopeParams {
        fused: device.bf16(&draw.bf16(len, 1.0)),
        q: device.poisoned(2 * ROWS * kv_heads * group * dim),
        k: device.poisoned(2 * ROWS * kv_heads * dim),
        v: device.poisoned(2 * ROWS * kv_heads * dim),
        positions: device.u32(&draw.below(ROWS, 4096)),
        frequencies: device.f32(&draw.f32(dim / 2, 1.0)),
        rows: ROWS as u32,
        kv_heads: kv_heads as u32,
        group: group as u32,
        dim: dim as u32,
    };
    let heads = Heads { query: kv_heads * group, kv: kv_heads, dim };
    for launch in [rope::plan_forward(ROWS, heads, true), rope::plan_backward(ROWS, heads, true)] {
        fewest_bytes_beyond_caches(&device.launch(&launch, &params), 4 * len);
    }
}

#[test]
fn flat_buffers() {
    let (device, mut draw) = (Device::new(Kernels::committed()), Draw::new(5));
    let f32s = |draw: &mut Draw| device.f32(&draw.f32(N, 1.0).iter().map(|x| x.abs()).collect::<Vec<f64>>());
    let params = AdamwParams {
        master: f32s(&mut draw),
        weights: device.poisoned(2 * N),
        m: f32s(&mut draw),
        v: f32s(&mut draw),
        grads: f32s(&mut draw),
        squares: device.f32(&[1.0]),
        losses: device.f32(&[0.5, 0.25]),
        count: N as u64,
        n_losses: 2,
        max_norm: 1.0,
        beta1: 0.9,
        beta2: 0.95,
        rest1: 0.1,
        rest2: 0.05,
        decay: 1.0,
        rate: 1e-3,
        root: 1.0,
        eps: 1e-8,
    };
    // Each of the buffers counts once as read and once as written.
    fewest_bytes(&device.launch(&kernels::ADAMW.on([32, 1]), &params), 30 * N);
    let chunks = N.div_ceil(abi::FLAT_SUM_CHUNK as usize);
    let sums =
        FlatSumParams { sum: params.squares, x: params.grads, partials: device.poisoned(4 * chunks), count: N as u64 };
    for [partial, _] in [sum_of_squares::plan(N), count_non_finite::plan(N)] {
        fewest_bytes(&device.launch(&partial, &sums), 4 * N);
    }
}
