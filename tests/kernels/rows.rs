//! Operations on rows: norm, bias, rotary split, embedding, gather, SwiGLU.

use polar_raw::backend::{Heads, Operations, Qkv, rope_frequency};
use polar_raw::cuda::abi::{
    self, BiasParams, EmbeddingBackwardParams, HeadRmsnormBackwardParams, HeadRmsnormParams, RmsnormBackwardParams,
    RmsnormParams, RopeParams, RowsParams, SwigluParams,
};
use polar_raw::cuda::kernel::Launch;
use polar_raw::cuda::{
    bias as biases, embedding as table_kernels, gather as gathering, head_rmsnorm as head_norm, rmsnorm,
    rope as heads_kernels, swiglu as activation,
};
use polar_raw::reference::Reference;

use crate::device::{Device, Kernels};
use crate::values::{BF16, Draw, F32, close, empty, indices, round_bf16, tensor, values_of};

/// Whether rows of so many columns are aligned; all begin at aligned addresses.
fn aligned(columns: usize) -> bool {
    columns.is_multiple_of(8)
}

const EPS: f64 = 1e-5;

pub fn rmsnorm_forward(kernels: &Kernels) {
    for (rows, columns) in [(1, 1), (3, 8), (2, 120), (3, 77), (2, 1032), (1, 2048), (1, 300)] {
        let (device, mut draw) = (Device::new(kernels), Draw::new(columns as u64));
        let n = rows * columns;
        let (x, weight) = (draw.bf16(n, 2.0), draw.bf16(columns, 1.0));
        let params = RmsnormParams {
            y: device.poisoned(2 * n),
            rstd: device.poisoned(4 * rows),
            x: device.bf16(&x),
            weight: device.bf16(&weight),
            columns: columns as u32,
            eps: EPS as f32,
        };
        device.launch(&rmsnorm::plan_forward(rows, columns, aligned(columns)).unwrap(), &params);
        let (y, rstd) = (empty(&[rows, columns]), empty(&[rows]));
        let eps = f64::from(EPS as f32);
        let (x, weight) = (tensor(&x, &[rows, columns]), tensor(&weight, &[columns]));
        Reference.rmsnorm_forward(&y, &rstd, &x, &weight, eps).unwrap();
        close("rstd", &device.read_f32(params.rstd, rows), &values_of(&rstd), 40.0 * F32, 0.0);
        close("y", &device.read_bf16(params.y, n), &values_of(&y), 1.01 * BF16, 0.0);
    }
}

pub fn rmsnorm_backward(kernels: &Kernels) {
    // The last two leave more partial sums than there are warps to add them up.
    for (rows, columns) in [(1, 1), (5, 8), (17, 120), (33, 77), (40, 1032), (300, 8), (1100, 8)] {
        let (device, mut draw) = (Device::new(kernels), Draw::new(columns as u64));
        let n = rows * columns;
        let [x, dy, dx] = [2.0, 1.0, 1.0].map(|size| draw.bf16(n, size));
        let (weight, dweight) = (draw.bf16(columns, 1.0), draw.f32(columns, 1.0));
        let (y, rstd) = (empty(&[rows, columns]), empty(&[rows]));
        let [x_t, dy_t, dx_t] = [&x, &dy, &dx].map(|values| tensor(values, &[rows, columns]));
        let weight_t = tensor(&weight, &[columns]);
        Reference.rmsnorm_forward(&y, &rstd, &x_t, &weight_t, EPS).unwrap();
        let blocks = rows.div_ceil(abi::RMSNORM_BACKWARD_ROWS as usize);
        let params = RmsnormBackwardParams {
            dx: device.bf16(&dx),
            dweight: device.f32(&dweight),
            partials: device.poisoned(4 * blocks * columns),
            dy: device.bf16(&dy),
            x: device.bf16(&x),
            rstd: device.f32(&values_of(&rstd)),
            weight: device.bf16(&weight),
            rows: rows as u32,
            columns: columns as u32,
        };
        for launch in rmsnorm::plan_backward(rows, columns, aligned(columns)).unwrap() {
            device.launch(&launch, &params);
        }
        let dweight_t = tensor(&dweight, &[columns]);
        Reference.rmsnorm_backward(&dx_t, &dweight_t, &dy_t, &x_t, &rstd, &weight_t).unwrap();
        close("dx", &device.read_bf16(params.dx, n), &values_of(&dx_t), BF16, 1e-5);
        close("dweight", &device.read_f32(params.dweight, columns), &values_of(&dweight_t), 1e-6, 1e-5);
    }
}

