// Generated from kernels/abi.h by `cargo run -p kernels -- build`.

pub const GEMM_128X256_THREADS: u32 = 256;
pub const GEMM_128X128_THREADS: u32 = 128;
pub const GEMM_64X64_THREADS: u32 = 128;
pub const GEMM_128X256_SHARED: u32 = 98304;
pub const GEMM_128X256X64_SHARED: u32 = 147456;
pub const GEMM_128X128_SHARED: u32 = 65536;
pub const GEMM_64X64_SHARED: u32 = 32768;
pub const ATTENTION_ROWS: u32 = 128;
pub const ATTENTION_BACKWARD_KV_KEYS: u32 = 128;
pub const ATTENTION_FORWARD_THREADS: u32 = 128;
pub const ATTENTION_BACKWARD_PREPARE_THREADS: u32 = 256;
pub const ATTENTION_BACKWARD_PREPARE_ROWS: u32 = 32;
pub const ATTENTION_BACKWARD_Q_THREADS: u32 = 128;
pub const ATTENTION_BACKWARD_KV_THREADS: u32 = 256;
pub const ATTENTION_FORWARD_32_SHARED: u32 = 26624;
pub const ATTENTION_FORWARD_64_SHARED: u32 = 51200;
pub const ATTENTION_FORWARD_128_SHARED: u32 = 67584;
pub const ATTENTION_BACKWARD_Q_32_SHARED: u32 = 26624;
pub const ATTENTION_BACKWARD_Q_64_SHARED: u32 = 51200;
pub const ATTENTION_BACKWARD_Q_128_SHARED: u32 = 100352;
pub const ATTENTION_BACKWARD_KV_32_SHARED: u32 = 26112;
pub const ATTENTION_BACKWARD_KV_64_SHARED: u32 = 50688;
pub const ATTENTION_BACKWARD_KV_128_SHARED: u32 = 99840;
pub const RMSNORM_MAX_THREADS: u32 = 512;
pub const RMSNORM_VEC8_COLUMNS: u32 = 16;
pub const RMSNORM_ANY_COLUMNS: u32 = 9;
pub const RMSNORM_BACKWARD_ROWS: u32 = 16;
pub const RMSNORM_BACKWARD_WEIGHT_THREADS: u32 = 256;
pub const HEAD_RMSNORM_THREADS: u32 = 256;
pub const HEAD_RMSNORM_VEC8_LANES: u32 = 16;
pub const HEAD_RMSNORM_MAX_DIM: u32 = 128;
pub const HEAD_RMSNORM_BACKWARD_VECTORS: u32 = 256;
pub const HEAD_RMSNORM_BACKWARD_WEIGHT_THREADS: u32 = 1024;
pub const ROPE_THREADS: u32 = 256;
pub const BIAS_THREADS: u32 = 128;
pub const BIAS_ROWS: u32 = 64;
pub const BIAS_BACKWARD_SUM_THREADS: u32 = 256;
pub const ROWS_THREADS: u32 = 128;
pub const EMBEDDING_BACKWARD_THREADS: u32 = 256;
pub const SWIGLU_THREADS: u32 = 256;
pub const REWARD_HEAD_THREADS: u32 = 256;
pub const REWARD_HEAD_COLUMNS: u32 = 128;
pub const REWARD_HEAD_FUSED_ROWS: u32 = 128;
pub const LOSS_RANKING: u32 = 0;
pub const LOSS_FOCAL: u32 = 1;
pub const PENALTY_NONE: u32 = 0;
pub const PENALTY_LOG_BARRIER: u32 = 1;
pub const PENALTY_L2: u32 = 2;
pub const LINEAR_CROSS_ENTROPY_THREADS: u32 = 512;
pub const LINEAR_CROSS_ENTROPY_SUM_THREADS: u32 = 256;
pub const GLOBAL_NORM_THREADS: u32 = 512;
pub const GLOBAL_NORM_CHUNK: u32 = 32768;
pub const ADAMW_THREADS: u32 = 256;
pub const FILL_THREADS: u32 = 256;
#[doc = " One run of tokens and what it may see; the layout of `backend::Span`."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct Span {
    pub query_start: u32,
    pub queries: u32,
    pub own_start: u32,
    pub own: u32,
    pub prefix_start: u32,
    pub prefix: u32,
    pub row: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Span"][::std::mem::size_of::<Span>() - 32usize];
    ["Alignment of Span"][::std::mem::align_of::<Span>() - 4usize];
    ["Offset of field: Span::query_start"][::std::mem::offset_of!(Span, query_start) - 0usize];
    ["Offset of field: Span::queries"][::std::mem::offset_of!(Span, queries) - 4usize];
    ["Offset of field: Span::own_start"][::std::mem::offset_of!(Span, own_start) - 8usize];
    ["Offset of field: Span::own"][::std::mem::offset_of!(Span, own) - 12usize];
    ["Offset of field: Span::prefix_start"][::std::mem::offset_of!(Span, prefix_start) - 16usize];
    ["Offset of field: Span::prefix"][::std::mem::offset_of!(Span, prefix) - 20usize];
    ["Offset of field: Span::row"][::std::mem::offset_of!(Span, row) - 24usize];
    ["Offset of field: Span::reserved"][::std::mem::offset_of!(Span, reserved) - 28usize];
};
#[doc = " The keys that a query sees: `[prefix_start, prefix_end)` and `[own_start, own_end)`. A prefix that its run follows\n at once is one run with it, and the prefix is then empty."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct Visible {
    pub prefix_start: u32,
    pub prefix_end: u32,
    pub own_start: u32,
    pub own_end: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Visible"][::std::mem::size_of::<Visible>() - 16usize];
    ["Alignment of Visible"][::std::mem::align_of::<Visible>() - 4usize];
    ["Offset of field: Visible::prefix_start"][::std::mem::offset_of!(Visible, prefix_start) - 0usize];
    ["Offset of field: Visible::prefix_end"][::std::mem::offset_of!(Visible, prefix_end) - 4usize];
    ["Offset of field: Visible::own_start"][::std::mem::offset_of!(Visible, own_start) - 8usize];
    ["Offset of field: Visible::own_end"][::std::mem::offset_of!(Visible, own_end) - 12usize];
};
#[doc = " `out = op(a) op(b) + addend`. One block a tile; grid: tiles along `m` times tiles along `n`.\n\n Kernels without the suffix `any` need rows of `a` and `b` that are a multiple of 8 long, at multiples of 16 bytes: `lda`\n and `ldb` are multiples of 8, and so are `k` and, where k goes down the rows, `m` of `a` and `n` of `b`.\n `gemm_nt_swiglu`: `b` is `[2 n, k]`, gate above up; `out[m, n] = silu(gate) up`, and gate and up go to `gate_up[m, 2\n n]` if that is given; a tile has half as many columns. `gemm_nn_swiglu`: the product is the gradient of SwiGLU's\n result; `out[m, 2 n]` is that of `gate_up[m, 2 n]`, whose place it may take."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct GemmParams {
    pub out: u64,
    pub a: u64,
    pub b: u64,
    #[doc = " Optional, of `out`'s type; may be `out`."]
    pub addend: u64,
    pub gate_up: u64,
    pub m: u32,
    pub n: u32,
    pub k: u32,
    pub lda: u32,
    pub ldb: u32,
    pub ldout: u32,
    pub ldaddend: u32,
    pub ldgate_up: u32,
    #[doc = " Whether `out` and `addend` are f32, not bf16; the products that are fused with SwiGLU write bf16."]
    pub out_is_f32: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GemmParams"][::std::mem::size_of::<GemmParams>() - 80usize];
    ["Alignment of GemmParams"][::std::mem::align_of::<GemmParams>() - 8usize];
    ["Offset of field: GemmParams::out"][::std::mem::offset_of!(GemmParams, out) - 0usize];
    ["Offset of field: GemmParams::a"][::std::mem::offset_of!(GemmParams, a) - 8usize];
    ["Offset of field: GemmParams::b"][::std::mem::offset_of!(GemmParams, b) - 16usize];
    ["Offset of field: GemmParams::addend"][::std::mem::offset_of!(GemmParams, addend) - 24usize];
    ["Offset of field: GemmParams::gate_up"][::std::mem::offset_of!(GemmParams, gate_up) - 32usize];
    ["Offset of field: GemmParams::m"][::std::mem::offset_of!(GemmParams, m) - 40usize];
    ["Offset of field: GemmParams::n"][::std::mem::offset_of!(GemmParams, n) - 44usize];
    ["Offset of field: GemmParams::k"][::std::mem::offset_of!(GemmParams, k) - 48usize];
    ["Offset of field: GemmParams::lda"][::std::mem::offset_of!(GemmParams, lda) - 52usize];
    ["Offset of field: GemmParams::ldb"][::std::mem::offset_of!(GemmParams, ldb) - 56usize];
    ["Offset of field: GemmParams::ldout"][::std::mem::offset_of!(GemmParams, ldout) - 60usize];
    ["Offset of field: GemmParams::ldaddend"][::std::mem::offset_of!(GemmParams, ldaddend) - 64usize];
    ["Offset of field: GemmParams::ldgate_up"][::std::mem::offset_of!(GemmParams, ldgate_up) - 68usize];
    ["Offset of field: GemmParams::out_is_f32"][::std::mem::offset_of!(GemmParams, out_is_f32) - 72usize];
};
#[doc = " `out = softmax(scale q k^T) v`. The number in a kernel's name is the head dimension; `32` takes any up to 32, and\n `any` any up to 128. Matrices begin at multiples of 16 bytes. Grid: tiles of `queries * group` rows, `kv_heads`."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct AttentionParams {
    pub q: u64,
    pub k: u64,
    pub v: u64,
    pub out: u64,
    pub lse: u64,
    pub spans: u64,
    pub query_tokens: u64,
    pub n_spans: u32,
    pub queries: u32,
    pub tokens: u32,
    pub kv_heads: u32,
    pub group: u32,
    pub dim: u32,
    #[doc = " Greater than zero."]
    pub scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttentionParams"][::std::mem::size_of::<AttentionParams>() - 88usize];
    ["Alignment of AttentionParams"][::std::mem::align_of::<AttentionParams>() - 8usize];
    ["Offset of field: AttentionParams::q"][::std::mem::offset_of!(AttentionParams, q) - 0usize];
    ["Offset of field: AttentionParams::k"][::std::mem::offset_of!(AttentionParams, k) - 8usize];
    ["Offset of field: AttentionParams::v"][::std::mem::offset_of!(AttentionParams, v) - 16usize];
    ["Offset of field: AttentionParams::out"][::std::mem::offset_of!(AttentionParams, out) - 24usize];
    ["Offset of field: AttentionParams::lse"][::std::mem::offset_of!(AttentionParams, lse) - 32usize];
    ["Offset of field: AttentionParams::spans"][::std::mem::offset_of!(AttentionParams, spans) - 40usize];
    ["Offset of field: AttentionParams::query_tokens"][::std::mem::offset_of!(AttentionParams, query_tokens) - 48usize];
    ["Offset of field: AttentionParams::n_spans"][::std::mem::offset_of!(AttentionParams, n_spans) - 56usize];
    ["Offset of field: AttentionParams::queries"][::std::mem::offset_of!(AttentionParams, queries) - 60usize];
    ["Offset of field: AttentionParams::tokens"][::std::mem::offset_of!(AttentionParams, tokens) - 64usize];
    ["Offset of field: AttentionParams::kv_heads"][::std::mem::offset_of!(AttentionParams, kv_heads) - 68usize];
    ["Offset of field: AttentionParams::group"][::std::mem::offset_of!(AttentionParams, group) - 72usize];
    ["Offset of field: AttentionParams::dim"][::std::mem::offset_of!(AttentionParams, dim) - 76usize];
    ["Offset of field: AttentionParams::scale"][::std::mem::offset_of!(AttentionParams, scale) - 80usize];
};
#[doc = " The three passes backward. `prepare` (grid: rows of `kv_heads * queries * group` by its rows a block) fills `delta`\n and `visible`; `q` (grid as forward) writes `dq`; `kv` (grid: tiles of `tokens` keys, `kv_heads`) writes `dk` and\n `dv`."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct AttentionBackwardParams {
    pub q: u64,
    pub k: u64,
    pub v: u64,
    pub out: u64,
    pub dout: u64,
    pub lse: u64,
    pub spans: u64,
    pub query_tokens: u64,
    pub dq: u64,
    pub dk: u64,
    pub dv: u64,
    #[doc = " `[kv_heads, queries, group]`: `dout . out` of each row. Scratch."]
    pub delta: u64,
    #[doc = " `[queries]`. Scratch."]
    pub visible: u64,
    pub n_spans: u32,
    pub queries: u32,
    pub tokens: u32,
    pub kv_heads: u32,
    pub group: u32,
    pub dim: u32,
    #[doc = " Greater than zero."]
    pub scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttentionBackwardParams"][::std::mem::size_of::<AttentionBackwardParams>() - 136usize];
    ["Alignment of AttentionBackwardParams"][::std::mem::align_of::<AttentionBackwardParams>() - 8usize];
    ["Offset of field: AttentionBackwardParams::q"][::std::mem::offset_of!(AttentionBackwardParams, q) - 0usize];
    ["Offset of field: AttentionBackwardParams::k"][::std::mem::offset_of!(AttentionBackwardParams, k) - 8usize];
    ["Offset of field: AttentionBackwardParams::v"][::std::mem::offset_of!(AttentionBackwardParams, v) - 16usize];
    ["Offset of field: AttentionBackwardParams::out"][::std::mem::offset_of!(AttentionBackwardParams, out) - 24usize];
    ["Offset of field: AttentionBackwardParams::dout"][::std::mem::offset_of!(AttentionBackwardParams, dout) - 32usize];
    ["Offset of field: AttentionBackwardParams::lse"][::std::mem::offset_of!(AttentionBackwardParams, lse) - 40usize];
    ["Offset of field: AttentionBackwardParams::spans"]
        [::std::mem::offset_of!(AttentionBackwardParams, spans) - 48usize];
    ["Offset of field: AttentionBackwardParams::query_tokens"]
        [::std::mem::offset_of!(AttentionBackwardParams, query_tokens) - 56usize];
    ["Offset of field: AttentionBackwardParams::dq"][::std::mem::offset_of!(AttentionBackwardParams, dq) - 64usize];
    ["Offset of field: AttentionBackwardParams::dk"][::std::mem::offset_of!(AttentionBackwardParams, dk) - 72usize];
    ["Offset of field: AttentionBackwardParams::dv"][::std::mem::offset_of!(AttentionBackwardParams, dv) - 80usize];
    ["Offset of field: AttentionBackwardParams::delta"]
        [::std::mem::offset_of!(AttentionBackwardParams, delta) - 88usize];
    ["Offset of field: AttentionBackwardParams::visible"]
        [::std::mem::offset_of!(AttentionBackwardParams, visible) - 96usize];
    ["Offset of field: AttentionBackwardParams::n_spans"]
        [::std::mem::offset_of!(AttentionBackwardParams, n_spans) - 104usize];
    ["Offset of field: AttentionBackwardParams::queries"]
        [::std::mem::offset_of!(AttentionBackwardParams, queries) - 108usize];
    ["Offset of field: AttentionBackwardParams::tokens"]
        [::std::mem::offset_of!(AttentionBackwardParams, tokens) - 112usize];
    ["Offset of field: AttentionBackwardParams::kv_heads"]
        [::std::mem::offset_of!(AttentionBackwardParams, kv_heads) - 116usize];
    ["Offset of field: AttentionBackwardParams::group"]
        [::std::mem::offset_of!(AttentionBackwardParams, group) - 120usize];
    ["Offset of field: AttentionBackwardParams::dim"][::std::mem::offset_of!(AttentionBackwardParams, dim) - 124usize];
    ["Offset of field: AttentionBackwardParams::scale"]
        [::std::mem::offset_of!(AttentionBackwardParams, scale) - 128usize];
};
#[doc = " `y = x rstd weight`. One block a row; its threads, whole warps, hold all columns. The kernels named `vec8` need\n `columns` to be a multiple of 8 and all rows at multiples of 16 bytes."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct RmsnormParams {
    pub y: u64,
    pub rstd: u64,
    pub x: u64,
    pub weight: u64,
    pub columns: u32,
    pub eps: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RmsnormParams"][::std::mem::size_of::<RmsnormParams>() - 40usize];
    ["Alignment of RmsnormParams"][::std::mem::align_of::<RmsnormParams>() - 8usize];
    ["Offset of field: RmsnormParams::y"][::std::mem::offset_of!(RmsnormParams, y) - 0usize];
    ["Offset of field: RmsnormParams::rstd"][::std::mem::offset_of!(RmsnormParams, rstd) - 8usize];
    ["Offset of field: RmsnormParams::x"][::std::mem::offset_of!(RmsnormParams, x) - 16usize];
    ["Offset of field: RmsnormParams::weight"][::std::mem::offset_of!(RmsnormParams, weight) - 24usize];
    ["Offset of field: RmsnormParams::columns"][::std::mem::offset_of!(RmsnormParams, columns) - 32usize];
    ["Offset of field: RmsnormParams::eps"][::std::mem::offset_of!(RmsnormParams, eps) - 36usize];
};
#[doc = " `dx += d/dx`, and `partials[block, columns]`, which `rmsnorm_backward_weight` (a block for 32 columns) adds to\n `dweight`."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct RmsnormBackwardParams {
    pub dx: u64,
    pub dweight: u64,
    pub partials: u64,
    pub dy: u64,
    pub x: u64,
    pub rstd: u64,
    pub weight: u64,
    pub rows: u32,
    pub columns: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RmsnormBackwardParams"][::std::mem::size_of::<RmsnormBackwardParams>() - 64usize];
    ["Alignment of RmsnormBackwardParams"][::std::mem::align_of::<RmsnormBackwardParams>() - 8usize];
    ["Offset of field: RmsnormBackwardParams::dx"][::std::mem::offset_of!(RmsnormBackwardParams, dx) - 0usize];
    ["Offset of field: RmsnormBackwardParams::dweight"]
        [::std::mem::offset_of!(RmsnormBackwardParams, dweight) - 8usize];
    ["Offset of field: RmsnormBackwardParams::partials"]
        [::std::mem::offset_of!(RmsnormBackwardParams, partials) - 16usize];
    ["Offset of field: RmsnormBackwardParams::dy"][::std::mem::offset_of!(RmsnormBackwardParams, dy) - 24usize];
    ["Offset of field: RmsnormBackwardParams::x"][::std::mem::offset_of!(RmsnormBackwardParams, x) - 32usize];
    ["Offset of field: RmsnormBackwardParams::rstd"][::std::mem::offset_of!(RmsnormBackwardParams, rstd) - 40usize];
    ["Offset of field: RmsnormBackwardParams::weight"][::std::mem::offset_of!(RmsnormBackwardParams, weight) - 48usize];
    ["Offset of field: RmsnormBackwardParams::rows"][::std::mem::offset_of!(RmsnormBackwardParams, rows) - 56usize];
    ["Offset of field: RmsnormBackwardParams::columns"]
        [::std::mem::offset_of!(RmsnormBackwardParams, columns) - 60usize];
};
#[doc = " `y = x rstd weight` for `vectors` of `dim`. Grid: vectors by those that a block has at one time. The kernels named\n `vec8` need `dim` to be a multiple of 8 and everything of bf16 at multiples of 16 bytes."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct HeadRmsnormParams {
    pub y: u64,
    pub rstd: u64,
    pub x: u64,
    pub weight: u64,
    pub vectors: u32,
    pub dim: u32,
    pub eps: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of HeadRmsnormParams"][::std::mem::size_of::<HeadRmsnormParams>() - 48usize];
    ["Alignment of HeadRmsnormParams"][::std::mem::align_of::<HeadRmsnormParams>() - 8usize];
    ["Offset of field: HeadRmsnormParams::y"][::std::mem::offset_of!(HeadRmsnormParams, y) - 0usize];
    ["Offset of field: HeadRmsnormParams::rstd"][::std::mem::offset_of!(HeadRmsnormParams, rstd) - 8usize];
    ["Offset of field: HeadRmsnormParams::x"][::std::mem::offset_of!(HeadRmsnormParams, x) - 16usize];
    ["Offset of field: HeadRmsnormParams::weight"][::std::mem::offset_of!(HeadRmsnormParams, weight) - 24usize];
    ["Offset of field: HeadRmsnormParams::vectors"][::std::mem::offset_of!(HeadRmsnormParams, vectors) - 32usize];
    ["Offset of field: HeadRmsnormParams::dim"][::std::mem::offset_of!(HeadRmsnormParams, dim) - 36usize];
    ["Offset of field: HeadRmsnormParams::eps"][::std::mem::offset_of!(HeadRmsnormParams, eps) - 40usize];
};
#[doc = " `dx = d/dx`, and `partials[block, dim]`, which `head_rmsnorm_backward_weight` (a block for 32 columns) adds to\n `dweight`. Grid: vectors by `HEAD_RMSNORM_BACKWARD_VECTORS`."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct HeadRmsnormBackwardParams {
    pub dx: u64,
    pub dweight: u64,
    pub partials: u64,
    pub dy: u64,
    pub x: u64,
    pub rstd: u64,
    pub weight: u64,
    pub vectors: u32,
    pub dim: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of HeadRmsnormBackwardParams"][::std::mem::size_of::<HeadRmsnormBackwardParams>() - 64usize];
    ["Alignment of HeadRmsnormBackwardParams"][::std::mem::align_of::<HeadRmsnormBackwardParams>() - 8usize];
    ["Offset of field: HeadRmsnormBackwardParams::dx"][::std::mem::offset_of!(HeadRmsnormBackwardParams, dx) - 0usize];
    ["Offset of field: HeadRmsnormBackwardParams::dweight"]
        [::std::mem::offset_of!(HeadRmsnormBackwardParams, dweight) - 8usize];
    ["Offset of field: HeadRmsnormBackwardParams::partials"]
        [::std::mem::offset_of!(HeadRmsnormBackwardParams, partials) - 16usize];
    ["Offset of field: HeadRmsnormBackwardParams::dy"][::std::mem::offset_of!(HeadRmsnormBackwardParams, dy) - 24usize];
    ["Offset of field: HeadRmsnormBackwardParams::x"][::std::mem::offset_of!(HeadRmsnormBackwardParams, x) - 32usize];
    ["Offset of field: HeadRmsnormBackwardParams::rstd"]
        [::std::mem::offset_of!(HeadRmsnormBackwardParams, rstd) - 40usize];
    ["Offset of field: HeadRmsnormBackwardParams::weight"]
        [::std::mem::offset_of!(HeadRmsnormBackwardParams, weight) - 48usize];
    ["Offset of field: HeadRmsnormBackwardParams::vectors"]
        [::std::mem::offset_of!(HeadRmsnormBackwardParams, vectors) - 56usize];
    ["Offset of field: HeadRmsnormBackwardParams::dim"]
        [::std::mem::offset_of!(HeadRmsnormBackwardParams, dim) - 60usize];
};
#[doc = " Splits `fused[rows, kv_heads * group columns]` into `q`, `k` and `v`, or gathers them. A thread turns 8 pairs\n (`vec8`: `dim` a multiple of 16, everything at multiples of 16 bytes) or one of one token and one group. Grid:\n threads for `rows * dim / 2 / pairs`, `kv_heads`."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct RopeParams {
    pub fused: u64,
    #[doc = " Optional: `[kv_heads, rows, group, dim]`."]
    pub q: u64,
    #[doc = " Optional, both or none: `[kv_heads, rows, dim]`."]
    pub k: u64,
    pub v: u64,
    pub positions: u64,
    #[doc = " `[dim / 2]`: `rope_angle(1, i, dim, theta)`; at a multiple of 16 bytes for `vec8`."]
    pub frequencies: u64,
    pub rows: u32,
    pub kv_heads: u32,
    pub group: u32,
    pub dim: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RopeParams"][::std::mem::size_of::<RopeParams>() - 64usize];
    ["Alignment of RopeParams"][::std::mem::align_of::<RopeParams>() - 8usize];
    ["Offset of field: RopeParams::fused"][::std::mem::offset_of!(RopeParams, fused) - 0usize];
    ["Offset of field: RopeParams::q"][::std::mem::offset_of!(RopeParams, q) - 8usize];
    ["Offset of field: RopeParams::k"][::std::mem::offset_of!(RopeParams, k) - 16usize];
    ["Offset of field: RopeParams::v"][::std::mem::offset_of!(RopeParams, v) - 24usize];
    ["Offset of field: RopeParams::positions"][::std::mem::offset_of!(RopeParams, positions) - 32usize];
    ["Offset of field: RopeParams::frequencies"][::std::mem::offset_of!(RopeParams, frequencies) - 40usize];
    ["Offset of field: RopeParams::rows"][::std::mem::offset_of!(RopeParams, rows) - 48usize];
    ["Offset of field: RopeParams::kv_heads"][::std::mem::offset_of!(RopeParams, kv_heads) - 52usize];
    ["Offset of field: RopeParams::group"][::std::mem::offset_of!(RopeParams, group) - 56usize];
    ["Offset of field: RopeParams::dim"][::std::mem::offset_of!(RopeParams, dim) - 60usize];
};
#[doc = " `y += bias` in every row; or `partials[block, columns]`, the sums of the columns of `y`, which is then `dy`, and\n which `bias_backward_sum` (a block for 32 columns) adds to `dbias`. Column `j` has element `j / part * ldbias + j %\n part` of the bias. Grid: rows by the rows of a block, bands of columns. A thread has 8 columns if the name ends in\n `vec8` (`columns`, `part` and `ldbias` multiples of 8, `y` and `bias` at multiples of 16 bytes), otherwise one."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct BiasParams {
    pub y: u64,
    pub bias: u64,
    pub dbias: u64,
    #[doc = " `[blocks of rows, columns]`. Scratch."]
    pub partials: u64,
    pub rows: u32,
    pub columns: u32,
    pub part: u32,
    pub ldbias: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BiasParams"][::std::mem::size_of::<BiasParams>() - 48usize];
    ["Alignment of BiasParams"][::std::mem::align_of::<BiasParams>() - 8usize];
    ["Offset of field: BiasParams::y"][::std::mem::offset_of!(BiasParams, y) - 0usize];
    ["Offset of field: BiasParams::bias"][::std::mem::offset_of!(BiasParams, bias) - 8usize];
    ["Offset of field: BiasParams::dbias"][::std::mem::offset_of!(BiasParams, dbias) - 16usize];
    ["Offset of field: BiasParams::partials"][::std::mem::offset_of!(BiasParams, partials) - 24usize];
    ["Offset of field: BiasParams::rows"][::std::mem::offset_of!(BiasParams, rows) - 32usize];
    ["Offset of field: BiasParams::columns"][::std::mem::offset_of!(BiasParams, columns) - 36usize];
    ["Offset of field: BiasParams::part"][::std::mem::offset_of!(BiasParams, part) - 40usize];
    ["Offset of field: BiasParams::ldbias"][::std::mem::offset_of!(BiasParams, ldbias) - 44usize];
};
#[doc = " `out[i] = from[ids[i]]` or `out[ids[i]] += from[i]`, rows of `columns`. Grid: `rows`."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct RowsParams {
    pub out: u64,
    pub from: u64,
    pub ids: u64,
    pub columns: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RowsParams"][::std::mem::size_of::<RowsParams>() - 32usize];
    ["Alignment of RowsParams"][::std::mem::align_of::<RowsParams>() - 8usize];
    ["Offset of field: RowsParams::out"][::std::mem::offset_of!(RowsParams, out) - 0usize];
    ["Offset of field: RowsParams::from"][::std::mem::offset_of!(RowsParams, from) - 8usize];
    ["Offset of field: RowsParams::ids"][::std::mem::offset_of!(RowsParams, ids) - 16usize];
    ["Offset of field: RowsParams::columns"][::std::mem::offset_of!(RowsParams, columns) - 24usize];
};
#[doc = " `dtable[ids[i]] += dy[i]` in the order of `i`. Grid: `rows`, bands of columns. A thread has 4 columns if the name\n ends in `vec4` (`columns` a multiple of 4, `dtable` at a multiple of 16 bytes, `dy` of 8), otherwise one."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct EmbeddingBackwardParams {
    pub dtable: u64,
    pub ids: u64,
    pub dy: u64,
    pub rows: u32,
    pub columns: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of EmbeddingBackwardParams"][::std::mem::size_of::<EmbeddingBackwardParams>() - 32usize];
    ["Alignment of EmbeddingBackwardParams"][::std::mem::align_of::<EmbeddingBackwardParams>() - 8usize];
    ["Offset of field: EmbeddingBackwardParams::dtable"]
        [::std::mem::offset_of!(EmbeddingBackwardParams, dtable) - 0usize];
    ["Offset of field: EmbeddingBackwardParams::ids"][::std::mem::offset_of!(EmbeddingBackwardParams, ids) - 8usize];
    ["Offset of field: EmbeddingBackwardParams::dy"][::std::mem::offset_of!(EmbeddingBackwardParams, dy) - 16usize];
    ["Offset of field: EmbeddingBackwardParams::rows"][::std::mem::offset_of!(EmbeddingBackwardParams, rows) - 24usize];
    ["Offset of field: EmbeddingBackwardParams::columns"]
        [::std::mem::offset_of!(EmbeddingBackwardParams, columns) - 28usize];
};
#[doc = " `y = silu(gate) up`, or `dgate_up` from `dy`. Grid: any number of blocks, which share the work; a thread has 8\n columns at a time if the name ends in `vec8` (`columns` a multiple of 8, everything at multiples of 16 bytes),\n otherwise one."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct SwigluParams {
    #[doc = " `[rows, columns]`; `dy` in the backward pass."]
    pub y: u64,
    #[doc = " `[rows, 2 columns]`."]
    pub gate_up: u64,
    #[doc = " `[rows, 2 columns]`; may be `gate_up`."]
    pub dgate_up: u64,
    pub rows: u32,
    pub columns: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SwigluParams"][::std::mem::size_of::<SwigluParams>() - 32usize];
    ["Alignment of SwigluParams"][::std::mem::align_of::<SwigluParams>() - 8usize];
    ["Offset of field: SwigluParams::y"][::std::mem::offset_of!(SwigluParams, y) - 0usize];
    ["Offset of field: SwigluParams::gate_up"][::std::mem::offset_of!(SwigluParams, gate_up) - 8usize];
    ["Offset of field: SwigluParams::dgate_up"][::std::mem::offset_of!(SwigluParams, dgate_up) - 16usize];
    ["Offset of field: SwigluParams::rows"][::std::mem::offset_of!(SwigluParams, rows) - 24usize];
    ["Offset of field: SwigluParams::columns"][::std::mem::offset_of!(SwigluParams, columns) - 28usize];
};
#[doc = " `reward_head_forward` (a warp a row) writes `scores`, and `rstd` if it is given. `reward_head_loss` (grid: bands of\n columns) does everything for up to `REWARD_HEAD_FUSED_ROWS` rows. Unfused, for any number: `reward_head_pair_loss`\n (grid: any number of blocks, which share the rows) makes `loss` and `dscores` from `scores`; `reward_head_backward`\n (grid: bands of columns) the gradients from `dscores` and `rstd`."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct RewardHeadParams {
    pub scores: u64,
    #[doc = " Optional in the forward pass: `[rows]`."]
    pub rstd: u64,
    #[doc = " `[rows]`; for the unfused kernels."]
    pub dscores: u64,
    #[doc = " `[1]`, added to."]
    pub loss: u64,
    #[doc = " `[rows, columns]`, overwritten."]
    pub dx: u64,
    #[doc = " `[columns]`, added to."]
    pub dnorm: u64,
    #[doc = " `[columns]`, added to."]
    pub dhead: u64,
    pub x: u64,
    pub norm: u64,
    pub head: u64,
    #[doc = " `[pairs, 2]`: chosen, rejected."]
    pub pairs: u64,
    pub rows: u32,
    pub columns: u32,
    pub n_pairs: u32,
    pub loss_kind: u32,
    pub penalty_kind: u32,
    pub penalty_weight: f32,
    pub scale: f32,
    pub eps: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RewardHeadParams"][::std::mem::size_of::<RewardHeadParams>() - 120usize];
    ["Alignment of RewardHeadParams"][::std::mem::align_of::<RewardHeadParams>() - 8usize];
    ["Offset of field: RewardHeadParams::scores"][::std::mem::offset_of!(RewardHeadParams, scores) - 0usize];
    ["Offset of field: RewardHeadParams::rstd"][::std::mem::offset_of!(RewardHeadParams, rstd) - 8usize];
    ["Offset of field: RewardHeadParams::dscores"][::std::mem::offset_of!(RewardHeadParams, dscores) - 16usize];
    ["Offset of field: RewardHeadParams::loss"][::std::mem::offset_of!(RewardHeadParams, loss) - 24usize];
    ["Offset of field: RewardHeadParams::dx"][::std::mem::offset_of!(RewardHeadParams, dx) - 32usize];
    ["Offset of field: RewardHeadParams::dnorm"][::std::mem::offset_of!(RewardHeadParams, dnorm) - 40usize];
    ["Offset of field: RewardHeadParams::dhead"][::std::mem::offset_of!(RewardHeadParams, dhead) - 48usize];
    ["Offset of field: RewardHeadParams::x"][::std::mem::offset_of!(RewardHeadParams, x) - 56usize];
    ["Offset of field: RewardHeadParams::norm"][::std::mem::offset_of!(RewardHeadParams, norm) - 64usize];
    ["Offset of field: RewardHeadParams::head"][::std::mem::offset_of!(RewardHeadParams, head) - 72usize];
    ["Offset of field: RewardHeadParams::pairs"][::std::mem::offset_of!(RewardHeadParams, pairs) - 80usize];
    ["Offset of field: RewardHeadParams::rows"][::std::mem::offset_of!(RewardHeadParams, rows) - 88usize];
    ["Offset of field: RewardHeadParams::columns"][::std::mem::offset_of!(RewardHeadParams, columns) - 92usize];
    ["Offset of field: RewardHeadParams::n_pairs"][::std::mem::offset_of!(RewardHeadParams, n_pairs) - 96usize];
    ["Offset of field: RewardHeadParams::loss_kind"][::std::mem::offset_of!(RewardHeadParams, loss_kind) - 100usize];
    ["Offset of field: RewardHeadParams::penalty_kind"]
        [::std::mem::offset_of!(RewardHeadParams, penalty_kind) - 104usize];
    ["Offset of field: RewardHeadParams::penalty_weight"]
        [::std::mem::offset_of!(RewardHeadParams, penalty_weight) - 108usize];
    ["Offset of field: RewardHeadParams::scale"][::std::mem::offset_of!(RewardHeadParams, scale) - 112usize];
    ["Offset of field: RewardHeadParams::eps"][::std::mem::offset_of!(RewardHeadParams, eps) - 116usize];
};
#[doc = " A chunk of `rows` of logits. `linear_cross_entropy_softmax_*` (grid: rows; `vec8`: `columns` a multiple of 8,\n `logits` at a multiple of 16 bytes) writes `losses`, and turns `logits` into their gradient if `gradient` is not\n zero; `linear_cross_entropy_sum` (one block) adds the `rows` losses to `loss`."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct CrossEntropyParams {
    pub logits: u64,
    pub targets: u64,
    pub weights: u64,
    #[doc = " `[rows]`. Scratch."]
    pub losses: u64,
    #[doc = " `[1]`, added to."]
    pub loss: u64,
    pub rows: u32,
    pub columns: u32,
    pub gradient: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CrossEntropyParams"][::std::mem::size_of::<CrossEntropyParams>() - 56usize];
    ["Alignment of CrossEntropyParams"][::std::mem::align_of::<CrossEntropyParams>() - 8usize];
    ["Offset of field: CrossEntropyParams::logits"][::std::mem::offset_of!(CrossEntropyParams, logits) - 0usize];
    ["Offset of field: CrossEntropyParams::targets"][::std::mem::offset_of!(CrossEntropyParams, targets) - 8usize];
    ["Offset of field: CrossEntropyParams::weights"][::std::mem::offset_of!(CrossEntropyParams, weights) - 16usize];
    ["Offset of field: CrossEntropyParams::losses"][::std::mem::offset_of!(CrossEntropyParams, losses) - 24usize];
    ["Offset of field: CrossEntropyParams::loss"][::std::mem::offset_of!(CrossEntropyParams, loss) - 32usize];
    ["Offset of field: CrossEntropyParams::rows"][::std::mem::offset_of!(CrossEntropyParams, rows) - 40usize];
    ["Offset of field: CrossEntropyParams::columns"][::std::mem::offset_of!(CrossEntropyParams, columns) - 44usize];
    ["Offset of field: CrossEntropyParams::gradient"][::std::mem::offset_of!(CrossEntropyParams, gradient) - 48usize];
};
#[doc = " `partials[i]` is the sum of the squares of chunk `i` (grid: chunks of `x`); `global_norm_finish` (one block) takes\n the root of their sum."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct GlobalNormParams {
    pub norm: u64,
    pub x: u64,
    #[doc = " `[ceil(count / GLOBAL_NORM_CHUNK)]`. Scratch."]
    pub partials: u64,
    pub count: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GlobalNormParams"][::std::mem::size_of::<GlobalNormParams>() - 32usize];
    ["Alignment of GlobalNormParams"][::std::mem::align_of::<GlobalNormParams>() - 8usize];
    ["Offset of field: GlobalNormParams::norm"][::std::mem::offset_of!(GlobalNormParams, norm) - 0usize];
    ["Offset of field: GlobalNormParams::x"][::std::mem::offset_of!(GlobalNormParams, x) - 8usize];
    ["Offset of field: GlobalNormParams::partials"][::std::mem::offset_of!(GlobalNormParams, partials) - 16usize];
    ["Offset of field: GlobalNormParams::count"][::std::mem::offset_of!(GlobalNormParams, count) - 24usize];
};
#[doc = " One update of all parameters. Grid: any number of blocks, which share the work."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct AdamwParams {
    #[doc = " f32 masters."]
    pub master: u64,
    #[doc = " Optional: the masters rounded, which the model computes with."]
    pub weights: u64,
    pub m: u64,
    pub v: u64,
    pub grads: u64,
    #[doc = " `[1]`: the global norm of `grads`."]
    pub norm: u64,
    pub count: u64,
    #[doc = " 0 leaves the gradients alone."]
    pub max_norm: f32,
    pub beta1: f32,
    pub beta2: f32,
    #[doc = " `1 - beta1`."]
    pub rest1: f32,
    #[doc = " `1 - beta2`."]
    pub rest2: f32,
    #[doc = " `1 - lr weight_decay`."]
    pub decay: f32,
    #[doc = " `lr / (1 - beta1^step)`."]
    pub rate: f32,
    #[doc = " `1 / sqrt(1 - beta2^step)`."]
    pub root: f32,
    pub eps: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AdamwParams"][::std::mem::size_of::<AdamwParams>() - 96usize];
    ["Alignment of AdamwParams"][::std::mem::align_of::<AdamwParams>() - 8usize];
    ["Offset of field: AdamwParams::master"][::std::mem::offset_of!(AdamwParams, master) - 0usize];
    ["Offset of field: AdamwParams::weights"][::std::mem::offset_of!(AdamwParams, weights) - 8usize];
    ["Offset of field: AdamwParams::m"][::std::mem::offset_of!(AdamwParams, m) - 16usize];
    ["Offset of field: AdamwParams::v"][::std::mem::offset_of!(AdamwParams, v) - 24usize];
    ["Offset of field: AdamwParams::grads"][::std::mem::offset_of!(AdamwParams, grads) - 32usize];
    ["Offset of field: AdamwParams::norm"][::std::mem::offset_of!(AdamwParams, norm) - 40usize];
    ["Offset of field: AdamwParams::count"][::std::mem::offset_of!(AdamwParams, count) - 48usize];
    ["Offset of field: AdamwParams::max_norm"][::std::mem::offset_of!(AdamwParams, max_norm) - 56usize];
    ["Offset of field: AdamwParams::beta1"][::std::mem::offset_of!(AdamwParams, beta1) - 60usize];
    ["Offset of field: AdamwParams::beta2"][::std::mem::offset_of!(AdamwParams, beta2) - 64usize];
    ["Offset of field: AdamwParams::rest1"][::std::mem::offset_of!(AdamwParams, rest1) - 68usize];
    ["Offset of field: AdamwParams::rest2"][::std::mem::offset_of!(AdamwParams, rest2) - 72usize];
    ["Offset of field: AdamwParams::decay"][::std::mem::offset_of!(AdamwParams, decay) - 76usize];
    ["Offset of field: AdamwParams::rate"][::std::mem::offset_of!(AdamwParams, rate) - 80usize];
    ["Offset of field: AdamwParams::root"][::std::mem::offset_of!(AdamwParams, root) - 84usize];
    ["Offset of field: AdamwParams::eps"][::std::mem::offset_of!(AdamwParams, eps) - 88usize];
};
#[doc = " `out = value`, `count` times. Grid: any number of blocks."]
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct FillParams {
    pub out: u64,
    pub count: u64,
    pub value: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of FillParams"][::std::mem::size_of::<FillParams>() - 24usize];
    ["Alignment of FillParams"][::std::mem::align_of::<FillParams>() - 8usize];
    ["Offset of field: FillParams::out"][::std::mem::offset_of!(FillParams, out) - 0usize];
    ["Offset of field: FillParams::count"][::std::mem::offset_of!(FillParams, count) - 8usize];
    ["Offset of field: FillParams::value"][::std::mem::offset_of!(FillParams, value) - 16usize];
};
