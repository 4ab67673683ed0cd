// One AdamW update of all parameters (Loshchilov and Hutter, arXiv 1711.05101), in the order of PyTorch's.
//
// Floor: 30 bytes a parameter: gradient, master and both moments read, the latter three written, and the bf16 weight.
// All tensors are one flat buffer, so it is one launch. Masters are f32 because an update is often smaller than the
// 1/256 of a weight that bf16 can tell apart. The norm comes from device memory: neither clipping nor the decision
// whether there is an update waits for the host.
#include "flat.cuh"

struct Element {
    float master, m, v;
};

__device__ inline Element update(const AdamwParams &p, float clip, Element e, float gradient) {
    const float g = gradient * clip;
    e.m = p.beta1 * e.m + p.rest1 * g;
    e.v = p.beta2 * e.v + p.rest2 * g * g;
    e.master = e.master * p.decay - p.rate * e.m / (sqrtf(e.v) * p.root + p.eps);
    return e;
}

extern "C" __global__ void __launch_bounds__(ADAMW_THREADS) adamw(const __grid_constant__ AdamwParams p) {
    const float norm = sqrtf(*p.squares);
    bool finite = is_finite(norm);
    for (uint32_t i = 0; i < p.n_losses; i++) {
        finite = finite && is_finite(p.losses[i]);
    }
    // What such a step would do to weights and moments cannot be undone; the host sees the same numbers and stops.
    if (!finite) {
        return;
    }
    const float clip = p.max_norm > 0.0f ? fminf(1.0f, p.max_norm / (norm + 1e-6f)) : 1.0f;
    const bool aligned = is_aligned(p.master, 16) && is_aligned(p.m, 16) && is_aligned(p.v, 16) &&
                         is_aligned(p.grads, 16) && is_aligned(p.weights, 8);
    each_element<ADAMW_THREADS>(
        p.count, aligned,
        [&](uint64_t i) {
            float4 &master = *reinterpret_cast<float4 *>(p.master + i);
            float4 &m = *reinterpret_cast<float4 *>(p.m + i), &v = *reinterpret_cast<float4 *>(p.v + i);
            const float4 g = *reinterpret_cast<const float4 *>(p.grads + i), w4 = master, m4 = m, v4 = v;
            const Element x = update(p, clip, {w4.x, m4.x, v4.x}, g.x), y = update(p, clip, {w4.y, m4.y, v4.y}, g.y);
            const Element z = update(p, clip, {w4.z, m4.z, v4.z}, g.z), w = update(p, clip, {w4.w, m4.w, v4.w}, g.w);
            master = make_float4(x.master, y.master, z.master, w.master);
            m = make_float4(x.m, y.m, z.m, w.m);
            v = make_float4(x.v, y.v, z.v, w.v);
            if (p.weights) {
                *reinterpret_cast<uint2 *>(p.weights + i) =
                    make_uint2(ptx::cvt_bf16x2(x.master, y.master), ptx::cvt_bf16x2(z.master, w.master));
            }
        },
        [&](uint64_t i) {
            const Element e = update(p, clip, {p.master[i], p.m[i], p.v[i]}, p.grads[i]);
            p.master[i] = e.master;
            p.m[i] = e.m;
            p.v[i] = e.v;
            if (p.weights) {
                p.weights[i] = to_bf16(e.master);
            }
        });
}
