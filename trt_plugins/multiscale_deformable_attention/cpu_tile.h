// What one task of the CPU kernel does: some queries of one image, all heads. Compiled once per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mask2edge {

// One sampling point of a query and head, level by level; arrays of padded_points, constant over queries and heads.
struct DeformableAttentionPoints {
    const float *width, *height;  // of the point's level
    const int32_t *columns, *rows, *first_row;
};

// All pointers are shifted to the image and to the first query.
struct DeformableAttentionTile {
    const float* value;             // [S, M*D]
    const float* offsets;           // [queries, M*K*2], K = L*P
    const float* logits;            // [queries, M*K]
    const float* reference_points;  // [queries, 2]
    float* output;                  // [queries, M*D]
    int64_t queries;
    int heads, head_dim, points, padded_points;  // points: K; padded_points: K up to a multiple of kMaximumWidth
    DeformableAttentionPoints constants;
    float* scratch;  // (1 + heads * kScratchArraysPerHead) * padded_points floats
};

constexpr int kMaximumWidth = 16;  // lanes of the widest instruction set
constexpr int kScratchArraysPerHead = 8;

#define MASK2EDGE_DECLARE(set)                                                      \
    namespace set {                                                                 \
    void multiscale_deformable_attention_tile(const DeformableAttentionTile& tile); \
    }
MASK2EDGE_DECLARE(portable)
MASK2EDGE_DECLARE(avx2)
MASK2EDGE_DECLARE(avx512)
#undef MASK2EDGE_DECLARE

}  // namespace mask2edge
