// Sums over a warp and over a block, in an order that depends on nothing but their size.
#pragma once

#include <stdint.h>

constexpr uint32_t ALL_LANES = 0xffffffffu;

// The sum over the warp, in every lane.
__device__ inline float warp_sum(float x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) {
        x += __shfl_xor_sync(ALL_LANES, x, lane);
    }
    return x;
}

__device__ inline float warp_max(float x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) {
        x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, lane));
    }
    return x;
}

__device__ inline uint32_t warp_min(uint32_t x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) {
        x = min(x, __shfl_xor_sync(ALL_LANES, x, lane));
    }
    return x;
}

__device__ inline uint32_t warp_max(uint32_t x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) {
        x = max(x, __shfl_xor_sync(ALL_LANES, x, lane));
    }
    return x;
}

// The sum over a block of whole warps, in every thread. `shared` has room for 32 floats and belongs to this sum until
// the next barrier of the block.
__device__ inline float block_sum(float x, float *shared) {
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    x = warp_sum(x);
    if (lane == 0) {
        shared[warp] = x;
    }
    __syncthreads();
    return warp_sum(lane < warps ? shared[lane] : 0.0f);
}

// `f(column, sum)` for the sums of the columns of `x[rows, columns]`, 32 of them a block of `WARPS` warps: each warp adds
// every `WARPS`th row, then their sums are added in order.
template <uint32_t WARPS, class F>
__device__ inline void column_sums(const float *x, uint32_t rows, uint32_t columns, F f) {
    __shared__ float sums[WARPS][32];
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, column = blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (column < columns) {
#pragma unroll 8
        for (uint32_t row = warp; row < rows; row += WARPS) {
            sum += x[static_cast<size_t>(row) * columns + column];
        }
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && column < columns) {
        float total = 0.0f;
#pragma unroll
        for (uint32_t i = 0; i < WARPS; i++) {
            total += sums[i][lane];
        }
        f(column, total);
    }
}
