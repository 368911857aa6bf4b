// Masked attention of one block in half precision: both products as m16n8k16 matrix instructions with fp32 sums, keys
// and values in two buffers, so that a tile is on its way while the one before it is worked on.
//
//     TensorCores<half_t, 32>::attend(arguments, shared)
//
// A warp has 16 queries. In the fragments of the instruction (PTX ISA, "Matrix Fragments for mma.m16n8k16") a thread
// holds rows lane / 4 and lane / 4 + 8, and there columns 8 * j + 2 * (lane % 4) + {0, 1}. The scores of two
// neighbouring 8-key fragments are, row by row, just what the left operand of the second product wants: the
// probabilities never leave the registers.
#pragma once

#include "masked_attention/task.cuh"

namespace mask2edge::masked {

template <typename T, int D>
struct TensorCores {
    static constexpr int kChunks = D / 8;  // 16 bytes, of a row
    static constexpr int kTile = kKeys * D;
    static constexpr int kSharedBytes = 4 * kTile * static_cast<int>(sizeof(T)) + kMaximumTiles / 8;

    // Where a row's chunk lies in a tile. ldmatrix reads the same chunk of eight rows at a time: the permutation puts
    // these into eight different groups of banks.
    static __device__ int place(int row, int chunk) {
        constexpr int kRowsOfAllBanks = 8 / kChunks;
        return row * D + (chunk ^ row / kRowsOfAllBanks % kChunks) * 8;
    }

    static __device__ void start_loading(const T* rows, int64_t channels, int first, int count, T* tile) {
#pragma unroll
        for (int i = 0; i < kKeys * kChunks / kThreads; ++i) {
            const int number = i * kThreads + threadIdx.x, row = number / kChunks, chunk = number % kChunks;
            const bool inside = row < count - first;  // zeros elsewhere: a weight of 0 times leftovers could be NaN
            cp_async16(tile + place(row, chunk), rows + (inside ? first + row : 0) * channels + chunk * 8,
                       inside ? 16 : 0);
        }
    }

    // The rows of the block's queries that this warp works on, as left operand: [step of 16 channels][register].
    static __device__ void load_queries(const T* rows, int64_t channels, int count, uint32_t (&fragment)[D / 16][4]) {
        const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4, column = 2 * (lane % 4);
#pragma unroll
        for (int step = 0; step < D / 16; ++step)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int r = row + i % 2 * 8;
                fragment[step][i] = 0;
                if (r < count)
                    fragment[step][i] =
                        *reinterpret_cast<const uint32_t*>(rows + r * channels + step * 16 + i / 2 * 8 + column);
            }
    }

    static __device__ void attend(const Arguments& a, unsigned char* shared) {
        T* tiles = reinterpret_cast<T*>(shared);  // key, value, key, value
        const int lane = threadIdx.x % 32;
        const Task task = task_of(a, blockIdx.x);
        const int64_t channels = int64_t{a.heads} * D;
        const int64_t query_offset = (task.image * a.queries + task.first_query) * channels + task.head * D;
        const int64_t key_offset = task.image * a.keys * channels + task.head * D;
        const T* key = static_cast<const T*>(a.key) + key_offset;
        const T* value = static_cast<const T*>(a.value) + key_offset;
        const int rows = a.queries - task.first_query, row = threadIdx.x / 32 * 16 + lane / 4;

        TileList list(a, task, reinterpret_cast<uint32_t*>(shared + 4 * kTile * sizeof(T)));
        const auto start = [&](int tile, int buffer) {
            if (tile >= 0) {
                start_loading(key, channels, tile * kKeys, a.keys, tiles + buffer * 2 * kTile);
                start_loading(value, channels, tile * kKeys, a.keys, tiles + (buffer * 2 + 1) * kTile);
            }
            cp_async_commit();
        };
        const auto mask_of = [&](int tile, uint64_t (&mask)[2]) {
            const uint64_t* column = a.attended + (task.image * a.tiles + tile) * a.queries + task.first_query;
            mask[0] = tile >= 0 && row < rows ? column[row] : 0;
            mask[1] = tile >= 0 && row + 8 < rows ? column[row + 8] : 0;
        };

        int tile = list.next();
        uint64_t mask[2];
        start(tile, 0);
        mask_of(tile, mask);
        uint32_t query[D / 16][4];
        load_queries(static_cast<const T*>(a.query) + query_offset, channels, rows, query);
        State state;
        for (int buffer = 0; tile >= 0; buffer ^= 1) {
            cp_async_wait<0>();
            __syncthreads();  // the tile is there for all, and nobody reads the other buffer any more
            const int next = list.next();
            uint64_t next_mask[2];
            start(next, buffer ^ 1);
            mask_of(next, next_mask);
            if (__any_sync(0xffffffffu, (mask[0] | mask[1]) != 0))  // else: a tile for other warps
                state.add(query, tiles + buffer * 2 * kTile, mask, a.scale);
            tile = next;
            mask[0] = next_mask[0];
            mask[1] = next_mask[1];
        }
        state.finish(a, task, row);
    }

