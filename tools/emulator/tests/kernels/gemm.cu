// C[M, N] = A[M, K] B[N, K]^T: a tiled tensor-core product with a three-stage cp.async pipeline, ldmatrix from swizzled
// shared memory and ragged edges. bf16 in, f32 out; K must be a multiple of 8.
#include <cuda_bf16.h>
#include <stdint.h>

struct alignas(16) GemmParams {
    const __nv_bfloat16 *a;
    const __nv_bfloat16 *b;
    float *c;
    uint32_t m, n, k;
};

constexpr int TILE_M = 64, TILE_N = 64, TILE_K = 32, STAGES = 3, THREADS = 128;

__device__ __forceinline__ uint32_t shared_address(const void *p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void cp_async_16(uint32_t to, const void *from, uint32_t bytes) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], uint32_t from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
}

__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Where chunk `chunk` (16 bytes) of row `row` lies in a tile of 64-byte rows, so that eight rows meet no bank twice.
__device__ __forceinline__ uint32_t swizzled(uint32_t row, uint32_t chunk) {
    return row * 64 + ((chunk ^ ((row >> 1) & 3)) << 4);
}

template <int ROWS>
__device__ __forceinline__ void load_tile(uint32_t to, const __nv_bfloat16 *from, uint32_t row0, uint32_t rows,
                                          uint32_t k0, uint32_t k) {
    for (int i = threadIdx.x; i < ROWS * 4; i += THREADS) {
        uint32_t row = i >> 2, chunk = i & 3;
        bool inside = row0 + row < rows && k0 + chunk * 8 < k;
        const __nv_bfloat16 *src = inside ? from + size_t(row0 + row) * k + k0 + chunk * 8 : from;
        cp_async_16(to + swizzled(row, chunk), src, inside ? 16 : 0);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) gemm(const __grid_constant__ GemmParams p) {
    extern __shared__ __align__(128) uint8_t tiles[];
    const uint32_t tile_a = shared_address(tiles), tile_b = tile_a + STAGES * TILE_M * 64;
    const uint32_t row0 = blockIdx.y * TILE_M, col0 = blockIdx.x * TILE_N;
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t warp_m = (warp & 1) * 32, warp_n = (warp >> 1) * 32;
    const uint32_t steps = (p.k + TILE_K - 1) / TILE_K;

    for (uint32_t s = 0; s < STAGES - 1; ++s) {
        if (s < steps) {
            load_tile<TILE_M>(tile_a + s * TILE_M * 64, p.a, row0, p.m, s * TILE_K, p.k);
            load_tile<TILE_N>(tile_b + s * TILE_N * 64, p.b, col0, p.n, s * TILE_K, p.k);
        }
        asm volatile("cp.async.commit_group;\n" ::: "memory");
    }

    float acc[2][4][4] = {};
    for (uint32_t step = 0; step < steps; ++step) {
        asm volatile("cp.async.wait_group %0;\n" ::"n"(STAGES - 2) : "memory");
        __syncthreads();
        const uint32_t next = step + STAGES - 1;
        if (next < steps) {
            const uint32_t stage = next % STAGES;
            load_tile<TILE_M>(tile_a + stage * TILE_M * 64, p.a, row0, p.m, next * TILE_K, p.k);
            load_tile<TILE_N>(tile_b + stage * TILE_N * 64, p.b, col0, p.n, next * TILE_K, p.k);
        }
        asm volatile("cp.async.commit_group;\n" ::: "memory");
        const uint32_t a0 = tile_a + (step % STAGES) * TILE_M * 64, b0 = tile_b + (step % STAGES) * TILE_N * 64;
#pragma unroll
        for (int kk = 0; kk < 2; ++kk) {
            uint32_t a[2][4], b[2][4];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                ldmatrix_x4(a[i], a0 + swizzled(warp_m + i * 16 + lane % 16, kk * 2 + lane / 16));
                ldmatrix_x4(b[i], b0 + swizzled(warp_n + i * 16 + (lane & 7) + (lane >> 4) * 8, kk * 2 + (lane >> 3) % 2));
            }
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) mma_bf16(acc[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
        }
    }

#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const uint32_t row = row0 + warp_m + i * 16 + h * 8 + lane / 4, col = col0 + warp_n + j * 8 + lane % 4 * 2;
                if (row < p.m && col < p.n) p.c[size_t(row) * p.n + col] = acc[i][j][h * 2];
                if (row < p.m && col + 1 < p.n) p.c[size_t(row) * p.n + col + 1] = acc[i][j][h * 2 + 1];
            }
}
