// One function for each PTX instruction that C++ has no word for. The names are PTX's; what they do and need is in the
// PTX ISA manual under the opcode, repeated here as far as our kernels depend on it.
#pragma once

#include <stdint.h>

namespace ptx {

// `cvta.to.shared.u64`: the address of a shared variable within the shared window, as the instructions below want it.
__device__ inline uint32_t cvta_shared(const void *generic) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(generic));
}

// `cp.async.cg`: copies 16 bytes from global to shared memory without passing through registers or L1, later. Of the 16
// only the first `bytes` are read; zeros take the place of the rest. Both addresses are multiples of 16.
__device__ inline void cp_async_16(uint32_t shared, const void *global, uint32_t bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes) : "memory");
}

// `cp.async.ca`: the same for 4 bytes.
__device__ inline void cp_async_4(uint32_t shared, const void *global, uint32_t bytes) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared), "l"(global), "r"(bytes) : "memory");
}

// `cp.async.commit_group`: closes the group of copies that this thread issued since the last one.
__device__ inline void cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// `cp.async.wait_group`: until at most `PENDING` of this thread's newest groups are under way. What other threads
// copied is only there after a barrier.
template <int PENDING> __device__ inline void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// `st.global.v4.u32`: 16 bytes to global memory, at a multiple of 16. nvcc sometimes takes an assignment of a uint4
// apart.
__device__ inline void st_global_v4(void *global, uint32_t x, uint32_t y, uint32_t z, uint32_t w) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(global)), "r"(x), "r"(y),
                 "r"(z), "r"(w)
                 : "memory");
}

// `st.shared.v4.u32`: 16 bytes to shared memory, at a multiple of 16.
__device__ inline void st_shared_v4(uint32_t shared, const uint32_t (&v)[4]) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3])
                 : "memory");
}

// `ldmatrix.x4`: four 8 x 8 matrices of 16-bit elements. Lane `8 i + r` gives the address of row `r` of matrix `i`, 16
// bytes at a multiple of 16; lane `l` gets elements `2 (l % 4)` and the next of row `l / 4` of each.
__device__ inline void ldmatrix_x4(uint32_t (&d)[4], uint32_t shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(shared)
                 : "memory");
}

// `ldmatrix.x4.trans`: the same, each matrix transposed on its way.
__device__ inline void ldmatrix_x4_trans(uint32_t (&d)[4], uint32_t shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(shared)
                 : "memory");
}

// `mma.m16n8k16`: `d += a b`, bf16 products summed in f32. Lane `l` with `g = l / 4`, `q = l % 4` holds
//   a: (g, 2q..) (g + 8, 2q..) (g, 2q + 8..) (g + 8, 2q + 8..), pairs along k;
//   b: (2q.., g) (2q + 8.., g), pairs along k;
//   d: (g, 2q) (g, 2q + 1) (g + 8, 2q) (g + 8, 2q + 1).
__device__ inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// `cvt.rn.bf16x2.f32`: two floats rounded to nearest even, `low` in the lower half.
__device__ inline uint32_t cvt_bf16x2(float low, float high) {
    uint32_t d;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
    return d;
}

// `ex2.approx`: `2^x` to 2 ulp; 0 at negative infinity.
__device__ inline float ex2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// `lg2.approx`: the binary logarithm, off by at most 2^-22 absolutely near 1 and relatively elsewhere.
__device__ inline float lg2(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// `rcp.approx`: `1 / x` to 1 ulp.
__device__ inline float rcp(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// `rsqrt.approx`: `1 / sqrt(x)`, off by at most 2^-22.9 relatively.
__device__ inline float rsqrt(float x) {
    float y;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

} // namespace ptx
