// What one task of the CPU kernel does: some rows of 4x4 tiles of one image. Compiled once per instruction set.
#pragma once

#include <cstdint>

namespace mask2edge {

constexpr int kTileSize = 4;  // of the output; its input is 6x6
constexpr int kPatchSize = kTileSize + 2;
constexpr int kPositions = kPatchSize * kPatchSize;  // of a transformed patch
constexpr int kFilterBlock = 128;                    // filters whose products are held at a time

struct Convolution3x3Tile {
    const float* x;            // [C, H, W] of the image
    const float* transformed;  // [O / rows][36][C][rows]
    const float* bias;         // [O]
    float* output;             // [O, H, W] of the image
    int64_t channels, filters, height, width;
    int64_t first_row, rows;  // of tiles
    bool relu;
    float* scratch;  // convolution_3x3_scratch() floats
};

#define MASK2EDGE_DECLARE(set)                                                      \
    namespace set {                                                                 \
    int convolution_3x3_filter_rows();                                              \
    int64_t convolution_3x3_scratch(int64_t channels, int64_t width, int64_t rows); \
    void convolution_3x3_tile(const Convolution3x3Tile& tile);                      \
    }
MASK2EDGE_DECLARE(portable)
MASK2EDGE_DECLARE(avx2)
MASK2EDGE_DECLARE(avx512)
#undef MASK2EDGE_DECLARE

}  // namespace mask2edge
