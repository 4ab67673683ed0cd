// Tiles of bf16 in shared memory, as the tensor cores want to read them, and the fragments that they read.
//
// A tile has rows of `CHUNKS` times 16 bytes. `ldmatrix` reads 8 rows of one chunk at a time: in a plain layout they
// would lie in the same four banks. So the chunks of a row change places with the row's number (`swizzle`), and the
// eight lie in eight different sixteenths of the 128 bytes that the banks span. `cp.async` writes whole rows, which lie
// in all banks either way.
#pragma once

#include "numeric.cuh"
#include "ptx.cuh"

// The dynamic shared memory of a block. Tiles begin at multiples of 128 bytes, so that their rows lie in the banks as
// `swizzle` assumes.
extern __shared__ __align__(128) uint4 shared_memory[];

// Where chunk `chunk` of row `row` lies, in chunks.
template <int CHUNKS> __device__ inline uint32_t swizzle(uint32_t row, uint32_t chunk) {
    static_assert(CHUNKS == 4 || CHUNKS % 8 == 0);
    if constexpr (CHUNKS == 4) {
        // Two rows to 128 bytes: the row's lowest bit already tells the halves apart.
        return row * 4 + (chunk ^ ((row >> 1) & 3));
    } else {
        return row * CHUNKS + (chunk ^ (row & 7));
    }
}

template <int CHUNKS> __device__ inline uint32_t chunk_address(uint32_t tile, uint32_t row, uint32_t chunk) {
    return tile + 16 * swizzle<CHUNKS>(row, chunk);
}

// Starts to copy a tile of `ROWS` rows. `row_at(row)` is the global address of a row; rows at and beyond `rows` and
// columns at and beyond `columns` become zeros. Rows lie at multiples of 16 bytes if `aligned`; otherwise elements are
// copied one by one, at once.
template <int ROWS, int CHUNKS, int THREADS, class RowAt>
__device__ inline void load_tile(uint32_t tile, uint32_t rows, uint32_t columns, bool aligned, RowAt row_at) {
    static_assert(ROWS * CHUNKS % 32 == 0);
#pragma unroll
    for (int first = 0; first < ROWS * CHUNKS; first += THREADS) {
        const uint32_t index = first + threadIdx.x, row = index / CHUNKS, chunk = index % CHUNKS;
        if (first + THREADS > ROWS * CHUNKS && index >= ROWS * CHUNKS) {
            break;
        }
        const uint32_t to = chunk_address<CHUNKS>(tile, row, chunk);
        const bool inside = row < rows && chunk * 8 < columns;
        const uint32_t count = inside ? min(8u, columns - chunk * 8) : 0;
        // Nothing is read where count is 0, but the address has to be one.
        const bf16 *from = row_at(inside ? row : 0) + (inside ? chunk * 8 : 0);
        if (aligned) {
            ptx::cp_async_16(to, from, 2 * count);
        } else {
            uint32_t pairs[4];
#pragma unroll
            for (int pair = 0; pair < 4; pair++) {
                const uint32_t first = 2 * pair < count ? from[2 * pair].bits : 0;
                const uint32_t second = 2 * pair + 1 < count ? from[2 * pair + 1].bits : 0;
                pairs[pair] = first | second << 16;
            }
            ptx::st_shared_v4(to, pairs);
        }
    }
}

// What `chunk_address` is for a lane's row within a group of 8 rows, with `chunk` even and the lane's `odd` 0 or 1: one
// exclusive or, so that a lane keeps one address for a whole tile. Tiles begin at multiples of 128 bytes, and the first
// row of the group is a multiple of 8.
template <int CHUNKS>
__device__ inline uint32_t lane_address(uint32_t tile, uint32_t first_row, uint32_t lane_row, uint32_t chunk,
                                        uint32_t odd) {
    return chunk_address<CHUNKS>(tile + 16 * CHUNKS * first_row, lane_row, odd) ^ (16 * chunk);
}

