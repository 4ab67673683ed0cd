// Root mean square normalisation of rows.
//
// Floor, forward: a row is read once and written once, 4 bytes an element. A block keeps its row in
// registers between the sum of squares and the scaling. Backward: three rows read and one written, 8 bytes an
// element; the weight's gradient is a sum over all rows, which would be a race or an atomic: instead each block sums a
// few rows in registers and writes a row of partial sums, 1/16 of an f32 for each element, and a second kernel adds
// those in order.
#include "numeric.cuh"
#include "reduce.cuh"

// A thread's share of a row: `KEPT` times `N` neighbouring columns, a block's width apart.
template <int N, int KEPT> struct Row {
    Floats<N> at[KEPT];

    __device__ static uint32_t column(int i) {
        return (threadIdx.x + i * blockDim.x) * N;
    }

    __device__ void load(const bf16 *from, uint32_t columns) {
#pragma unroll
        for (int i = 0; i < KEPT; i++) {
            at[i] = column(i) < columns ? ::load<N>(from + column(i)) : Floats<N>{};
        }
    }

    __device__ void store(bf16 *to, uint32_t columns) const {
#pragma unroll
        for (int i = 0; i < KEPT; i++) {
            if (column(i) < columns) {
                ::store<N>(to + column(i), at[i]);
            }
        }
    }

    // `f(i, j)` for each column of this thread.
    template <class F> __device__ static void each(F f) {
#pragma unroll
        for (int i = 0; i < KEPT; i++) {
#pragma unroll
            for (int j = 0; j < N; j++) {
                f(i, j);
            }
        }
    }
};

template <int N, int KEPT> __device__ inline void rmsnorm_forward(const RmsnormParams &p) {
    __shared__ float sums[32];
    const size_t start = static_cast<size_t>(blockIdx.x) * p.columns;
    using Row = Row<N, KEPT>;
    Row x;
    x.load(p.x + start, p.columns);
    float squares = 0.0f;
    Row::each([&](int i, int j) { squares += x.at[i].at[j] * x.at[i].at[j]; });
    const float rstd = ptx::rsqrt(block_sum(squares, sums) / static_cast<float>(p.columns) + p.eps);
    if (threadIdx.x == 0) {
        p.rstd[blockIdx.x] = rstd;
    }
    Row weight;
    weight.load(p.weight, p.columns);
    Row::each([&](int i, int j) { x.at[i].at[j] *= rstd * weight.at[i].at[j]; });
    x.store(p.y + start, p.columns);
}

template <int N, int KEPT> __device__ inline void rmsnorm_backward(const RmsnormBackwardParams &p) {
    // Two, so that a row's sum does not overwrite the one before while it is still read.
    __shared__ float sums[2][32];
    using Row = Row<N, KEPT>;
    Row weight;
    Row dweight = {};
    weight.load(p.weight, p.columns);
    const uint32_t first = blockIdx.x * RMSNORM_BACKWARD_ROWS, last = min(first + RMSNORM_BACKWARD_ROWS, p.rows);
    for (uint32_t row = first; row < last; row++) {
        const size_t start = static_cast<size_t>(row) * p.columns;
        Row x, dy, dx;
        x.load(p.x + start, p.columns);
        dy.load(p.dy + start, p.columns);
        dx.load(p.dx + start, p.columns);
        const float rstd = p.rstd[row];
        float product = 0.0f;
        Row::each([&](int i, int j) {
            float &n = x.at[i].at[j], &d = dy.at[i].at[j];
            n *= rstd;
            dweight.at[i].at[j] += n * d;
            d *= weight.at[i].at[j];
            product += n * d;
        });
        const float mean = block_sum(product, sums[row % 2]) / static_cast<float>(p.columns);
        Row::each([&](int i, int j) { dx.at[i].at[j] += rstd * (dy.at[i].at[j] - x.at[i].at[j] * mean); });
        dx.store(p.dx + start, p.columns);
    }
    float *partial = p.partials + static_cast<size_t>(blockIdx.x) * p.columns;
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
        if (Row::column(i) < p.columns) {
            store<N>(partial + Row::column(i), dweight.at[i]);
        }
    }
}

extern "C" __global__ void __launch_bounds__(RMSNORM_MAX_THREADS)
    rmsnorm_forward_vec8(const __grid_constant__ RmsnormParams p) {
    rmsnorm_forward<8, RMSNORM_VEC8_COLUMNS / 8>(p);
}

extern "C" __global__ void __launch_bounds__(RMSNORM_MAX_THREADS)
    rmsnorm_forward_any(const __grid_constant__ RmsnormParams p) {
    rmsnorm_forward<1, RMSNORM_ANY_COLUMNS>(p);
}

extern "C" __global__ void __launch_bounds__(RMSNORM_MAX_THREADS)
    rmsnorm_backward_vec8(const __grid_constant__ RmsnormBackwardParams p) {
    rmsnorm_backward<8, RMSNORM_VEC8_COLUMNS / 8>(p);
}

extern "C" __global__ void __launch_bounds__(RMSNORM_MAX_THREADS)
    rmsnorm_backward_any(const __grid_constant__ RmsnormBackwardParams p) {
    rmsnorm_backward<1, RMSNORM_ANY_COLUMNS>(p);
}

extern "C" __global__ void __launch_bounds__(RMSNORM_BACKWARD_WEIGHT_THREADS)
    rmsnorm_backward_weight(const __grid_constant__ RmsnormBackwardParams p) {
    const uint32_t partials = (p.rows + RMSNORM_BACKWARD_ROWS - 1) / RMSNORM_BACKWARD_ROWS;
    column_sums<RMSNORM_BACKWARD_WEIGHT_THREADS / 32>(
        p.partials, partials, p.columns, [&](uint32_t column, float sum) { p.dweight[column] += sum; });
}
