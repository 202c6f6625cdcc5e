// Causal attention over concatenated rows, both directions: grouped queries, block-diagonal by row, optional window
// and soft-cap. Scores exist for one pair of tiles at a time; backward makes them again from lse.
//
// q, o, dy, dq [t, h * head_dim], k, v, dk, dv [t, g * head_dim], lse, delta [t, h]. A launch is a block for each
// tile (x, described by tiles [tiles, 3] = first token of its row, of the tile, past the row's end) and head (y).
// The block owns `16 R` tokens and walks over the others 64 at a time. Its 256 threads are a square of 16 x 16:
// thread (y, x) holds rows y + 16 i of the tile and columns x + 16 j, in registers. D is the most columns that a head
// may have. No two blocks write the same number: the gradients of keys and values go through the heads of their group
// in order.
// Source: Dao et al., "FlashAttention", 2022; Ainslie et al., "GQA", 2023; formulas of src/ops/attention.rs.

#include "common.cuh"

constexpr int SIDE = 16;
constexpr int THREADS = SIDE * SIDE;
constexpr int OTHER = 64;          // tokens of the tile that walks
constexpr int COLUMNS = OTHER / SIDE;
constexpr int DEPTH = 32;          // columns of a head staged for scores
constexpr int WIDTH = 64;          // columns of a head staged for sums
constexpr int PADDED = OTHER + 1;  // rows of the scratch matrices start in different banks

struct Shape {
    int heads, kv_heads, head_dim;
    float scale;
    int window;     // 0: none
    float softcap;  // 0: none
};

struct Tile {
    int row, from, to, end;
};

// Some tokens of one head.
struct Rows {
    const float* data;
    size_t stride;
    int count;
};

__device__ inline int row_of(int i) { return threadIdx.x / SIDE + SIDE * i; }
__device__ inline int column_of(int j) { return threadIdx.x % SIDE + SIDE * j; }
__device__ inline int least(int a, int b) { return a < b ? a : b; }

__device__ inline Tile tile_of(const unsigned* tiles, unsigned index, int tokens) {
    const unsigned* at = tiles + 3 * index;
    const int row = at[0], from = at[1], end = at[2];
    return {row, from, least(from + tokens, end), end};
}

__device__ inline Rows rows_of(const float* x, int heads, int head, int head_dim, int from, int to) {
    const size_t stride = static_cast<size_t>(heads) * head_dim;
    return {x + from * stride + static_cast<size_t>(head) * head_dim, stride, to - from};
}

// First token that is seen by one at `from`, and past the last that sees one before `to`.
__device__ inline int first_seen(const Shape& s, const Tile& tile) {
    const int first = s.window > 0 ? tile.from + 1 - s.window : tile.row;
    return first > tile.row ? first : tile.row;
}
__device__ inline int last_seeing(const Shape& s, const Tile& tile) {
    return s.window > 0 && s.window < tile.end - tile.to + 1 ? tile.to - 1 + s.window : tile.end;
}
__device__ inline bool sees(const Shape& s, int query, int key) {
    return key <= query && (s.window == 0 || query - key < s.window);
}

__device__ inline float capped(const Shape& s, float score) {
    return s.softcap > 0.0f ? s.softcap * tanhf(score / s.softcap) : score;
}
__device__ inline float cap_slope(const Shape& s, float score) {
    return s.softcap > 0.0f ? 1.0f - (score / s.softcap) * (score / s.softcap) : 1.0f;
}

// Copies TOKENS x COLS of `from`, from column `column` on, to scratch memory; 0 where there is nothing.
template <int TOKENS, int COLS>
__device__ inline void stage_rows(float* to, int to_stride, const Rows& from, int column, int head_dim) {
    for (int at = threadIdx.x; at < TOKENS * COLS; at += THREADS) {
        const int row = at / COLS, i = at % COLS;
        const bool there = row < from.count && column + i < head_dim;
        to[row * to_stride + i] = there ? from.data[row * from.stride + column + i] : 0.0f;
    }
}

