// What the kernels use of CUDA, as plain C++: the test's stand-in for a GPU.
//
// A block's threads are fibers that run one after the other on one CPU thread, each until it waits for the others.
// main.cc has the other half.

#pragma once

#include <cmath>
#include <cstddef>
#include <cstring>

#define __global__
#define __device__
#define __launch_bounds__(threads)

struct Index {
    unsigned x, y, z;
};
extern Index threadIdx, blockIdx, blockDim, gridDim;

// As many bytes as the launch asked for, and not one more: what follows cannot be touched.
extern void* shared_memory;
#define SHARED(type, name) type* name = static_cast<type*>(shared_memory)

void __syncthreads();

// Leaves `bytes` (at most 8) for the lanes of the warp, waits for all of them, and returns what lane
// `threadIdx.x ^ mask` has left.
const void* exchange_in_warp(const void* value, size_t bytes, unsigned mask);

template <class T>
T __shfl_xor_sync(unsigned, T value, unsigned mask) {
    T other;
    std::memcpy(&other, exchange_in_warp(&value, sizeof(T), mask), sizeof(T));
    return other;
}
