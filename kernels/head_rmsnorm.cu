// Root mean square normalisation of each head's queries or keys.
//
// Floor, forward: a vector is read once and written once, 4 bytes an element; backward: two read and one written, 6.
// A vector is as long as a head, 256 bytes: with a block for each, as `rmsnorm` has it, most threads would have nothing
// to do and the rest would wait at a barrier. Here half a warp has a vector, 16 bytes a lane, and sums it by shuffles;
// a block has 16 vectors at a time and no barrier. The weight's gradient is a sum over all vectors of all heads: each
// lane sums its columns in registers, the block adds those of its vectors in order and writes one row of partial sums,
// 1/128 byte for each byte of `x`, and a second kernel adds the rows in order.
#include "numeric.cuh"
#include "reduce.cuh"

// `LANES` lanes of a warp have a vector: `KEPT` times `N` neighbouring columns each, `LANES * N` apart.
template <int N, int KEPT, int LANES> struct Vector {
    static constexpr uint32_t AT_A_TIME = HEAD_RMSNORM_THREADS / LANES;
    static_assert(N * KEPT * LANES == HEAD_RMSNORM_MAX_DIM);
    Floats<N> at[KEPT];

    __device__ static uint32_t column(int i) {
        return (threadIdx.x % LANES + i * LANES) * N;
    }

    // Zeros where there is none.
    __device__ void load(const bf16 *from, uint32_t dim, bool there = true) {
#pragma unroll
        for (int i = 0; i < KEPT; i++) {
            at[i] = there && column(i) < dim ? ::load<N>(from + column(i)) : Floats<N>{};
        }
    }

    __device__ void store(bf16 *to, uint32_t dim) const {
#pragma unroll
        for (int i = 0; i < KEPT; i++) {
            if (column(i) < dim) {
                ::store<N>(to + column(i), at[i]);
            }
        }
    }

    // `f(i, j)` for each column of this lane.
    template <class F> __device__ static void each(F f) {
#pragma unroll
        for (int i = 0; i < KEPT; i++) {
#pragma unroll
            for (int j = 0; j < N; j++) {
                f(i, j);
            }
        }
    }

    // The sum over the lanes that have one vector, in each of them. All lanes of the warp take part.
    __device__ static float sum(float x) {
#pragma unroll
        for (int lane = LANES / 2; lane > 0; lane /= 2) {
            x += __shfl_xor_sync(ALL_LANES, x, lane);
        }
        return x;
    }
};

template <int N, int KEPT, int LANES> __device__ inline void head_rmsnorm_forward(const HeadRmsnormParams &p) {
    using Vector = Vector<N, KEPT, LANES>;
    const uint32_t vector = blockIdx.x * Vector::AT_A_TIME + threadIdx.x / LANES;
    const bool there = vector < p.vectors;
    const size_t start = static_cast<size_t>(vector) * p.dim;
    Vector x, weight;
    x.load(p.x + start, p.dim, there);
    weight.load(p.weight, p.dim);
    float squares = 0.0f;
    Vector::each([&](int i, int j) { squares += x.at[i].at[j] * x.at[i].at[j]; });
    const float rstd = ptx::rsqrt(Vector::sum(squares) / static_cast<float>(p.dim) + p.eps);
    if (!there) {
        return;
    }
    if (threadIdx.x % LANES == 0) {
        p.rstd[vector] = rstd;
    }
    Vector::each([&](int i, int j) { x.at[i].at[j] *= rstd * weight.at[i].at[j]; });
    x.store(p.y + start, p.dim);
}

template <int N, int KEPT, int LANES> __device__ inline void head_rmsnorm_backward(const HeadRmsnormBackwardParams &p) {
    using Vector = Vector<N, KEPT, LANES>;
    __shared__ float sums[Vector::AT_A_TIME][HEAD_RMSNORM_MAX_DIM];
    const uint32_t group = threadIdx.x / LANES;
    Vector weight;
    Vector dweight = {};
    weight.load(p.weight, p.dim);
    const uint32_t first = blockIdx.x * HEAD_RMSNORM_BACKWARD_VECTORS;
    const uint32_t last = min(first + HEAD_RMSNORM_BACKWARD_VECTORS, p.vectors);
    // Whole blocks of vectors, so that all lanes of a warp are there for the sums.
    for (uint32_t base = first; base < last; base += Vector::AT_A_TIME) {
        const uint32_t vector = base + group;
        const bool there = vector < last;
        const size_t start = static_cast<size_t>(vector) * p.dim;
        Vector x, dy;
        x.load(p.x + start, p.dim, there);
        dy.load(p.dy + start, p.dim, there);
        const float rstd = there ? p.rstd[vector] : 0.0f;
        float product = 0.0f;
        Vector::each([&](int i, int j) {
            float &n = x.at[i].at[j], &d = dy.at[i].at[j];
            n *= rstd;
            dweight.at[i].at[j] += n * d;
            d *= weight.at[i].at[j];
            product += n * d;
        });
        const float mean = Vector::sum(product) / static_cast<float>(p.dim);
        Vector::each([&](int i, int j) { dy.at[i].at[j] = rstd * (dy.at[i].at[j] - x.at[i].at[j] * mean); });
        if (there) {
            dy.store(p.dx + start, p.dim);
        }
    }
    Vector::each([&](int i, int j) { sums[group][Vector::column(i) + j] = dweight.at[i].at[j]; });
    __syncthreads();
    const uint32_t column = threadIdx.x;
    if (column < p.dim) {
        float total = 0.0f;
#pragma unroll
        for (uint32_t i = 0; i < Vector::AT_A_TIME; i++) {
            total += sums[i][column];
        }
        p.partials[static_cast<size_t>(blockIdx.x) * p.dim + column] = total;
    }
}

extern "C" __global__ void __launch_bounds__(HEAD_RMSNORM_THREADS)
    head_rmsnorm_forward_vec8(const __grid_constant__ HeadRmsnormParams p) {
    head_rmsnorm_forward<8, 1, HEAD_RMSNORM_VEC8_LANES>(p);
}

extern "C" __global__ void __launch_bounds__(HEAD_RMSNORM_THREADS)
    head_rmsnorm_forward_any(const __grid_constant__ HeadRmsnormParams p) {
    head_rmsnorm_forward<1, HEAD_RMSNORM_MAX_DIM / 32, 32>(p);
}

extern "C" __global__ void __launch_bounds__(HEAD_RMSNORM_THREADS)
    head_rmsnorm_backward_vec8(const __grid_constant__ HeadRmsnormBackwardParams p) {
    head_rmsnorm_backward<8, 1, HEAD_RMSNORM_VEC8_LANES>(p);
}

extern "C" __global__ void __launch_bounds__(HEAD_RMSNORM_THREADS)
    head_rmsnorm_backward_any(const __grid_constant__ HeadRmsnormBackwardParams p) {
    head_rmsnorm_backward<1, HEAD_RMSNORM_MAX_DIM / 32, 32>(p);
}

extern "C" __global__ void __launch_bounds__(HEAD_RMSNORM_BACKWARD_WEIGHT_THREADS)
    head_rmsnorm_backward_weight(const __grid_constant__ HeadRmsnormBackwardParams p) {
    const uint32_t partials = (p.vectors + HEAD_RMSNORM_BACKWARD_VECTORS - 1) / HEAD_RMSNORM_BACKWARD_VECTORS;
    column_sums<HEAD_RMSNORM_BACKWARD_WEIGHT_THREADS / 32>(
        p.partials, partials, p.dim, [&](uint32_t column, float sum) { p.dweight[column] += sum; });
}
