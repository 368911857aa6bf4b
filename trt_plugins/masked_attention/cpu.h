// MaskedAttention on the CPU: pointers in, pointers out, no framework.
//
//     masked_attention(tensors, shape, parallel_for);
#pragma once

#include "common/instruction_set.h"
#include "common/parallel_for.h"
#include "masked_attention/shape.h"

namespace mask2edge {

// Contiguous fp32, shapes as in README.md.
struct MaskedAttentionTensors {
    const float* query;
    const float* key;
    const float* value;
    const float* mask_logits;
    float* output;
};

// Writes all of output. Trusts the shape: it comes from masked_attention_shape(), which checks.
void masked_attention(const MaskedAttentionTensors& tensors, const MaskedAttentionShape& shape,
                      const ParallelFor& parallel_for, InstructionSet set = best_instruction_set());

}  // namespace mask2edge
