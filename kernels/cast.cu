// Between f32 and bf16: weights that are read from disk, and what is shown of a model. Floor: 6 bytes an element.
#include "flat.cuh"

extern "C" __global__ void __launch_bounds__(FILL_THREADS) cast_f32_to_bf16(const __grid_constant__ CastParams p) {
    const float *from = static_cast<const float *>(p.from);
    bf16 *out = static_cast<bf16 *>(p.out);
    each_element<FILL_THREADS>(
        p.count, is_aligned(from, 16) && is_aligned(out, 8),
        [&](uint64_t i) {
            const float4 x = *reinterpret_cast<const float4 *>(from + i);
            *reinterpret_cast<uint2 *>(out + i) = make_uint2(ptx::cvt_bf16x2(x.x, x.y), ptx::cvt_bf16x2(x.z, x.w));
        },
        [&](uint64_t i) { out[i] = to_bf16(from[i]); });
}

extern "C" __global__ void __launch_bounds__(FILL_THREADS) cast_bf16_to_f32(const __grid_constant__ CastParams p) {
    const bf16 *from = static_cast<const bf16 *>(p.from);
    float *out = static_cast<float *>(p.out);
    each_element<FILL_THREADS>(
        p.count, is_aligned(from, 8) && is_aligned(out, 16),
        [&](uint64_t i) {
            const uint2 x = *reinterpret_cast<const uint2 *>(from + i);
            *reinterpret_cast<float4 *>(out + i) = make_float4(low(x.x), high(x.x), low(x.y), high(x.y));
        },
        [&](uint64_t i) { out[i] = to_float(from[i]); });
}
