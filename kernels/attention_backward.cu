// Attention backward, through the logarithm of the sum of exponentials (Dao, arXiv 2307.08691, section 2.3.2):
//   p = exp(scale q k^T - lse)    ds = p (dout v^T - delta), delta = dout . out of each row
//   dv = p^T dout                 dq = scale ds k             dk = scale ds^T q
//
// The gradients of queries are sums over keys and those of keys and values sums over queries. One pass over both would
// have to add one of them with atomics, in an order that differs from run to run. So there are two passes, each with
// its sums in registers: one by rows, which computes scores, `dout v^T` and dq, and one by keys, which computes both
// again and dk and dv: 7 products where a pass with atomics has 5. Floor: 14 queries keys dim operations a head over
// what the mask leaves.
//
// In the pass by keys everything is transposed: scores are `k q^T`, so that probabilities come out of the tensor cores
// as the operand `p^T` of the next product, and none goes through shared memory. Both passes have two buffers for what
// moves, 32 keys or rows of each, and 97 KB in all for a head of 128, which fits the 99 KB of the smallest cards since
// sm_80.
#include "attention.cuh"

// Keys, or rows, of one step of a pass.
constexpr int STEP = 32;

// ---- The pass by rows: dq ----

constexpr int Q_ROWS = ATTENTION_ROWS, Q_THREADS = ATTENTION_BACKWARD_Q_THREADS;
constexpr int WARP_ROWS = Q_ROWS / (Q_THREADS / 32);
static_assert(WARP_ROWS == 32, "a lane looks after the mask of one row");

template <class Head> struct SharedQ {
    uint4 q[Q_ROWS * Head::CHUNKS];
    uint4 dout[Q_ROWS * Head::CHUNKS];
    uint4 k[2][STEP * Head::CHUNKS];
    uint4 v[2][STEP * Head::CHUNKS];
    Visible visible[Q_ROWS];
};

// Turns scores into `ds`: `p (dp - delta)`. Statistics are those of a thread's 4 rows, `lse` in powers of 2.
__device__ inline void score_gradient(Products<STEP> &scores, const Products<STEP> &dp, const float (&lse)[4],
                                      const float (&delta)[4], float scale_log2) {
#pragma unroll
    for (int r = 0; r < 4; r++) {
#pragma unroll
        for (int j = 0; j < STEP / 8; j++) {
#pragma unroll
            for (int at = 2 * (r % 2); at < 2 * (r % 2) + 2; at++) {
                float &s = scores[r / 2][j][at];
                s = ptx::ex2(fmaf(s, scale_log2, -lse[r])) * (dp[r / 2][j][at] - delta[r]);
            }
        }
    }
}

