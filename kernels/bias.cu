// The bias of a linear layer, and its gradient.
//
// Floor: 4 bytes an element forward, 2 backward. A thread keeps its columns while it walks over a block's rows: their
// place in the bias, which may lie in parts, is found once. Backward it adds them up and leaves one row of f32 for 64 of
// bf16, 3 % more bytes; a second kernel adds those in order.
#include "numeric.cuh"
#include "reduce.cuh"

// Where the bias of a column lies.
__device__ inline size_t place(const BiasParams &p, uint32_t column) {
    const uint32_t part = column / p.part;
    return static_cast<size_t>(part) * p.ldbias + (column - part * p.part);
}

// `f(y)` for this thread's columns of each row of the block, if it has any: `first` is the first of them.
template <int N, class F> __device__ inline void each_row(const BiasParams &p, uint32_t first, F f) {
    const uint32_t start = blockIdx.x * BIAS_ROWS, end = min(start + BIAS_ROWS, p.rows);
#pragma unroll 8
    for (uint32_t row = start; row < end; row++) {
        f(p.y + static_cast<size_t>(row) * p.columns + first);
    }
}

template <int N> __device__ inline void bias_forward(const BiasParams &p) {
    const uint32_t first = (blockIdx.y * BIAS_THREADS + threadIdx.x) * N;
    if (first >= p.columns) {
        return;
    }
    const Floats<N> bias = load<N>(p.bias + place(p, first));
    each_row<N>(p, first, [&](bf16 *at) {
        Floats<N> y = load<N>(at);
#pragma unroll
        for (int i = 0; i < N; i++) {
            y.at[i] += bias.at[i];
        }
        store<N>(at, y);
    });
}

template <int N> __device__ inline void bias_backward(const BiasParams &p) {
    const uint32_t first = (blockIdx.y * BIAS_THREADS + threadIdx.x) * N;
    if (first >= p.columns) {
        return;
    }
    Floats<N> sum = {};
    each_row<N>(p, first, [&](const bf16 *at) {
        const Floats<N> dy = load<N>(at);
#pragma unroll
        for (int i = 0; i < N; i++) {
            sum.at[i] += dy.at[i];
        }
    });
    store<N>(p.partials + static_cast<size_t>(blockIdx.x) * p.columns + first, sum);
}

extern "C" __global__ void __launch_bounds__(BIAS_THREADS) bias_forward_vec8(const __grid_constant__ BiasParams p) {
    bias_forward<8>(p);
}

extern "C" __global__ void __launch_bounds__(BIAS_THREADS) bias_forward_any(const __grid_constant__ BiasParams p) {
    bias_forward<1>(p);
}

extern "C" __global__ void __launch_bounds__(BIAS_THREADS) bias_backward_vec8(const __grid_constant__ BiasParams p) {
    bias_backward<8>(p);
}

extern "C" __global__ void __launch_bounds__(BIAS_THREADS) bias_backward_any(const __grid_constant__ BiasParams p) {
    bias_backward<1>(p);
}

extern "C" __global__ void __launch_bounds__(BIAS_BACKWARD_SUM_THREADS)
    bias_backward_sum(const __grid_constant__ BiasParams p) {
    const uint32_t blocks = (p.rows + BIAS_ROWS - 1) / BIAS_ROWS;
    column_sums<BIAS_BACKWARD_SUM_THREADS / 32>(
        p.partials, blocks, p.columns, [&](uint32_t column, float sum) { p.dbias[place(p, column)] += sum; });
}
