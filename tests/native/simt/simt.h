// What common/cuda.cuh brings where there is no nvcc: CUDA's keywords and built-in names over simt/scheduler.h.
//
//     MASK2EDGE_SHARED(float, tile, 256);  tile[threadIdx.x] = x;  __syncthreads();
//
// The functions live in namespace mask2edge, as the kernels do: glibc has a global __expf of its own.
#pragma once

#include <algorithm>
#include <cmath>

#include "simt/numbers.h"
#include "simt/scheduler.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

#define threadIdx (::simt::this_thread().index)
#define blockIdx (::simt::block_index())
#define blockDim (::simt::block_size())
#define gridDim (::simt::grid_size())

// T name[count], one for the block
#define MASK2EDGE_SHARED(T, name, count) \
    static void* name##_slot = nullptr;  \
    T(&name)[count] = *static_cast<T(*)[count]>(::simt::static_shared_memory(&name##_slot, sizeof(T[count]), 16))

#include "simt/block.h"
#include "simt/warp.h"
