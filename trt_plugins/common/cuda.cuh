// All that kernels use of CUDA, under names that tests/native/simt provides as well: the same kernel is compiled by
// nvcc for the device, and by a C++ compiler into the tests that execute it thread by thread.
//
//     MASK2EDGE_SHARED(float, tile, 256);                // T name[count], one for the block
//     float x[kVectorLength<T>];
//     unpack16<T>(load16(row), x);                       // 16 bytes at once: 4 floats, or 8 of a 2-byte type
//     uint32_t a[4]; ldmatrix_x4(a, row_in_shared_memory);
//     mma_m16n8k16<T>(d, a, b);                          // fp32 accumulators
//
// Kernels take nothing else from CUDA's headers: no <<<>>> (launch.cuh), no extern __shared__ (dynamic_shared), no
// half arithmetic (to_float, from_float). Architectures: sm_75 and later; what came with sm_80 has a plain form for 75.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define MASK2EDGE_SHARED(T, name, count) __shared__ __align__(16) T name[count]

namespace mask2edge {

using half_t = __half;
using bfloat16_t = __nv_bfloat16;

// ---- Numbers --------------------------------------------------------------------------------------------------------
__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(half_t x) { return __half2float(x); }
__device__ __forceinline__ float to_float(bfloat16_t x) { return __bfloat162float(x); }

template <typename T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ half_t from_float<half_t>(float x) {
    return __float2half_rn(x);
}
template <>
__device__ __forceinline__ bfloat16_t from_float<bfloat16_t>(float x) {
    return __float2bfloat16_rn(x);
}

// Two numbers of a 2-byte type in one register, the first in the lower half.
template <typename T>
__device__ __forceinline__ uint32_t pack2(float low, float high);
template <>
__device__ __forceinline__ uint32_t pack2<half_t>(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
}
template <>
__device__ __forceinline__ uint32_t pack2<bfloat16_t>(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
}

template <typename T>
__device__ __forceinline__ float2 unpack2(uint32_t pair);
template <>
__device__ __forceinline__ float2 unpack2<half_t>(uint32_t pair) {
    return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}
template <>
__device__ __forceinline__ float2 unpack2<bfloat16_t>(uint32_t pair) {
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}

// ---- Memory ---------------------------------------------------------------------------------------------------------
template <typename T>
__device__ __forceinline__ T* dynamic_shared() {
    extern __shared__ uint4 mask2edge_dynamic_shared[];
    return reinterpret_cast<T*>(mask2edge_dynamic_shared);
}

// Addresses are multiples of 16.
__device__ __forceinline__ uint4 load16(const void* address) { return *static_cast<const uint4*>(address); }
// Through the read-only path: nobody may write there while the kernel runs.
__device__ __forceinline__ uint4 load16_read_only(const void* address) {
    return __ldg(static_cast<const uint4*>(address));
}
__device__ __forceinline__ void store16(void* address, uint4 value) { *static_cast<uint4*>(address) = value; }

// 16 bytes to shared memory: valid_bytes (0 … 16) from global memory, then zeros. With 0 nothing is read. They are
// there after cp_async_commit, cp_async_wait and, for other threads, a barrier.
__device__ __forceinline__ void cp_async16(void* shared, const void* global, int valid_bytes = 16) {
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
        "l"(__cvta_generic_to_global(global)), "r"(valid_bytes)
        : "memory");
#else
    uint4 value = make_uint4(0, 0, 0, 0);
    if (valid_bytes == 16) {
        value = *static_cast<const uint4*>(global);
    } else {
        for (int i = 0; i < valid_bytes; ++i)
            reinterpret_cast<uint8_t*>(&value)[i] = static_cast<const uint8_t*>(global)[i];
    }
    *static_cast<uint4*>(shared) = value;
#endif
}
__device__ __forceinline__ void cp_async_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Until at most `newest` of this thread's committed groups are on their way.
template <int newest>
__device__ __forceinline__ void cp_async_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(newest) : "memory");
#endif
}

// ---- Matrices: PTX ISA, "Warp-level matrix instructions" ------------------------------------------------------------
// Four 8x8 matrices of a 2-byte type: lane l names row l % 8 of matrix l / 8, and gets of each matrix the elements
// (l / 4, 2 (l % 4)) and the one to its right; _trans: (2 (l % 4), l / 4) and the one below.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&result)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(result[0]), "=r"(result[1]), "=r"(result[2]), "=r"(result[3])
                 : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&result)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(result[0]), "=r"(result[1]), "=r"(result[2]), "=r"(result[3])
                 : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
                 : "memory");
}

// d += a b: a is 16x16, b is 16x8, d is 16x8 in fp32. With g = lane / 4 and t = lane % 4 a lane holds
//   a[0], a[1], a[2], a[3]: a(g, 2t…), a(g + 8, 2t…), a(g, 2t + 8…), a(g + 8, 2t + 8…), two neighbours of a row each
//   b[0], b[1]: b(2t…, g), b(2t + 8…, g), two neighbours of a column each
//   d[0], d[1]: d(g, 2t…);  d[2], d[3]: d(g + 8, 2t…)
template <typename T>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
template <>
__device__ __forceinline__ void mma_m16n8k16<half_t>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    for (int half = 0; half < 2; ++half)
        asm volatile(
            "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
#endif
}
template <>
__device__ __forceinline__ void mma_m16n8k16<bfloat16_t>(float (&d)[4], const uint32_t (&a)[4],
                                                         const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    __trap();  // sm_75 has no bfloat16, and TensorRT hands none to a plugin there
#endif
}

}  // namespace mask2edge

#else
#include "simt/simt.h"
#endif

namespace mask2edge {

// Elements of 16 bytes.
template <typename T>
constexpr int kVectorLength = 16 / static_cast<int>(sizeof(T));

template <typename T>
__device__ __forceinline__ void unpack16(uint4 vector, float (&x)[kVectorLength<T>]) {
    const uint32_t words[4] = {vector.x, vector.y, vector.z, vector.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if constexpr (sizeof(T) == 4) {
            x[i] = __uint_as_float(words[i]);
        } else {
            const float2 pair = unpack2<T>(words[i]);
            x[2 * i] = pair.x;
            x[2 * i + 1] = pair.y;
        }
    }
}

template <typename T>
__device__ __forceinline__ uint4 pack16(const float (&x)[kVectorLength<T>]) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if constexpr (sizeof(T) == 4)
            words[i] = __float_as_uint(x[i]);
        else
            words[i] = pack2<T>(x[2 * i], x[2 * i + 1]);
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
}

}  // namespace mask2edge
