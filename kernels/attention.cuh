// What the passes of attention have in common: which keys a query sees, and how a tile finds the next ones.
//
// The heads of a group share keys and lie side by side in `q[kv_heads, queries, group, dim]`, so that for one key/value
// head the queries are a matrix of `queries * group` rows, of which a tile is a band. A tile may begin in one span and
// end in another, and its rows may see keys in several runs; a block of keys begins wherever the next key is that some
// row sees. So nothing is computed for keys that nobody sees, and short candidates fill their tiles together.
#pragma once

#include "reduce.cuh"
#include "tile.cuh"

// The keys that query `query` sees: its span is the last one that begins at or before it (spans without queries begin
// where the next one does).
__device__ inline Visible visible_keys(const Span *spans, uint32_t n_spans, const uint32_t *query_tokens,
                                       uint32_t query) {
    uint32_t first = 0, last = n_spans;
    while (last - first > 1) {
        const uint32_t middle = (first + last) / 2;
        if (spans[middle].query_start <= query) {
            first = middle;
        } else {
            last = middle;
        }
    }
    const Span &span = spans[first];
    const uint32_t prefix_end = span.prefix_start + span.prefix, own_end = query_tokens[query] + 1;
    if (span.prefix > 0 && prefix_end == span.own_start) {
        return {0, 0, span.prefix_start, own_end};
    }
    return {span.prefix_start, prefix_end, span.own_start, own_end};
}

__device__ inline bool sees(const Visible &v, uint32_t key) {
    return key - v.prefix_start < v.prefix_end - v.prefix_start || key - v.own_start < v.own_end - v.own_start;
}

// Whether all of `[first, last)` are seen.
__device__ inline bool sees_all(const Visible &v, uint32_t first, uint32_t last) {
    return (v.prefix_start <= first && last <= v.prefix_end) || (v.own_start <= first && last <= v.own_end);
}

__device__ inline bool sees_any(const Visible &v, uint32_t first, uint32_t last) {
    return max(first, v.prefix_start) < min(last, v.prefix_end) || max(first, v.own_start) < min(last, v.own_end);
}

// All four numbers in one access of 16 bytes: one by one, eight lanes would ask the same four banks.
__device__ inline Visible load_visible(const Visible *from) {
    const uint4 v = *reinterpret_cast<const uint4 *>(from);
    return {v.x, v.y, v.z, v.w};
}

// A run of keys or of queries; empty where there are no more.
struct Run {
    uint32_t first, last;

    __device__ bool empty() const {
        return first >= last;
    }
};

// The first run of keys from `from` on of which each is seen by some row of the tile. Every warp finds it for itself:
// runs are few, and this saves a barrier.
template <int ROWS> __device__ inline Run next_keys(const Visible *rows, uint32_t from) {
    const uint32_t lane = threadIdx.x % 32;
    uint32_t first = UINT32_MAX, last = 0;
#pragma unroll
    for (int i = 0; i < ROWS; i += 32) {
        const Visible v = load_visible(rows + i + lane);
        if (max(from, v.prefix_start) < v.prefix_end) {
            first = min(first, max(from, v.prefix_start));
        }
        if (max(from, v.own_start) < v.own_end) {
            first = min(first, max(from, v.own_start));
        }
    }
    first = warp_min(first);
    if (first == UINT32_MAX) {
        return {0, 0};
    }
#pragma unroll
    for (int i = 0; i < ROWS; i += 32) {
        const Visible v = load_visible(rows + i + lane);
        if (v.prefix_start <= first && first < v.prefix_end) {
            last = max(last, v.prefix_end);
        }
        if (v.own_start <= first && first < v.own_end) {
            last = max(last, v.own_end);
        }
    }
    return {first, warp_max(last)};
}

// The block of `KEYS` keys after the one that begins at `key` in `run`; the run becomes the next one where it ends.
// Keys beyond a block's run may be seen too: the mask says so, and they are not visited again.
template <int ROWS, int KEYS> __device__ inline uint32_t next_block(const Visible *rows, Run &run, uint32_t key) {
    key += KEYS;
    if (key >= run.last) {
        run = next_keys<ROWS>(rows, key);
        key = run.first;
    }
    return key;
}

// The head dimension of a kernel. Other dimensions up to it are filled up with zeros, if `EXACT` is false.
template <int DIM_, bool EXACT> struct Head {
    static constexpr int DIM = DIM_;
    // 16-byte pieces of a row.
    static constexpr int CHUNKS = DIM / 8;

    __device__ static uint32_t dim(uint32_t given) {
        return EXACT ? DIM : given;
    }

    // Whether rows lie at multiples of 16 bytes.
    __device__ static bool aligned(uint32_t given) {
        return EXACT || given % 8 == 0;
    }
};

// Starts to copy the keys and values of key/value head `head` from `key` on to the tiles `k` and `v`, as one group.
template <class Head, int KEYS, int THREADS, class Params>
__device__ inline void load_keys(const Params &p, uint32_t k, uint32_t v, uint32_t head, uint32_t key) {
    const uint32_t dim = Head::dim(p.dim);
    const size_t at = (static_cast<size_t>(head) * p.tokens + key) * dim;
    const auto load = [&](uint32_t to, const bf16 *from) {
        load_tile<KEYS, Head::CHUNKS, THREADS>(to, p.tokens - key, dim, Head::aligned(p.dim), [&](uint32_t row) {
            return from + static_cast<size_t>(row) * dim;
        });
    };
    load(k, p.k + at);
    load(v, p.v + at);
    ptx::cp_async_commit();
}

