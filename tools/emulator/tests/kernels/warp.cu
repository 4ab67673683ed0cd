// A row-wise softmax and a few things that only other kernels need: shared arrays, constants, switches, local memory.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

__constant__ float SCALES[4] = {1.0f, 0.5f, 0.25f, 2.0f};
__device__ unsigned int ticket;

// y[rows, columns] = softmax(x scale) by rows, one block of 128 threads a row.
extern "C" __global__ void softmax(float *y, const float *x, uint32_t columns, uint32_t scale) {
    __shared__ float partial[4];
    const float *row = x + size_t(blockIdx.x) * columns;
    const float s = SCALES[scale];
    float top = -INFINITY;
    for (uint32_t i = threadIdx.x; i < columns; i += blockDim.x) top = fmaxf(top, row[i] * s);
    for (int d = 16; d; d /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, d));
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = top;
    __syncthreads();
    top = fmaxf(fmaxf(partial[0], partial[1]), fmaxf(partial[2], partial[3]));
    __syncthreads();
    float sum = 0;
    for (uint32_t i = threadIdx.x; i < columns; i += blockDim.x) sum += __expf(row[i] * s - top);
    for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(0xffffffff, sum, d);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = partial[0] + partial[1] + partial[2] + partial[3];
    for (uint32_t i = threadIdx.x; i < columns; i += blockDim.x)
        y[size_t(blockIdx.x) * columns + i] = __expf(row[i] * s - top) / sum;
}

// A switch, an array that is indexed at run time, sines, and both halves.
extern "C" __global__ void odds(float *y, const uint32_t *x, uint32_t n) {
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float table[16];
    for (int j = 0; j < 16; ++j) table[j] = float(j * j) + float(n);
    uint32_t v = x[i];
    float r;
    switch (v % 9) {
        case 0: r = sinf(float(v % 1000) * 0.01f); break;
        case 1: r = table[v / 9 % 16]; break;
        case 2: r = __bfloat162float(__float2bfloat16(float(v))); break;
        case 3: r = __half2float(__float2half(float(v) * 0.001f)); break;
        case 4: r = float(__popc(v)) + float(__clz(v)) + float(__brev(v) >> 20); break;
        case 5: r = sqrtf(float(v)); break;
        case 6: r = float(v / (n | 1)); break;
        case 7: r = float(int(v) % 77); break;
        default: r = -1.0f;
    }
    y[i] = r;
}

// total = the sum of x: every block writes its part, the last one to finish adds them in order.
extern "C" __global__ void last_block(float *total, float *parts, const float *x, uint32_t n) {
    __shared__ float warp_sums[4];
    __shared__ bool last;
    float sum = 0;
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += x[i];
    for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(0xffffffff, sum, d);
    if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = warp_sums[0] + warp_sums[1] + warp_sums[2] + warp_sums[3];
        __threadfence();
        last = atomicAdd(&ticket, 1) == gridDim.x - 1;
        __threadfence();
    }
    __syncthreads();
    if (last && threadIdx.x == 0) {
        float all = 0;
        for (uint32_t i = 0; i < gridDim.x; ++i) all += parts[i];
        *total = all;
        ticket = 0;
    }
}
