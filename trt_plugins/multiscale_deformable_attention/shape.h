// The sizes of one MultiscaleDeformableAttention, and the only place that checks them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/dims.h"

namespace mask2edge {

struct DeformableAttentionShape {
    struct Level {
        int64_t height, width, first_row;  // the level's pixels are rows first_row … first_row + height * width - 1
    };
    int64_t batch, queries, value_rows, heads, head_dim, points;
    bool shared_reference_points;  // [1, Lq, 2] for every image of the batch
    std::vector<Level> levels;     // all zero where the values of spatial_shapes are not known to the host
};

// Returns what is wrong (the op's name, expected and got), or nothing and fills in `shape`.
// spatial_shapes: the tensor's values, (height, width) of each level; nullptr where they lie on a device. Then they are
// not checked, and of `levels` only the number is right.
std::string deformable_attention_shape(const Dims& value, const Dims& offsets, const Dims& logits,
                                       const Dims& reference_points, const Dims& spatial_shapes_dims,
                                       const int32_t* spatial_shapes, int64_t num_heads, int64_t num_points,
                                       DeformableAttentionShape& shape);

}  // namespace mask2edge
