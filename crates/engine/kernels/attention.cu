// Causal attention over concatenated rows, both directions: grouped queries, block-diagonal by row, optional window
// and soft-cap. Scores exist for one pair of tiles at a time; backward makes them again from lse.
//
// q, o, dy, dq [t, h * head_dim], k, v, dk, dv [t, g * head_dim], lse, delta [t, h]. A launch is a block for each
// tile (x, described by tiles [tiles, 3] = first token of its row, of the tile, past the row's end) and head (y).
// The block owns `16 R` tokens and walks over the others 64 at a time; D is the most columns that a head may have. No
// two blocks write the same number: the gradients of keys and values go through the heads of their group in order.
// Source: Dao et al., "FlashAttention", 2022; Ainslie et al., "GQA", 2023; formulas of src/ops/attention.rs.

#include "attention_tiles.cuh"

// The softmax of one tile of keys joins what is known of the keys before it: `score` becomes e^(score - best), and
// `out` and `total` count from the new maximum.
template <int D, int R>
__device__ inline void join_softmax(float (&score)[R][COLUMNS], float (&out)[R][D / SIDE], float (&best)[R],
                                    float (&total)[R]) {
#pragma unroll
    for (int i = 0; i < R; i++) {
        float peak = -INFINITY;
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) peak = score[i][j] > peak ? score[i][j] : peak;
        peak = lanes_max<SIDE>(peak);
        const float next = peak > best[i] ? peak : best[i];
        // A row that has seen no key yet has nothing to shrink, and inf - inf is no number.
        const float shrink = next == -INFINITY ? 1.0f : expf(best[i] - next);
        float sum = 0.0f;
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) {
            score[i][j] = score[i][j] == -INFINITY ? 0.0f : expf(score[i][j] - next);
            sum += score[i][j];
        }
        total[i] = total[i] * shrink + lanes_sum<SIDE>(sum);
        best[i] = next;
#pragma unroll
        for (int j = 0; j < D / SIDE; j++) out[i][j] *= shrink;
    }
}

template <int D, int R>
__device__ inline void forward(float* o, float* lse, const float* q, const float* k, const float* v,
                               const unsigned* tiles, const Shape& s) {
    SHARED(float, weights);
    float* stage = weights + SIDE * R * PADDED;
    const Tile tile = tile_of(tiles, blockIdx.x, SIDE * R);
    const int head = blockIdx.y, group = head / (s.heads / s.kv_heads);
    const Rows queries = rows_of(q, s.heads, head, s.head_dim, tile.from, tile.to);
    float out[R][D / SIDE], best[R], total[R];
    clear<D, R>(out);
#pragma unroll
    for (int i = 0; i < R; i++) {
        best[i] = -INFINITY;
        total[i] = 0.0f;
    }
    for (int from = first_seen(s, tile); from < tile.to; from += OTHER) {
        const int to = least(from + OTHER, tile.to);
        float score[R][COLUMNS];
        dots<R>(score, queries, rows_of(k, s.kv_heads, group, s.head_dim, from, to), s.head_dim, stage);
#pragma unroll
        for (int i = 0; i < R; i++) {
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) {
                const int query = tile.from + row_of(i), key = from + column_of(j);
                const bool seen = key < to && sees(s, query, key);
                score[i][j] = seen ? capped(score[i][j] * s.scale, s.softcap) : -INFINITY;
            }
        }
        join_softmax<D, R>(score, out, best, total);
        put_weights<R>(weights, score);
        add_product<D, R>(out, weights, rows_of(v, s.kv_heads, group, s.head_dim, from, to), s.head_dim, stage);
    }
#pragma unroll
    for (int i = 0; i < R; i++) {
        const int token = tile.from + row_of(i);
        if (token < tile.to && threadIdx.x % SIDE == 0) {
            lse[static_cast<size_t>(token) * s.heads + head] = best[i] + logf(total[i]);
        }
        total[i] = 1.0f / total[i];
    }
    write_rows<D, R>(o, s, s.heads, head, tile, out, total);
}

// The probability of a raw score, and the factor that makes its gradient: ds = factor * (dp - delta).
struct Weight {
    float p, factor;
};
__device__ inline Weight weight_of(const Shape& s, float dot, float lse) {
    const float score = capped(dot * s.scale, s.softcap);
    const float p = expf(score - lse);
    return {p, p * s.scale * cap_slope(score, s.softcap)};
}

template <int D, int R>
__device__ inline void backward_queries(float* dq, const float* dy, const float* q, const float* k, const float* v,
                                        const float* lse, const float* delta, const unsigned* tiles,
                                        const Shape& s) {
    SHARED(float, weights);
    float* stage = weights + SIDE * R * PADDED;
    const Tile tile = tile_of(tiles, blockIdx.x, SIDE * R);
    const int head = blockIdx.y, group = head / (s.heads / s.kv_heads);
    const Rows queries = rows_of(q, s.heads, head, s.head_dim, tile.from, tile.to);
    const Rows dys = rows_of(dy, s.heads, head, s.head_dim, tile.from, tile.to);
    float grad[R][D / SIDE], row_lse[R], row_delta[R], one[R];
    clear<D, R>(grad);
#pragma unroll
    for (int i = 0; i < R; i++) {
        const int token = tile.from + row_of(i);
        const size_t at = static_cast<size_t>(token) * s.heads + head;
        row_lse[i] = token < tile.to ? lse[at] : 0.0f;
        row_delta[i] = token < tile.to ? delta[at] : 0.0f;
        one[i] = 1.0f;
    }
    for (int from = first_seen(s, tile); from < tile.to; from += OTHER) {
        const int to = least(from + OTHER, tile.to);
        const Rows keys = rows_of(k, s.kv_heads, group, s.head_dim, from, to);
        float score[R][COLUMNS], dp[R][COLUMNS];
        dots<R>(score, queries, keys, s.head_dim, stage);
        dots<R>(dp, dys, rows_of(v, s.kv_heads, group, s.head_dim, from, to), s.head_dim, stage);
#pragma unroll
        for (int i = 0; i < R; i++) {
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) {
                const int query = tile.from + row_of(i), key = from + column_of(j);
                const bool seen = query < tile.to && key < to && sees(s, query, key);
                const float factor = seen ? weight_of(s, score[i][j], row_lse[i]).factor : 0.0f;
                score[i][j] = factor * (dp[i][j] - row_delta[i]);
            }
        }
        put_weights<R>(weights, score);
        add_product<D, R>(grad, weights, keys, s.head_dim, stage);
    }
    write_rows<D, R>(dq, s, s.heads, head, tile, grad, one);
}

