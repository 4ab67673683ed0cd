// bf16 in registers, and short vectors of it. Arithmetic is in f32 everywhere: bf16 is a way to store.
#pragma once

#include "abi.h"
#include "ptx.cuh"

constexpr float LOG2E = 1.4426950408889634f;
constexpr float LN2 = 0.6931471805599453f;

// Widening is exact: the bits move up.
__device__ inline float to_float(bf16 x) {
    return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
}

__device__ inline bf16 to_bf16(float x) {
    return {static_cast<uint16_t>(ptx::cvt_bf16x2(x, 0.0f))};
}

// What is left of a number that is stored and read again.
__device__ inline float rounded(float x) {
    return to_float(to_bf16(x));
}

// The halves of a pair, lower address first.
__device__ inline float low(uint32_t pair) {
    return __uint_as_float(pair << 16);
}

__device__ inline float high(uint32_t pair) {
    return __uint_as_float(pair & 0xffff0000u);
}

// `N` neighbouring elements: 8 of them are 16 bytes, the widest access there is; 4 are as many where f32 goes with
// them; 1 is for rows that are not aligned.
template <int N> struct Floats {
    float at[N];
};

__device__ inline void unpack(float (&to)[8], uint4 from) {
    const uint32_t pairs[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        to[2 * i] = low(pairs[i]);
        to[2 * i + 1] = high(pairs[i]);
    }
}

template <int N> __device__ inline Floats<N> load(const bf16 *from) {
    Floats<N> v;
    if constexpr (N == 8) {
        unpack(v.at, *reinterpret_cast<const uint4 *>(from));
    } else if constexpr (N == 4) {
        const uint2 pairs = *reinterpret_cast<const uint2 *>(from);
        v = {{low(pairs.x), high(pairs.x), low(pairs.y), high(pairs.y)}};
    } else {
        static_assert(N == 1);
        v.at[0] = to_float(*from);
    }
    return v;
}

template <int N> __device__ inline void store(bf16 *to, const Floats<N> &v) {
    if constexpr (N == 8) {
        ptx::st_global_v4(to, ptx::cvt_bf16x2(v.at[0], v.at[1]), ptx::cvt_bf16x2(v.at[2], v.at[3]),
                          ptx::cvt_bf16x2(v.at[4], v.at[5]), ptx::cvt_bf16x2(v.at[6], v.at[7]));
    } else {
        static_assert(N == 1);
        *to = to_bf16(v.at[0]);
    }
}

// `1 / (1 + e^-x)`; the exponential's overflow gives 0, as it should.
__device__ inline float sigmoid(float x) {
    return ptx::rcp(1.0f + ptx::ex2(-LOG2E * x));
}

// The same of f32, where `N` elements are aligned to 16 bytes or one by one.
template <int N> __device__ inline Floats<N> load(const float *from) {
    Floats<N> v;
    if constexpr (N == 1) {
        v.at[0] = *from;
    } else {
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            const float4 four = *reinterpret_cast<const float4 *>(from + i);
            v.at[i] = four.x, v.at[i + 1] = four.y, v.at[i + 2] = four.z, v.at[i + 3] = four.w;
        }
    }
    return v;
}

template <int N> __device__ inline void store(float *to, const Floats<N> &v) {
    if constexpr (N == 1) {
        *to = v.at[0];
    } else {
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            *reinterpret_cast<float4 *>(to + i) = make_float4(v.at[i], v.at[i + 1], v.at[i + 2], v.at[i + 3]);
        }
    }
}