pub fn head_rmsnorm(kernels: &Kernels) {
    // Vectors around those that a block has at one time, and one more than it sums; the last two leave more partial sums
    // than there are warps to add them up.
    let shapes = [(1, 2), (5, 7), (15, 8), (33, 64), (17, 128), (9, 127), (257, 120), (257, 33), (8500, 8), (8500, 3)];
    for (vectors, dim) in shapes {
        let (device, mut draw) = (Device::new(kernels), Draw::new(dim as u64));
        let n = vectors * dim;
        let [x, dy] = [2.0, 1.0].map(|size| draw.bf16(n, size));
        let (weight, dweight) = (draw.bf16(dim, 1.0), draw.f32(dim, 1.0));
        let dims = [1, vectors, dim];
        let eps = EPS as f32;
        let params = HeadRmsnormParams {
            y: device.poisoned(2 * n),
            rstd: device.poisoned(4 * vectors),
            x: device.bf16(&x),
            weight: device.bf16(&weight),
            vectors: vectors as u32,
            dim: dim as u32,
            eps,
        };
        device.launch(&head_norm::plan_forward(vectors, dim, aligned(dim)).unwrap(), &params);
        let (y, rstd) = (empty(&dims), empty(&dims[..2]));
        let (x_t, weight_t) = (tensor(&x, &dims), tensor(&weight, &[dim]));
        Reference.head_rmsnorm_forward(&y, &rstd, &x_t, &weight_t, f64::from(eps)).unwrap();
        close("rstd", &device.read_f32(params.rstd, vectors), &values_of(&rstd), 40.0 * F32, 0.0);
        close("y", &device.read_bf16(params.y, n), &values_of(&y), 1.01 * BF16, 0.0);

        let blocks = vectors.div_ceil(abi::HEAD_RMSNORM_BACKWARD_VECTORS as usize);
        let params = HeadRmsnormBackwardParams {
            dx: device.poisoned(2 * n),
            dweight: device.f32(&dweight),
            partials: device.poisoned(4 * blocks * dim),
            dy: device.bf16(&dy),
            x: params.x,
            rstd: device.f32(&values_of(&rstd)),
            weight: params.weight,
            vectors: vectors as u32,
            dim: dim as u32,
        };
        for launch in head_norm::plan_backward(vectors, dim, aligned(dim)).unwrap() {
            device.launch(&launch, &params);
        }
        let (dx, dweight) = (empty(&dims), tensor(&dweight, &[dim]));
        Reference.head_rmsnorm_backward(&dx, &dweight, &tensor(&dy, &dims), &x_t, &rstd, &weight_t).unwrap();
        close("dx", &device.read_bf16(params.dx, n), &values_of(&dx), BF16, 1e-5);
        close("dweight", &device.read_f32(params.dweight, dim), &values_of(&dweight), 1e-6, 1e-4);
    }
}

