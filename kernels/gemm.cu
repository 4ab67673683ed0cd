// Matrix products of bf16, summed in f32, in the three layouts that training needs.
//
//   nt: out[m, n] = a[m, k] b[n, k]^T    a linear layer
//   nn: out[m, n] = a[m, k] b[k, n]      the gradient of its input
//   tn: out[m, n] = a[k, m]^T b[k, n]    the gradient of its weight
//
// Floor: 2 m n k operations. A tile of BM x BN reads (BM + BN) / (BM BN) elements per multiply-add: 128 x 256 does 85
// of them for each element that it reads, enough for L2 to keep up with `mma.sync` on every card since sm_80.
//
// A block walks along k in steps of 32 columns through a ring of 4 stages that `cp.async` fills three steps ahead; or, on
// cards that let a block have 144 KB of shared memory, in steps of 64 through a ring of 3, with half as many barriers. The
// fragments of the next 16 columns are read from shared memory while the tensor cores work on these, across the barrier
// too. A warp's tile of 64 x 64 reads each of its fragments 4 times from registers; 32 x 32 would make shared memory
// the limit. Layouts differ only in how a stage lies and whether `ldmatrix` transposes: nothing is transposed in
// memory.
#include "swiglu.cuh"
#include "tile.cuh"

enum class Layout { Nt, Nn, Tn };
// What happens to a product before it is stored.
enum class Epilogue { Add, Swiglu, SwigluBackward };

// A block's tile, a warp's part of it, columns of k in a stage, and stages.
template <int BM_, int BN_, int WM_, int WN_, int BK_ = 32, int STAGES_ = 4> struct Shape {
    static constexpr int BM = BM_, BN = BN_, WM = WM_, WN = WN_, BK = BK_, STAGES = STAGES_;
    static constexpr int THREADS = 32 * (BM / WM) * (BN / WN);
    // Blocks to a multiprocessor that registers have to leave room for: ptxas gives small tiles too few without it.
    static constexpr int BLOCKS = BM == 64 ? 4 : 1;
    static constexpr int STAGE_BYTES = 2 * BK * (BM + BN);
    static constexpr int SHARED = STAGES * STAGE_BYTES;
};
using Shape128x256 = Shape<128, 256, 64, 64>;
using Shape128x256x64 = Shape<128, 256, 64, 64, 64, 3>;
using Shape128x128 = Shape<128, 128, 64, 64>;
using Shape64x64 = Shape<64, 64, 32, 32>;
// Gate and up of the same columns have to meet in one warp, 32 of each.
using Shape64x64Swiglu = Shape<64, 64, 16, 64>;

static_assert(Shape128x256::THREADS == GEMM_128X256_THREADS && Shape128x128::THREADS == GEMM_128X128_THREADS);
static_assert(Shape64x64::THREADS == GEMM_64X64_THREADS && Shape64x64Swiglu::THREADS == GEMM_64X64_THREADS);
static_assert(Shape128x256::SHARED == GEMM_128X256_SHARED && Shape128x256x64::SHARED == GEMM_128X256X64_SHARED);
static_assert(Shape128x128::SHARED == GEMM_128X128_SHARED && Shape64x64::SHARED == GEMM_64X64_SHARED);

