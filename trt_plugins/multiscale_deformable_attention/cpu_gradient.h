// The gradient of MultiscaleDeformableAttention on the CPU, for training.
//
//     multiscale_deformable_attention_gradient(tensors, shape, parallel_for);
#pragma once

#include "common/instruction_set.h"
#include "common/parallel_for.h"
#include "multiscale_deformable_attention/shape.h"

namespace mask2edge {

// Contiguous fp32; the first four and grad_output as in README.md, each gradient of the shape of its tensor.
struct DeformableAttentionGradientTensors {
    const float* value;
    const float* offsets;
    const float* logits;
    const float* reference_points;
    const float* grad_output;
    float* grad_value;
    float* grad_offsets;
    float* grad_logits;
};

// Writes all of the three gradients. A task is a head of an image: no two write to the same part of grad_value, and
// each adds in the order of the queries, so that the number of threads changes no bit. A task takes memory for two
// copies of its head's part of `value`.
void multiscale_deformable_attention_gradient(const DeformableAttentionGradientTensors& tensors,
                                              const DeformableAttentionShape& shape, const ParallelFor& parallel_for,
                                              InstructionSet set = best_instruction_set());

}  // namespace mask2edge
