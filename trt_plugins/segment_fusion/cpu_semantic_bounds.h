// What decides which classes and queries of a tile of semantic output are computed for every pixel: see
// cpu_semantic_tile.cpp. In the namespace of the instruction set, like common/simd.h.
#pragma once

#include "segment_fusion/cpu_vectors.h"

namespace mask2edge::MASK2EDGE_SIMD {

constexpr float kTolerance = 4e-6f;       // of a class's score
constexpr float kAloneTolerance = 8e-6f;  // where one class alone is computed
constexpr float kSlack = 2e-6f;           // what rounding may do to the difference of two scores
constexpr float kMostCurved = 0.0963f;    // the largest second derivative of the sigmoid

struct SemanticScratch {
    float *low, *high, *middle, *radius, *slope, *offset, *error, *coefficient;  // [stride]
    float *class_middle, *class_highest;                                         // [padded(K)]
    int32_t* classes;                                                            // [K] those that are computed
    int32_t* queries;  // [Q] those that are computed for every pixel
    float* weights;    // [kLeaders, queries]
    float* field;      // [lines, mask columns] of one class: the sum of chords
    float* fields;     // [kLeaders, lines, pitch] spread to the tile's columns
    float* lines;      // [queries, lines, pitch]
    float* row;        // [queries, pitch] probabilities
    float* scores;     // [kLeaders, pitch]
    float* spread[2];  // [kLeaders, image pitch]: scores of two rows of the padded input, spread to the image's columns
    float* best;       // [rows, image pitch]
    int32_t* labels;   // [rows, image pitch]
    int pitch, image_pitch;

