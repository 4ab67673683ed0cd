// What the launchers and the kernels agree on: one structure of launch parameters for each family of kernels, passed by
// value, and the shapes of their blocks. Rust sees this file through bindgen.
//
// Pointers are device addresses. Sizes and leading dimensions count elements. A pointer that is said to be optional may
// be null. `bf16` is the upper half of an f32. Dynamic shared memory beyond 48 KB has to be asked for before a kernel's
// first launch. A grid is given as what its blocks share out, in x and then y; no kernel is launched on nothing.
#pragma once

#ifdef __CUDACC__
#include <stdint.h>
#define POINTER(type) type *__restrict__
#define ALIASED(type) type *
#else
// The compiler's own types, so that bindgen needs no C library.
typedef __UINT16_TYPE__ uint16_t;
typedef __UINT32_TYPE__ uint32_t;
typedef __UINT64_TYPE__ uint64_t;
#define POINTER(type) uint64_t
#define ALIASED(type) uint64_t
#endif

/// Sixteen bits of storage: the upper half of an f32.
typedef struct {
    uint16_t bits;
} bf16;

/// One run of tokens and what it may see; the layout of `backend::Span`.
typedef struct {
    uint32_t query_start;
    uint32_t queries;
    uint32_t own_start;
    uint32_t own;
    uint32_t prefix_start;
    uint32_t prefix;
    uint32_t row;
    uint32_t reserved;
} Span;

/// The keys that a query sees: `[prefix_start, prefix_end)` and `[own_start, own_end)`. A prefix that its run follows
/// at once is one run with it, and the prefix is then empty.
typedef struct {
    uint32_t prefix_start;
    uint32_t prefix_end;
    uint32_t own_start;
    uint32_t own_end;
} Visible;

// ---- gemm ----

/// Threads of the kernels whose names end in `128x256` or `128x256x64`.
#define GEMM_128X256_THREADS 256
/// Threads of the kernels whose names end in `128x128`.
#define GEMM_128X128_THREADS 128
/// Threads of the kernels whose names end in `64x64` or `any`.
#define GEMM_64X64_THREADS 128
/// Dynamic shared memory of the kernels whose names end in `128x256`.
#define GEMM_128X256_SHARED 98304
/// Dynamic shared memory of the kernels whose names end in `128x256x64`: 64 columns of k a stage, for cards that let a
/// block have so much.
#define GEMM_128X256X64_SHARED 147456
/// Dynamic shared memory of the kernels whose names end in `128x128`.
#define GEMM_128X128_SHARED 65536
/// Dynamic shared memory of the kernels whose names end in `64x64` or `any`.
#define GEMM_64X64_SHARED 32768

/// `out = op(a) op(b) + addend`. One block a tile; grid: tiles along `m` times tiles along `n`.
///
/// Kernels without the suffix `any` need rows of `a` and `b` that are a multiple of 8 long, at multiples of 16 bytes: `lda`
/// and `ldb` are multiples of 8, and so are `k` and, where k goes down the rows, `m` of `a` and `n` of `b`.
/// `gemm_nt_swiglu`: `b` is `[2 n, k]`, gate above up; `out[m, n] = silu(gate) up`, and gate and up go to `gate_up[m, 2
/// n]` if that is given; a tile has half as many columns. `gemm_nn_swiglu`: the product is the gradient of SwiGLU's
/// result; `out[m, 2 n]` is that of `gate_up[m, 2 n]`, whose place it may take.
typedef struct {
    ALIASED(void) out;
    POINTER(const bf16) a;
    POINTER(const bf16) b;
    /// Optional, of `out`'s type; may be `out`.
    ALIASED(const void) addend;
    ALIASED(bf16) gate_up;
    uint32_t m;
    uint32_t n;
    uint32_t k;
    uint32_t lda;
    uint32_t ldb;
    uint32_t ldout;
    uint32_t ldaddend;
    uint32_t ldgate_up;
    /// Whether `out` and `addend` are f32, not bf16; the products that are fused with SwiGLU write bf16.
    uint32_t out_is_f32;
} GemmParams;

