// What the CPU kernels do with one tile of the image, and what they are given. Compiled once per instruction set.
//
// A tile is some rows by some columns of the image, small enough for the first-level cache. What is known of it before
// any pixel is looked at: the logits of the masks there, between whose smallest and largest every pixel's must lie.
#pragma once

#include <cstddef>
#include <cstdint>

#include "segment_fusion/cpu_taps.h"

namespace mask2edge {

// Raw parts of ColumnTaps, from a tile's first vector on: kernels compiled for one instruction set call no std::vector.
struct TileColumns {
    const int32_t* base;
    const int32_t* lane[3];
    const float* weight[3];
    int vectors;
    int width;  // of a vector; kernels that cannot use it are not given it
};

struct TileWindow {
    Span rows, columns;        // of the image
    Span lines, mask_columns;  // of the masks
    const Taps* row_taps;      // [rows]
    TileColumns column_taps;
};

struct MaskLogits {
    const float* values;  // [Q, height, width]
    int32_t height, width;
};

// The same with the queries next to each other: [height, width, stride], stride a multiple of 16.
struct MasksByPixel {
    const float* values;
    int32_t width, stride;
};

// Pixels of a tile that carry a label, and their box (x1 and y1 exclusive) in the image.
struct Tally {
    int32_t area = 0;
    int32_t x0 = INT32_MAX, y0 = INT32_MAX, x1 = 0, y1 = 0;
    double score = 0;  // semantic: the sum over the pixels
};

constexpr int kBlock = 16;  // lanes of the widest instruction set: lists of queries and classes are padded to it
__attribute__((always_inline)) constexpr int padded(int count) { return (count + kBlock - 1) / kBlock * kBlock; }

// ---- Panoptic -------------------------------------------------------------------------------------------------------
struct PanopticTally {
    int32_t own_area = 0;  // pixels where the query's mask is at least one half
    int32_t won_area = 0;  // pixels that it wins
    Tally solid;           // pixels that it wins and where its mask is at least one half
};

struct PanopticTile {
    TileWindow window;
    MaskLogits masks;
    MasksByPixel by_pixel;   // of the kept queries
    const int32_t* queries;  // [count] the kept ones
    const float* scores;     // [padded(count)]
    int count;
    int32_t* label_map;  // [H0, W0]: place among the kept queries from 1; 0 = none, or its mask is below one half
    int64_t image_width;
    PanopticTally* tallies;  // [count], added to
    float* scratch;          // panoptic_scratch() floats
};

constexpr std::size_t panoptic_scratch(std::size_t lines, std::size_t columns, std::size_t count) {
    return 2 * kMaximumBandRows * columns + lines * columns + 5 * (count + kBlock);
}

// ---- Instances ------------------------------------------------------------------------------------------------------
struct InstanceTile {
    TileWindow window;
    const float* mask;  // [height, width], one query's
    int32_t mask_width;
    float lowest, highest;  // the least and the largest logit of the window
    int32_t* words;         // [columns, padded]: bit i of a column's is set where row i of the tile is in the mask
    float* scratch;         // instance_scratch() floats
};

// Of the pixels in the mask: how many, and the sum of their probabilities.
struct InstanceSum {
    int32_t area;
    double probability;
};

constexpr std::size_t instance_scratch(std::size_t lines, std::size_t columns) { return lines * columns; }

// ---- Semantic: see cpu_semantic_tile.cpp ----------------------------------------------------------------------------
struct SemanticTile {
    TileWindow window;  // of the image ("image"), or of the padded input as far as the image's pixels reach ("padded")
    bool is_padded_order;
    // "padded" alone: the image's pixels, made from the window's.
    Span image_rows, image_columns;
    const Taps* image_row_taps;  // [image_rows], lines of the padded input
    TileColumns image_column_taps;
    const Taps* content_row_taps;  // [content height], lines of the masks

    MaskLogits masks;
    MasksByPixel by_pixel;
    const float* probabilities;  // [Q, padded(K)]
    const float* by_class;       // [K, padded(Q)]
    int queries, classes;
    int32_t* label_map;  // [H0, W0]
    int64_t image_width;
    Tally* tallies;  // [K], added to
    float* scratch;  // semantic_scratch() floats
};

constexpr int kLeaders = 8;  // classes computed at a time, at most

// `lines`, `mask_columns`: of a window; `columns`: of a window, in whole vectors; `image_columns`: of a tile, likewise.
constexpr std::size_t semantic_scratch(std::size_t lines, std::size_t mask_columns, std::size_t columns,
                                       std::size_t image_columns, std::size_t queries, std::size_t classes) {
    return 9 * (queries + kBlock) + 3 * (classes + kBlock) + 2 * kMaximumBandRows * image_columns +
           lines * mask_columns + kLeaders * queries + (queries + kLeaders) * (lines + 1) * columns +
           2 * kLeaders * image_columns;
}

#define MASK2EDGE_DECLARE(set)                                                                                        \
    namespace set {                                                                                                   \
    int fusion_vector_width();                                                                                        \
    bool all_finite(const float* values, int64_t count);                                                              \
    void panoptic_tile(const PanopticTile& tile);                                                                     \
    InstanceSum instance_tile(const InstanceTile& tile);                                                              \
    void paint_tile(const int32_t* words, int32_t* unset, int32_t label, Span rows, Span columns, int32_t* label_map, \
                    int64_t image_width);                                                                             \
    void semantic_tile(const SemanticTile& tile);                                                                     \
    }
MASK2EDGE_DECLARE(portable)
MASK2EDGE_DECLARE(avx2)
MASK2EDGE_DECLARE(avx512)
#undef MASK2EDGE_DECLARE

}  // namespace mask2edge
