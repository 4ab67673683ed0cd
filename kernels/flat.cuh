// Flat buffers: four elements at a time where the addresses allow it, one by one where not and at the end.
#pragma once

#include "numeric.cuh"

// `f(first)` for four elements at a time if `aligned`, then `g(i)` for the rest; the blocks share the work.
template <int THREADS, class F, class G> __device__ inline void each_element(uint64_t count, bool aligned, F f, G g) {
    const uint64_t first = static_cast<uint64_t>(blockIdx.x) * THREADS + threadIdx.x;
    const uint64_t stride = static_cast<uint64_t>(gridDim.x) * THREADS, quads = aligned ? count / 4 : 0;
    for (uint64_t i = first; i < quads; i += stride) {
        f(4 * i);
    }
    for (uint64_t i = 4 * quads + first; i < count; i += stride) {
        g(i);
    }
}

__device__ inline bool is_aligned(const void *address, uint32_t bytes) {
    return reinterpret_cast<uintptr_t>(address) % bytes == 0;
}