// One of the two operands: a band of `EXTENT` along m or n. `K_ALONG_ROWS`: a stage is `[EXTENT, BK]`; otherwise
// `[BK, EXTENT]`. `GATED`: 32 rows of gate, 32 of up, and so on, so that a band of 64 holds both of 32 columns of the
// result.
//
// A thread copies the same pieces of every stage, a fixed number of rows apart. What depends on the thread is computed
// once, and in the loop an address is one addition: instructions compete with those of the tensor cores to be issued.
template <int EXTENT, int BK, bool K_ALONG_ROWS, int THREADS, bool ALIGNED, bool GATED> struct Operand {
    static constexpr int CHUNKS = (K_ALONG_ROWS ? BK : EXTENT) / 8;
    static constexpr int PIECES = EXTENT * BK / 8 / THREADS;
    // Rows from one piece to the next. A multiple of 8 rows further on, the swizzle begins anew.
    static constexpr int APART = THREADS / CHUNKS;
    static_assert(APART % 8 == 0 && (!GATED || (K_ALONG_ROWS && (APART == 32 || APART == 64))));

    // The thread's first piece of the first stage, and the band's first element.
    const bf16 *from, *band;
    size_t ld;
    // How much of the band exists, and how many rows up lies behind gate.
    uint32_t extent, up;
    // Place of the first piece in a stage; its row and column.
    uint32_t to, row, column;

    __device__ Operand(const bf16 *band, uint32_t ld, uint32_t extent, uint32_t up)
        : band(band), ld(ld), extent(extent), up(up) {
        const uint32_t chunk = threadIdx.x % CHUNKS;
        row = threadIdx.x / CHUNKS;
        column = 8 * chunk;
        to = 16 * swizzle<CHUNKS>(row, chunk);
        size_t source = row;
        if constexpr (GATED) {
            source = row % 32 + row / 32 * up;
            row %= 32;
        }
        from = band + source * ld + column;
    }

    // Rows of the operand from the first piece to piece `i`, and those of it that count for whether it exists.
    __device__ size_t rows_to(int i) const {
        return !GATED ? i * APART : APART == 64 ? 32 * i : i / 2 * 32 + i % 2 * up;
    }

    __device__ static constexpr uint32_t counted_rows(int i) {
        return !GATED ? i * APART : APART == 64 ? 32 * i : i / 2 * 32;
    }

    __device__ void load(uint32_t stage, uint32_t first_k, uint32_t k) const {
        if constexpr (!ALIGNED) {
            static_assert(!GATED);
            const bf16 *first = band + (K_ALONG_ROWS ? first_k : first_k * ld);
            load_unaligned_tile<(K_ALONG_ROWS ? EXTENT : BK), CHUNKS, THREADS>(
                stage, K_ALONG_ROWS ? extent : k - first_k, K_ALONG_ROWS ? k - first_k : extent,
                [&](uint32_t row) { return first + row * ld; });
        } else {
            const bf16 *first = from + (K_ALONG_ROWS ? first_k : first_k * ld);
            const uint32_t rows = K_ALONG_ROWS ? extent : k - first_k, columns = K_ALONG_ROWS ? k - first_k : extent;
            const bool inside = column < columns;
#pragma unroll
            for (int i = 0; i < PIECES; i++) {
                // Of a piece that does not exist nothing is read, wherever its address points.
                ptx::cp_async_16(stage + to + 16 * CHUNKS * APART * i, first + rows_to(i) * ld,
                                 inside && row + counted_rows(i) < rows ? 16 : 0);
            }
        }
    }
};

// The place of this block's tile. Eight rows of tiles are walked column by column, so that the blocks that run at one
// time share what they read of both operands in L2.
__device__ inline uint2 tile_of_block(uint32_t tiles_m, uint32_t tiles_n) {
    constexpr uint32_t ROWS = 8;
    const uint32_t band = blockIdx.x / (ROWS * tiles_n), within = blockIdx.x % (ROWS * tiles_n);
    const uint32_t rows = min(tiles_m - band * ROWS, ROWS);
    return make_uint2(band * ROWS + within % rows, within / rows);
}

__device__ inline uint32_t ceil_div(uint32_t a, uint32_t b) {
    return (a + b - 1) / b;
}

// Eight columns of a row of the result. How many of them exist, and those behind them; outside the matrix 0.
struct Columns {
    size_t row, column;
    uint32_t count;

    template <class T> __device__ T *in(T *base, uint32_t ld) const {
        return base + row * ld + column;
    }
};

__device__ inline Columns columns_at(const GemmParams &p, uint32_t row, uint32_t column) {
    return {row, column, row < p.m && column < p.n ? p.n - column : 0};
}

