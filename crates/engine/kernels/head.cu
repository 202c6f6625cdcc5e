// Cross-entropy over a chunk of logits, which become their gradients in place. One block a row.
//
// z [n, v], targets [n], costs [n, 3] = (what is minimised, cross-entropy in nats, 1 where the largest logit is the
// target). objective: 0 cross-entropy, 1 smoothed by `smooth`, 2 DFT (the cost is weighted by the target's
// probability). softcap 0: none; the logits are capped already and the gradient passes through the cap.
// Sums over the vocabulary are in f64. Formulas of src/ops/head.rs.

#include "common.cuh"

constexpr int SMOOTHED = 1;
constexpr int DFT = 2;

KERNEL(256)
softcap(float* z, long long n, float cap) {
    for (long long i = this_thread(); i < n; i += all_threads()) z[i] = capped(z[i], cap);
}

KERNEL(256)
cross_entropy(float* z, double* costs, const unsigned* targets, int v, int objective, float smooth, float cap,
              float scale, int want_grad) {
    SHARED(double, scratch);
    const int target = static_cast<int>(targets[blockIdx.x]);
    float* row = z + static_cast<size_t>(blockIdx.x) * v;
    float most = -INFINITY;
    double sum = 0.0;
    for (int i = threadIdx.x; i < v; i += blockDim.x) {
        most = row[i] > most ? row[i] : most;
        if (objective == SMOOTHED) sum += row[i];
    }
    const float peak = block_max(most, reinterpret_cast<float*>(scratch));
    const float picked = row[target];
    const double mean = objective == SMOOTHED ? block_sum(sum, scratch) / v : 0.0;
    double part = 0.0;
    for (int i = threadIdx.x; i < v; i += blockDim.x) part += expf(row[i] - peak);
    const double total = block_sum(part, scratch);
    const double plain = static_cast<double>(peak) - picked + log(total);
    if (threadIdx.x == 0) {
        double cost = plain;
        if (objective == SMOOTHED) cost = (1.0 - smooth) * plain + smooth * (peak + log(total) - mean);
        if (objective == DFT) cost = plain * exp(-plain);
        costs[3 * blockIdx.x] = cost;
        costs[3 * blockIdx.x + 1] = plain;
        costs[3 * blockIdx.x + 2] = picked >= peak ? 1.0 : 0.0;
    }
    if (!want_grad) return;
    // The gradient is a softmax(z) - b onehot - c.
    const double weight = objective == DFT ? exp(-plain) : 1.0;
    const float factor = static_cast<float>(scale * weight / total);
    const float at_target = static_cast<float>(scale * (objective == SMOOTHED ? 1.0 - smooth : weight));
    const double share = objective == SMOOTHED ? smooth / static_cast<double>(v) : 0.0;
    const float everywhere = static_cast<float>(scale * share);
    for (int i = threadIdx.x; i < v; i += blockDim.x) {
        float grad = expf(row[i] - peak) * factor - everywhere;
        if (i == target) grad -= at_target;
        row[i] = grad * cap_slope(row[i], cap);
    }
}