template <class Head> __device__ inline void attention_backward_q(const AttentionBackwardParams &p) {
    SharedQ<Head> &shared = *reinterpret_cast<SharedQ<Head> *>(shared_memory);
    const uint32_t q = ptx::cvta_shared(shared.q), dout = ptx::cvta_shared(shared.dout);
    const uint32_t k = ptx::cvta_shared(shared.k), v = ptx::cvta_shared(shared.v);
    constexpr uint32_t BUFFER = sizeof(shared.k[0]);
    const uint32_t dim = Head::dim(p.dim), head = blockIdx.y, lane = threadIdx.x % 32;
    const bool aligned = Head::aligned(p.dim);
    const uint32_t rows = p.queries * p.group, first_row = (gridDim.x - 1 - blockIdx.x) * Q_ROWS;
    const size_t head_rows = static_cast<size_t>(head) * rows;

    const bf16 *q_rows = p.q + (head_rows + first_row) * dim;
    load_tile<Q_ROWS, Head::CHUNKS, Q_THREADS>(q, rows - first_row, dim, aligned,
                                               [&](uint32_t row) { return q_rows + static_cast<size_t>(row) * dim; });
    load_tile<Q_ROWS, Head::CHUNKS, Q_THREADS>(dout, rows - first_row, dim, aligned, [&](uint32_t row) {
        return p.dout + out_row(p, head, first_row + row) * dim;
    });
    for (uint32_t row = threadIdx.x; row < Q_ROWS; row += Q_THREADS) {
        const uint32_t query = (first_row + row) / p.group;
        shared.visible[row] = query < p.queries ? load_visible(p.visible + query) : Visible{0, 0, 0, 0};
    }
    const uint32_t warp_row = threadIdx.x / 32 * WARP_ROWS;
    float lse[4], delta[4];
#pragma unroll
    for (int r = 0; r < 4; r++) {
        const uint32_t row = first_row + warp_row + 8 * r + lane / 4;
        lse[r] = row < rows ? LOG2E * p.lse[head_rows + row] : 0.0f;
        delta[r] = row < rows ? p.delta[head_rows + row] : 0.0f;
    }

    float dq[2][Head::DIM / 8][4] = {};
    const float scale_log2 = p.scale * LOG2E;
    __syncthreads();
    const auto load = [&](uint32_t buffer, uint32_t key) {
        load_keys<Head, STEP, Q_THREADS>(p, k + buffer * BUFFER, v + buffer * BUFFER, head, key);
    };
    each_block<Q_ROWS, STEP>(shared.visible, load, [&](uint32_t buffer, uint32_t key) {
        Products<STEP> scores = {}, dp = {};
        multiply<Head, STEP>(scores, q, warp_row, k + buffer * BUFFER);
        mask<STEP>(scores, shared.visible + warp_row, key);
        multiply<Head, STEP>(dp, dout, warp_row, v + buffer * BUFFER);
        score_gradient(scores, dp, lse, delta, scale_log2);
        add_weighted<Head, STEP>(dq, scores, k + buffer * BUFFER);
    });
#pragma unroll
    for (int i = 0; i < 2; i++) {
        store_rows(dq[i], p.scale, p.scale, dim, [&](uint32_t within) {
            const uint32_t row = first_row + warp_row + 16 * i + within;
            return row < rows ? p.dq + (head_rows + row) * dim : nullptr;
        });
    }
}

// ---- The pass by keys: dk, dv ----

constexpr int KV_KEYS = ATTENTION_BACKWARD_KV_KEYS, KV_THREADS = ATTENTION_BACKWARD_KV_THREADS;
constexpr int WARP_KEYS = KV_KEYS / (KV_THREADS / 32);
static_assert(WARP_KEYS == 16, "a warp has one operand's height of keys");

template <class Head> struct Rows {
    uint4 q[STEP * Head::CHUNKS];
    uint4 dout[STEP * Head::CHUNKS];
    Visible visible[STEP];
    float lse[STEP];
    float delta[STEP];
};

template <class Head> struct SharedKv {
    uint4 k[KV_KEYS * Head::CHUNKS];
    uint4 v[KV_KEYS * Head::CHUNKS];
    Rows<Head> rows[2];
};

// The queries that see some of the keys `[first_key, last_key)`, run after run. Spans come in the order of their tokens
// and rows of a pack do not see each other, so the spans to look at begin with the first key's and end with its row's.
struct Queries {
    const Span *spans;
    const uint32_t *tokens;
    uint32_t n_spans;
    uint32_t first_key, last_key;
    uint32_t span;

    __device__ Queries(const AttentionBackwardParams &p, uint32_t first_key, uint32_t last_key)
        : spans(p.spans), tokens(p.query_tokens), n_spans(p.n_spans), first_key(first_key), last_key(last_key) {
        uint32_t first = 0, last = n_spans;
        while (first < last) {
            const uint32_t middle = (first + last) / 2;
            if (spans[middle].own_start + spans[middle].own <= first_key) {
                first = middle + 1;
            } else {
                last = middle;
            }
        }
        span = first;
    }

