// The pieces that attention's kernels are made of: a tile of tokens that a block owns, one that walks past it, their
// products in registers, and what a token sees.
//
// A block's 256 threads are a square of 16 x 16: thread (y, x) holds rows y + 16 i of the block's tile of 16 R tokens,
// and columns x + 16 j, which are tokens of the other tile (64) or columns of a head (at most D). Scratch memory holds
// a matrix of weights [16 R, 64] and a stage, through which operands go in parts.

#pragma once

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
