// Semantic segmentation: the best class of each pixel, where a class's score is the sum over queries of its probability
// times the mask's (Cheng et al., MaskFormer, sec. 3.4). Three kernels: probabilities, pixels, the table.
//
// A block takes 128 pixels of a row. Queries come in chunks: their masks at the pixels go to shared memory, and a
// product [pixels x queries] x [queries x classes] in registers follows, a lane holding 4 pixels by kClasses classes
// and a warp one group of classes, so that the class probabilities are broadcasts. No score ever reaches memory.
#pragma once

#include "common/cuda.cuh"
#include "segment_fusion/mask_tile.cuh"

namespace mask2edge {

constexpr int kClassPadding = 16;  // rows of probabilities are padded with 0 to a multiple of it

// ---- Class probabilities, and cleared sums --------------------------------------------------------------------------
struct ProbabilitiesArguments {
    const float* class_logits;  // [Q, K + 1]
    int32_t queries, classes, stride;
    float* probabilities;      // [Q, stride]
    SegmentRow* tallies;       // [K]
    unsigned long long* sums;  // [K]
    SegmentTableHeader* header;
};

constexpr int kProbabilityThreads = 128;  // a warp for each query

__global__ void __launch_bounds__(kProbabilityThreads) probabilities_kernel(const ProbabilitiesArguments a) {
    const int thread = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    for (int label = thread; label < a.classes; label += static_cast<int>(gridDim.x * blockDim.x)) {
        clear_segment(a.tallies[label]);
        a.sums[label] = 0;
    }
    const int lane = thread % kWarp, query = thread / kWarp;
    if (query >= a.queries) return;
    const float* const logits = a.class_logits + int64_t{query} * (a.classes + 1);
    const BestClass best = best_class(logits, a.classes + 1);
    if (!best.is_finite && lane == 0) a.header->not_finite = 1;
    for (int i = lane; i < a.stride; i += kWarp)
        a.probabilities[int64_t{query} * a.stride + i] = i < a.classes ? class_probability(logits[i], best) : 0.0f;
}

// ---- Pixels ---------------------------------------------------------------------------------------------------------
template <typename Order>
struct SemanticArguments {
    MaskLogits masks;
    typename Order::Tables tables;
    const float* probabilities;  // [Q, stride]
    int32_t stride, classes;
    int32_t width, tiles;  // of the image
    int32_t pitch, chunk;  // staged columns; queries staged at a time
    float score_unit;      // what a score is multiplied with in the sums
    int32_t* label_map;    // [H0, W0]
    SegmentRow* tallies;
    unsigned long long* sums;
    SegmentTableHeader* header;
};

// What the dynamic shared memory of a block holds, one after another.
struct SemanticShared {
    unsigned long long* best;  // [128]: score and class of each pixel
    float* masks;              // [chunk, 128]
    float* probabilities;      // [chunk, classes of the block]
    float* stage;              // [chunk, pitch]

    __device__ SemanticShared(unsigned long long* memory, int chunk, int classes) {
        best = memory;
        masks = reinterpret_cast<float*>(best + kTilePixels);
        probabilities = masks + chunk * kTilePixels;
        stage = probabilities + chunk * classes;
    }
    static std::size_t bytes(int chunk, int classes, int pitch) {
        return kTilePixels * sizeof(unsigned long long) + static_cast<std::size_t>(chunk) *
                                                              static_cast<std::size_t>(kTilePixels + classes + pitch) *
                                                              sizeof(float);
    }
};

// Scores are not negative, so that their bits are in their order; of equals the first class is the largest.
__device__ inline unsigned long long packed(float score, int label) {
    return static_cast<unsigned long long>(__float_as_uint(score)) << 32 | (0xffffffffu - static_cast<unsigned>(label));
}

// Labels, areas, boxes and scores of the tile, by one warp.
template <typename Order>
__device__ void write_tile(const SemanticArguments<Order>& a, const unsigned long long* best, int left, int y) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    int labels[kPixelsOfLane];
    unsigned long long scores[kPixelsOfLane];
    for (int i = 0; i < kPixelsOfLane; ++i) {
        const int pixel = kWarp * i + lane;
        const unsigned long long entry = best[pixel];
        const float score = __uint_as_float(static_cast<unsigned>(entry >> 32));
        labels[i] = left + pixel < a.width ? static_cast<int>(0xffffffffu - static_cast<unsigned>(entry)) : -1;
        scores[i] = is_finite_number(score) ? static_cast<unsigned long long>(score * a.score_unit) : 0;
        if (labels[i] >= 0) a.label_map[int64_t{y} * a.width + left + pixel] = labels[i];
    }
    tally_row<kPixelsOfLane, true>(a.tallies, labels, left, y, scores, a.sums);
}

template <int kClasses>
constexpr int kSemanticWarps = kClasses == 8 ? 8 : 16;

