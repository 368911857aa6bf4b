// What one task of the CPU kernel does: some rows. Compiled once per instruction set.
#pragma once

#include <cstdint>

namespace mask2edge {

struct AddLayerNormalizationTile {
    const float *x, *residual;  // [rows, channels]
    const float *scale, *bias;  // [channels]
    float* output;              // [rows, channels]
    int64_t rows, channels;
    float epsilon;
};

#define MASK2EDGE_DECLARE(set)                                           \
    namespace set {                                                      \
    void add_layer_normalization_tile(const AddLayerNormalizationTile&); \
    }
MASK2EDGE_DECLARE(portable)
MASK2EDGE_DECLARE(avx2)
MASK2EDGE_DECLARE(avx512)
#undef MASK2EDGE_DECLARE

}  // namespace mask2edge
