// Panoptic segmentation (Mask2Former's maskformer_model.py, panoptic_inference): each pixel goes to the query with the
// highest score x mask probability; segments that lose too much of their mask are dropped; stuff of one class is one.
//
// Four kernels: the queries that count (one block), the pixels' winners and the areas, which segments stay (one block),
// and the label map, which is written once and never read: it may lie in the host's memory.
#pragma once

#include "common/cuda.cuh"
#include "segment_fusion/mask_tile.cuh"

namespace mask2edge {

// One of the kept queries, in the order of queries.
struct KeptQuery {
    int32_t query, label;
    float score;
    int32_t own_area;    // pixels where its mask is at least one half
    int32_t won_area;    // pixels that it wins
    int32_t solid_area;  // pixels that it wins and where its mask is at least one half
    int32_t id;          // of its segment, 0 = dropped
};

struct PanopticState {
    int32_t* kept_count;
    KeptQuery* kept;    // [Q]
    uint16_t* winners;  // [H0, W0]: place among the kept queries, from 1; 0 = none, or its mask is below one half
};

// ---- The queries that count -----------------------------------------------------------------------------------------
constexpr int kOrderingThreads = kMaximumQueries;  // a thread for each query

struct SelectArguments {
    const float* class_logits;  // [Q, K + 1]
    int32_t queries, classes;
    float object_threshold;
    PanopticState state;
    SegmentTableHeader* header;
};

__global__ void __launch_bounds__(kOrderingThreads) select_queries_kernel(const SelectArguments a) {
    MASK2EDGE_SHARED(int, labels, kMaximumQueries);
    MASK2EDGE_SHARED(float, scores, kMaximumQueries);
    MASK2EDGE_SHARED(int, warp_totals, kWarp);
    const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
    for (int query = thread / kWarp; query < a.queries; query += kOrderingThreads / kWarp) {
        const BestClass best = best_class(a.class_logits + int64_t{query} * (a.classes + 1), a.classes + 1);
        if (lane != 0) continue;
        labels[query] = best.label;
        scores[query] = 1.0f / best.sum;  // exp(0) / sum
        if (!best.is_finite) a.header->not_finite = 1;
    }
    __syncthreads();
    const bool is_kept = thread < a.queries && labels[thread] != a.classes && scores[thread] > a.object_threshold;
    int count;
    const int place = place_among(is_kept, warp_totals, count);
    if (is_kept) a.state.kept[place] = {thread, labels[thread], scores[thread], 0, 0, 0, 0};
    if (thread == 0) *a.state.kept_count = count;
}

// ---- The pixels' winners --------------------------------------------------------------------------------------------
struct WinnersArguments {
    MaskLogits masks;
    ImageTables tables;
    int32_t width, tiles;  // of the image
    int32_t pitch, chunk;  // staged columns; queries staged at a time
    PanopticState state;
    SegmentTableHeader* header;
};

constexpr int kWinnersThreads = kTilePixels;  // a thread for each pixel

inline std::size_t winners_shared(int queries, int chunk, int pitch) {
    return (3 * static_cast<std::size_t>(queries) + static_cast<std::size_t>(chunk) * static_cast<std::size_t>(pitch)) *
           sizeof(float);
}

__global__ void __launch_bounds__(kWinnersThreads, 8) winners_kernel(const WinnersArguments a) {
    const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
    const int left = static_cast<int>(blockIdx.x) % a.tiles * kTilePixels, y = static_cast<int>(blockIdx.x) / a.tiles;
    const int kept = *a.state.kept_count, x = left + thread;
    // The block's areas, added to the image's at the end.
    int* const own = dynamic_shared<int>();  // [Q] each
    int* const won = own + a.masks.queries;
    int* const solid = won + a.masks.queries;
    float* const stage = reinterpret_cast<float*>(solid + a.masks.queries);  // [chunk, pitch]
    for (int i = thread; i < kept; i += kWinnersThreads) own[i] = won[i] = solid[i] = 0;

    const ImageOrder::Row row = ImageOrder::row(a.tables, a.masks, y);
    const StagedLines staged = staged_lines<ImageOrder>(a.tables, a.width, left, a.pitch);
    const ImageOrder::Pixel pixel = ImageOrder::pixel(a.tables, staged, min(x, a.width - 1));
    bool finite = true, is_solid = false;
    int winner = 0;  // its place from 1
    float best = -1.0f;
    for (int first = 0; first < kept; first += a.chunk) {
        const int count = min(a.chunk, kept - first);
        stage_columns<ImageOrder>(
            a.masks, a.tables, row, staged, count, [&](int i) { return int64_t{a.state.kept[first + i].query}; }, stage,
            a.pitch, finite);
        __syncthreads();
        for (int i = 0; i < count; ++i) {
            const float logit = ImageOrder::logit(stage + i * a.pitch, pixel);
            const bool is_inside = logit >= 0.0f && x < a.width;  // the sigmoid is at least one half
            const float score = a.state.kept[first + i].score * sigmoid(logit);
            if (score > best) {  // of equals the first wins
                best = score;
                winner = first + i + 1;
                is_solid = is_inside;
            }
            const unsigned inside = __ballot_sync(kWholeWarp, is_inside);
            if (lane == 0 && inside != 0) atomicAdd(&own[first + i], __popc(inside));
        }
        __syncthreads();
    }
    if (!finite) a.header->not_finite = 1;
    if (x < a.width) {
        if (winner > 0) atomicAdd(&won[winner - 1], 1);
        if (is_solid) atomicAdd(&solid[winner - 1], 1);
        a.state.winners[int64_t{y} * a.width + x] = static_cast<uint16_t>(is_solid ? winner : 0);
    }
    __syncthreads();
    for (int i = thread; i < kept; i += kWinnersThreads) {
        if (own[i] > 0) atomicAdd(&a.state.kept[i].own_area, own[i]);
        if (won[i] > 0) atomicAdd(&a.state.kept[i].won_area, won[i]);
        if (solid[i] > 0) atomicAdd(&a.state.kept[i].solid_area, solid[i]);
    }
}

// ---- Which segments stay --------------------------------------------------------------------------------------------
struct DecideArguments {
    PanopticState state;
    const uint8_t* is_thing;  // [K]
    int32_t classes;
    double overlap_threshold;
    SegmentRow* table;
};

// One block, a thread for each query at first; what depends on the queries before is one thread's work.
__global__ void __launch_bounds__(kOrderingThreads) decide_segments_kernel(const DecideArguments a) {
    MASK2EDGE_SHARED(int, labels, kMaximumQueries);  // of a query that stays; -1: dropped
    MASK2EDGE_SHARED(float, scores, kMaximumQueries);
    MASK2EDGE_SHARED(int, ids, kMaximumQueries);
    MASK2EDGE_SHARED(uint8_t, things, kMaximumQueries);
    int* const stuff = dynamic_shared<int>();  // [K]: the segment of a class that is stuff, 0 = none yet
    const int thread = static_cast<int>(threadIdx.x), kept = *a.state.kept_count;
    for (int label = thread; label < a.classes; label += kOrderingThreads) stuff[label] = 0;
    if (thread < kept) {
        const KeptQuery query = a.state.kept[thread];
        const bool stays =
            query.solid_area > 0 &&
            !(static_cast<double>(query.won_area) / static_cast<double>(query.own_area) < a.overlap_threshold);
        labels[thread] = stays ? query.label : -1;
        scores[thread] = query.score;
        things[thread] = a.is_thing[query.label];
    }
    __syncthreads();
    if (thread == 0) {
        int count = 0;
        for (int i = 0; i < kept; ++i) {
            const int label = labels[i];
            ids[i] = 0;
            if (label < 0) continue;
            if (stuff[label] > 0) {
                ids[i] = stuff[label];
                SegmentRow& row = a.table[ids[i]];
                row.score = max(row.score, scores[i]);
                continue;
            }
            ids[i] = ++count;
            clear_segment(a.table[count]);
            a.table[count].id = count;
            a.table[count].label = label;
            a.table[count].score = scores[i];
            if (things[i] == 0) stuff[label] = count;
        }
        reinterpret_cast<SegmentTableHeader*>(a.table)->count = count;
    }
    __syncthreads();
    if (thread < kept) a.state.kept[thread].id = ids[thread];
}

// ---- The label map --------------------------------------------------------------------------------------------------
struct RelabelArguments {
    PanopticState state;
    int32_t width, tiles;  // of the image
    int64_t all_tiles;
    int32_t* label_map;  // [H0, W0]
    SegmentRow* table;
};

constexpr int kRelabelThreads = 128;  // a warp for each tile

__global__ void __launch_bounds__(kRelabelThreads) relabel_kernel(const RelabelArguments a) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int64_t tile = int64_t{blockIdx.x} * (kRelabelThreads / kWarp) + static_cast<int>(threadIdx.x) / kWarp;
    if (tile >= a.all_tiles) return;  // whole warps
    const int left = static_cast<int>(tile % a.tiles) * kTilePixels, y = static_cast<int>(tile / a.tiles);
    const int64_t line = int64_t{y} * a.width;
    int rows[kPixelsOfLane];  // of the table, -1 = none
    for (int i = 0; i < kPixelsOfLane; ++i) {
        const int x = left + kWarp * i + lane;
        rows[i] = -1;
        if (x >= a.width) continue;
        const int winner = a.state.winners[line + x];
        const int id = winner > 0 ? a.state.kept[winner - 1].id : 0;
        a.label_map[line + x] = id;
        rows[i] = id - 1;
    }
    const unsigned long long no_scores[kPixelsOfLane] = {};
    tally_row<kPixelsOfLane, false>(a.table + 1, rows, left, y, no_scores, nullptr);
}

}  // namespace mask2edge