// The product and the addend, as f32: four columns at a time, so that a warp's access is whole lines.
template <int WIDTH>
__device__ inline void finish_f32(const GemmParams &p, const Staged<WIDTH> &staged, uint32_t first_m,
                                  uint32_t first_n) {
    constexpr uint32_t SHARES = WIDTH / 4;
    float *out = static_cast<float *>(p.out);
    const float *addend = static_cast<const float *>(p.addend);
    const bool aligned = reinterpret_cast<uintptr_t>(out) % 16 == 0 && p.ldout % 4 == 0 &&
                         reinterpret_cast<uintptr_t>(addend) % 16 == 0 && p.ldaddend % 4 == 0;
#pragma unroll 1
    for (uint32_t i = threadIdx.x % 32; i < 16 * SHARES; i += 32) {
        const uint32_t row = i / SHARES, column = i % SHARES * 4;
        const Columns at = columns_at(p, first_m + row, first_n + column);
        float4 v = *reinterpret_cast<const float4 *>(staged.rows + row * Staged<WIDTH>::STRIDE + column);
        if (aligned && at.count >= 4) {
            if (addend) {
                const float4 more = *reinterpret_cast<const float4 *>(at.in(addend, p.ldaddend));
                v = make_float4(v.x + more.x, v.y + more.y, v.z + more.z, v.w + more.w);
            }
            *reinterpret_cast<float4 *>(at.in(out, p.ldout)) = v;
            continue;
        }
        const float values[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (j < at.count) {
                at.in(out, p.ldout)[j] = values[j] + (addend ? at.in(addend, p.ldaddend)[j] : 0.0f);
            }
        }
    }
}

// The product and the addend.
__device__ inline void finish_add(const GemmParams &p, Floats<8> v, const Columns &at) {
    if (p.addend) {
        const Floats<8> more = load_columns(at.in(static_cast<const bf16 *>(p.addend), p.ldaddend), at.count);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            v.at[i] += more.at[i];
        }
    }
    store_columns(at.in(static_cast<bf16 *>(p.out), p.ldout), v, at.count);
}

// Gate and up lie side by side in a warp's tile: saves reading both again. They are rounded before they are used, as
// where the product is stored between the two.
__device__ inline void finish_swiglu(const GemmParams &p, Floats<8> gate, Floats<8> up, const Columns &at) {
    if (p.gate_up) {
        bf16 *gate_up = at.in(p.gate_up, p.ldgate_up);
        store_columns(gate_up, gate, at.count);
        store_columns(gate_up + p.n, up, at.count);
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        gate.at[i] = swiglu(rounded(gate.at[i]), rounded(up.at[i]));
    }
    store_columns(at.in(static_cast<bf16 *>(p.out), p.ldout), gate, at.count);
}

// The product is the gradient of SwiGLU's result, which is neither stored nor read again.
__device__ inline void finish_swiglu_backward(const GemmParams &p, const Floats<8> &dy, const Columns &at) {
    const bf16 *gate_up = at.in(p.gate_up, p.ldgate_up);
    Floats<8> gate = load_columns(gate_up, at.count), up = load_columns(gate_up + p.n, at.count);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float2 d = swiglu_gradient(gate.at[i], up.at[i], rounded(dy.at[i]));
        gate.at[i] = d.x;
        up.at[i] = d.y;
    }
    bf16 *out = at.in(static_cast<bf16 *>(p.out), p.ldout);
    store_columns(out, gate, at.count);
    store_columns(out + p.n, up, at.count);
}

