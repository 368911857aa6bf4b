// What one task of the gradient's kernel does: one head of one image, all queries. Compiled once per instruction set.
#pragma once

#include "multiscale_deformable_attention/cpu_tile.h"

namespace mask2edge {

// All pointers are shifted to the image.
struct DeformableAttentionGradientTile {
    const float* value;             // [S, M*D]
    const float* offsets;           // [Lq, M*K*2], K = L*P
    const float* logits;            // [Lq, M*K]
    const float* reference_points;  // [Lq, 2]
    const float* grad_output;       // [Lq, M*D]
    float* grad_value;              // [S, M*D]
    float* grad_offsets;            // [Lq, M*K*2]
    float* grad_logits;             // [Lq, M*K]
    int64_t queries, value_rows;
    int head, heads, head_dim, padded_dim, points, padded_points;  // points: K; both padded to kMaximumWidth
    DeformableAttentionPoints constants;
    float* scratch;  // gradient_scratch() floats
};

inline int64_t gradient_scratch(const DeformableAttentionGradientTile& tile) {
    return (2 * tile.value_rows + 1) * tile.padded_dim + 2 * tile.padded_points;
}

#define MASK2EDGE_DECLARE(set)                                                                       \
    namespace set {                                                                                  \
    void multiscale_deformable_attention_gradient_tile(const DeformableAttentionGradientTile& tile); \
    }
MASK2EDGE_DECLARE(portable)
MASK2EDGE_DECLARE(avx2)
MASK2EDGE_DECLARE(avx512)
#undef MASK2EDGE_DECLARE

}  // namespace mask2edge
