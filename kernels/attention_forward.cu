// Attention forward: softmax(scale q k^T) v without the matrix of scores (FlashAttention-2: Dao, arXiv 2307.08691).
//
// Floor: 4 queries keys dim operations a head over what the mask leaves; bytes are q, k, v and out once each, which is
// little beside that. A block has 128 rows, 32 to a warp: with 16, every fragment of keys would be read from shared
// memory for half the work, and shared memory would be the limit. Output and scores of a warp stay in registers; so do
// the probabilities, whose accumulators are already what the second product wants as its operand.
//
// Keys and values have two buffers each, so that the next ones arrive while these are used: one barrier a step. A step
// is 64 keys, 32 for a head of 128, whose output alone takes 128 registers of each thread; 66 KB of shared memory then
// let two blocks share a multiprocessor. Tiles are started from the end of the pack, where causal rows see the most
// keys: the short ones fill up the gaps.
#include "attention.cuh"

constexpr int ROWS = ATTENTION_ROWS, THREADS = ATTENTION_FORWARD_THREADS;
constexpr int WARP_ROWS = ROWS / (THREADS / 32);
static_assert(WARP_ROWS == 32, "a lane looks after the mask of one row");

template <class Head> struct Shared {
    static constexpr int KEYS = Head::DIM == 128 ? 32 : 64;

    uint4 q[ROWS * Head::CHUNKS];
    uint4 k[2][KEYS * Head::CHUNKS];
    uint4 v[2][KEYS * Head::CHUNKS];
    Visible visible[ROWS];
};

// The running softmax of 4 rows of a thread: the greatest score so far, and the thread's share of the sum.
struct Statistics {
    float top[4], sum[4];
};

// Turns scores into exponentials relative to the new maxima, and the output so far too.
template <int KEYS, int TILES>
__device__ inline void exponentiate(Products<KEYS> &scores, float (&out)[2][TILES][4], Statistics &rows,
                                    float scale_log2) {
#pragma unroll
    for (int r = 0; r < 4; r++) {
        const int i = r / 2, first = 2 * (r % 2);
        float top = rows.top[r];
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) {
            top = fmaxf(top, fmaxf(scores[i][j][first], scores[i][j][first + 1]));
        }
        top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 1));
        top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 2));
        // A row that has seen no key yet has no maximum, and an exponential of 0 everywhere.
        const float shift = top == -INFINITY ? 0.0f : top * scale_log2;
        // Maxima settle after a few blocks: then there is nothing to shrink.
        if (__any_sync(ALL_LANES, top != rows.top[r])) {
            const float shrink = ptx::ex2(fmaf(rows.top[r], scale_log2, -shift));
            rows.top[r] = top;
            rows.sum[r] *= shrink;
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                out[i][t][first] *= shrink;
                out[i][t][first + 1] *= shrink;
            }
        }
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) {
#pragma unroll
            for (int c = first; c < first + 2; c++) {
                scores[i][j][c] = ptx::ex2(fmaf(scores[i][j][c], scale_log2, -shift));
                rows.sum[r] += scores[i][j][c];
            }
        }
    }
}

template <class Head> __device__ inline void attention_forward(const AttentionParams &p) {
    Shared<Head> &shared = *reinterpret_cast<Shared<Head> *>(shared_memory);
    const uint32_t q = ptx::cvta_shared(shared.q), k = ptx::cvta_shared(shared.k), v = ptx::cvta_shared(shared.v);
    const uint32_t dim = Head::dim(p.dim), head = blockIdx.y, lane = threadIdx.x % 32;
    const bool aligned = Head::aligned(p.dim);
    const uint32_t rows = p.queries * p.group, first_row = (gridDim.x - 1 - blockIdx.x) * ROWS;

    const bf16 *q_rows = p.q + (static_cast<size_t>(head) * rows + first_row) * dim;
    load_tile<ROWS, Head::CHUNKS, THREADS>(q, rows - first_row, dim, aligned,
                                           [&](uint32_t row) { return q_rows + static_cast<size_t>(row) * dim; });
    for (uint32_t row = threadIdx.x; row < ROWS; row += THREADS) {
        const uint32_t query = (first_row + row) / p.group;
        shared.visible[row] =
            query < p.queries ? visible_keys(p.spans, p.n_spans, p.query_tokens, query) : Visible{0, 0, 0, 0};
    }
    constexpr int KEYS = Shared<Head>::KEYS;
    constexpr uint32_t BUFFER = sizeof(shared.k[0]);

    float out[2][Head::DIM / 8][4] = {};
    Statistics statistics;
#pragma unroll
    for (int r = 0; r < 4; r++) {
        statistics.top[r] = -INFINITY;
        statistics.sum[r] = 0.0f;
    }
    const uint32_t warp_row = threadIdx.x / 32 * WARP_ROWS;
    const float scale_log2 = p.scale * LOG2E;
    __syncthreads();
    const auto load = [&](uint32_t buffer, uint32_t key) {
        load_keys<Head, KEYS, THREADS>(p, k + buffer * BUFFER, v + buffer * BUFFER, head, key);
    };
    each_block<ROWS, KEYS>(shared.visible, load, [&](uint32_t buffer, uint32_t key) {
        Products<KEYS> scores = {};
        multiply<Head, KEYS>(scores, q, warp_row, k + buffer * BUFFER);
        mask<KEYS>(scores, shared.visible + warp_row, key);
        exponentiate<KEYS>(scores, out, statistics, scale_log2);
        add_weighted<Head, KEYS>(out, scores, v + buffer * BUFFER);
    });
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float inverse[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float sum = statistics.sum[2 * i + half];
            sum += __shfl_xor_sync(ALL_LANES, sum, 1);
            sum += __shfl_xor_sync(ALL_LANES, sum, 2);
            inverse[half] = 1.0f / sum;
            const uint32_t row = first_row + warp_row + 16 * i + 8 * half + lane / 4;
            if (lane % 4 == 0 && row < rows) {
                p.lse[static_cast<size_t>(head) * rows + row] =
                    statistics.top[2 * i + half] * p.scale + LN2 * ptx::lg2(sum);
            }
        }
        store_rows(out[i], inverse[0], inverse[1], dim, [&](uint32_t within) {
            const uint32_t row = first_row + warp_row + 16 * i + within;
            return row < rows ? p.out + out_row(p, head, row) * dim : nullptr;
        });
    }
}

#define KERNEL(name, dim, exact)                                                                                       \
    static_assert(sizeof(Shared<Head<dim, exact>>) == ATTENTION_FORWARD_##dim##_SHARED);                               \
    extern "C" __global__ void __launch_bounds__(THREADS) name(const __grid_constant__ AttentionParams p) {            \
        attention_forward<Head<dim, exact>>(p);                                                                        \
    }

KERNEL(attention_forward_32, 32, false)
KERNEL(attention_forward_64, 64, true)
KERNEL(attention_forward_128, 128, true)
KERNEL(attention_forward_any, 128, false)
