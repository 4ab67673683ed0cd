// Rows that are looked up: one block a row, since a row's address is the only arithmetic there is.
#pragma once

#include "numeric.cuh"

// `out[i] = from[ids[i]]`. Floor: 4 bytes an element; the bits are moved as they are.
template <int N> __device__ inline void copy_rows(const RowsParams &p) {
    const bf16 *from = p.from + static_cast<size_t>(p.ids[blockIdx.x]) * p.columns;
    bf16 *out = p.out + static_cast<size_t>(blockIdx.x) * p.columns;
    for (uint32_t column = threadIdx.x * N; column < p.columns; column += ROWS_THREADS * N) {
        if constexpr (N == 8) {
            const uint4 v = *reinterpret_cast<const uint4 *>(from + column);
            ptx::st_global_v4(out + column, v.x, v.y, v.z, v.w);
        } else {
            out[column] = from[column];
        }
    }
}