// `f(buffer, key)` for each block of `KEYS` keys, from `key` on, of which some row of the tile sees one; while it works,
// `load(buffer, key)` has the next block on its way to the other buffer.
template <int ROWS, int KEYS, class Load, class F>
__device__ inline void each_block(const Visible *rows, Load load, F f) {
    Run run = next_keys<ROWS>(rows, 0);
    uint32_t key = run.first, buffer = 0;
    load(buffer, key);
    for (; !run.empty(); buffer ^= 1) {
        // The block's keys are there, and all warps are done with the other buffer.
        ptx::cp_async_wait<0>();
        __syncthreads();
        const uint32_t now = key;
        key = next_block<ROWS, KEYS>(rows, run, key);
        if (!run.empty()) {
            load(buffer ^ 1, key);
        }
        f(buffer, now);
    }
    // The tiles' memory is free for the result once all warps are done with them, and with what they copied.
    ptx::cp_async_wait<0>();
    __syncthreads();
}

// Accumulators of two neighbouring mmas, 16 x 16, as the operand `a` of the next product: they lie as it wants them.
__device__ inline void as_operand(uint32_t (&a)[4], const float (&left)[4], const float (&right)[4]) {
    a[0] = ptx::cvt_bf16x2(left[0], left[1]);
    a[1] = ptx::cvt_bf16x2(left[2], left[3]);
    a[2] = ptx::cvt_bf16x2(right[0], right[1]);
    a[3] = ptx::cvt_bf16x2(right[2], right[3]);
}

// Products of the 32 rows of a warp and `KEYS` keys: rows `16 i + lane / 4` and 8 below, keys as `mma` has its columns.
template <int KEYS> using Products = float[2][KEYS / 8][4];

// Adds `rows keys^T` to `to`, both tiles of shared memory; `first_row` is the warp's first.
template <class Head, int KEYS>
__device__ inline void multiply(Products<KEYS> &to, uint32_t rows, uint32_t first_row, uint32_t keys) {
#pragma unroll
    for (int chunk = 0; chunk < Head::CHUNKS; chunk += 2) {
        uint32_t a[2][4];
        load_a<Head::CHUNKS>(a[0], rows, first_row, chunk);
        load_a<Head::CHUNKS>(a[1], rows, first_row + 16, chunk);
#pragma unroll
        for (int j = 0; j < KEYS / 8; j += 2) {
            uint32_t b[4];
            load_b<Head::CHUNKS>(b, keys, 8 * j, chunk);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                ptx::mma_m16n8k16(to[i][j], a[i], b[0], b[1]);
                ptx::mma_m16n8k16(to[i][j + 1], a[i], b[2], b[3]);
            }
        }
    }
}

// Adds `weights vectors` to `to`: the vectors of a tile's keys, weighted for each row.
template <class Head, int KEYS>
__device__ inline void add_weighted(float (&to)[2][Head::DIM / 8][4], const Products<KEYS> &weights, uint32_t vectors) {
#pragma unroll
    for (int key = 0; key < KEYS; key += 16) {
        uint32_t a[2][4];
        as_operand(a[0], weights[0][key / 8], weights[0][key / 8 + 1]);
        as_operand(a[1], weights[1][key / 8], weights[1][key / 8 + 1]);
#pragma unroll
        for (int chunk = 0; chunk < Head::CHUNKS; chunk += 2) {
            uint32_t b[4];
            load_b_trans<Head::CHUNKS>(b, vectors, key, chunk);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                ptx::mma_m16n8k16(to[i][chunk], a[i], b[0], b[1]);
                ptx::mma_m16n8k16(to[i][chunk + 1], a[i], b[2], b[3]);
            }
        }
    }
}

// Hides the keys, from `first_key` on, that a row of the warp does not see. `visible` begins at the warp's first row.
template <int KEYS> __device__ inline void mask(Products<KEYS> &scores, const Visible *visible, uint32_t first_key) {
    const uint32_t lane = threadIdx.x % 32;
    if (__all_sync(ALL_LANES, sees_all(load_visible(visible + lane), first_key, first_key + KEYS))) {
        return;
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        const Visible row = load_visible(visible + 8 * r + lane / 4);
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) {
#pragma unroll
            for (int c = 0; c < 2; c++) {
                if (!sees(row, first_key + 8 * j + 2 * (lane % 4) + c)) {
                    scores[r / 2][j][2 * (r % 2) + c] = -INFINITY;
                }
            }
        }
    }
}

// The row of `out[queries, kv_heads, group, dim]` for a row of the stacked queries of one key/value head.
template <class Params> __device__ inline size_t out_row(const Params &p, uint32_t head, uint32_t row) {
    const uint32_t query = row / p.group, member = row - query * p.group;
    return (static_cast<size_t>(query) * p.kv_heads + head) * p.group + member;
}

// Stores 16 rows of accumulators as bf16, rows `lane / 4` times `upper` and those 8 below times `lower`. `to(row)` is
// the address of a row, or null.
template <int TILES, class To>
__device__ inline void store_rows(const float (&acc)[TILES][4], float upper, float lower, uint32_t dim, To to) {
    const Staged<8 * TILES> staged;
    staged.put(acc, upper, lower);
    staged.template each_eight<8 * TILES>([&](uint32_t row, uint32_t column, const Floats<8> &v, bool) {
        bf16 *out = to(row);
        if (out && column < dim) {
            store_columns(out + column, v, dim - column);
        }
    });
}