// Scores transposed: rows are the block's keys, columns the queries that walk. y counts key/value heads.
template <int D, int R>
__device__ inline void backward_keys(float* dk, float* dv, const float* dy, const float* q, const float* k,
                                     const float* v, const float* lse, const float* delta, const unsigned* tiles,
                                     const Shape& s) {
    SHARED(float, weights);
    float* stage = weights + SIDE * R * PADDED;
    // The first keys of a row are seen by the most queries: they begin first.
    const Tile tile = tile_of(tiles, gridDim.x - 1 - blockIdx.x, SIDE * R);
    const int group = blockIdx.y, shared_by = s.heads / s.kv_heads;
    const Rows keys = rows_of(k, s.kv_heads, group, s.head_dim, tile.from, tile.to);
    const Rows values = rows_of(v, s.kv_heads, group, s.head_dim, tile.from, tile.to);
    const int last = last_seeing(s, tile);
    float to_k[R][D / SIDE], to_v[R][D / SIDE], one[R];
    clear<D, R>(to_k);
    clear<D, R>(to_v);
#pragma unroll
    for (int i = 0; i < R; i++) one[i] = 1.0f;
    for (int head = group * shared_by; head < (group + 1) * shared_by; head++) {
        for (int from = tile.from; from < last; from += OTHER) {
            const int to = least(from + OTHER, last);
            const Rows queries = rows_of(q, s.heads, head, s.head_dim, from, to);
            const Rows dys = rows_of(dy, s.heads, head, s.head_dim, from, to);
            float score[R][COLUMNS], dp[R][COLUMNS];
            dots<R>(score, keys, queries, s.head_dim, stage);
            dots<R>(dp, values, dys, s.head_dim, stage);
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) {
                const int query = from + column_of(j);
                const size_t at = static_cast<size_t>(query) * s.heads + head;
                const float column_lse = query < to ? lse[at] : 0.0f;
                const float column_delta = query < to ? delta[at] : 0.0f;
#pragma unroll
                for (int i = 0; i < R; i++) {
                    const int key = tile.from + row_of(i);
                    const bool seen = query < to && key < tile.to && sees(s, query, key);
                    const Weight weight = seen ? weight_of(s, score[i][j], column_lse) : Weight{0.0f, 0.0f};
                    score[i][j] = weight.p;
                    dp[i][j] = weight.factor * (dp[i][j] - column_delta);
                }
            }
            put_weights<R>(weights, score);
            add_product<D, R>(to_v, weights, dys, s.head_dim, stage);
            __syncthreads();
            put_weights<R>(weights, dp);
            add_product<D, R>(to_k, weights, queries, s.head_dim, stage);
        }
    }
    write_rows<D, R>(dk, s, s.kv_heads, group, tile, to_k, one);
    write_rows<D, R>(dv, s, s.kv_heads, group, tile, to_v, one);
}

// delta = dy . o of each token and head: a warp each.
KERNEL(256)
attention_delta(float* delta, const float* dy, const float* o, long long count, int head_dim) {
    const long long at = this_thread() / WARP;
    if (at >= count) return;
    float sum = 0.0f;
    for (int i = threadIdx.x % WARP; i < head_dim; i += WARP) sum += dy[at * head_dim + i] * o[at * head_dim + i];
    sum = lanes_sum<WARP>(sum);
    if (threadIdx.x % WARP == 0) delta[at] = sum;
}

#define SHAPE int heads, int kv_heads, int head_dim, float scale, int window, float softcap
#define THE_SHAPE \
    { heads, kv_heads, head_dim, scale, window, softcap }
#define ATTENTION(D, R)                                                                                            \
    KERNEL(THREADS)                                                                                                \
    attention_forward_##D(float* o, float* lse, const float* q, const float* k, const float* v,                    \
                          const unsigned* tiles, SHAPE) {                                                          \
        forward<D, R>(o, lse, q, k, v, tiles, THE_SHAPE);                                                          \
    }                                                                                                              \
    KERNEL(THREADS)                                                                                                \
    attention_backward_queries_##D(float* dq, const float* dy, const float* q, const float* k, const float* v,     \
                                   const float* lse, const float* delta, const unsigned* tiles, SHAPE) {           \
        backward_queries<D, R>(dq, dy, q, k, v, lse, delta, tiles, THE_SHAPE);                                     \
    }                                                                                                              \
    KERNEL(THREADS)                                                                                                \
    attention_backward_keys_##D(float* dk, float* dv, const float* dy, const float* q, const float* k,             \
                                const float* v, const float* lse, const float* delta, const unsigned* tiles,       \
                                SHAPE) {                                                                           \
        backward_keys<D, R>(dk, dv, dy, q, k, v, lse, delta, tiles, THE_SHAPE);                                    \
    }

// As `SIZES` of src/ops/gpu/attention.rs.
ATTENTION(64, 4)
ATTENTION(128, 4)
ATTENTION(256, 2)