    // The first such run from query `from` on; a lane looks at one span.
    __device__ Run next(uint32_t from) {
        const uint32_t lane = threadIdx.x % 32;
        for (; span < n_spans; span += 32) {
            Run run = {0, 0};
            bool beyond = false;
            if (span + lane < n_spans) {
                const Span s = spans[span + lane];
                run = of(s, from);
                beyond = (s.prefix > 0 ? s.prefix_start : s.own_start) >= last_key;
            }
            const uint32_t found = __ballot_sync(ALL_LANES, !run.empty());
            if (found) {
                const int lowest = __ffs(found) - 1;
                span += lowest;
                return {__shfl_sync(ALL_LANES, run.first, lowest), __shfl_sync(ALL_LANES, run.last, lowest)};
            }
            if (__any_sync(ALL_LANES, beyond)) {
                break;
            }
        }
        return {0, 0};
    }

    __device__ Run of(const Span &s, uint32_t from) const {
        const uint32_t last = s.query_start + s.queries;
        if (max(first_key, s.prefix_start) < min(last_key, s.prefix_start + s.prefix)) {
            return {max(from, s.query_start), last};
        }
        if (max(first_key, s.own_start) >= min(last_key, s.own_start + s.own)) {
            return {0, 0};
        }
        // Queries ascend; those before the first key do not see it.
        uint32_t low = max(from, s.query_start), high = last;
        while (low < high) {
            const uint32_t middle = (low + high) / 2;
            if (tokens[middle] < first_key) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        return {low, last};
    }
};

// A product of a warp's 16 keys and the 32 rows of a step.
using Transposed = float[STEP / 8][4];

template <class Head> __device__ inline void multiply_transposed(Transposed &to, uint32_t keys, uint32_t rows) {
#pragma unroll
    for (int chunk = 0; chunk < Head::CHUNKS; chunk += 2) {
        uint32_t a[4];
        load_a<Head::CHUNKS>(a, keys, threadIdx.x / 32 * WARP_KEYS, chunk);
#pragma unroll
        for (int j = 0; j < STEP / 8; j += 2) {
            uint32_t b[4];
            load_b<Head::CHUNKS>(b, rows, 8 * j, chunk);
            ptx::mma_m16n8k16(to[j], a, b[0], b[1]);
            ptx::mma_m16n8k16(to[j + 1], a, b[2], b[3]);
        }
    }
}

// `to += weights^T rows`: the rows of a step, each weighted for every key.
template <class Head>
__device__ inline void add_rows(float (&to)[Head::DIM / 8][4], const Transposed &weights, uint32_t rows) {
#pragma unroll
    for (int row = 0; row < STEP; row += 16) {
        uint32_t a[4];
        as_operand(a, weights[row / 8], weights[row / 8 + 1]);
#pragma unroll
        for (int chunk = 0; chunk < Head::CHUNKS; chunk += 2) {
            uint32_t b[4];
            load_b_trans<Head::CHUNKS>(b, rows, row, chunk);
            ptx::mma_m16n8k16(to[chunk], a, b[0], b[1]);
            ptx::mma_m16n8k16(to[chunk + 1], a, b[2], b[3]);
        }
    }
}

// Hides the keys that a row does not see.
template <class Head>
__device__ inline void mask_transposed(Transposed &scores, const Rows<Head> &rows, uint32_t first_key) {
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < STEP / 8; j++) {
#pragma unroll
        for (int c = 0; c < 2; c++) {
            const Visible row = load_visible(rows.visible + 8 * j + 2 * (lane % 4) + c);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                if (!sees(row, first_key + lane / 4 + 8 * half)) {
                    scores[j][2 * half + c] = -INFINITY;
                }
            }
        }
    }
}

// Turns scores into probabilities, and `dout v^T` into `ds`.
template <class Head>
__device__ inline void probabilities(Transposed &p, Transposed &ds, const Rows<Head> &rows, float scale_log2) {
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < STEP / 8; j++) {
#pragma unroll
        for (int c = 0; c < 2; c++) {
            const uint32_t row = 8 * j + 2 * (lane % 4) + c;
            const float lse = LOG2E * rows.lse[row], delta = rows.delta[row];
#pragma unroll
            for (int at = c; at < 4; at += 2) {
                p[j][at] = ptx::ex2(fmaf(p[j][at], scale_log2, -lse));
                ds[j][at] = p[j][at] * (ds[j][at] - delta);
            }
        }
    }
}

