// Selected rows of a matrix, and their gradient added where they came from.
//
// Floor: 4 bytes an element forward, 6 backward. No row occurs twice, so that blocks do not meet.
#include "rows.cuh"

template <int N> __device__ inline void add_rows(const RowsParams &p) {
    const bf16 *from = p.from + static_cast<size_t>(blockIdx.x) * p.columns;
    bf16 *out = p.out + static_cast<size_t>(p.ids[blockIdx.x]) * p.columns;
    for (uint32_t column = threadIdx.x * N; column < p.columns; column += ROWS_THREADS * N) {
        Floats<N> sum = load<N>(out + column);
        const Floats<N> d = load<N>(from + column);
#pragma unroll
        for (int i = 0; i < N; i++) {
            sum.at[i] += d.at[i];
        }
        store<N>(out + column, sum);
    }
}

extern "C" __global__ void __launch_bounds__(ROWS_THREADS) gather_forward_vec8(const __grid_constant__ RowsParams p) {
    copy_rows<8>(p);
}

extern "C" __global__ void __launch_bounds__(ROWS_THREADS) gather_forward_any(const __grid_constant__ RowsParams p) {
    copy_rows<1>(p);
}

extern "C" __global__ void __launch_bounds__(ROWS_THREADS) gather_backward_vec8(const __grid_constant__ RowsParams p) {
    add_rows<8>(p);
}

extern "C" __global__ void __launch_bounds__(ROWS_THREADS) gather_backward_any(const __grid_constant__ RowsParams p) {
    add_rows<1>(p);
}
