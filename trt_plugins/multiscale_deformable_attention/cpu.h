// MultiscaleDeformableAttention on the CPU: pointers in, pointers out, no framework.
//
//     multiscale_deformable_attention(tensors, shape, parallel_for);
#pragma once

#include "common/instruction_set.h"
#include "common/parallel_for.h"
#include "multiscale_deformable_attention/shape.h"

namespace mask2edge {

// Contiguous fp32, shapes as in README.md.
struct DeformableAttentionTensors {
    const float* value;
    const float* offsets;
    const float* logits;
    const float* reference_points;
    float* output;
};

// Writes all of output. Trusts the shape: it comes from deformable_attention_shape(), which checks.
void multiscale_deformable_attention(const DeformableAttentionTensors& tensors, const DeformableAttentionShape& shape,
                                     const ParallelFor& parallel_for, InstructionSet set = best_instruction_set());

}  // namespace mask2edge
