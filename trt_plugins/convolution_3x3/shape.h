// The sizes of one Convolution3x3, and the only place that checks them.
#pragma once

#include <cstdint>
#include <string>

#include "common/dims.h"

namespace mask2edge {

struct Convolution3x3Shape {
    int64_t batch, channels, height, width, filters;
};

// Returns what is wrong (the op's name, expected and got), or nothing and fills in `shape`.
std::string convolution_3x3_shape(const Dims& x, const Dims& weight, const Dims& bias, Convolution3x3Shape& shape);

}  // namespace mask2edge
