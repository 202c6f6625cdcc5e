// The gated activation a = act(gate) * up: forward, gradients in place, and both in one pass.
//
// All tensors hold n numbers. act is SiLU (gelu = 0) or the tanh form of GELU (gelu = 1).
// Source: Shazeer, "GLU Variants Improve Transformer", 2020; formulas of src/ops/activation.rs.

#include "common.cuh"

// act(x) and its slope.
struct Act {
    float value, slope;
};

__device__ inline Act act(float x, int gelu) {
    if (gelu == 0) {
        const float s = 1.0f / (1.0f + expf(-x));
        return {x * s, s * (1.0f + x * (1.0f - s))};
    }
    const float root = 0.7978845608f;  // sqrt(2 / pi)
    const float t = tanhf(root * (x + 0.044715f * x * x * x));
    const float open = (1.0f - t * t) * root * (1.0f + 3.0f * 0.044715f * x * x);
    return {0.5f * x * (1.0f + t), 0.5f * (1.0f + t) + 0.5f * x * open};
}

KERNEL(256)
gate_forward(float* a, const float* gate, const float* up, long long n, int gelu) {
    for (long long i = this_thread(); i < n; i += all_threads()) a[i] = act(gate[i], gelu).value * up[i];
}

// gate and up become their gradients.
KERNEL(256)
gate_backward(float* gate, float* up, const float* da, long long n, int gelu) {
    for (long long i = this_thread(); i < n; i += all_threads()) {
        const Act of = act(gate[i], gelu);
        gate[i] = da[i] * up[i] * of.slope;
        up[i] = da[i] * of.value;
    }
}

// The same, and da becomes the product.
KERNEL(256)
gate_backward_and_forward(float* gate, float* up, float* da, long long n, int gelu) {
    for (long long i = this_thread(); i < n; i += all_threads()) {
        const Act of = act(gate[i], gelu);
        const float grad = da[i], factor = up[i];
        gate[i] = grad * factor * of.slope;
        up[i] = grad * of.value;
        da[i] = of.value * factor;
    }
}
