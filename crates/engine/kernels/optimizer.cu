// One update of AdamW with the clipping in it, and the sum of squares that clipping needs.
//
// p, m, v, g hold n numbers. Squares are summed in f64: each block its share (`parts` [blocks]), then one block the
// parts (`totals[at]`); both in a fixed order.
// Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019; formulas of src/optim/adamw.rs.

#include "common.cuh"

KERNEL(256)
adamw(float* p, float* m, float* v, const float* g, long long n, float b1, float c1, float b2, float c2, float eps,
      float step_size, float root, float decay, float clip) {
    for (long long i = this_thread(); i < n; i += all_threads()) {
        const float grad = g[i] * clip;
        const float first = b1 * m[i] + c1 * grad;
        const float second = b2 * v[i] + c2 * (grad * grad);
        m[i] = first;
        v[i] = second;
        p[i] = p[i] * decay - step_size * (first / (sqrtf(second) / root + eps));
    }
}

KERNEL(256)
square_parts(double* parts, const float* g, long long n) {
    SHARED(double, scratch);
    double sum = 0.0;
    for (long long i = this_thread(); i < n; i += all_threads()) sum += static_cast<double>(g[i]) * g[i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

// One block.
KERNEL(256)
square_total(double* totals, const double* parts, int count, int at) {
    SHARED(double, scratch);
    double sum = 0.0;
    for (int i = threadIdx.x; i < count; i += blockDim.x) sum += parts[i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) totals[at] = sum;
}