// Stores a warp's tile, from row `first_m` and column `first_n` of the result on, 16 rows at a time.
template <Epilogue EPILOGUE, int MT, int NT>
__device__ inline void finish(const GemmParams &p, const float (&acc)[MT][NT][4], uint32_t first_m, uint32_t first_n) {
    const Staged<8 * NT> staged;
#pragma unroll
    for (int i = 0; i < MT; i++) {
        staged.put(acc[i], 1.0f, 1.0f);
        const uint32_t first = first_m + 16 * i;
        if (EPILOGUE == Epilogue::Add && p.out_is_f32) {
            finish_f32<8 * NT>(p, staged, first, first_n);
            continue;
        }
        staged.template each_eight<EPILOGUE == Epilogue::Swiglu ? 4 * NT : 8 * NT>(
            [&](uint32_t row, uint32_t column, const Floats<8> &v, bool odd) {
                const Columns at = columns_at(p, first + row, first_n + column);
                if (at.count == 0) {
                    return;
                }
                if constexpr (EPILOGUE == Epilogue::Add) {
                    finish_add(p, v, at);
                } else if constexpr (EPILOGUE == Epilogue::Swiglu) {
                    finish_swiglu(p, v, staged.eight(row, column + 4 * NT, odd), at);
                } else {
                    finish_swiglu_backward(p, v, at);
                }
            });
    }
}

template <Layout LAYOUT, class Shape, bool ALIGNED, Epilogue EPILOGUE>
__device__ inline void gemm(const GemmParams &p) {
    constexpr bool A_ALONG = LAYOUT != Layout::Tn, B_ALONG = LAYOUT == Layout::Nt;
    constexpr bool GATED = EPILOGUE == Epilogue::Swiglu;
    constexpr int BM = Shape::BM, BN = Shape::BN, BK = Shape::BK, STAGES = Shape::STAGES, THREADS = Shape::THREADS;
    constexpr int MT = Shape::WM / 16, NT = Shape::WN / 8;
    // Columns of the result that a tile has.
    constexpr int COLUMNS = GATED ? BN / 2 : BN;

    const uint32_t stages = ptx::cvta_shared(shared_memory);
    const uint2 tile = tile_of_block(ceil_div(p.m, BM), ceil_div(p.n, COLUMNS));
    const uint32_t first_m = tile.x * BM, first_n = tile.y * COLUMNS;
    const uint32_t warp = threadIdx.x / 32;
    const uint32_t warp_m = warp / (BN / Shape::WN) * Shape::WM, warp_n = warp % (BN / Shape::WN) * Shape::WN;

    const Operand<BM, BK, A_ALONG, THREADS, ALIGNED, false> a(
        p.a + (A_ALONG ? static_cast<size_t>(first_m) * p.lda : first_m), p.lda, p.m - first_m, 0);
    const Operand<BN, BK, B_ALONG, THREADS, ALIGNED, GATED> b(
        p.b + (B_ALONG ? static_cast<size_t>(first_n) * p.ldb : first_n), p.ldb, p.n - first_n, p.n);

    const auto load_stage = [&](uint32_t stage, uint32_t step) {
        a.load(stage, step * BK, p.k);
        b.load(stage + 2 * BK * BM, step * BK, p.k);
    };
    uint32_t a_fragments[2][MT][4], b_fragments[2][NT / 2][4];
    const auto load_fragments = [&](int to, uint32_t stage_a, int k) {
        const uint32_t stage_b = stage_a + 2 * BK * BM;
#pragma unroll
        for (int i = 0; i < MT; i++) {
            if constexpr (A_ALONG) {
                load_a<BK / 8>(a_fragments[to][i], stage_a, warp_m + 16 * i, k / 8);
            } else {
                load_a_trans<BM / 8>(a_fragments[to][i], stage_a, k, (warp_m + 16 * i) / 8);
            }
        }
#pragma unroll
        for (int j = 0; j < NT / 2; j++) {
            if constexpr (B_ALONG) {
                load_b<BK / 8>(b_fragments[to][j], stage_b, warp_n + 16 * j, k / 8);
            } else {
                load_b_trans<BN / 8>(b_fragments[to][j], stage_b, k, (warp_n + 16 * j) / 8);
            }
        }
    };

    float acc[MT][NT][4] = {};
    const uint32_t steps = ceil_div(p.k, BK);
#pragma unroll
    for (int step = 0; step < STAGES - 1; step++) {
        if (step < steps) {
            load_stage(stages + step * Shape::STAGE_BYTES, step);
        }
        ptx::cp_async_commit();
    }
    ptx::cp_async_wait<STAGES - 2>();
    __syncthreads();
    if (steps > 0) {
        load_fragments(0, stages, 0);
    }
    // The stage of this step, and the one before it in the ring, which is the next to be filled.
    uint32_t stage = stages, filled = stages + (STAGES - 1) * Shape::STAGE_BYTES;
    for (uint32_t step = 0; step < steps; step++) {
        const uint32_t next = stage == stages + (STAGES - 1) * Shape::STAGE_BYTES ? stages : stage + Shape::STAGE_BYTES;
#pragma unroll
        for (int k = 0; k < BK; k += 16) {
            const int now = k / 16 % 2;
            if (k + 16 < BK) {
                load_fragments(now ^ 1, stage, k + 16);
            } else {
                // The last step has no next one, and reads fragments of its own once more that nobody uses: with a branch
                // around all of it, the loop would be two blocks, and no `ldmatrix` of the one would meet an `mma` of the
                // other.
                ptx::cp_async_wait<STAGES - 2>();
                __syncthreads();
                load_fragments(now ^ 1, step + 1 < steps ? next : stage, 0);
            }
            if (k == 0) {
                // The stage that is filled was read for the last time before the last barrier.
                if (step + STAGES - 1 < steps) {
                    load_stage(filled, step + STAGES - 1);
                }
                ptx::cp_async_commit();
            }
#pragma unroll
            for (int i = 0; i < MT; i++) {
#pragma unroll
                for (int j = 0; j < NT; j++) {
                    const uint32_t(&b_pair)[4] = b_fragments[now][j / 2];
                    ptx::mma_m16n8k16(acc[i][j], a_fragments[now][i], b_pair[j % 2 * 2], b_pair[j % 2 * 2 + 1]);
                }
            }
        }
        filled = stage;
        stage = next;
    }

    // The stages' memory is free for the result once all warps are done with them.
    __syncthreads();
    static_assert(Staged<Shape::WN>::BYTES * (THREADS / 32) <= Shape::SHARED);
    finish<EPILOGUE>(p, acc, first_m + warp_m, first_n + (GATED ? warp_n / 2 : warp_n));
}

