// What the kernels of MaskedAttention share: their arguments, what a block works on, which tiles of keys it needs, and
// where its results go.
//
//     const Task task = task_of(arguments, blockIdx.x);
//     TileList list(arguments, task, needed);
//     for (int tile = list.next(); tile >= 0; tile = list.next()) ...
#pragma once

#include "common/cuda.cuh"

namespace mask2edge::masked {

constexpr int kQueries = 64;         // of a block; a warp has 16 of them
constexpr int kKeys = 64;            // of a tile: its mask is one 64-bit word for each query
constexpr int kThreads = 128;        // of the attention kernel
constexpr int kMaximumTiles = 4096;  // of one block, so that a bit for each of them fits into shared memory

// Two neighbours in memory, the first at an even place.
template <typename T>
__device__ __forceinline__ void store2(T* place, float first, float second) {
    if constexpr (sizeof(T) == 4)
        *reinterpret_cast<float2*>(place) = make_float2(first, second);
    else
        *reinterpret_cast<uint32_t*>(place) = pack2<T>(first, second);
}

// 2^x. Below 2^-126 it is 0: exp2f would scale there and back, a fifth of the attention kernel's instructions.
__device__ __forceinline__ float power_of_two(float x) {
#if defined(__CUDACC__)
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
#else
    return exp2f(x);
#endif
}

struct Arguments {
    const void *query, *key, *value;  // [N, Q, M*D], [N, S, M*D] twice
    const float* mask_logits;         // [N, Q, S]
    void* output;                     // [N, Q, M*D]
    uint64_t* attended;               // [N, tiles, Q]: bit i is key i of the tile; bits past S are 0
    float* totals;                    // [units, kQueries, 2]: largest score, sum of exponentials
    float* sums;                      // [units, kQueries, D]: not yet divided by the sum of exponentials
    int64_t batch;
    int queries, keys, heads;
    int tiles, query_blocks, splits;
    float scale;  // log2(e) / sqrt(D): the kernels work with powers of two
};

// What one block of the attention kernel does. Blocks that read the same keys follow one another, then the heads, whose
// rows lie side by side: what one of them brings into the cache serves the others.
struct Task {
    int64_t unit, image;
    int split, head, first_query;
};

__device__ __forceinline__ Task task_of(const Arguments& a, int64_t unit) {
    int64_t rest = unit / a.query_blocks;
    Task task;
    task.unit = unit;
    task.first_query = static_cast<int>(unit % a.query_blocks) * kQueries;
    task.head = static_cast<int>(rest % a.heads);
    rest /= a.heads;
    task.split = static_cast<int>(rest % a.splits);
    task.image = rest / a.splits;
    return task;
}

// The tiles of a block, in rising order: split, split + splits, ... without those that none of its queries attends to.
// Masks are compact, so that neighbouring tiles are needed together or not at all: dealing them out one by one gives
// every split its share.
class TileList {
  public:
    // All threads of the block call this; `needed` is shared memory for kMaximumTiles bits. Ends with a barrier.
    __device__ TileList(const Arguments& a, const Task& task, uint32_t* needed)
        : needed_(needed), first_(task.split), step_(a.splits) {
        constexpr int kAtOnce = 4, kWarps = kThreads / 32;
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const int count = (a.tiles - task.split + a.splits - 1) / a.splits;
        words_ = (count + 31) / 32;
        for (int i = threadIdx.x; i < words_; i += kThreads) needed[i] = 0;
        __syncthreads();
        const uint64_t* column = a.attended + task.image * a.tiles * a.queries + task.first_query;
        const int rows = a.queries - task.first_query;
        for (int begin = warp; begin < count; begin += kAtOnce * kWarps) {
            uint64_t seen[kAtOnce];
#pragma unroll
            for (int i = 0; i < kAtOnce; ++i) {
                const int number = begin + i * kWarps;
                const uint64_t* tile = column + int64_t{first_ + number * step_} * a.queries;
                const bool inside = number < count;
                seen[i] = inside && lane < rows ? tile[lane] : 0;
                seen[i] |= inside && lane + 32 < rows ? tile[lane + 32] : 0;
            }
#pragma unroll
            for (int i = 0; i < kAtOnce; ++i) {
                const int number = begin + i * kWarps;
                if (__any_sync(0xffffffffu, seen[i] != 0) && lane == 0)
                    atomicOr(&needed[number / 32], uint32_t{1} << number % 32);
            }
        }
        __syncthreads();
        word_ = words_ > 0 ? needed[0] : 0;
    }

    // The next tile, or -1 after the last.
    __device__ int next() {
        while (word_ == 0) {
            if (++at_ >= words_) return -1;
            word_ = needed_[at_];
        }
        const int bit = __ffs(static_cast<int>(word_)) - 1;
        word_ &= word_ - 1;
        return first_ + (at_ * 32 + bit) * step_;
    }

  private:
    const uint32_t* needed_;
    int first_, step_, words_, at_ = 0;
    uint32_t word_;
};

// Row `row` of the block is done for this block's keys. Each thread of the row brings some of its channels, in pairs:
// sum[i], sum[i + 1] belong at column(i), column(i) + 1. `writes_totals` is set in one of the row's threads.
template <typename T, int kColumns, typename Column>
__device__ void finish_row(const Arguments& a, const Task& task, int head_dim, int row, const float (&sum)[kColumns],
                           Column column, float largest, float total, bool writes_totals) {
    const int query = task.first_query + row;
    if (query >= a.queries) return;
    if (a.splits == 1) {
        T* output = static_cast<T*>(a.output) + ((task.image * a.queries + query) * a.heads + task.head) * head_dim;
        const float share = 1.0f / total;
#pragma unroll
        for (int i = 0; i < kColumns; i += 2) store2(output + column(i), sum[i] * share, sum[i + 1] * share);
        return;
    }
    const int64_t place = task.unit * kQueries + row;
    if (writes_totals) store2(a.totals + place * 2, largest, total);
    if (total == 0) return;  // no key of this block: combine_splits does not look at the sums
#pragma unroll
    for (int i = 0; i < kColumns; i += 2) store2(a.sums + place * head_dim + column(i), sum[i], sum[i + 1]);
}

}  // namespace mask2edge::masked
