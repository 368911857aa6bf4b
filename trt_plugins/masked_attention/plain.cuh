// Masked attention of one block with fp32 multiply-adds: for float32 (TF32 would not hold 1e-5), and for bfloat16 on
// sm_75, whose matrix instructions do not know it.
//
//     Plain<float, 32>::attend(arguments, shared)
//
// Eight neighbouring threads share four queries: for the scores each has four of 32 keys, for the weighted sum an
// eighth of the channels. Inputs stay in their type in shared memory and become fp32 when they are read.
#pragma once

#include "masked_attention/task.cuh"

namespace mask2edge::masked {

// Neighbours in shared memory as fp32: four of any type, or two.
template <typename T, int kCount>
__device__ __forceinline__ void load_floats(const T* from, float (&x)[kCount]) {
    if constexpr (sizeof(T) == 4 && kCount == 4) {
        const float4 four = *reinterpret_cast<const float4*>(from);
        x[0] = four.x;
        x[1] = four.y;
        x[2] = four.z;
        x[3] = four.w;
    } else if constexpr (sizeof(T) == 4) {
        const float2 two = *reinterpret_cast<const float2*>(from);
        x[0] = two.x;
        x[1] = two.y;
    } else {
#pragma unroll
        for (int i = 0; i < kCount; i += 2) {
            const float2 pair = unpack2<T>(*reinterpret_cast<const uint32_t*>(from + i));
            x[i] = pair.x;
            x[i + 1] = pair.y;
        }
    }
}

template <typename T, int D>
struct Plain {
    static constexpr int kStep = 32;  // keys at a time: half a tile
    static constexpr int kRows = 4;   // queries of a thread; a warp has 16 that follow one another
    static constexpr int kLanes = 8;  // threads that share them
    static constexpr int kStride = D + 16 / static_cast<int>(sizeof(T));  // of a row: no two lanes meet in a bank
    static constexpr int kWeightStride = kStep + 8;
    static constexpr int kColumns = D / kLanes;               // channels of a thread,
    static constexpr int kRun = kColumns < 4 ? kColumns : 4;  // so many of them side by side
    static constexpr int kTypedBytes = (kQueries + 2 * kStep) * kStride * static_cast<int>(sizeof(T));
    static constexpr int kWeightBytes = kQueries * kWeightStride * static_cast<int>(sizeof(float));
    static constexpr int kSharedBytes = kTypedBytes + kWeightBytes + kMaximumTiles / 8;

    static __device__ int row(int r) { return threadIdx.x / 32 * 16 + threadIdx.x % 32 / kLanes + 4 * r; }
    static __device__ int column(int lane, int i) { return i / kRun * kRun * kLanes + lane * kRun + i % kRun; }

    // Rows [first, first + kCount) of `rows`; zeros from row `count` on.
    template <int kCount>
    static __device__ void load(const T* rows, int64_t channels, int first, int count, T* tile) {
        constexpr int kWide = 16 / static_cast<int>(sizeof(T)), kChunks = D / kWide;
        for (int i = threadIdx.x; i < kCount * kChunks; i += kThreads) {
            const int row = i / kChunks, chunk = i % kChunks;
            uint4 chunk_of_row = {};
            if (row < count - first) chunk_of_row = load16(rows + (int64_t{first} + row) * channels + chunk * kWide);
            store16(tile + row * kStride + chunk * kWide, chunk_of_row);
        }
    }

    static __device__ void attend(const Arguments& a, unsigned char* shared) {
        T* query = reinterpret_cast<T*>(shared);  // [kQueries, kStride]
        T* key = query + kQueries * kStride;      // [kStep, kStride]
        T* value = key + kStep * kStride;
        float* weights = reinterpret_cast<float*>(shared + kTypedBytes);  // [kQueries, kWeightStride]
        const Task task = task_of(a, blockIdx.x);
        const int64_t channels = int64_t{a.heads} * D;
        const int64_t query_offset = (task.image * a.queries + task.first_query) * channels + task.head * D;
        const int64_t key_offset = task.image * a.keys * channels + task.head * D;
        const int rows = a.queries - task.first_query;

        load<kQueries>(static_cast<const T*>(a.query) + query_offset, channels, 0, rows, query);
        TileList list(a, task, reinterpret_cast<uint32_t*>(shared + kTypedBytes + kWeightBytes));
        State state;
        for (int tile = list.next(); tile >= 0; tile = list.next()) {
            const uint64_t* attended = a.attended + (task.image * a.tiles + tile) * a.queries + task.first_query;
            uint64_t mask[kRows];
#pragma unroll
            for (int r = 0; r < kRows; ++r) mask[r] = row(r) < rows ? attended[row(r)] : 0;
            for (int first = 0; first < kKeys && tile * kKeys + first < a.keys; first += kStep) {
                load<kStep>(static_cast<const T*>(a.key) + key_offset, channels, tile * kKeys + first, a.keys, key);
                load<kStep>(static_cast<const T*>(a.value) + key_offset, channels, tile * kKeys + first, a.keys, value);
                __syncthreads();
                uint32_t bits[kRows], any = 0;
#pragma unroll
                for (int r = 0; r < kRows; ++r) any |= bits[r] = static_cast<uint32_t>(mask[r] >> first);
                if (__any_sync(0xffffffffu, any != 0))  // else: keys for other warps
                    state.add(query, key, value, weights, bits, a.scale);
                __syncthreads();
            }
        }
        state.finish(a, task);
    }

