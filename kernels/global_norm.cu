// The norm of a flat buffer, in an order that depends on nothing but its length.
//
// Floor: 4 bytes an element. Each block sums the squares of one chunk, 64 to a thread and then in a tree, so that
// rounding errors grow with the logarithm; one block adds the chunks' sums the same way.
#include "flat.cuh"
#include "reduce.cuh"

extern "C" __global__ void __launch_bounds__(GLOBAL_NORM_THREADS)
    global_norm_partial(const __grid_constant__ GlobalNormParams p) {
    __shared__ float sums[32];
    constexpr uint32_t QUADS = GLOBAL_NORM_CHUNK / (4 * GLOBAL_NORM_THREADS);
    const uint64_t first = static_cast<uint64_t>(blockIdx.x) * GLOBAL_NORM_CHUNK;
    const uint32_t count = static_cast<uint32_t>(min(p.count - first, static_cast<uint64_t>(GLOBAL_NORM_CHUNK)));
    const float *x = p.x + first;
    // The four sums keep the additions of one thread apart; the order is the same for both ways of reading.
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    const bool aligned = is_aligned(x, 16);
#pragma unroll 8
    for (uint32_t quad = 0; quad < QUADS; quad++) {
        const uint32_t i = 4 * (quad * GLOBAL_NORM_THREADS + threadIdx.x);
        float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (aligned && i + 3 < count) {
            v = *reinterpret_cast<const float4 *>(x + i);
        } else if (i < count) {
            v = make_float4(x[i], i + 1 < count ? x[i + 1] : 0.0f, i + 2 < count ? x[i + 2] : 0.0f,
                            i + 3 < count ? x[i + 3] : 0.0f);
        }
        sum.x += v.x * v.x, sum.y += v.y * v.y, sum.z += v.z * v.z, sum.w += v.w * v.w;
    }
    const float total = block_sum((sum.x + sum.y) + (sum.z + sum.w), sums);
    if (threadIdx.x == 0) {
        p.partials[blockIdx.x] = total;
    }
}

extern "C" __global__ void __launch_bounds__(GLOBAL_NORM_THREADS)
    global_norm_finish(const __grid_constant__ GlobalNormParams p) {
    __shared__ float sums[32];
    const uint64_t partials = (p.count + GLOBAL_NORM_CHUNK - 1) / GLOBAL_NORM_CHUNK;
    float sum = 0.0f;
    for (uint64_t i = threadIdx.x; i < partials; i += GLOBAL_NORM_THREADS) {
        sum += p.partials[i];
    }
    const float total = block_sum(sum, sums);
    if (threadIdx.x == 0) {
        *p.norm = sqrtf(total);
    }
}