template <class Head> __device__ inline void attention_backward_kv(const AttentionBackwardParams &p) {
    SharedKv<Head> &shared = *reinterpret_cast<SharedKv<Head> *>(shared_memory);
    const uint32_t k = ptx::cvta_shared(shared.k), v = ptx::cvta_shared(shared.v);
    const uint32_t dim = Head::dim(p.dim), head = blockIdx.y, lane = threadIdx.x % 32;
    const bool aligned = Head::aligned(p.dim);
    const uint32_t rows = p.queries * p.group, first_key = blockIdx.x * KV_KEYS;
    const uint32_t warp_key = first_key + threadIdx.x / 32 * WARP_KEYS;
    const size_t head_rows = static_cast<size_t>(head) * rows;

    // A group of its own, so that they are waited for even where no query sees these keys and nothing else is loaded.
    load_keys<Head, KV_KEYS, KV_THREADS>(p, k, v, head, first_key);
    const auto load_rows = [&](Rows<Head> &to, uint32_t first) {
        const bf16 *q_rows = p.q + (head_rows + first) * dim;
        load_tile<STEP, Head::CHUNKS, KV_THREADS>(
            ptx::cvta_shared(to.q), rows - first, dim, aligned,
            [&](uint32_t row) { return q_rows + static_cast<size_t>(row) * dim; });
        load_tile<STEP, Head::CHUNKS, KV_THREADS>(
            ptx::cvta_shared(to.dout), rows - first, dim, aligned,
            [&](uint32_t row) { return p.dout + out_row(p, head, first + row) * dim; });
        // A warp each; rows beyond the last see nothing.
        const uint32_t warp = threadIdx.x / 32;
        const bool inside = first + lane < rows;
        const uint32_t row = inside ? first + lane : first;
        if (warp == 0) {
            ptx::cp_async_16(ptx::cvta_shared(&to.visible[lane]), p.visible + row / p.group, inside ? 16 : 0);
        } else if (warp == 1) {
            ptx::cp_async_4(ptx::cvta_shared(&to.lse[lane]), p.lse + head_rows + row, inside ? 4 : 0);
        } else if (warp == 2) {
            ptx::cp_async_4(ptx::cvta_shared(&to.delta[lane]), p.delta + head_rows + row, inside ? 4 : 0);
        }
        ptx::cp_async_commit();
    };

    float dk[Head::DIM / 8][4] = {}, dv[Head::DIM / 8][4] = {};
    const float scale_log2 = p.scale * LOG2E;
    Queries queries(p, first_key, min(first_key + KV_KEYS, p.tokens));
    Run run = queries.next(0);
    uint32_t row = run.first * p.group, buffer = 0;
    if (!run.empty()) {
        load_rows(shared.rows[buffer], row);
    }
    for (; !run.empty(); buffer ^= 1) {
        // The step's rows are there, and all warps are done with the other buffer.
        ptx::cp_async_wait<0>();
        __syncthreads();
        row += STEP;
        if (row >= run.last * p.group) {
            // A step may reach into the next run, whose rows it then has had.
            const uint32_t done = row;
            run = queries.next(done / p.group);
            row = max(done, run.first * p.group);
        }
        if (!run.empty()) {
            load_rows(shared.rows[buffer ^ 1], row);
        }
        const Rows<Head> &now = shared.rows[buffer];
        const Visible visible = load_visible(now.visible + lane);
        if (!__any_sync(ALL_LANES, sees_any(visible, warp_key, warp_key + WARP_KEYS))) {
            continue;
        }
        const uint32_t q = ptx::cvta_shared(now.q), dout = ptx::cvta_shared(now.dout);
        Transposed scores = {}, ds = {};
        multiply_transposed<Head>(scores, k, q);
        if (!__all_sync(ALL_LANES, sees_all(visible, warp_key, warp_key + WARP_KEYS))) {
            mask_transposed(scores, now, warp_key);
        }
        multiply_transposed<Head>(ds, v, dout);
        probabilities(scores, ds, now, scale_log2);
        add_rows<Head>(dv, scores, dout);
        add_rows<Head>(dk, ds, q);
    }
    // The tiles' memory is free for the result once all warps are done with them, and with what they copied.
    ptx::cp_async_wait<0>();
    __syncthreads();
    const auto store = [&](bf16 *to, const float(&from)[Head::DIM / 8][4], float scale) {
        store_rows(from, scale, scale, dim, [&](uint32_t within) {
            const uint32_t key = warp_key + within;
            return key < p.tokens ? to + (static_cast<size_t>(head) * p.tokens + key) * dim : nullptr;
        });
    };
    store(p.dk, dk, p.scale);
    store(p.dv, dv, 1.0f);
}