// dot = own other^T: [16 R, 64]. All threads call it; it waits for them before it writes to `stage`.
template <int R>
__device__ inline void dots(float (&dot)[R][COLUMNS], const Rows& own, const Rows& other, int head_dim,
                            float* stage) {
    constexpr int STRIDE = DEPTH + 1;
    float* other_stage = stage + SIDE * R * STRIDE;
#pragma unroll
    for (int i = 0; i < R; i++) {
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) dot[i][j] = 0.0f;
    }
    for (int from = 0; from < head_dim; from += DEPTH) {
        __syncthreads();
        stage_rows<SIDE * R, DEPTH>(stage, STRIDE, own, from, head_dim);
        stage_rows<OTHER, DEPTH>(other_stage, STRIDE, other, from, head_dim);
        __syncthreads();
#pragma unroll 8
        for (int k = 0; k < DEPTH; k++) {
            float x[R], y[COLUMNS];
#pragma unroll
            for (int i = 0; i < R; i++) x[i] = stage[row_of(i) * STRIDE + k];
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) y[j] = other_stage[column_of(j) * STRIDE + k];
#pragma unroll
            for (int i = 0; i < R; i++) {
#pragma unroll
                for (int j = 0; j < COLUMNS; j++) dot[i][j] += x[i] * y[j];
            }
        }
    }
}

// sum += weights other: [16 R, D]. As `dots`; the threads may have written `weights` right before.
template <int D, int R>
__device__ inline void add_product(float (&sum)[R][D / SIDE], const float* weights, const Rows& other, int head_dim,
                                   float* stage) {
#pragma unroll
    for (int part = 0; part < D / WIDTH; part++) {
        __syncthreads();
        stage_rows<OTHER, WIDTH>(stage, WIDTH, other, part * WIDTH, head_dim);
        __syncthreads();
#pragma unroll 4
        for (int k = 0; k < OTHER; k++) {
            float x[R], y[COLUMNS];
#pragma unroll
            for (int i = 0; i < R; i++) x[i] = weights[row_of(i) * PADDED + k];
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) y[j] = stage[k * WIDTH + column_of(j)];
#pragma unroll
            for (int i = 0; i < R; i++) {
#pragma unroll
                for (int j = 0; j < COLUMNS; j++) sum[i][part * COLUMNS + j] += x[i] * y[j];
            }
        }
    }
}

template <int R>
__device__ inline void put_weights(float* weights, const float (&x)[R][COLUMNS]) {
#pragma unroll
    for (int i = 0; i < R; i++) {
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) weights[row_of(i) * PADDED + column_of(j)] = x[i][j];
    }
}

template <int D, int R>
__device__ inline void clear(float (&sum)[R][D / SIDE]) {
#pragma unroll
    for (int i = 0; i < R; i++) {
#pragma unroll
        for (int j = 0; j < D / SIDE; j++) sum[i][j] = 0.0f;
    }
}

// Row i of the tile, times factor[i], to its token's place in `to`.
template <int D, int R>
__device__ inline void write_rows(float* to, const Shape& s, int heads, int head, const Tile& tile,
                                  const float (&sum)[R][D / SIDE], const float (&factor)[R]) {
#pragma unroll
    for (int i = 0; i < R; i++) {
        const int token = tile.from + row_of(i);
        if (token >= tile.to) continue;
        float* row = to + (static_cast<size_t>(token) * heads + head) * s.head_dim;
#pragma unroll
        for (int j = 0; j < D / SIDE; j++) {
            if (column_of(j) < s.head_dim) row[column_of(j)] = sum[i][j] * factor[i];
        }
    }
}

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
                score[i][j] = seen ? capped(s, score[i][j] * s.scale) : -INFINITY;
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
    const float score = capped(s, dot * s.scale);
    const float p = expf(score - lse);
    return {p, p * s.scale * cap_slope(s, score)};
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
