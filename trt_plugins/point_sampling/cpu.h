// Bilinear reads of masks at points, for the loss of training on a CPU.
//
//     sample_masks(masks, which, coordinates, output, sizes, parallel_for);
#pragma once

#include <cstdint>
#include <string>

#include "common/parallel_for.h"

namespace mask2edge {

struct MaskSamplingSizes {
    int64_t masks, height, width, chosen, points, shared_coordinates;  // the last: 1 for [1, P, 2], else 0
};

// Shapes as in README.md. Throws std::invalid_argument where `which` names a mask that is not there.
void sample_masks(const uint8_t* masks, const int64_t* which, const float* coordinates, float* output,
                  const MaskSamplingSizes& sizes, const ParallelFor& parallel_for);

}  // namespace mask2edge
