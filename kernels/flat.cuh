// Flat buffers: four elements at a time where the addresses allow it, one by one where not and at the end.
#pragma once

#include "numeric.cuh"
#include "reduce.cuh"

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

// By its exponent, so that no compiler's idea of fast arithmetic takes it away.
__device__ inline bool is_finite(float x) {
    return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u;
}

// The sum of `f(x)` over this block's chunk, to `partials`: 64 elements to a thread and then in a tree, so that rounding
// errors grow with the logarithm. `f(0)` is 0.
template <class F> __device__ inline void chunk_sum(const FlatSumParams &p, F f) {
    __shared__ float sums[32];
    constexpr uint32_t QUADS = FLAT_SUM_CHUNK / (4 * FLAT_SUM_THREADS);
    const uint64_t first = static_cast<uint64_t>(blockIdx.x) * FLAT_SUM_CHUNK;
    const uint32_t count = static_cast<uint32_t>(min(p.count - first, static_cast<uint64_t>(FLAT_SUM_CHUNK)));
    const float *x = p.x + first;
    // The four sums keep the additions of one thread apart; the order is the same for both ways of reading.
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    const bool aligned = is_aligned(x, 16);
#pragma unroll 8
    for (uint32_t quad = 0; quad < QUADS; quad++) {
        const uint32_t i = 4 * (quad * FLAT_SUM_THREADS + threadIdx.x);
        float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (aligned && i + 3 < count) {
            v = *reinterpret_cast<const float4 *>(x + i);
        } else if (i < count) {
            v = make_float4(x[i], i + 1 < count ? x[i + 1] : 0.0f, i + 2 < count ? x[i + 2] : 0.0f,
                            i + 3 < count ? x[i + 3] : 0.0f);
        }
        sum.x += f(v.x), sum.y += f(v.y), sum.z += f(v.z), sum.w += f(v.w);
    }
    const float total = block_sum((sum.x + sum.y) + (sum.z + sum.w), sums);
    if (threadIdx.x == 0) {
        p.partials[blockIdx.x] = total;
    }
}

// The sum of the chunks' sums, by one block, the same way.
__device__ inline void sum_of_chunks(const FlatSumParams &p) {
    __shared__ float sums[32];
    const uint64_t partials = (p.count + FLAT_SUM_CHUNK - 1) / FLAT_SUM_CHUNK;
    float sum = 0.0f;
    for (uint64_t i = threadIdx.x; i < partials; i += FLAT_SUM_THREADS) {
        sum += p.partials[i];
    }
    const float total = block_sum(sum, sums);
    if (threadIdx.x == 0) {
        *p.sum = total;
    }
}
