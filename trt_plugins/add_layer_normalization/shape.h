// The sizes of one AddLayerNormalization, and the only place that checks them.
#pragma once

#include <cstdint>
#include <string>

#include "common/dims.h"

namespace mask2edge {

struct AddLayerNormalizationShape {
    int64_t rows, channels;
};

// Returns what is wrong (the op's name, expected and got), or nothing and fills in `shape`.
std::string add_layer_normalization_shape(const Dims& x, const Dims& residual, const Dims& scale, const Dims& bias,
                                          AddLayerNormalizationShape& shape);

}  // namespace mask2edge