template <typename Order, int kClasses>
__global__ void __launch_bounds__(kSemanticWarps<kClasses>* kWarp, kClasses == 8 ? 2 : 1)
    semantic_kernel(const SemanticArguments<Order> a) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
    const int warps = static_cast<int>(blockDim.x) / kWarp, block_classes = warps * kClasses;
    const int left = static_cast<int>(blockIdx.x) % a.tiles * kTilePixels, y = static_cast<int>(blockIdx.x) / a.tiles;
    const SemanticShared shared(dynamic_shared<unsigned long long>(), a.chunk, block_classes);
    for (int i = static_cast<int>(threadIdx.x); i < kTilePixels; i += static_cast<int>(blockDim.x)) shared.best[i] = 0;

    const typename Order::Row row = Order::row(a.tables, a.masks, y);
    const StagedLines staged = staged_lines<Order>(a.tables, a.width, left, a.pitch);

    bool finite = true;
    // More classes than the block holds at once: the masks are made again.
    for (int first_class = 0; first_class < a.classes; first_class += block_classes) {
        const int my_class = first_class + warp * kClasses;  // the first of this warp's
        float sums[kPixelsOfLane][kClasses] = {};
        for (int first = 0; first < a.masks.queries; first += a.chunk) {
            const int count = min(a.chunk, a.masks.queries - first);
            stage_columns<Order>(
                a.masks, a.tables, row, staged, count, [first](int i) { return int64_t{first + i}; }, shared.stage,
                a.pitch, finite);
            __syncthreads();
            for (int j = lane; j < kTilePixels; j += kWarp) {
                // Read again for each chunk: in registers, four pixels' places would be in the product's way.
                const typename Order::Pixel pixel = Order::pixel(a.tables, staged, min(left + j, a.width - 1));
#pragma unroll 2
                for (int i = warp; i < count; i += warps)
                    shared.masks[i * kTilePixels + j] = Order::value(shared.stage + i * a.pitch, pixel);
            }
#pragma unroll 1
            for (int i = warp; i < count; i += warps) {
                const float* const source = a.probabilities + int64_t{first + i} * a.stride + first_class;
#pragma unroll 1
                for (int j = 4 * lane; j < min(block_classes, a.stride - first_class); j += 4 * kWarp)
                    store16(shared.probabilities + i * block_classes + j, load16(source + j));
            }
            __syncthreads();
            if (my_class >= a.classes) continue;
#pragma unroll(kClasses == 8 ? 2 : 1)
            for (int i = 0; i < count; ++i) {
                float mask[4];
                unpack16<float>(load16(shared.masks + i * kTilePixels + 4 * lane), mask);
#pragma unroll
                for (int j = 0; j < kClasses; j += 4) {
                    float probability[4];
                    unpack16<float>(load16(shared.probabilities + i * block_classes + warp * kClasses + j),
                                    probability);
#pragma unroll
                    for (int p = 0; p < kPixelsOfLane; ++p)
#pragma unroll
                        for (int k = 0; k < 4; ++k) sums[p][j + k] = fmaf(mask[p], probability[k], sums[p][j + k]);
                }
            }
        }
        if (my_class >= a.classes) continue;
        for (int p = 0; p < kPixelsOfLane; ++p) {
            float score = sums[p][0];
            int label = my_class;
            for (int k = 1; k < kClasses; ++k)
                if (sums[p][k] > score) {  // not the padding: it has 0, and comes last
                    score = sums[p][k];
                    label = my_class + k;
                }
            atomicMax(&shared.best[4 * lane + p], packed(score, label));
        }
    }
    if (!finite) a.header->not_finite = 1;
    __syncthreads();
    if (warp == 0) write_tile(a, shared.best, left, y);
}

// ---- The table ------------------------------------------------------------------------------------------------------
struct SemanticTableArguments {
    const SegmentRow* tallies;       // [K]
    const unsigned long long* sums;  // [K]
    int32_t classes;
    float score_unit;
    SegmentRow* table;
};

constexpr int kOneBlockThreads = 1024;

// One block: the classes that are there, in their order.
__global__ void __launch_bounds__(kOneBlockThreads) semantic_table_kernel(const SemanticTableArguments a) {
    MASK2EDGE_SHARED(int, warp_totals, kWarp);
    int rows = 0;
    for (int first = 0; first < a.classes; first += kOneBlockThreads) {
        const int label = first + static_cast<int>(threadIdx.x);
        const bool is_there = label < a.classes && a.tallies[label].area > 0;
        int found;
        const int place = rows + place_among(is_there, warp_totals, found);
        rows += found;
        if (!is_there) continue;
        SegmentRow row = a.tallies[label];
        row.id = row.label = label;
        row.score = static_cast<float>(static_cast<double>(a.sums[label]) /
                                       (static_cast<double>(row.area) * static_cast<double>(a.score_unit)));
        a.table[1 + place] = row;
    }
    if (threadIdx.x == 0) reinterpret_cast<SegmentTableHeader*>(a.table)->count = rows;
}

}  // namespace mask2edge