    struct State {
        float sum[D / 8][4] = {};                   // [fragment of 8 channels][two of row, two of row + 8]
        float largest[2] = {-INFINITY, -INFINITY};  // of the scores so far, times scale
        float total[2] = {};                        // of this thread's keys alone, until finish

        __device__ void add(const uint32_t (&query)[D / 16][4], const T* key, const uint64_t (&mask)[2], float scale) {
            const int lane = threadIdx.x % 32;
            const T* value = key + kTile;
            float score[kKeys / 8][4] = {};
#pragma unroll
            for (int step = 0; step < D / 16; ++step)
#pragma unroll
                for (int pair = 0; pair < kKeys / 16; ++pair) {  // matrices: 8 keys x 8 channels, channels first
                    uint32_t k[4];
                    ldmatrix_x4(k, key + place(pair * 16 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
                    mma_m16n8k16<T>(score[2 * pair], query[step], {k[0], k[1]});
                    mma_m16n8k16<T>(score[2 * pair + 1], query[step], {k[2], k[3]});
                }

#pragma unroll
            for (int r = 0; r < 2; ++r) weigh(r, mask[r] >> 2 * (lane % 4), scale, score);

#pragma unroll
            for (int step = 0; step < kKeys / 16; ++step) {
                const uint32_t weight[4] = {pack2<T>(score[2 * step][0], score[2 * step][1]),
                                            pack2<T>(score[2 * step][2], score[2 * step][3]),
                                            pack2<T>(score[2 * step + 1][0], score[2 * step + 1][1]),
                                            pack2<T>(score[2 * step + 1][2], score[2 * step + 1][3])};
#pragma unroll
                for (int pair = 0; pair < D / 16; ++pair) {  // matrices: 8 keys x 8 channels, keys first
                    uint32_t v[4];
                    ldmatrix_x4_trans(v, value + place(step * 16 + lane % 16, pair * 2 + lane / 16));
                    mma_m16n8k16<T>(sum[2 * pair], weight, {v[0], v[1]});
                    mma_m16n8k16<T>(sum[2 * pair + 1], weight, {v[2], v[3]});
                }
            }
        }

        // Scores of one of the thread's rows become weights; what was summed up so far moves to the new largest score.
        __device__ void weigh(int r, uint64_t mask, float scale, float (&score)[kKeys / 8][4]) {
            float now = -INFINITY;
#pragma unroll
            for (int j = 0; j < kKeys / 8; ++j)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    float& s = score[j][2 * r + e];
                    s = mask >> (8 * j + e) & 1 ? s : -INFINITY;
                    now = fmaxf(now, s);
                }
            now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 1));
            now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 2));
            now = fmaxf(largest[r], now * scale);
            const float base = now == -INFINITY ? 0.0f : now;  // no key so far: weights are 0, not NaN
            const float shrink = power_of_two(largest[r] - base);
            largest[r] = now;
            total[r] *= shrink;
#pragma unroll
            for (int j = 0; j < kKeys / 8; ++j)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    float& s = score[j][2 * r + e];
                    s = power_of_two(fmaf(s, scale, -base));
                    total[r] += s;
                }
#pragma unroll
            for (int j = 0; j < D / 8; ++j) {
                sum[j][2 * r] *= shrink;
                sum[j][2 * r + 1] *= shrink;
            }
        }

        __device__ void finish(const Arguments& a, const Task& task, int row) {
            const int lane = threadIdx.x % 32;
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                total[r] += __shfl_xor_sync(0xffffffffu, total[r], 1);
                total[r] += __shfl_xor_sync(0xffffffffu, total[r], 2);
                float columns[D / 4];
#pragma unroll
                for (int i = 0; i < D / 4; ++i) columns[i] = sum[i / 2][2 * r + i % 2];
                finish_row<T>(
                    a, task, D, row + 8 * r, columns, [&](int i) { return i / 2 * 8 + 2 * (lane % 4); }, largest[r],
                    total[r], lane % 4 == 0);
            }
        }
    };
};

}  // namespace mask2edge::masked
