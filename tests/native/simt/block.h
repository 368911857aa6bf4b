// Barriers, shared memory, asynchronous copies, atomics, 16-byte accesses and arithmetic of a CUDA thread.
#pragma once

#include <cmath>
#include <cstring>

#include "simt/scheduler.h"

namespace mask2edge {

// ---- Barriers -------------------------------------------------------------------------------------------------------
inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    simt::block_barrier({file, line, "__syncthreads"}, 0);
}
inline int __syncthreads_count(int predicate, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return simt::block_barrier({file, line, "__syncthreads_count"}, predicate);
}
inline int __syncthreads_or(int predicate, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return simt::block_barrier({file, line, "__syncthreads_or"}, predicate) != 0;
}
inline int __syncthreads_and(int predicate, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return simt::block_barrier({file, line, "__syncthreads_and"}, predicate == 0) == 0;
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- Memory ---------------------------------------------------------------------------------------------------------
template <typename T>
T* dynamic_shared() {
    return static_cast<T*>(simt::dynamic_shared_memory());
}

inline void require_aligned(const void* address, const char* operation) {
    if (reinterpret_cast<uintptr_t>(address) % 16 != 0)
        simt::fail(std::string(operation) + ": the address is not a multiple of 16");
}

inline uint4 load16(const void* address) {
    require_aligned(address, "load16");
    uint4 value;
    std::memcpy(&value, address, 16);
    return value;
}
inline uint4 load16_read_only(const void* address) { return load16(address); }

inline void store16(void* address, uint4 value) {
    require_aligned(address, "store16");
    std::memcpy(address, &value, 16);
}

template <typename T>
T __ldg(const T* address) {
    return *address;
}

// ---- cp.async -------------------------------------------------------------------------------------------------------
inline void move_copy(const simt::PendingCopy& copy) {
    std::memset(copy.destination, 0, 16);
    if (copy.valid_bytes > 0) std::memcpy(copy.destination, copy.source, static_cast<std::size_t>(copy.valid_bytes));
}

// 16 bytes to shared memory: valid_bytes (0 … 16) from global memory, then zeros. With 0 nothing is read.
inline void cp_async16(void* shared, const void* global, int valid_bytes = 16) {
    require_aligned(shared, "cp_async16 (shared)");
    require_aligned(global, "cp_async16 (global)");
    if (valid_bytes < 0 || valid_bytes > 16)
        simt::fail("cp_async16: valid_bytes must be 0 to 16, got " + std::to_string(valid_bytes));
    simt::ThreadContext& self = simt::this_thread();
    const simt::PendingCopy copy{shared, global, valid_bytes, self.next_copy_group};
    if (!simt::options().lazy_copies) return move_copy(copy);
    std::memset(shared, 0xff, 16);  // no longer what it was, not yet what it will be
    self.copies.push_back(copy);
}

inline void cp_async_commit() { ++simt::this_thread().next_copy_group; }

// Until at most `newest` of this thread's committed groups are on their way. Others still need a barrier to see them.
template <int newest>
void cp_async_wait() {
    simt::ThreadContext& self = simt::this_thread();
    std::vector<simt::PendingCopy> waiting;
    for (const simt::PendingCopy& copy : self.copies)
        if (int64_t{copy.group} < int64_t{self.next_copy_group} - newest)
            move_copy(copy);
        else
            waiting.push_back(copy);
    self.copies.swap(waiting);
}

// ---- Atomics: nothing interrupts a fiber ----------------------------------------------------------------------------
template <typename T, typename Change>
T change_atomically(T* address, const Change& change) {
    const T before = *address;
    *address = change(before);
    return before;
}
template <typename T>
T atomicAdd(T* address, T x) {
    return change_atomically(address, [x](T y) { return static_cast<T>(y + x); });
}
template <typename T>
T atomicMin(T* address, T x) {
    return change_atomically(address, [x](T y) { return x < y ? x : y; });
}
template <typename T>
T atomicMax(T* address, T x) {
    return change_atomically(address, [x](T y) { return y < x ? x : y; });
}
template <typename T>
T atomicOr(T* address, T x) {
    return change_atomically(address, [x](T y) { return static_cast<T>(y | x); });
}
template <typename T>
T atomicAnd(T* address, T x) {
    return change_atomically(address, [x](T y) { return static_cast<T>(y & x); });
}
template <typename T>
T atomicExch(T* address, T x) {
    return change_atomically(address, [x](T) { return x; });
}
template <typename T>
T atomicCAS(T* address, T expected, T x) {
    return change_atomically(address, [=](T y) { return y == expected ? x : y; });
}

// ---- Arithmetic -----------------------------------------------------------------------------------------------------
template <typename T>
constexpr T min(T a, T b) {
    return b < a ? b : a;
}
template <typename T>
constexpr T max(T a, T b) {
    return a < b ? b : a;
}
inline float __expf(float x) { return std::exp2(x * 1.44269504f); }  // rounds in between, as the GPU does
inline float exp2f(float x) { return std::exp2(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline int __float2int_rd(float x) { return static_cast<int>(std::floor(x)); }
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline int __float_as_int(float x) { return static_cast<int>(float_bits(x)); }
inline unsigned __float_as_uint(float x) { return float_bits(x); }
inline float __int_as_float(int x) { return float_of_bits(static_cast<uint32_t>(x)); }
inline float __uint_as_float(unsigned x) { return float_of_bits(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline unsigned __brev(unsigned x) {
    unsigned result = 0;
    for (int i = 0; i < 32; ++i) result |= (x >> i & 1) << (31 - i);
    return result;
}

}  // namespace mask2edge
