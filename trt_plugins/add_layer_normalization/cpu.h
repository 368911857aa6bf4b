// AddLayerNormalization on the CPU: pointers in, pointers out, no framework.
//
//     add_layer_normalization(tensors, shape, epsilon, parallel_for);
#pragma once

#include "add_layer_normalization/shape.h"
#include "common/instruction_set.h"
#include "common/parallel_for.h"

namespace mask2edge {

// Contiguous fp32, shapes as in README.md.
struct AddLayerNormalizationTensors {
    const float* x;
    const float* residual;
    const float* scale;
    const float* bias;
    float* output;
};

// Writes all of output. Trusts the shape: it comes from add_layer_normalization_shape(), which checks.
void add_layer_normalization(const AddLayerNormalizationTensors& tensors, const AddLayerNormalizationShape& shape,
                             float epsilon, const ParallelFor& parallel_for,
                             InstructionSet set = best_instruction_set());

}  // namespace mask2edge