pub fn bias(kernels: &Kernels) {
    // Rows around a block's; parts with gaps between them; more columns than a block's threads have; more partial sums
    // than there are warps to add them up.
    let shapes =
        [(1, 1, 1, 0), (64, 1, 8, 0), (65, 3, 16, 8), (3, 2, 5, 4), (130, 1, 1032, 0), (7, 1, 301, 0), (580, 2, 4, 1)];
    for (rows, parts, part, gap) in shapes {
        let (device, mut draw) = (Device::new(kernels), Draw::new(part as u64));
        let (columns, ld) = (parts * part, part + gap);
        let (y, wide, dwide) = (draw.bf16(rows * columns, 1.0), draw.bf16(parts * ld, 1.0), draw.f32(parts * ld, 1.0));
        let mut params = BiasParams {
            y: device.bf16(&y),
            bias: device.bf16(&wide),
            dbias: device.f32(&dwide),
            partials: device.poisoned(4 * rows.div_ceil(abi::BIAS_ROWS as usize) * columns),
            rows: rows as u32,
            columns: columns as u32,
            part: part as u32,
            ldbias: ld as u32,
        };
        device.launch(&biases::plan_forward(rows, columns, aligned(part)), &params);
        let band = |values: &[f64]| tensor(values, &[parts, ld]).slice_cols(0..part);
        let want = tensor(&y, &[rows, columns]);
        Reference.bias_forward(&want, &band(&wide)).unwrap();
        let want: Vec<f64> = values_of(&want).into_iter().map(round_bf16).collect();
        close("forward", &device.read_bf16(params.y, rows * columns), &want, 0.0, 0.0);

        params.y = device.bf16(&y);
        for launch in biases::plan_backward(rows, columns, aligned(part)) {
            device.launch(&launch, &params);
        }
        let want = tensor(&dwide, &[parts, ld]);
        Reference.bias_backward(&want.slice_cols(0..part), &tensor(&y, &[rows, columns])).unwrap();
        close("backward", &device.read_f32(params.dbias, parts * ld), &values_of(&want), 1e-6, 1e-5);
    }
}

pub fn rope(kernels: &Kernels) {
    let small = [(4, 2, 16, 3), (6, 2, 8, 5), (1, 1, 2, 1), (8, 8, 64, 2), (3, 1, 128, 9), (2, 1, 32, 33)];
    let several_blocks = [(2, 1, 16, 300), (2, 1, 6, 90)];
    for (query, kv, dim, rows) in small.into_iter().chain(several_blocks) {
        let heads = Heads { query, kv, dim };
        for (with_q, with_kv) in [(true, true), (true, false), (false, true)] {
            let (device, mut draw) = (Device::new(kernels), Draw::new(dim as u64));
            let group = heads.group();
            let columns = kv * (if with_q { group } else { 0 } + if with_kv { 2 } else { 0 }) * dim;
            let positions: Vec<u32> = draw.below(rows, 30_000);
            let src = draw.bf16(rows * columns, 2.0);
            let theta = 10_000.0_f64;
            let frequencies: Vec<f64> = (0..dim / 2).map(|i| f64::from(rope_frequency(i, dim, theta))).collect();
            let (q_len, k_len) = (kv * rows * group * dim, kv * rows * dim);
            let optional = |there: bool, len: usize| if there { device.poisoned(2 * len) } else { 0 };
            let mut params = RopeParams {
                fused: device.bf16(&src),
                q: optional(with_q, q_len),
                k: optional(with_kv, k_len),
                v: optional(with_kv, k_len),
                positions: device.u32(&positions),
                frequencies: device.f32(&frequencies),
                rows: rows as u32,
                kv_heads: kv as u32,
                group: group as u32,
                dim: dim as u32,
            };
            device.launch(&heads_kernels::plan_forward(rows, heads, dim.is_multiple_of(16)), &params);

            let (q, k, v) = (empty(&[kv, rows, group, dim]), empty(&[kv, rows, dim]), empty(&[kv, rows, dim]));
            let parts = Qkv { q: with_q.then_some(&q), kv: with_kv.then_some((&k, &v)) };
            let (src, at) = (tensor(&src, &[rows, columns]), indices(&positions, &[rows]));
            Reference.rope_forward(parts, &src, &at, heads, theta.into()).unwrap();
            let mut all = Vec::new();
            if with_q {
                all.push((params.q, q_len, &q));
            }
            if with_kv {
                all.extend([(params.k, k_len, &k), (params.v, k_len, &v)]);
            }
            for (at, len, want) in all {
                close("forward", &device.read_bf16(at, len), &values_of(want), BF16, 1e-6);
            }

            // Backward from fresh gradients.
            let [dq, dk, dv] = [q_len, k_len, k_len].map(|len| draw.bf16(len, 1.0));
            params.fused = device.poisoned(2 * rows * columns);
            (params.q, params.k, params.v) = (
                if with_q { device.bf16(&dq) } else { 0 },
                if with_kv { device.bf16(&dk) } else { 0 },
                if with_kv { device.bf16(&dv) } else { 0 },
            );
            device.launch(&heads_kernels::plan_backward(rows, heads, dim.is_multiple_of(16)), &params);
            let dims = [kv, rows, dim];
            let (q, k, v) = (tensor(&dq, &[kv, rows, group, dim]), tensor(&dk, &dims), tensor(&dv, &dims));
            let parts = Qkv { q: with_q.then_some(&q), kv: with_kv.then_some((&k, &v)) };
            let want = empty(&[rows, columns]);
            Reference.rope_backward(&want, parts, &at, heads, theta.into()).unwrap();
            close("backward", &device.read_bf16(params.fused, rows * columns), &values_of(&want), BF16, 1e-6);
        }
    }
}