    explicit SemanticScratch(const SemanticTile& tile) {
        const int stride = tile.by_pixel.stride, lines_of_tile = tile.window.lines.count;
        pitch = tile.window.column_taps.vectors * kWidth;
        image_pitch = tile.is_padded_order ? tile.image_column_taps.vectors * kWidth : pitch;
        float* next = tile.scratch;
        const auto take = [&next](int64_t count) {
            float* const taken = next;
            next += count;
            return taken;
        };
        for (float** part : {&low, &high, &middle, &radius, &slope, &offset, &error, &coefficient})
            *part = take(stride);
        class_middle = take(padded(tile.classes));
        class_highest = take(padded(tile.classes));
        classes = reinterpret_cast<int32_t*>(take(padded(tile.classes)));
        queries = reinterpret_cast<int32_t*>(take(stride));
        best = take(int64_t{kMaximumBandRows} * image_pitch);
        labels = reinterpret_cast<int32_t*>(take(int64_t{kMaximumBandRows} * image_pitch));
        field = take(int64_t{lines_of_tile} * tile.window.mask_columns.count);
        weights = take(int64_t{kLeaders} * tile.queries);
        row = take(int64_t{tile.queries} * pitch);
        scores = take(int64_t{kLeaders} * pitch);
        for (float*& one : spread) one = take(tile.is_padded_order ? int64_t{kLeaders} * image_pitch : 0);
        lines = take(int64_t{tile.queries} * lines_of_tile * pitch);
        fields = take(int64_t{kLeaders} * lines_of_tile * pitch);
    }
};

// Of each query in the tile: middle and radius of its probabilities, and its chord with what that leaves out.
inline void bound_queries(const SemanticTile& tile, const SemanticScratch& s) {
    bounds_of_window(tile.by_pixel, tile.window, s.low, s.high);
    for (int q = 0; q < tile.by_pixel.stride; q += kWidth) {
        const Floats lowest = load(s.low + q), highest = load(s.high + q), width = highest - lowest;
        const Floats low = sigmoid(lowest), high = sigmoid(highest), rise = high - low;
        store(s.middle + q, 0.5f * (low + high));
        store(s.radius + q, 0.5f * rise);
        const Floats slope = width > 1e-6f ? rise / max(width, broadcast(1e-6f)) : Floats{};
        // |f''| = p (1 - p) |1 - 2p|, which falls on both sides of 0 from where p (1 - p) is small.
        const Floats nearest = highest < 0.0f ? high : low;
        const Ints is_one_sided = (highest < 0.0f) | (lowest > 0.0f);
        const Floats curved =
            is_one_sided ? min(nearest * (1.0f - nearest), broadcast(kMostCurved)) : broadcast(kMostCurved);
        // A chord is off by no more than |f''| width^2 / 8, to one side only where f'' has one sign: centred, by half.
        const Floats off = min(curved * width * width * 0.125f, rise);
        const Floats shift = is_one_sided ? (highest < 0.0f ? off * -0.5f : off * 0.5f) : Floats{};
        store(s.slope + q, slope);
        store(s.offset + q, low - slope * lowest + shift);
        store(s.error + q, is_one_sided ? 0.5f * off : off);
    }
}

// Of each class the score's middle, and the highest that it can be: sums over the queries of P[q, k] times theirs.
inline void bound_classes(const SemanticTile& tile, const SemanticScratch& s) {
    constexpr int kVectors = 4;
    const int width = padded(tile.classes);
    for (int first = 0; first < width; first += kVectors * kWidth) {
        const int vectors = width - first < kVectors * kWidth ? (width - first) / kWidth : kVectors;
        Floats middle[kVectors] = {}, radius[kVectors] = {};
        const float* row = tile.probabilities + first;
        if (vectors == kVectors) {
            for (int q = 0; q < tile.queries; ++q, row += width)
                for (int v = 0; v < kVectors; ++v) {
                    const Floats probability = load(row + v * kWidth);
                    middle[v] += s.middle[q] * probability;
                    radius[v] += s.radius[q] * probability;
                }
        } else {
            for (int q = 0; q < tile.queries; ++q, row += width)
                for (int v = 0; v < vectors; ++v) {
                    const Floats probability = load(row + v * kWidth);
                    middle[v] += s.middle[q] * probability;
                    radius[v] += s.radius[q] * probability;
                }
        }
        for (int v = 0; v < vectors; ++v) {
            store(s.class_middle + first + v * kWidth, middle[v]);
            store(s.class_highest + first + v * kWidth, middle[v] + radius[v]);
        }
    }
}

// Whether class k scores more than class `leader` somewhere in the tile, as far as the bounds tell.
inline bool may_beat(const SemanticTile& tile, const SemanticScratch& s, int k, int leader) {
    const int stride = tile.by_pixel.stride;
    const float *const own = tile.by_class + int64_t{k} * stride, *const leading =
                                                                      tile.by_class + int64_t{leader} * stride;
    Floats sum{};
    for (int q = 0; q < stride; q += kWidth) {
        const Floats difference = load(own + q) - load(leading + q);
        sum += max(difference, -difference) * load(s.radius + q);
    }
    return s.class_middle[k] + sum_of_lanes(sum)[0] >= s.class_middle[leader] - kSlack;
}

inline int largest(const float* values, int count) {
    int best = 0;
    for (int k = 1; k < count; ++k)
        if (values[k] > values[best]) best = k;
    return best;
}

// The next classes to compute, at most kLeaders, the highest possible score first: those that can reach `surest`. They
// leave class_highest. Returns how many.
inline int next_leaders(const SemanticTile& tile, const SemanticScratch& s, int leader, float surest, int32_t* labels) {
    int count = 0;
    while (count < kLeaders) {
        const int k = largest(s.class_highest, tile.classes);
        if (s.class_highest[k] < surest) break;
        s.class_highest[k] = kLowest;
        if (k == leader || may_beat(tile, s, k, leader)) labels[count++] = k;
    }
    return count;
}

// How many queries are computed for every pixel: those whose chords are off by the most, for some of the classes.
inline int choose_queries(const SemanticTile& tile, const SemanticScratch& s, const int32_t* labels, int classes,
                          bool is_alone) {
    for (int q = 0; q < tile.by_pixel.stride; q += kWidth) {
        Floats most{};
        for (int i = 0; i < classes; ++i)
            most = max(load(tile.by_class + int64_t{labels[i]} * tile.by_pixel.stride + q), most);
        store(s.coefficient + q, most * load(s.error + q));
    }
    const float tolerance = is_alone ? kAloneTolerance : kTolerance;
    const float negligible = 0.25f * tolerance / static_cast<float>(tile.queries);
    int count = 0;
    float left_out = 0;
    for (int q = 0; q < tile.queries; ++q) {
        if (s.coefficient[q] <= negligible) {
            left_out += s.coefficient[q];
            continue;
        }
        int place = count++;  // falling
        for (; place > 0 && s.coefficient[s.queries[place - 1]] < s.coefficient[q]; --place)
            s.queries[place] = s.queries[place - 1];
        s.queries[place] = q;
    }
    while (count > 0 && left_out + s.coefficient[s.queries[count - 1]] <= tolerance)
        left_out += s.coefficient[s.queries[--count]];
    return count;
}

}  // namespace mask2edge::MASK2EDGE_SIMD