// ---- attention ----

/// Rows (queries times group) of a tile of the forward pass and of the pass for the queries' gradient.
#define ATTENTION_ROWS 128
/// Keys of a tile of the pass for the gradients of keys and values.
#define ATTENTION_BACKWARD_KV_KEYS 128
/// Threads of the forward pass.
#define ATTENTION_FORWARD_THREADS 128
/// Threads of the pass that prepares the backward ones.
#define ATTENTION_BACKWARD_PREPARE_THREADS 256
/// Rows of one block of the pass that prepares the backward ones.
#define ATTENTION_BACKWARD_PREPARE_ROWS 32
/// Threads of the pass for the queries' gradient.
#define ATTENTION_BACKWARD_Q_THREADS 128
/// Threads of the pass for the gradients of keys and values.
#define ATTENTION_BACKWARD_KV_THREADS 256

/// Dynamic shared memory of the kernels for a head of 32 (`any` takes that of 128): bytes of the forward pass.
#define ATTENTION_FORWARD_32_SHARED 26624
#define ATTENTION_FORWARD_64_SHARED 51200
#define ATTENTION_FORWARD_128_SHARED 67584
/// The pass for the queries' gradient.
#define ATTENTION_BACKWARD_Q_32_SHARED 26624
#define ATTENTION_BACKWARD_Q_64_SHARED 51200
#define ATTENTION_BACKWARD_Q_128_SHARED 100352
/// The pass for the gradients of keys and values.
#define ATTENTION_BACKWARD_KV_32_SHARED 26112
#define ATTENTION_BACKWARD_KV_64_SHARED 50688
#define ATTENTION_BACKWARD_KV_128_SHARED 99840

/// `out = softmax(scale q k^T) v`. The number in a kernel's name is the head dimension; `32` takes any up to 32, and
/// `any` any up to 128. Matrices begin at multiples of 16 bytes. Grid: tiles of `queries * group` rows, `kv_heads`.
typedef struct {
    POINTER(const bf16) q;
    POINTER(const bf16) k;
    POINTER(const bf16) v;
    POINTER(bf16) out;
    POINTER(float) lse;
    POINTER(const Span) spans;
    POINTER(const uint32_t) query_tokens;
    uint32_t n_spans;
    uint32_t queries;
    uint32_t tokens;
    uint32_t kv_heads;
    uint32_t group;
    uint32_t dim;
    /// Greater than zero.
    float scale;
} AttentionParams;

/// The three passes backward. `prepare` (grid: rows of `kv_heads * queries * group` by its rows a block) fills `delta`
/// and `visible`; `q` (grid as forward) writes `dq`; `kv` (grid: tiles of `tokens` keys, `kv_heads`) writes `dk` and
/// `dv`.
typedef struct {
    POINTER(const bf16) q;
    POINTER(const bf16) k;
    POINTER(const bf16) v;
    POINTER(const bf16) out;
    POINTER(const bf16) dout;
    POINTER(const float) lse;
    POINTER(const Span) spans;
    POINTER(const uint32_t) query_tokens;
    POINTER(bf16) dq;
    POINTER(bf16) dk;
    POINTER(bf16) dv;
    /// `[kv_heads, queries, group]`: `dout . out` of each row. Scratch.
    ALIASED(float) delta;
    /// `[queries]`. Scratch.
    ALIASED(Visible) visible;
    uint32_t n_spans;
    uint32_t queries;
    uint32_t tokens;
    uint32_t kv_heads;
    uint32_t group;
    uint32_t dim;
    /// Greater than zero.
    float scale;
} AttentionBackwardParams;

// ---- rmsnorm ----

/// The most threads of the norm's kernels.
#define RMSNORM_MAX_THREADS 512
/// Columns that one thread of the norm's kernels named `vec8` holds.
#define RMSNORM_VEC8_COLUMNS 16
/// Columns that one thread of the others holds.
#define RMSNORM_ANY_COLUMNS 9
/// Rows that one block of `rmsnorm_backward` sums into one row of `partials`.
#define RMSNORM_BACKWARD_ROWS 16
/// Threads of `rmsnorm_backward_weight`.
#define RMSNORM_BACKWARD_WEIGHT_THREADS 256

