// What all kernels share: the block's scratch memory, and sums over a warp or a block in a fixed order.
//
// The files compile as CUDA (build.rs makes PTX of them) and, with host/cuda.h in CUDA's place, as plain C++ that
// runs on a CPU thread by thread (tests/cuda_kernels.rs). Nothing here uses atomics: a result does not depend on
// the order in which blocks run.
//
// Shape letters as in src/ops.rs: t tokens, d width, h heads, g key/value heads, k head width, v vocabulary.
// All tensors are dense and row-major. Blocks are one-dimensional, of whole warps.

#pragma once

#ifdef __CUDACC__
// The scratch memory that the launch asked for.
#define SHARED(type, name)                                          \
    extern __shared__ __align__(16) unsigned char shared_memory[]; \
    type* name = reinterpret_cast<type*>(shared_memory)
#else
#include "host/cuda.h"
#endif

// A kernel and the most threads a block of it has (`THREADS` of src/ops/gpu.rs).
#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)

constexpr int WARP = 32;
constexpr int MOST_WARPS = 32;

// The element of this thread, and how many threads there are.
__device__ inline long long this_thread() {
    return static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ inline long long all_threads() { return static_cast<long long>(gridDim.x) * blockDim.x; }

// x soft-capped, and the slope of that where it has become x; a cap of 0 is none.
__device__ inline float capped(float x, float cap) { return cap > 0.0f ? cap * tanhf(x / cap) : x; }
__device__ inline float cap_slope(float x, float cap) {
    return cap > 0.0f ? 1.0f - (x / cap) * (x / cap) : 1.0f;
}

// Sum and maximum over `Width` neighbouring lanes; each of them gets it.
template <int Width, class T>
__device__ inline T lanes_sum(T x) {
#pragma unroll
    for (int step = Width / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

template <int Width, class T>
__device__ inline T lanes_max(T x) {
#pragma unroll
    for (int step = Width / 2; step > 0; step /= 2) {
        const T other = __shfl_xor_sync(0xffffffffu, x, step);
        x = other > x ? other : x;
    }
    return x;
}

// Sum over the block; every thread gets it. `scratch` holds MOST_WARPS numbers. All threads of the block call it.
template <class T>
__device__ inline T block_sum(T x, T* scratch) {
    x = lanes_sum<WARP>(x);
    __syncthreads();  // what was reduced before may still be read
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = x;
    __syncthreads();
    T total = 0;
    for (unsigned warp = 0; warp < blockDim.x / WARP; warp++) total += scratch[warp];
    return total;
}

// Maximum over the block, in the same way.
template <class T>
__device__ inline T block_max(T x, T* scratch) {
    x = lanes_max<WARP>(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = x;
    __syncthreads();
    T most = scratch[0];
    for (unsigned warp = 1; warp < blockDim.x / WARP; warp++) most = scratch[warp] > most ? scratch[warp] : most;
    return most;
}
