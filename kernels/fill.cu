// One value everywhere. Floor: the bytes that are written.
#include "flat.cuh"

extern "C" __global__ void __launch_bounds__(FILL_THREADS) fill_f32(const __grid_constant__ FillParams p) {
    float *out = static_cast<float *>(p.out);
    const float4 four = make_float4(p.value, p.value, p.value, p.value);
    each_element<FILL_THREADS>(
        p.count, is_aligned(out, 16), [&](uint64_t i) { *reinterpret_cast<float4 *>(out + i) = four; },
        [&](uint64_t i) { out[i] = p.value; });
}

extern "C" __global__ void __launch_bounds__(FILL_THREADS) fill_bf16(const __grid_constant__ FillParams p) {
    bf16 *out = static_cast<bf16 *>(p.out);
    const uint32_t two = ptx::cvt_bf16x2(p.value, p.value);
    each_element<FILL_THREADS>(
        p.count, is_aligned(out, 8), [&](uint64_t i) { *reinterpret_cast<uint2 *>(out + i) = make_uint2(two, two); },
        [&](uint64_t i) { out[i] = to_bf16(p.value); });
}