/// `y = x rstd weight`. One block a row; its threads, whole warps, hold all columns. The kernels named `vec8` need
/// `columns` to be a multiple of 8 and all rows at multiples of 16 bytes.
typedef struct {
    POINTER(bf16) y;
    POINTER(float) rstd;
    POINTER(const bf16) x;
    POINTER(const bf16) weight;
    uint32_t columns;
    float eps;
} RmsnormParams;

/// `dx += d/dx`, and `partials[block, columns]`, which `rmsnorm_backward_weight` (a block for 32 columns) adds to
/// `dweight`.
typedef struct {
    POINTER(bf16) dx;
    POINTER(float) dweight;
    ALIASED(float) partials;
    POINTER(const bf16) dy;
    POINTER(const bf16) x;
    POINTER(const float) rstd;
    POINTER(const bf16) weight;
    uint32_t rows;
    uint32_t columns;
} RmsnormBackwardParams;

// ---- head_rmsnorm ----

/// Threads of the head norm's kernels.
#define HEAD_RMSNORM_THREADS 256
/// Lanes of a warp that have a head's vector in the kernels named `vec8`, 8 neighbouring columns each; a whole warp has
/// it in those named `any`.
#define HEAD_RMSNORM_VEC8_LANES 16
/// The longest vector.
#define HEAD_RMSNORM_MAX_DIM 128
/// Vectors that one block of `head_rmsnorm_backward` sums into one row of `partials`.
#define HEAD_RMSNORM_BACKWARD_VECTORS 256
/// Threads of `head_rmsnorm_backward_weight`.
#define HEAD_RMSNORM_BACKWARD_WEIGHT_THREADS 1024

/// `y = x rstd weight` for `vectors` of `dim`. Grid: vectors by those that a block has at one time. The kernels named
/// `vec8` need `dim` to be a multiple of 8 and everything of bf16 at multiples of 16 bytes.
typedef struct {
    POINTER(bf16) y;
    POINTER(float) rstd;
    POINTER(const bf16) x;
    POINTER(const bf16) weight;
    uint32_t vectors;
    uint32_t dim;
    float eps;
} HeadRmsnormParams;

/// `dx = d/dx`, and `partials[block, dim]`, which `head_rmsnorm_backward_weight` (a block for 32 columns) adds to
/// `dweight`. Grid: vectors by `HEAD_RMSNORM_BACKWARD_VECTORS`.
typedef struct {
    POINTER(bf16) dx;
    POINTER(float) dweight;
    ALIASED(float) partials;
    POINTER(const bf16) dy;
    POINTER(const bf16) x;
    POINTER(const float) rstd;
    POINTER(const bf16) weight;
    uint32_t vectors;
    uint32_t dim;
} HeadRmsnormBackwardParams;

// ---- rope ----

/// Threads of the rotary kernels.
#define ROPE_THREADS 256

/// Splits `fused[rows, kv_heads * group columns]` into `q`, `k` and `v`, or gathers them. A thread turns 8 pairs
/// (`vec8`: `dim` a multiple of 16, everything at multiples of 16 bytes) or one of one token and one group. Grid:
/// threads for `rows * dim / 2 / pairs`, `kv_heads`.
typedef struct {
    ALIASED(bf16) fused;
    /// Optional: `[kv_heads, rows, group, dim]`.
    ALIASED(bf16) q;
    /// Optional, both or none: `[kv_heads, rows, dim]`.
    ALIASED(bf16) k;
    ALIASED(bf16) v;
    POINTER(const uint32_t) positions;
    /// `[dim / 2]`: `rope_angle(1, i, dim, theta)`; at a multiple of 16 bytes for `vec8`.
    POINTER(const float) frequencies;
    uint32_t rows;
    uint32_t kv_heads;
    uint32_t group;
    uint32_t dim;
} RopeParams;

