// SwiGLU on its own, for products that are not aligned enough to be fused with (`gemm_nt_swiglu`, `gemm_nn_swiglu`).
//
// Floor: forward 6 bytes an element of the result, backward 10. In place a thread overwrites just what it has read.
#include "swiglu.cuh"

// `f(start of the row, column)` for `N` columns at a time of a matrix, the blocks sharing the work.
template <int N, class F> __device__ inline void each(const SwigluParams &p, F f) {
    const uint32_t shares = p.columns / N;
    const uint64_t count = static_cast<uint64_t>(p.rows) * shares;
    const uint64_t stride = static_cast<uint64_t>(gridDim.x) * SWIGLU_THREADS;
    for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * SWIGLU_THREADS + threadIdx.x; i < count; i += stride) {
        const uint64_t row = i / shares;
        f(row * p.columns, static_cast<uint32_t>(i - row * shares) * N);
    }
}

template <int N> __device__ inline void swiglu_forward(const SwigluParams &p) {
    each<N>(p, [&](size_t start, uint32_t column) {
        const bf16 *gate_up = p.gate_up + 2 * start + column;
        const Floats<N> gate = load<N>(gate_up), up = load<N>(gate_up + p.columns);
        Floats<N> y;
#pragma unroll
        for (int i = 0; i < N; i++) {
            y.at[i] = swiglu(gate.at[i], up.at[i]);
        }
        store<N>(p.y + start + column, y);
    });
}

template <int N> __device__ inline void swiglu_backward(const SwigluParams &p) {
    each<N>(p, [&](size_t start, uint32_t column) {
        const bf16 *gate_up = p.gate_up + 2 * start + column;
        const Floats<N> gate = load<N>(gate_up), up = load<N>(gate_up + p.columns);
        const Floats<N> dy = load<N>(p.y + start + column);
        Floats<N> dgate, dup;
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float2 d = swiglu_gradient(gate.at[i], up.at[i], dy.at[i]);
            dgate.at[i] = d.x;
            dup.at[i] = d.y;
        }
        bf16 *dgate_up = p.dgate_up + 2 * start + column;
        store<N>(dgate_up, dgate);
        store<N>(dgate_up + p.columns, dup);
    });
}

extern "C" __global__ void __launch_bounds__(SWIGLU_THREADS)
    swiglu_forward_vec8(const __grid_constant__ SwigluParams p) {
    swiglu_forward<8>(p);
}

extern "C" __global__ void __launch_bounds__(SWIGLU_THREADS)
    swiglu_forward_any(const __grid_constant__ SwigluParams p) {
    swiglu_forward<1>(p);
}

extern "C" __global__ void __launch_bounds__(SWIGLU_THREADS)
    swiglu_backward_vec8(const __grid_constant__ SwigluParams p) {
    swiglu_backward<8>(p);
}

extern "C" __global__ void __launch_bounds__(SWIGLU_THREADS)
    swiglu_backward_any(const __grid_constant__ SwigluParams p) {
    swiglu_backward<1>(p);
}