pub fn embedding(kernels: &Kernels) {
    // Ids that occur often, ids that occur once; more tokens, and more columns, than a block has threads.
    let shapes = [(1, 1, 1), (5, 3, 8), (300, 7, 24), (700, 400, 13), (40, 9, 2056), (20, 9, 301)];
    for (tokens, vocabulary, columns) in shapes {
        let (device, mut draw) = (Device::new(kernels), Draw::new(columns as u64));
        let ids = draw.below(tokens, vocabulary as u32);
        let table = draw.bf16(vocabulary * columns, 1.0);
        let params = RowsParams {
            out: device.poisoned(2 * tokens * columns),
            from: device.bf16(&table),
            ids: device.u32(&ids),
            columns: columns as u32,
        };
        device.launch(&table_kernels::plan_forward(tokens, aligned(columns)), &params);
        let want = empty(&[tokens, columns]);
        let ids_t = indices(&ids, &[tokens]);
        Reference.embedding_forward(&want, &ids_t, &tensor(&table, &[vocabulary, columns])).unwrap();
        close("forward", &device.read_bf16(params.out, tokens * columns), &values_of(&want), 0.0, 0.0);

        let (dy, dtable) = (draw.bf16(tokens * columns, 1.0), draw.f32(vocabulary * columns, 1.0));
        let params = EmbeddingBackwardParams {
            dtable: device.f32(&dtable),
            ids: device.u32(&ids),
            dy: device.bf16(&dy),
            rows: tokens as u32,
            columns: columns as u32,
        };
        device.launch(&table_kernels::plan_backward(tokens, columns, columns.is_multiple_of(4)), &params);
        let want = tensor(&dtable, &[vocabulary, columns]);
        Reference.embedding_backward(&want, &ids_t, &tensor(&dy, &[tokens, columns])).unwrap();
        close("backward", &device.read_f32(params.dtable, vocabulary * columns), &values_of(&want), 1e-6, 1e-5);
    }
}