// ---- bias ----

/// Threads of `bias_forward` and `bias_backward`.
#define BIAS_THREADS 128
/// Rows of one block, which `bias_backward` sums into one row of `partials`.
#define BIAS_ROWS 64
/// Threads of `bias_backward_sum`.
#define BIAS_BACKWARD_SUM_THREADS 256

/// `y += bias` in every row; or `partials[block, columns]`, the sums of the columns of `y`, which is then `dy`, and
/// which `bias_backward_sum` (a block for 32 columns) adds to `dbias`. Column `j` has element `j / part * ldbias + j %
/// part` of the bias. Grid: rows by the rows of a block, bands of columns. A thread has 8 columns if the name ends in
/// `vec8` (`columns`, `part` and `ldbias` multiples of 8, `y` and `bias` at multiples of 16 bytes), otherwise one.
typedef struct {
    ALIASED(bf16) y;
    POINTER(const bf16) bias;
    POINTER(float) dbias;
    /// `[blocks of rows, columns]`. Scratch.
    ALIASED(float) partials;
    uint32_t rows;
    uint32_t columns;
    uint32_t part;
    uint32_t ldbias;
} BiasParams;

// ---- embedding, gather ----

/// Threads of the kernels that move rows; they need `columns` a multiple of 8 and rows at multiples of 16 bytes if
/// their name ends in `vec8`.
#define ROWS_THREADS 128

/// `out[i] = from[ids[i]]` or `out[ids[i]] += from[i]`, rows of `columns`. Grid: `rows`.
typedef struct {
    POINTER(bf16) out;
    POINTER(const bf16) from;
    POINTER(const uint32_t) ids;
    uint32_t columns;
} RowsParams;

/// Threads of `embedding_backward`.
#define EMBEDDING_BACKWARD_THREADS 256

/// `dtable[ids[i]] += dy[i]` in the order of `i`. Grid: `rows`, bands of columns. A thread has 4 columns if the name
/// ends in `vec4` (`columns` a multiple of 4, `dtable` at a multiple of 16 bytes, `dy` of 8), otherwise one.
typedef struct {
    POINTER(float) dtable;
    POINTER(const uint32_t) ids;
    POINTER(const bf16) dy;
    uint32_t rows;
    uint32_t columns;
} EmbeddingBackwardParams;

// ---- swiglu ----

/// Threads of the SwiGLU kernels.
#define SWIGLU_THREADS 256

/// `y = silu(gate) up`, or `dgate_up` from `dy`. Grid: any number of blocks, which share the work; a thread has 8
/// columns at a time if the name ends in `vec8` (`columns` a multiple of 8, everything at multiples of 16 bytes),
/// otherwise one.
typedef struct {
    /// `[rows, columns]`; `dy` in the backward pass.
    ALIASED(bf16) y;
    /// `[rows, 2 columns]`.
    ALIASED(const bf16) gate_up;
    /// `[rows, 2 columns]`; may be `gate_up`.
    ALIASED(bf16) dgate_up;
    uint32_t rows;
    uint32_t columns;
} SwigluParams;

// ---- reward_head ----

/// Threads of the reward head's kernels.
#define REWARD_HEAD_THREADS 256
/// Columns that a block of the gradient owns.
#define REWARD_HEAD_COLUMNS 128
/// The most rows that `reward_head_loss` takes. Each of its blocks scores all rows, 8 at a time; from here on three
/// launches that share the rows among the multiprocessors are quicker.
#define REWARD_HEAD_FUSED_ROWS 128

/// Values of `LossKind`.
#define LOSS_RANKING 0
#define LOSS_FOCAL 1
/// Values of `PenaltyKind`.
#define PENALTY_NONE 0
#define PENALTY_LOG_BARRIER 1
#define PENALTY_L2 2