#define KERNEL(name, layout, shape, aligned, epilogue)                                                                 \
    extern "C" __global__ void __launch_bounds__(shape::THREADS, shape::BLOCKS)                                        \
        name(const __grid_constant__ GemmParams p) {                                                                   \
        gemm<Layout::layout, shape, aligned, Epilogue::epilogue>(p);                                                   \
    }
#define KERNELS(prefix, layout)                                                                                        \
    KERNEL(prefix##_128x256, layout, Shape128x256, true, Add)                                                          \
    KERNEL(prefix##_128x256x64, layout, Shape128x256x64, true, Add)                                                    \
    KERNEL(prefix##_128x128, layout, Shape128x128, true, Add)                                                          \
    KERNEL(prefix##_64x64, layout, Shape64x64, true, Add)                                                              \
    KERNEL(prefix##_any, layout, Shape64x64, false, Add)

KERNELS(gemm_nt, Nt)
KERNELS(gemm_nn, Nn)
KERNELS(gemm_tn, Tn)
KERNEL(gemm_nt_swiglu_128x256, Nt, Shape128x256, true, Swiglu)
KERNEL(gemm_nt_swiglu_128x256x64, Nt, Shape128x256x64, true, Swiglu)
KERNEL(gemm_nt_swiglu_64x64, Nt, Shape64x64Swiglu, true, Swiglu)
KERNEL(gemm_nn_swiglu_128x256, Nn, Shape128x256, true, SwigluBackward)
KERNEL(gemm_nn_swiglu_128x256x64, Nn, Shape128x256x64, true, SwigluBackward)
KERNEL(gemm_nn_swiglu_64x64, Nn, Shape64x64, true, SwigluBackward)
