// The table of token embeddings: rows looked up, and their gradient added up.
//
// Backward: a token that occurs often has its row added to by many, in f32 and always in the order of the tokens. So
// each row of the table has one owner, the block of its first occurrence, and the other blocks find that out and leave.
// The owner walks the ids, a block's width at a time, and adds the rows that it finds. Ids are 4 bytes against the 2
// columns of a row of `dy`; they come from L2. Floor: `dy` once, the rows that occur twice.
#include "reduce.cuh"
#include "rows.cuh"

template <int N> __device__ inline void embedding_backward(const EmbeddingBackwardParams &p) {
    constexpr uint32_t THREADS = EMBEDDING_BACKWARD_THREADS, WARPS = THREADS / 32;
    __shared__ uint32_t found[THREADS];
    // Two, so that a step's counts do not overwrite the last one's while they are still read.
    __shared__ uint32_t counts[2][WARPS];
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, token = blockIdx.x, id = p.ids[token];
    const uint32_t column = (blockIdx.y * THREADS + threadIdx.x) * N;
    const bool inside = column < p.columns;
    float *to = p.dtable + static_cast<size_t>(id) * p.columns + (inside ? column : 0);
    Floats<N> sum = {};
    uint32_t buffer = 0;
    for (uint32_t base = 0; base < p.rows; base += THREADS, buffer ^= 1) {
        const uint32_t index = base + threadIdx.x;
        const bool same = index < p.rows && p.ids[index] == id;
        const uint32_t lanes = __ballot_sync(ALL_LANES, same);
        if (lane == 0) {
            counts[buffer][warp] = __popc(lanes);
        }
        __syncthreads();
        uint32_t before = 0, total = 0;
#pragma unroll
        for (uint32_t i = 0; i < WARPS; i++) {
            before += i < warp ? counts[buffer][i] : 0;
            total += counts[buffer][i];
        }
        if (total == 0) {
            continue;
        }
        if (same) {
            found[before + __popc(lanes & ((1u << lane) - 1))] = index;
        }
        __syncthreads();
        if (found[0] < token) {
            return;
        }
        if (inside) {
#pragma unroll 4
            for (uint32_t i = 0; i < total; i++) {
                const Floats<N> dy = load<N>(p.dy + static_cast<size_t>(found[i]) * p.columns + column);
#pragma unroll
                for (int j = 0; j < N; j++) {
                    sum.at[j] += dy.at[j];
                }
            }
        }
    }
    if (inside) {
        Floats<N> total = load<N>(to);
#pragma unroll
        for (int j = 0; j < N; j++) {
            total.at[j] += sum.at[j];
        }
        store<N>(to, total);
    }
}

extern "C" __global__ void __launch_bounds__(ROWS_THREADS)
    embedding_forward_vec8(const __grid_constant__ RowsParams p) {
    copy_rows<8>(p);
}

extern "C" __global__ void __launch_bounds__(ROWS_THREADS) embedding_forward_any(const __grid_constant__ RowsParams p) {
    copy_rows<1>(p);
}

extern "C" __global__ void __launch_bounds__(EMBEDDING_BACKWARD_THREADS)
    embedding_backward_vec4(const __grid_constant__ EmbeddingBackwardParams p) {
    embedding_backward<4>(p);
}

extern "C" __global__ void __launch_bounds__(EMBEDDING_BACKWARD_THREADS)
    embedding_backward_any(const __grid_constant__ EmbeddingBackwardParams p) {
    embedding_backward<1>(p);
}