/// `reward_head_forward` (a warp a row) writes `scores`, and `rstd` if it is given. `reward_head_loss` (grid: bands of
/// columns) does everything for up to `REWARD_HEAD_FUSED_ROWS` rows. Unfused, for any number: `reward_head_pair_loss`
/// (grid: any number of blocks, which share the rows) makes `loss` and `dscores` from `scores`; `reward_head_backward`
/// (grid: bands of columns) the gradients from `dscores` and `rstd`.
typedef struct {
    ALIASED(float) scores;
    /// Optional in the forward pass: `[rows]`.
    ALIASED(float) rstd;
    /// `[rows]`; for the unfused kernels.
    ALIASED(float) dscores;
    /// `[1]`, added to.
    POINTER(float) loss;
    /// `[rows, columns]`, overwritten.
    POINTER(bf16) dx;
    /// `[columns]`, added to.
    POINTER(float) dnorm;
    /// `[columns]`, added to.
    POINTER(float) dhead;
    POINTER(const bf16) x;
    POINTER(const bf16) norm;
    POINTER(const bf16) head;
    /// `[pairs, 2]`: chosen, rejected.
    POINTER(const uint32_t) pairs;
    uint32_t rows;
    uint32_t columns;
    uint32_t n_pairs;
    uint32_t loss_kind;
    uint32_t penalty_kind;
    float penalty_weight;
    float scale;
    float eps;
} RewardHeadParams;

// ---- linear_cross_entropy ----

/// Threads of `linear_cross_entropy_softmax_vec8` and `_any`.
#define LINEAR_CROSS_ENTROPY_THREADS 512
/// Threads of `linear_cross_entropy_sum`.
#define LINEAR_CROSS_ENTROPY_SUM_THREADS 256

/// A chunk of `rows` of logits. `linear_cross_entropy_softmax_*` (grid: rows; `vec8`: `columns` a multiple of 8,
/// `logits` at a multiple of 16 bytes) writes `losses`, and turns `logits` into their gradient if `gradient` is not
/// zero; `linear_cross_entropy_sum` (one block) adds the `rows` losses to `loss`.
typedef struct {
    POINTER(bf16) logits;
    POINTER(const uint32_t) targets;
    POINTER(const float) weights;
    /// `[rows]`. Scratch.
    ALIASED(float) losses;
    /// `[1]`, added to.
    POINTER(float) loss;
    uint32_t rows;
    uint32_t columns;
    uint32_t gradient;
} CrossEntropyParams;

// ---- global_norm ----

/// Threads of the norm's kernels.
#define GLOBAL_NORM_THREADS 512
/// Elements that one block of `global_norm_partial` sums.
#define GLOBAL_NORM_CHUNK 32768

/// `partials[i]` is the sum of the squares of chunk `i` (grid: chunks of `x`); `global_norm_finish` (one block) takes
/// the root of their sum.
typedef struct {
    POINTER(float) norm;
    POINTER(const float) x;
    /// `[ceil(count / GLOBAL_NORM_CHUNK)]`. Scratch.
    ALIASED(float) partials;
    uint64_t count;
} GlobalNormParams;

// ---- adamw ----

/// Threads of `adamw`.
#define ADAMW_THREADS 256

/// One update of all parameters. Grid: any number of blocks, which share the work.
typedef struct {
    /// f32 masters.
    POINTER(float) master;
    /// Optional: the masters rounded, which the model computes with.
    POINTER(bf16) weights;
    POINTER(float) m;
    POINTER(float) v;
    POINTER(const float) grads;
    /// `[1]`: the global norm of `grads`.
    POINTER(const float) norm;
    uint64_t count;
    /// 0 leaves the gradients alone.
    float max_norm;
    float beta1;
    float beta2;
    /// `1 - beta1`.
    float rest1;
    /// `1 - beta2`.
    float rest2;
    /// `1 - lr weight_decay`.
    float decay;
    /// `lr / (1 - beta1^step)`.
    float rate;
    /// `1 / sqrt(1 - beta2^step)`.
    float root;
    float eps;
} AdamwParams;

// ---- fill ----

/// Threads of fills.
#define FILL_THREADS 256

