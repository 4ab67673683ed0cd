// The language model's loss, from a chunk of logits at a time.
//
// `[tokens, vocabulary]` of logits would be the largest thing in memory by far (8192 x 92544 in bf16 is 1.5 GB), so a
// chunk of rows goes through four kernels while it lies in L2: the product that makes the logits (`gemm_nt`), the
// softmax below, which turns them into their own gradient in place, and two products that turn that into the gradients
// of rows and table (`gemm_nn`, `gemm_tn`). What remains of a chunk is one loss a row.
//
// Floor of the softmax: 4 bytes a logit. A row of 185 KB fits no register file, so it is read twice, the second time
// from L2: once for maximum and sum together, rescaling the sum when the maximum grows, once for the gradient.
#include "numeric.cuh"
#include "reduce.cuh"

constexpr uint32_t WARPS = LINEAR_CROSS_ENTROPY_THREADS / 32;

// A maximum, and the sum of the exponentials of what it was taken over, relative to it.
struct Softmax {
    float max, sum;

    template <int N> __device__ void add(const Floats<N> &x) {
        float top = max;
#pragma unroll
        for (int i = 0; i < N; i++) {
            top = fmaxf(top, x.at[i]);
        }
        // All may be negative infinity: then nothing is added, and nothing of what there is lost.
        const float shift = top == -INFINITY ? 0.0f : top;
        float more = 0.0f;
#pragma unroll
        for (int i = 0; i < N; i++) {
            more += ptx::ex2(LOG2E * (x.at[i] - shift));
        }
        sum = sum * ptx::ex2(LOG2E * (max - shift)) + more;
        max = top;
    }
};

// `f(column)` for `N` columns at a time of this block's row.
template <int N, class F> __device__ inline void each(uint32_t columns, F f) {
#pragma unroll 4
    for (uint32_t column = threadIdx.x * N; column < columns; column += LINEAR_CROSS_ENTROPY_THREADS * N) {
        f(column);
    }
}

template <int N> __device__ inline void softmax_row(const CrossEntropyParams &p) {
    __shared__ float tops[WARPS], sums[WARPS];
    const uint32_t row = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    bf16 *logits = p.logits + static_cast<size_t>(row) * p.columns;
    const uint32_t target = p.targets[row];
    const float weight = p.weights[row];
    // Before the barriers below, since the gradient takes its place.
    const float at_target = threadIdx.x == 0 ? to_float(logits[target]) : 0.0f;
    Softmax mine = {-INFINITY, 0.0f};
    each<N>(p.columns, [&](uint32_t column) { mine.add(load<N>(logits + column)); });

    const float warp_top = warp_max(mine.max);
    // A warp without a column has a maximum of negative infinity, which has no difference from itself.
    const float warp_shift = warp_top == -INFINITY ? 0.0f : warp_top;
    const float warp_total = warp_sum(mine.sum * ptx::ex2(LOG2E * (mine.max - warp_shift)));
    if (lane == 0) {
        tops[warp] = warp_top;
        sums[warp] = warp_total;
    }
    __syncthreads();
    float top = -INFINITY, sum = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < WARPS; i++) {
        top = fmaxf(top, tops[i]);
    }
#pragma unroll
    for (uint32_t i = 0; i < WARPS; i++) {
        sum += sums[i] * ptx::ex2(LOG2E * (tops[i] - top));
    }
    if (threadIdx.x == 0) {
        p.losses[row] = weight * (top + LN2 * ptx::lg2(sum) - at_target);
    }
    if (!p.gradient) {
        return;
    }
    const float factor = weight / sum;
    each<N>(p.columns, [&](uint32_t column) {
        Floats<N> x = load<N>(logits + column);
#pragma unroll
        for (int i = 0; i < N; i++) {
            x.at[i] = factor * ptx::ex2(LOG2E * (x.at[i] - top)) - (column + i == target ? weight : 0.0f);
        }
        store<N>(logits + column, x);
    });
}

extern "C" __global__ void __launch_bounds__(LINEAR_CROSS_ENTROPY_THREADS)
    linear_cross_entropy_softmax_vec8(const __grid_constant__ CrossEntropyParams p) {
    softmax_row<8>(p);
}

extern "C" __global__ void __launch_bounds__(LINEAR_CROSS_ENTROPY_THREADS)
    linear_cross_entropy_softmax_any(const __grid_constant__ CrossEntropyParams p) {
    softmax_row<1>(p);
}

extern "C" __global__ void __launch_bounds__(LINEAR_CROSS_ENTROPY_SUM_THREADS)
    linear_cross_entropy_sum(const __grid_constant__ CrossEntropyParams p) {
    __shared__ float sums[32];
    float sum = 0.0f;
    for (uint32_t row = threadIdx.x; row < p.rows; row += LINEAR_CROSS_ENTROPY_SUM_THREADS) {
        sum += p.losses[row];
    }
    const float total = block_sum(sum, sums);
    if (threadIdx.x == 0) {
        *p.loss += total;
    }
}
