// Rotary position embedding in place: dimension pairs (i, i + half) of each head turn by their token's angle.
//
// x [t, heads * head_dim], cos and sin [t, half]; a thread turns one pair. `sign` is -1 for the gradient, which is
// turned back. What lies past 2 * half in a head stays (partial rotary).
// Source: Su et al., "RoFormer", 2021; layout of src/ops/rope.rs.

#include "common.cuh"

KERNEL(256)
rope(float* x, const float* cos, const float* sin, long long pairs, int heads, int head_dim, int half, float sign) {
    for (long long pair = this_thread(); pair < pairs; pair += all_threads()) {
        const int i = static_cast<int>(pair % half);
        const long long head = pair / half;
        const long long angle = head / heads * half + i;
        const size_t at = static_cast<size_t>(head) * head_dim + i;
        const float a = x[at], b = x[at + half], c = cos[angle], s = sign * sin[angle];
        x[at] = a * c - b * s;
        x[at + half] = b * c + a * s;
    }
}