/// `out = value`, `count` times. Grid: any number of blocks.
typedef struct {
    POINTER(void) out;
    uint64_t count;
    float value;
} FillParams;

// ---- kernels ----

/// What Rust knows of each kernel beside its PTX: its name (`*` stands for anything), the structure that it takes, and
/// bytes of dynamic shared memory of a block, 0 also where a launch decides. `build.rs` makes typed constants of it, and
/// refuses a kernel that no line fits, or two.
#define ALL_KERNELS                                                                                                    \
    KERNEL(gemm_*_128x256x64, GemmParams, GEMM_128X256X64_SHARED)                                                      \
    KERNEL(gemm_*_128x256, GemmParams, GEMM_128X256_SHARED)                                                            \
    KERNEL(gemm_*_128x128, GemmParams, GEMM_128X128_SHARED)                                                            \
    KERNEL(gemm_*_64x64, GemmParams, GEMM_64X64_SHARED)                                                                \
    KERNEL(gemm_*_any, GemmParams, GEMM_64X64_SHARED)                                                                  \
    KERNEL(attention_forward_32, AttentionParams, ATTENTION_FORWARD_32_SHARED)                                         \
    KERNEL(attention_forward_64, AttentionParams, ATTENTION_FORWARD_64_SHARED)                                         \
    KERNEL(attention_forward_128, AttentionParams, ATTENTION_FORWARD_128_SHARED)                                       \
    KERNEL(attention_forward_any, AttentionParams, ATTENTION_FORWARD_128_SHARED)                                       \
    KERNEL(attention_backward_prepare, AttentionBackwardParams, 0)                                                     \
    KERNEL(attention_backward_q_32, AttentionBackwardParams, ATTENTION_BACKWARD_Q_32_SHARED)                           \
    KERNEL(attention_backward_q_64, AttentionBackwardParams, ATTENTION_BACKWARD_Q_64_SHARED)                           \
    KERNEL(attention_backward_q_128, AttentionBackwardParams, ATTENTION_BACKWARD_Q_128_SHARED)                         \
    KERNEL(attention_backward_q_any, AttentionBackwardParams, ATTENTION_BACKWARD_Q_128_SHARED)                         \
    KERNEL(attention_backward_kv_32, AttentionBackwardParams, ATTENTION_BACKWARD_KV_32_SHARED)                         \
    KERNEL(attention_backward_kv_64, AttentionBackwardParams, ATTENTION_BACKWARD_KV_64_SHARED)                         \
    KERNEL(attention_backward_kv_128, AttentionBackwardParams, ATTENTION_BACKWARD_KV_128_SHARED)                       \
    KERNEL(attention_backward_kv_any, AttentionBackwardParams, ATTENTION_BACKWARD_KV_128_SHARED)                       \
    KERNEL(rmsnorm_forward_*, RmsnormParams, 0)                                                                        \
    KERNEL(rmsnorm_backward_*, RmsnormBackwardParams, 0)                                                               \
    KERNEL(head_rmsnorm_forward_*, HeadRmsnormParams, 0)                                                               \
    KERNEL(head_rmsnorm_backward_*, HeadRmsnormBackwardParams, 0)                                                      \
    KERNEL(rope_*, RopeParams, 0)                                                                                      \
    KERNEL(bias_*, BiasParams, 0)                                                                                      \
    KERNEL(embedding_forward_*, RowsParams, 0)                                                                         \
    KERNEL(embedding_backward_*, EmbeddingBackwardParams, 0)                                                           \
    KERNEL(gather_*, RowsParams, 0)                                                                                    \
    KERNEL(swiglu_*, SwigluParams, 0)                                                                                  \
    KERNEL(reward_head_*, RewardHeadParams, 0)                                                                         \
    KERNEL(linear_cross_entropy_*, CrossEntropyParams, 0)                                                              \
    KERNEL(global_norm_*, GlobalNormParams, 0)                                                                         \
    KERNEL(adamw, AdamwParams, 0)                                                                                      \
    KERNEL(fill_*, FillParams, 0)
