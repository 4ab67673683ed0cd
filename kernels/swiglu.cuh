// SwiGLU of one element, for its own kernels and for the products that it is fused with.
#pragma once

#include "numeric.cuh"

// `silu(gate) up`.
__device__ inline float swiglu(float gate, float up) {
    return gate * sigmoid(gate) * up;
}

// The gradients of gate and up: with `s = sigmoid(gate)`, `s (1 + gate (1 - s)) up dy` and `silu(gate) dy`.
__device__ inline float2 swiglu_gradient(float gate, float up, float dy) {
    const float s = sigmoid(gate);
    return make_float2(s * (1.0f + gate * (1.0f - s)) * up * dy, gate * s * dy);
}
