// Final norm, scalar head and ranking loss of rows, with all gradients.
//
// A row is a candidate: a few dozen in a short pack, 485 in one of 32,768 tokens, thousands where candidates are a few
// tokens long. Of few rows, time is latency: launches count, bytes do not, and one launch does everything. A gradient of
// the weights needs the slopes of all rows, and a slope the scores of all pairs, which would take a barrier across the
// card between the two; instead each block has a band of columns and computes all scores itself, the same in every
// block, from rows that the first one to come has brought to L2. Of many rows that repetition is what takes time: then
// there are three launches, which share them among all multiprocessors, and what a row's gradient depends on lies in
// global memory. Both ways give the same bits.
//
// The losses are those of xtuner's `model/reward.py`, as `src/reference/reward_head.rs` has them.
#include "numeric.cuh"
#include "reduce.cuh"

constexpr uint32_t WARPS = REWARD_HEAD_THREADS / 32;

// What a row's gradient depends on.
struct RowValues {
    float *score;
    float *rstd;
    float *slope;
};

__device__ inline const bf16 *row_of(const RewardHeadParams &p, uint32_t row) {
    return p.x + static_cast<size_t>(row) * p.columns;
}

// The score of a row and the inverse of its root mean square, by one warp, in every lane.
__device__ inline float2 score_row(const RewardHeadParams &p, uint32_t row) {
    const bf16 *x = row_of(p, row);
    const uint32_t lane = threadIdx.x % 32;
    float squares = 0.0f, product = 0.0f;
    // With columns a multiple of 8 all rows are aligned if the first ones are.
    const uintptr_t addresses =
        reinterpret_cast<uintptr_t>(p.x) | reinterpret_cast<uintptr_t>(p.norm) | reinterpret_cast<uintptr_t>(p.head);
    const auto add = [&](const auto &v, const auto &w, const auto &h) {
#pragma unroll
        for (int i = 0; i < static_cast<int>(sizeof(v.at) / sizeof(float)); i++) {
            squares += v.at[i] * v.at[i];
            product += v.at[i] * w.at[i] * h.at[i];
        }
    };
    if (p.columns % 8 == 0 && addresses % 16 == 0) {
#pragma unroll 4
        for (uint32_t column = 8 * lane; column < p.columns; column += 8 * 32) {
            add(load<8>(x + column), load<8>(p.norm + column), load<8>(p.head + column));
        }
    } else {
        for (uint32_t column = lane; column < p.columns; column += 32) {
            add(load<1>(x + column), load<1>(p.norm + column), load<1>(p.head + column));
        }
    }
    const float rstd = ptx::rsqrt(warp_sum(squares) / static_cast<float>(p.columns) + p.eps);
    return make_float2(warp_sum(product) * rstd, rstd);
}

struct Value {
    float value, slope;
};

// The loss of a difference of scores, and its derivative.
__device__ inline Value rank(uint32_t kind, float d) {
    // -log sigmoid(d) without overflow for either sign of d, and sigmoid(-d), its slope's magnitude.
    const float e = expf(-fabsf(d)), nll = fmaxf(-d, 0.0f) + log1pf(e);
    const float miss = (d > 0.0f ? e : 1.0f) / (1.0f + e);
    if (kind == LOSS_RANKING) {
        return {nll, -miss};
    }
    // (1 - p)^2 nll with p = 2 relu(sigmoid(d) - 1/2), so that 1 - p is 2 miss for a pair that is right; p is part of
    // what is differentiated.
    const float rest = d > 0.0f ? 2.0f * miss : 1.0f, dp = d > 0.0f ? 2.0f * miss / (1.0f + e) : 0.0f;
    return {rest * rest * nll, -rest * rest * miss - 2.0f * rest * dp * nll};
}

// The penalty of one score, and its derivative.
__device__ inline Value penalty(uint32_t kind, float s) {
    if (kind == PENALTY_L2) {
        return {s * s, 2.0f * s};
    }
    if (kind == PENALTY_LOG_BARRIER) {
        constexpr float BARRIER = 5.0f, BOUND = 5.0f - 1e-3f;
        const float inside = fminf(fmaxf(s, -BOUND), BOUND);
        const float slope = inside == s ? 1.0f / (BARRIER - s) - 1.0f / (BARRIER + s) : 0.0f;
        return {-logf(BARRIER - inside) - logf(BARRIER + inside), slope};
    }
    return {0.0f, 0.0f};
}

// The derivative of the loss by the score of `row`, which may stand in several pairs.
__device__ inline float slope_of(const RewardHeadParams &p, const float *scores, uint32_t row) {
    float slope = 0.0f;
    for (uint32_t i = 0; i < p.n_pairs; i++) {
        const uint32_t chosen = p.pairs[2 * i], rejected = p.pairs[2 * i + 1];
        if (row != chosen && row != rejected) {
            continue;
        }
        const float ranked = rank(p.loss_kind, scores[chosen] - scores[rejected]).slope;
        const float penalised = p.penalty_weight * penalty(p.penalty_kind, scores[row]).slope;
        slope += row == chosen ? ranked + penalised : 0.0f;
        slope += row == rejected ? penalised - ranked : 0.0f;
    }
    return p.scale * slope;
}

