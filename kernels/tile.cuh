// Tiles of bf16 in shared memory, as the tensor cores want to read them, and the fragments that they read.
//
// A tile has rows of `CHUNKS` times 16 bytes. `ldmatrix` reads 8 rows of one chunk at a time: in a plain layout they
// would lie in the same four banks. So the chunks of a row change places with the row's number (`swizzle`), and the
// eight lie in eight different sixteenths of the 128 bytes that the banks span. `cp.async` writes whole rows, which lie
// in all banks either way.
#pragma once

#include "numeric.cuh"
#include "ptx.cuh"

// The dynamic shared memory of a block. Tiles begin at multiples of their rows, so that these lie in the banks as
// `swizzle` assumes; the longest has 512 bytes.
extern __shared__ __align__(1024) uint4 shared_memory[];

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

// The same as `load_tile` for rows that are not aligned: element by element, and at once.
template <int ROWS, int CHUNKS, int THREADS, class RowAt>
__device__ inline void load_unaligned_tile(uint32_t tile, uint32_t rows, uint32_t columns, RowAt row_at) {
#pragma unroll 1
    for (uint32_t index = threadIdx.x; index < ROWS * CHUNKS; index += THREADS) {
        const uint32_t row = index / CHUNKS, chunk = index % CHUNKS;
        const uint32_t count = row < rows && chunk * 8 < columns ? min(8u, columns - chunk * 8) : 0;
        const bf16 *from = count > 0 ? row_at(row) + chunk * 8 : nullptr;
        uint32_t pairs[4];
#pragma unroll
        for (int pair = 0; pair < 4; pair++) {
            const uint32_t first = 2 * pair < count ? from[2 * pair].bits : 0;
            const uint32_t second = 2 * pair + 1 < count ? from[2 * pair + 1].bits : 0;
            pairs[pair] = first | second << 16;
        }
        ptx::st_shared_v4(chunk_address<CHUNKS>(tile, row, chunk), pairs);
    }
}

// Starts to copy a tile of `ROWS` rows. `row_at(row)` is the global address of a row; rows at and beyond `rows` and
// columns at and beyond `columns` become zeros. Rows lie at multiples of 16 bytes if `aligned`.
template <int ROWS, int CHUNKS, int THREADS, class RowAt>
__device__ inline void load_tile(uint32_t tile, uint32_t rows, uint32_t columns, bool aligned, RowAt row_at) {
    // Rows from one piece of a thread to the next. A multiple of 8 rows further on, the swizzle begins anew.
    constexpr int APART = THREADS / CHUNKS;
    static_assert(ROWS * CHUNKS % 32 == 0 && APART % 8 == 0);
    if (!aligned) {
        load_unaligned_tile<ROWS, CHUNKS, THREADS>(tile, rows, columns, row_at);
        return;
    }
    const uint32_t first = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    const uint32_t bytes = chunk * 8 < columns ? min(16u, 2 * (columns - chunk * 8)) : 0;
    const uint32_t to = chunk_address<CHUNKS>(tile, first, chunk);
    if (ROWS < APART && first >= ROWS) {
        return;
    }
#pragma unroll
    for (int row = 0; row < ROWS; row += APART) {
        // Of a row that does not exist nothing is read, wherever its address points.
        const bf16 *from = row_at(first + row) + chunk * 8;
        ptx::cp_async_16(to + 16 * CHUNKS * row, from, first + row < rows ? bytes : 0);
    }
}

// What `chunk_address` is for a lane's row within a group of 8 rows, with `chunk` even and the lane's `odd` 0 or 1. The
// first row of the group is a multiple of 8 and tiles begin at multiples of their rows, so the swizzle is an exclusive
// or of one address that a lane keeps for a whole tile, and the group's place is added behind it, where `ldmatrix` adds
// it.
template <int CHUNKS>
__device__ inline uint32_t lane_address(uint32_t tile, uint32_t first_row, uint32_t lane_row, uint32_t chunk,
                                        uint32_t odd) {
    return (chunk_address<CHUNKS>(tile, lane_row, odd) ^ (16 * chunk)) + 16 * CHUNKS * first_row;
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

// Accumulators on their way out. The tensor cores leave a lane 2 columns of 8 rows apart; memory wants 16 bytes of one
// row. So each warp puts 16 rows at a time into a corner of shared memory, from which every lane takes neighbouring
// columns. A row has 8 floats more than columns: then the four rows that are written in one go lie in different banks.
template <int COLUMNS> struct Staged {
    static constexpr int STRIDE = COLUMNS + 8;
    static constexpr int BYTES = 16 * STRIDE * 4;

    float *rows;

    // The corner of this warp. The block is done with what the memory held before.
    __device__ Staged()
        : rows(reinterpret_cast<float *>(shared_memory) + static_cast<size_t>(threadIdx.x / 32) * 16 * STRIDE) {
    }

    // 16 rows of accumulators, times a factor for rows `lane / 4` and one for those 8 below.
    __device__ void put(const float (&acc)[COLUMNS / 8][4], float upper, float lower) const {
        const uint32_t lane = threadIdx.x % 32;
        float2 *to = reinterpret_cast<float2 *>(rows) + (lane / 4 * STRIDE + 2 * (lane % 4)) / 2;
        __syncwarp();
#pragma unroll
        for (int j = 0; j < COLUMNS / 8; j++) {
            to[4 * j] = make_float2(acc[j][0] * upper, acc[j][1] * upper);
            to[4 * j + 4 * STRIDE] = make_float2(acc[j][2] * lower, acc[j][3] * lower);
        }
        __syncwarp();
    }

    // Eight columns of a row from `column` on. `odd` is bit 2 of the lane's place among the lanes that read: half of
    // them begin with the other four columns, so that eight lanes read from all banks.
    __device__ Floats<8> eight(uint32_t row, uint32_t column, bool odd) const {
        const float4 *from = reinterpret_cast<const float4 *>(rows + row * STRIDE + column);
        const float4 first = from[odd], second = from[!odd];
        const float4 left = odd ? second : first, right = odd ? first : second;
        return {{left.x, left.y, left.z, left.w, right.x, right.y, right.z, right.w}};
    }

    // `f(row, column, values)` for eight columns at a time of the first `WIDTH` columns.
    template <int WIDTH, class F> __device__ void each_eight(F f) const {
        constexpr uint32_t SHARES = WIDTH / 8;
        static_assert(SHARES % 4 == 0);
#pragma unroll 1
        for (uint32_t i = threadIdx.x % 32; i < 16 * SHARES; i += 32) {
            const uint32_t row = i / SHARES, column = i % SHARES * 8;
            f(row, column, eight(row, column, i & 4), i & 4);
        }
    }
};

// Eight columns from `from`, of which `columns` exist; the rest are zeros.
__device__ inline Floats<8> load_columns(const bf16 *from, uint32_t columns) {
    if (columns >= 8 && reinterpret_cast<uintptr_t>(from) % 16 == 0) {
        return load<8>(from);
    }
    Floats<8> v;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        v.at[i] = i < columns ? to_float(from[i]) : 0.0f;
    }
    return v;
}

// Stores eight columns to `to`, of which `columns` exist.
__device__ inline void store_columns(bf16 *to, const Floats<8> &v, uint32_t columns) {
    if (columns >= 8 && reinterpret_cast<uintptr_t>(to) % 16 == 0) {
        store<8>(to, v);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        if (i < columns) {
            to[i] = to_bf16(v.at[i]);
        }
    }
}