// The operand `a` of one mma, 16 rows from `row` and 16 columns from chunk `chunk`, of a tile with k along its rows.
template <int CHUNKS> __device__ inline void load_a(uint32_t (&a)[4], uint32_t tile, uint32_t row, uint32_t chunk) {
    const uint32_t lane = threadIdx.x % 32;
    ptx::ldmatrix_x4(a, lane_address<CHUNKS>(tile, row, lane % 16, chunk, lane / 16));
}

// The same of a tile with k down its columns: rows are `k`, chunks are along m.
template <int CHUNKS> __device__ inline void load_a_trans(uint32_t (&a)[4], uint32_t tile, uint32_t k, uint32_t chunk) {
    const uint32_t lane = threadIdx.x % 32, matrix = lane / 8;
    ptx::ldmatrix_x4_trans(a, lane_address<CHUNKS>(tile, k, matrix / 2 * 8 + lane % 8, chunk, matrix % 2));
}

// The operands `b` of two neighbouring mmas, 16 of n from `row` and 16 of k from chunk `chunk`, of a tile with k along
// its rows: `b[0]`, `b[1]` are the first one's.
template <int CHUNKS> __device__ inline void load_b(uint32_t (&b)[4], uint32_t tile, uint32_t row, uint32_t chunk) {
    const uint32_t lane = threadIdx.x % 32, matrix = lane / 8;
    ptx::ldmatrix_x4(b, lane_address<CHUNKS>(tile, row, matrix / 2 * 8 + lane % 8, chunk, matrix % 2));
}

// The same of a tile with k down its columns: rows are `k`, chunks are along n.
template <int CHUNKS> __device__ inline void load_b_trans(uint32_t (&b)[4], uint32_t tile, uint32_t k, uint32_t chunk) {
    const uint32_t lane = threadIdx.x % 32;
    ptx::ldmatrix_x4_trans(b, lane_address<CHUNKS>(tile, k, lane % 16, chunk, lane / 16));
}

// The four lanes of a quad hold a row each of a 4 x 4 matrix, and then of its transpose. The accumulators of four
// neighbouring mmas, as bf16, are such a matrix: afterwards each lane holds 8 neighbouring columns, one access of 16
// bytes instead of four of 4.
__device__ inline void transpose_quad(uint32_t (&v)[4]) {
    const bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;
#pragma unroll
    for (int j = 0; j < 4; j += 2) {
        const uint32_t got = __shfl_xor_sync(0xffffffffu, odd ? v[j] : v[j + 1], 1);
        v[j] = odd ? got : v[j];
        v[j + 1] = odd ? v[j + 1] : got;
    }
#pragma unroll
    for (int j = 0; j < 2; j++) {
        const uint32_t got = __shfl_xor_sync(0xffffffffu, upper ? v[j] : v[j + 2], 2);
        v[j] = upper ? got : v[j];
        v[j + 2] = upper ? v[j + 2] : got;
    }
}

// Eight columns from `from`, of which `columns` exist; the rest are zeros.
__device__ inline void load_columns(uint32_t (&v)[4], const bf16 *from, uint32_t columns) {
    if (columns >= 8 && reinterpret_cast<uintptr_t>(from) % 16 == 0) {
        const uint4 x = *reinterpret_cast<const uint4 *>(from);
        v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t first = 2 * i < columns ? from[2 * i].bits : 0;
        const uint32_t second = 2 * i + 1 < columns ? from[2 * i + 1].bits : 0;
        v[i] = first | second << 16;
    }
}

// Stores eight columns to `to`, of which `columns` exist.
__device__ inline void store_columns(bf16 *to, const uint32_t (&v)[4], uint32_t columns) {
    if (columns >= 8 && reinterpret_cast<uintptr_t>(to) % 16 == 0) {
        *reinterpret_cast<uint4 *>(to) = make_uint4(v[0], v[1], v[2], v[3]);
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (2 * i < columns) {
            to[2 * i].bits = static_cast<uint16_t>(v[i]);
        }
        if (2 * i + 1 < columns) {
            to[2 * i + 1].bits = static_cast<uint16_t>(v[i] >> 16);
        }
    }
}