pub fn gather(kernels: &Kernels) {
    for (all, selected, columns) in [(1, 1, 1), (9, 4, 8), (5, 5, 21), (6, 3, 2048), (6, 3, 301)] {
        let (device, mut draw) = (Device::new(kernels), Draw::new(columns as u64));
        let rows = draw.distinct(selected, all as u32);
        let x = draw.bf16(all * columns, 1.0);
        let params = RowsParams {
            out: device.poisoned(2 * selected * columns),
            from: device.bf16(&x),
            ids: device.u32(&rows),
            columns: columns as u32,
        };
        device.launch(&gathering::plan_forward(selected, aligned(columns)), &params);
        let want = empty(&[selected, columns]);
        let rows_t = indices(&rows, &[selected]);
        Reference.gather_forward(&want, &tensor(&x, &[all, columns]), &rows_t).unwrap();
        close("forward", &device.read_bf16(params.out, selected * columns), &values_of(&want), 0.0, 0.0);

        let dy = draw.bf16(selected * columns, 1.0);
        let params = RowsParams { out: device.bf16(&x), from: device.bf16(&dy), ..params };
        device.launch(&gathering::plan_backward(selected, aligned(columns)), &params);
        let want = tensor(&x, &[all, columns]);
        Reference.gather_backward(&want, &tensor(&dy, &[selected, columns]), &rows_t).unwrap();
        close("backward", &device.read_bf16(params.out, all * columns), &values_of(&want), BF16, 0.0);
    }
}

pub fn swiglu(kernels: &Kernels) {
    // The last two are more than the grid does at once.
    for (rows, columns) in [(1, 1), (3, 8), (7, 13), (5, 264), (7, 93), (9, 520)] {
        for in_place in [false, true] {
            let (device, mut draw) = (Device::new(kernels), Draw::new(columns as u64));
            let (gate_up, dy) = (draw.bf16(2 * rows * columns, 8.0), draw.bf16(rows * columns, 1.0));
            let mut params = SwigluParams {
                y: device.poisoned(2 * rows * columns),
                gate_up: device.bf16(&gate_up),
                dgate_up: 0,
                rows: rows as u32,
                columns: columns as u32,
            };
            let gate_up = tensor(&gate_up, &[rows, 2 * columns]);
            // Two blocks, so that they have several turns.
            let few = |launch: Launch<SwigluParams>| Launch { grid: [2, 1], ..launch };
            let (all, properties) = (rows * columns, Device::properties());
            device.launch(&few(activation::plan_forward(all, aligned(columns), &properties)), &params);
            let want = empty(&[rows, columns]);
            Reference.swiglu_forward(&want, &gate_up).unwrap();
            close("forward", &device.read_bf16(params.y, rows * columns), &values_of(&want), 1.01 * BF16, 1e-6);

            params.y = device.bf16(&dy);
            params.dgate_up = if in_place { params.gate_up } else { device.poisoned(4 * rows * columns) };
            device.launch(&few(activation::plan_backward(all, aligned(columns), &properties)), &params);
            let want = empty(&[rows, 2 * columns]);
            Reference.swiglu_backward(&want, &tensor(&dy, &[rows, columns]), &gate_up).unwrap();
            let got = device.read_bf16(params.dgate_up, 2 * rows * columns);
            close("backward", &got, &values_of(&want), 1.01 * BF16, 1e-5);
        }
    }
}

/// Blocks in another order, and not a bit of a sum that many of them have a part in changes.
pub fn order_does_not_matter(kernels: &Kernels) {
    let (tokens, vocabulary, columns) = (300, 5, 64);
    let mut draw = Draw::new(7);
    let (ids, dy) = (draw.below(tokens, vocabulary), draw.bf16(tokens * columns, 1.0));
    let sums = |seed| {
        let device = Device::in_order(kernels, seed);
        let params = EmbeddingBackwardParams {
            dtable: device.f32(&vec![0.0; vocabulary as usize * columns]),
            ids: device.u32(&ids),
            dy: device.bf16(&dy),
            rows: tokens as u32,
            columns: columns as u32,
        };
        device.launch(&table_kernels::plan_backward(tokens, columns, true), &params);
        device.read_f32(params.dtable, vocabulary as usize * columns)
    };
    let first = sums(1);
    assert!((2..6).all(|seed| sums(seed) == first), "results depend on the order of blocks and warps");
}
