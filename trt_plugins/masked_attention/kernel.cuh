// MaskedAttention on CUDA: the three kernels, launched one after another.
//
//     pack_mask         mask_logits -> one bit for each query and key, an empty row all ones
//     attend            one block for 64 queries of a head and a share of the keys
//     combine_splits    where several blocks shared the keys of the same queries
//
// The softmax runs along with the keys (FlashAttention-2, Dao 2023, sec. 3.1): a block keeps, for each of its queries,
// the largest score so far, and relative to it the sum of the exponentials and the weighted sum of the values.
#pragma once

#include <type_traits>

#include "masked_attention/plain.cuh"
#include "masked_attention/task.cuh"
#include "masked_attention/tensor_cores.cuh"

namespace mask2edge::masked {

constexpr int kPackThreads = 256;
constexpr int kCombineThreads = 256;

// sm_75 has no matrix instruction for bfloat16. MASK2EDGE_AS_ON_SM75 takes its path elsewhere, for tests.
#if defined(MASK2EDGE_AS_ON_SM75) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800)
template <typename T>
constexpr bool kHasTensorCores = std::is_same_v<T, half_t>;
#else
template <typename T>
constexpr bool kHasTensorCores = !std::is_same_v<T, float>;
#endif

// The host does not ask what the device has: enough for either path.
template <typename T, int D>
constexpr int shared_bytes() {
    constexpr int kPlain = Plain<T, D>::kSharedBytes;
    if constexpr (sizeof(T) == 2)
        return kPlain > TensorCores<T, D>::kSharedBytes ? kPlain : TensorCores<T, D>::kSharedBytes;
    return kPlain;
}

// One block for each row of the mask.
static __global__ void __launch_bounds__(kPackThreads) pack_mask(Arguments a) {
    constexpr int kWarps = kPackThreads / 32;
    constexpr int kTiles = 4;  // of a warp's step: eight loads are on their way at once
    const int64_t row = blockIdx.x;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const float* logits = a.mask_logits + row * a.keys;
    uint64_t* attended = a.attended + row / a.queries * a.tiles * a.queries + row % a.queries;

    bool any = false;
    for (int first = warp * kTiles; first < a.tiles; first += kWarps * kTiles) {
        float logit[2 * kTiles];
#pragma unroll
        for (int i = 0; i < 2 * kTiles; ++i) {
            const int64_t key = int64_t{first} * kKeys + i * 32 + lane;
            logit[i] = key < a.keys ? logits[key] : -1.0f;
        }
        uint64_t mine = 0;
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
            const uint32_t low = __ballot_sync(0xffffffffu, logit[2 * tile] >= 0);  // false for NaN, true for -0
            const uint32_t high = __ballot_sync(0xffffffffu, logit[2 * tile + 1] >= 0);
            any = any || (low | high) != 0;
            if (lane == tile) mine = uint64_t{high} << 32 | low;
        }
        if (lane < kTiles && first + lane < a.tiles) attended[int64_t{first + lane} * a.queries] = mine;
    }
    if (__syncthreads_or(any)) return;
    for (int tile = threadIdx.x; tile < a.tiles; tile += kPackThreads) {
        const int64_t left = a.keys - int64_t{tile} * kKeys;
        attended[int64_t{tile} * a.queries] = left >= kKeys ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
    }
}

// Blocks that a multiprocessor is to hold at a time: 168 or 128 registers. Without a number the compiler goes for more
// blocks and spills sums of float32.
template <typename T, int D>
constexpr int kBlocksTogether = sizeof(T) == 4 || D == 64 ? 3 : 4;

// One block for each unit: image, split, head and 64 queries.
template <typename T, int D>
__global__ void __launch_bounds__(kThreads, kBlocksTogether<T, D>) attend(Arguments a) {
    unsigned char* shared = dynamic_shared<unsigned char>();
    if constexpr (kHasTensorCores<T>)
        TensorCores<T, D>::attend(a, shared);
    else
        Plain<T, D>::attend(a, shared);
}

// One thread for each element of the output, after an attention kernel with splits > 1.
template <typename T>
__global__ void __launch_bounds__(kCombineThreads) combine_splits(Arguments a, int head_dim) {
    const int64_t element = int64_t{blockIdx.x} * kCombineThreads + threadIdx.x;
    const int64_t channels = int64_t{a.heads} * head_dim;
    if (element >= a.batch * a.queries * channels) return;
    const int64_t row = element / channels, image = row / a.queries;
    const int query = static_cast<int>(row % a.queries), channel = static_cast<int>(element % channels);
    const int head = channel / head_dim, column = channel % head_dim;
    const int64_t step = int64_t{a.heads} * a.query_blocks * kQueries;  // between the places of two splits
    const int64_t first =
        ((image * a.splits * a.heads + head) * a.query_blocks + query / kQueries) * kQueries + query % kQueries;

    float largest = -INFINITY;
    for (int split = 0; split < a.splits; ++split) largest = fmaxf(largest, a.totals[(first + split * step) * 2]);
    const float base = largest == -INFINITY ? 0.0f : largest;
    float sum = 0, total = 0;
    for (int split = 0; split < a.splits; ++split) {
        const int64_t place = first + split * step;
        if (a.totals[place * 2 + 1] == 0) continue;
        const float weight = power_of_two(a.totals[place * 2] - base);
        total += weight * a.totals[place * 2 + 1];
        sum += weight * a.sums[place * head_dim + column];
    }
    static_cast<T*>(a.output)[element] = from_float<T>(sum / total);
}

}  // namespace mask2edge::masked