// `delta` of each row, by 8 lanes, and what each query sees. Floor: 4 bytes an element of out.
extern "C" __global__ void __launch_bounds__(ATTENTION_BACKWARD_PREPARE_THREADS)
    attention_backward_prepare(const __grid_constant__ AttentionBackwardParams p) {
    static_assert(ATTENTION_BACKWARD_PREPARE_ROWS * 8 == ATTENTION_BACKWARD_PREPARE_THREADS);
    const uint32_t index = blockIdx.x * ATTENTION_BACKWARD_PREPARE_THREADS + threadIdx.x;
    if (index < p.queries) {
        const Visible v = visible_keys(p.spans, p.n_spans, p.query_tokens, index);
        ptx::st_global_v4(p.visible + index, v.prefix_start, v.prefix_end, v.own_start, v.own_end);
    }
    const uint32_t all = index / 8, lane = index % 8, rows = p.queries * p.group;
    float sum = 0.0f;
    if (all < p.kv_heads * rows) {
        const uint32_t head = all / rows;
        const size_t at = out_row(p, head, all - head * rows) * p.dim;
        const bool aligned = p.dim % 8 == 0;
        for (uint32_t column = 8 * lane; column < p.dim; column += 64) {
            if (aligned) {
                const Floats<8> x = load<8>(p.out + at + column), d = load<8>(p.dout + at + column);
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    sum += x.at[i] * d.at[i];
                }
            } else {
                for (uint32_t i = column; i < min(column + 8, p.dim); i++) {
                    sum += to_float(p.out[at + i]) * to_float(p.dout[at + i]);
                }
            }
        }
    }
#pragma unroll
    for (int other = 4; other > 0; other /= 2) {
        sum += __shfl_xor_sync(ALL_LANES, sum, other);
    }
    if (all < p.kv_heads * rows && lane == 0) {
        p.delta[all] = sum;
    }
}

// Heads of up to 64 leave registers for two blocks by keys on a multiprocessor.
#define KERNELS(suffix, dim, exact)                                                                                    \
    static_assert(sizeof(SharedQ<Head<dim, exact>>) == ATTENTION_BACKWARD_Q_##dim##_SHARED);                           \
    static_assert(sizeof(SharedKv<Head<dim, exact>>) == ATTENTION_BACKWARD_KV_##dim##_SHARED);                         \
    extern "C" __global__ void __launch_bounds__(Q_THREADS)                                                            \
        attention_backward_q_##suffix(const __grid_constant__ AttentionBackwardParams p) {                             \
        attention_backward_q<Head<dim, exact>>(p);                                                                     \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(KV_THREADS, dim > 64 ? 1 : 2)                                         \
        attention_backward_kv_##suffix(const __grid_constant__ AttentionBackwardParams p) {                            \
        attention_backward_kv<Head<dim, exact>>(p);                                                                    \
    }

KERNELS(32, 32, false)
KERNELS(64, 64, true)
KERNELS(128, 128, true)
KERNELS(any, 128, false)
