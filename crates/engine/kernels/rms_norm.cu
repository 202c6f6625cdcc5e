// Root-mean-square normalisation, both directions: y = x * rstd * (w + offset), rstd = 1 / sqrt(mean(x^2) + eps).
//
// x, y, dy, dx [rows, d], w, dw [d], rstd [rows]. One block a row; the weight's gradient is summed by columns over
// chunks of rows (`parts` [chunks, d]), then over the chunks in order.
// Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019; formulas of src/ops/rms_norm.rs.

#include "common.cuh"

KERNEL(256)
rms_norm_forward(float* y, float* rstd, const float* x, const float* w, int d, float eps, float offset) {
    SHARED(float, scratch);
    const size_t start = static_cast<size_t>(blockIdx.x) * d;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < d; i += blockDim.x) squares += x[start + i] * x[start + i];
    const float mean = block_sum(squares, scratch) / static_cast<float>(d);
    const float scale = 1.0f / sqrtf(mean + eps);
    if (threadIdx.x == 0) rstd[blockIdx.x] = scale;
    for (int i = threadIdx.x; i < d; i += blockDim.x) y[start + i] = x[start + i] * scale * (w[i] + offset);
}

// dx += rstd * (g - x * rstd^2 * mean(g x)), g = dy * (w + offset)
KERNEL(256)
rms_norm_backward(float* dx, const float* dy, const float* x, const float* w, const float* rstd, int d,
                  float offset) {
    SHARED(float, scratch);
    const size_t start = static_cast<size_t>(blockIdx.x) * d;
    const float scale = rstd[blockIdx.x];
    float dot = 0.0f;
    for (int i = threadIdx.x; i < d; i += blockDim.x) dot += dy[start + i] * (w[i] + offset) * x[start + i];
    const float pull = block_sum(dot, scratch) * scale * scale / static_cast<float>(d);
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        dx[start + i] += scale * (dy[start + i] * (w[i] + offset) - x[start + i] * pull);
    }
}

// parts[chunk] = the sum over the chunk's rows of dy * x * rstd; a thread owns a column, y counts chunks.
KERNEL(256)
rms_norm_weight_parts(float* parts, const float* dy, const float* x, const float* rstd, int rows, int d,
                      int chunk_rows) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= d) return;
    const int from = blockIdx.y * chunk_rows;
    const int to = from + chunk_rows < rows ? from + chunk_rows : rows;
    float sum = 0.0f;
    for (int row = from; row < to; row++) {
        const size_t at = static_cast<size_t>(row) * d + column;
        sum += dy[at] * x[at] * rstd[row];
    }
    parts[static_cast<size_t>(blockIdx.y) * d + column] = sum;
}

// dw += the parts, in order.
KERNEL(256)
rms_norm_weight_sum(float* dw, const float* parts, int chunks, int d) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= d) return;
    float sum = dw[column];
    for (int chunk = 0; chunk < chunks; chunk++) sum += parts[static_cast<size_t>(chunk) * d + column];
    dw[column] = sum;
}
