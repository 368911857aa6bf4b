// Where the image's rows and columns come from in the network's masks, and how the image is cut into tiles.
//
//     const MaskGrid grid = image_grid(sizes, vector_width);
//     for (const RowBand& band : grid.bands)
//         for (const ColumnTile& tile : grid.tiles) ...
#pragma once

#include <cstdint>
#include <vector>

#include "segment_fusion/shape.h"

namespace mask2edge {

// A line of the output is the sum of weight[i] * line[i] of the input; a line that counts 0 is the first again.
struct Taps {
    int32_t line[3];
    float weight[3];
};

// The columns of the output, in vectors of `width` lanes; the last vector is filled up with the last column.
struct ColumnTaps {
    int width = 0;
    std::vector<int32_t> base;  // [vectors] the first of the `width` input columns that the lanes take theirs from, or
                                // -1 where they lie further apart
    std::vector<int32_t> lane[3];  // [vectors * width] the column, less the base where there is one
    std::vector<float> weight[3];  // [vectors * width]

    int vectors() const { return static_cast<int>(base.size()); }
};

ColumnTaps column_taps(const std::vector<Taps>& columns, int width);

// Lines first … first + count - 1.
struct Span {
    int32_t first, count;
    __attribute__((always_inline)) int32_t end() const { return first + count; }  // see common/simd.h
};

// The lines of the input that output lines first … first + count - 1 are made of.
Span input_span(const std::vector<Taps>& lines, Span output);

struct RowBand {
    Span rows;   // of the image
    Span lines;  // of the masks
};

struct ColumnTile {
    Span columns;       // of the image
    Span mask_columns;  // of the masks
};

constexpr int kMaximumBandRows = 32;  // a column's mask is a word of 32 bits
constexpr int kMaximumBandLines = 12;
constexpr int kTileColumns = 64;  // a multiple of every vector

// Rows that are made of few lines of the masks together, at most kMaximumBandRows; `goal`: how many are worth a tile.
std::vector<RowBand> row_bands(const std::vector<Taps>& rows, int goal);
std::vector<ColumnTile> column_tiles(const std::vector<Taps>& columns, int columns_each);

// Mask to padded input, then content to image, as one resize.
std::vector<Taps> mask_to_image(int32_t mask, int32_t padded, int32_t content, int32_t image);
// Mask to padded input, without the padding.
std::vector<Taps> mask_to_content(int32_t mask, int32_t padded, int32_t content);
std::vector<Taps> content_to_image(int32_t content, int32_t image);

// The image's pixels, made from the masks.
struct MaskGrid {
    std::vector<Taps> rows, columns;
    ColumnTaps column_taps;
    std::vector<RowBand> bands;
    std::vector<ColumnTile> tiles;
    int tile_vectors;                   // of the widest tile
    int most_lines, most_mask_columns;  // of any band, of any tile
};

MaskGrid image_grid(const FusionSizes& sizes, int width);

}  // namespace mask2edge