// Adds the loss of all pairs to `loss`; called by a whole block.
__device__ inline void add_loss(const RewardHeadParams &p, const float *scores, float *sums) {
    float sum = 0.0f;
    for (uint32_t i = threadIdx.x; i < p.n_pairs; i += REWARD_HEAD_THREADS) {
        const float chosen = scores[p.pairs[2 * i]], rejected = scores[p.pairs[2 * i + 1]];
        const float penalised = penalty(p.penalty_kind, chosen).value + penalty(p.penalty_kind, rejected).value;
        sum += rank(p.loss_kind, chosen - rejected).value + p.penalty_weight * penalised;
    }
    const float total = block_sum(sum, sums);
    if (threadIdx.x == 0) {
        *p.loss += p.scale * total;
    }
}

// The gradients of this block's band of columns. With `n = x rstd`, `score = sum(n norm head)`:
// `dx = slope rstd (norm head - n score / columns)`, `dnorm = sum(slope n head)`, `dhead = sum(slope n norm)`.
__device__ inline void band_gradients(const RewardHeadParams &p, const RowValues &rows) {
    constexpr uint32_t SHARES = REWARD_HEAD_THREADS / REWARD_HEAD_COLUMNS;
    static_assert(SHARES == 2);
    __shared__ float other[REWARD_HEAD_COLUMNS];
    const uint32_t within = threadIdx.x % REWARD_HEAD_COLUMNS, share = threadIdx.x / REWARD_HEAD_COLUMNS;
    const uint32_t column = blockIdx.x * REWARD_HEAD_COLUMNS + within;
    const bool inside = column < p.columns;
    const float norm = inside ? to_float(p.norm[column]) : 0.0f, head = inside ? to_float(p.head[column]) : 0.0f;
    // Both weights' gradients are this sum times the other's weight.
    float sum = 0.0f;
    if (inside) {
#pragma unroll 4
        for (uint32_t row = share; row < p.rows; row += SHARES) {
            const float rstd = rows.rstd[row], slope = rows.slope[row];
            const float n = to_float(row_of(p, row)[column]) * rstd;
            const float mean = rows.score[row] / static_cast<float>(p.columns);
            p.dx[static_cast<size_t>(row) * p.columns + column] = to_bf16(slope * rstd * (norm * head - n * mean));
            sum += slope * n;
        }
    }
    if (share == 1) {
        other[within] = sum;
    }
    __syncthreads();
    if (share == 0 && inside) {
        sum += other[within];
        p.dnorm[column] += sum * head;
        p.dhead[column] += sum * norm;
    }
}

extern "C" __global__ void __launch_bounds__(REWARD_HEAD_THREADS)
    reward_head_forward(const __grid_constant__ RewardHeadParams p) {
    const uint32_t row = blockIdx.x * WARPS + threadIdx.x / 32;
    if (row < p.rows) {
        const float2 score = score_row(p, row);
        if (threadIdx.x % 32 == 0) {
            p.scores[row] = score.x;
            if (p.rstd) {
                p.rstd[row] = score.y;
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(REWARD_HEAD_THREADS)
    reward_head_loss(const __grid_constant__ RewardHeadParams p) {
    __shared__ float sums[32];
    __shared__ float values[3][REWARD_HEAD_FUSED_ROWS];
    const RowValues rows = {values[0], values[1], values[2]};
    for (uint32_t row = threadIdx.x / 32; row < p.rows; row += WARPS) {
        const float2 score = score_row(p, row);
        if (threadIdx.x % 32 == 0) {
            rows.score[row] = score.x;
            rows.rstd[row] = score.y;
        }
    }
    __syncthreads();
    for (uint32_t row = threadIdx.x; row < p.rows; row += REWARD_HEAD_THREADS) {
        rows.slope[row] = slope_of(p, rows.score, row);
        if (blockIdx.x == 0) {
            p.scores[row] = rows.score[row];
        }
    }
    if (blockIdx.x == 0) {
        add_loss(p, rows.score, sums);
    }
    __syncthreads();
    band_gradients(p, rows);
}

extern "C" __global__ void __launch_bounds__(REWARD_HEAD_THREADS)
    reward_head_pair_loss(const __grid_constant__ RewardHeadParams p) {
    __shared__ float sums[32];
    const uint32_t first = blockIdx.x * REWARD_HEAD_THREADS + threadIdx.x;
    for (uint32_t row = first; row < p.rows; row += gridDim.x * REWARD_HEAD_THREADS) {
        p.dscores[row] = slope_of(p, p.scores, row);
    }
    if (blockIdx.x == 0) {
        add_loss(p, p.scores, sums);
    }
}

extern "C" __global__ void __launch_bounds__(REWARD_HEAD_THREADS)
    reward_head_backward(const __grid_constant__ RewardHeadParams p) {
    band_gradients(p, {p.scores, p.rstd, p.dscores});
}
