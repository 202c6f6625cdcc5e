// Token embedding: rows of the table, and the gradient as a sparse sum into them, in token order.
//
// table, dtable [v, d], y, dx [t, d]. For the gradient the host has sorted the tokens by id, stably: id number u is
// ids[u], and its tokens are order[offsets[u]..offsets[u + 1]]. One block owns an id's row: no atomics.

#include "common.cuh"

// One block a token.
KERNEL(256)
embedding_forward(float* y, const float* table, const unsigned* ids, int d, float scale) {
    const float* row = table + static_cast<size_t>(ids[blockIdx.x]) * d;
    float* to = y + static_cast<size_t>(blockIdx.x) * d;
    for (int i = threadIdx.x; i < d; i += blockDim.x) to[i] = scale * row[i];
}

KERNEL(256)
embedding_backward(float* dtable, const float* dx, const unsigned* ids, const unsigned* offsets,
                   const unsigned* order, int d, float scale) {
    float* row = dtable + static_cast<size_t>(ids[blockIdx.x]) * d;
    const unsigned from = offsets[blockIdx.x], to = offsets[blockIdx.x + 1];
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        float sum = row[i];
        for (unsigned at = from; at < to; at++) sum += scale * dx[static_cast<size_t>(order[at]) * d + i];
        row[i] = sum;
    }
}