    struct State {
        float sum[kRows][kColumns] = {};
        float largest[kRows];     // of the scores so far, times scale
        float total[kRows] = {};  // of this thread's keys alone, until finish

        __device__ State() {
#pragma unroll
            for (int r = 0; r < kRows; ++r) largest[r] = -INFINITY;
        }

        __device__ void add(const T* query, const T* key, const T* value, float* weights, const uint32_t (&bits)[kRows],
                            float scale) {
            constexpr int kOwn = kStep / kLanes;  // keys of a thread: lane, lane + 8, ...
            const int lane = threadIdx.x % kLanes;
            float score[kRows][kOwn] = {};
#pragma unroll 2  // all at once, the loads that run ahead take the registers of the sums
            for (int channel = 0; channel < D; channel += 4) {
                float q[kRows][4], k[4];
#pragma unroll
                for (int r = 0; r < kRows; ++r) load_floats(query + row(r) * kStride + channel, q[r]);
#pragma unroll
                for (int j = 0; j < kOwn; ++j) {
                    load_floats(key + (lane + j * kLanes) * kStride + channel, k);
#pragma unroll
                    for (int r = 0; r < kRows; ++r)
#pragma unroll
                        for (int i = 0; i < 4; ++i) score[r][j] += q[r][i] * k[i];
                }
            }

#pragma unroll
            for (int r = 0; r < kRows; ++r) {
                float now = -INFINITY;
#pragma unroll
                for (int j = 0; j < kOwn; ++j) {
                    score[r][j] = bits[r] >> (lane + j * kLanes) & 1 ? score[r][j] : -INFINITY;
                    now = fmaxf(now, score[r][j]);
                }
#pragma unroll
                for (int apart = 1; apart < kLanes; apart *= 2)
                    now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, apart));
                now = fmaxf(largest[r], now * scale);
                const float base = now == -INFINITY ? 0.0f : now;  // no key so far: weights are 0, not NaN
                const float shrink = power_of_two(largest[r] - base);
                largest[r] = now;
                total[r] *= shrink;
#pragma unroll
                for (int j = 0; j < kOwn; ++j) {
                    const float weight = power_of_two(fmaf(score[r][j], scale, -base));
                    total[r] += weight;
                    weights[row(r) * kWeightStride + lane + j * kLanes] = weight;
                }
#pragma unroll
                for (int i = 0; i < kColumns; ++i) sum[r][i] *= shrink;
            }
            // The same eight threads write and read a row of weights; before the next step attend() has a barrier.
            __syncwarp();
            for (int k = 0; k < kStep; k += 4) {
                float w[kRows][4];
#pragma unroll
                for (int r = 0; r < kRows; ++r) load_floats(weights + row(r) * kWeightStride + k, w[r]);
#pragma unroll
                for (int i = 0; i < 4; ++i)
#pragma unroll
                    for (int c = 0; c < kColumns; c += kRun) {
                        float v[kRun];
                        load_floats(value + (k + i) * kStride + column(lane, c), v);
#pragma unroll
                        for (int r = 0; r < kRows; ++r)
#pragma unroll
                            for (int e = 0; e < kRun; ++e) sum[r][c + e] += w[r][i] * v[e];
                    }
            }
        }

        __device__ void finish(const Arguments& a, const Task& task) {
            const int lane = threadIdx.x % kLanes;
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
#pragma unroll
                for (int apart = 1; apart < kLanes; apart *= 2)
                    total[r] += __shfl_xor_sync(0xffffffffu, total[r], apart);
                finish_row<T>(
                    a, task, D, row(r), sum[r], [&](int i) { return column(lane, i); }, largest[r], total[r],
                    lane == 0);
            }
        }
    };
};

}  // namespace mask2edge::masked
