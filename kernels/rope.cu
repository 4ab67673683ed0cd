// Rotary embeddings, together with taking `wqkv`'s result apart into heads, and back.
//
// Floor: every element is read once and written once, 4 bytes. A thread computes the sines and cosines of its pairs
// once and turns those of all heads of one group with them. The frequencies are a table of the host's, because their
// rounding to f32 belongs to the model's definition (`rope_angle`).
#include "numeric.cuh"

// Sine and cosine of an angle, to 1e-7 up to angles of 100,000 (a table of that many positions). Whole quarters of a
// turn are taken off in three parts of pi / 2, 72 bits; what is left lies within pi / 4 of 0, where the Taylor series
// to the tenth power leave less than f32 can hold.
__device__ inline void sin_cos(float angle, float &sin, float &cos) {
    const float quarters = rintf(angle * 0.63661977236758134f);
    float r = fmaf(quarters, -1.57079637050628662f, angle);
    r = fmaf(quarters, 4.37113900018624283e-8f, r);
    r = fmaf(quarters, 1.71512449294293890e-15f, r);
    const float r2 = r * r;
    float s = fmaf(r2, 1.0f / 362880.0f, -1.0f / 5040.0f);
    s = fmaf(r2, s, 1.0f / 120.0f);
    s = fmaf(r2, s, -1.0f / 6.0f);
    s = fmaf(r * r2, s, r);
    float c = fmaf(r2, -1.0f / 3628800.0f, 1.0f / 40320.0f);
    c = fmaf(r2, c, -1.0f / 720.0f);
    c = fmaf(r2, c, 1.0f / 24.0f);
    c = fmaf(r2, c, -0.5f);
    c = fmaf(r2, c, 1.0f);
    const int quadrant = static_cast<int>(quarters) & 3;
    const float a = quadrant & 1 ? c : s, b = quadrant & 1 ? s : c;
    sin = quadrant & 2 ? -a : a;
    cos = (quadrant + 1) & 2 ? -b : b;
}

template <int N> struct Turn {
    Floats<N> sin, cos;
};

// Turns the pairs `(from[i], from[i + half])` that begin at `from`.
template <int N> __device__ inline void turn(bf16 *to, const bf16 *from, uint32_t half, const Turn<N> &by) {
    const Floats<N> a = load<N>(from), b = load<N>(from + half);
    Floats<N> to_a, to_b;
#pragma unroll
    for (int i = 0; i < N; i++) {
        to_a.at[i] = a.at[i] * by.cos.at[i] - b.at[i] * by.sin.at[i];
        to_b.at[i] = b.at[i] * by.cos.at[i] + a.at[i] * by.sin.at[i];
    }
    store<N>(to, to_a);
    store<N>(to + half, to_b);
}

template <int N> __device__ inline void copy(bf16 *to, const bf16 *from, uint32_t half) {
    store<N>(to, load<N>(from));
    store<N>(to + half, load<N>(from + half));
}

template <int N, bool FORWARD> __device__ inline void rope(const RopeParams &p) {
    const uint32_t half = p.dim / 2, shares = half / N;
    const uint32_t index = blockIdx.x * ROPE_THREADS + threadIdx.x, row = index / shares, first = index % shares * N;
    if (row >= p.rows) {
        return;
    }
    Turn<N> by;
    const float position = static_cast<float>(p.positions[row]);
    const Floats<N> frequency = load<N>(p.frequencies + first);
#pragma unroll
    for (int i = 0; i < N; i++) {
        float sin;
        sin_cos(__fmul_rn(position, frequency.at[i]), sin, by.cos.at[i]);
        by.sin.at[i] = FORWARD ? sin : -sin;
    }
    const size_t head = blockIdx.y, heads = (p.q ? p.group : 0) + (p.k ? 2 : 0);
    bf16 *fused = p.fused + (static_cast<size_t>(row) * p.kv_heads + head) * heads * p.dim + first;
    const size_t at = (head * p.rows + row) * p.dim + first;
    if (p.q) {
        bf16 *q = p.q + (head * p.rows + row) * p.group * p.dim + first;
        for (uint32_t g = 0; g < p.group; g++, q += p.dim, fused += p.dim) {
            FORWARD ? turn<N>(q, fused, half, by) : turn<N>(fused, q, half, by);
        }
    }
    if (p.k) {
        FORWARD ? turn<N>(p.k + at, fused, half, by) : turn<N>(fused, p.k + at, half, by);
        fused += p.dim;
        FORWARD ? copy<N>(p.v + at, fused, half) : copy<N>(fused, p.v + at, half);
    }
}

extern "C" __global__ void __launch_bounds__(ROPE_THREADS) rope_forward_vec8(const __grid_constant__ RopeParams p) {
    rope<8, true>(p);
}

extern "C" __global__ void __launch_bounds__(ROPE_THREADS) rope_forward_any(const __grid_constant__ RopeParams p) {
    rope<1, true>(p);
}

extern "C" __global__ void __launch_bounds__(ROPE_THREADS) rope_backward_vec8(const __grid_constant__ RopeParams p) {
    rope<8, false>(p);
}

extern "C" __global__ void __launch_bounds__(ROPE_THREADS) rope_backward_any(const __grid_constant__ RopeParams p) {
    rope<1, false>(p);
}
