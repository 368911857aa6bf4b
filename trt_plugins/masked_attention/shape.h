// The sizes of one MaskedAttention, and the only place that checks them.
#pragma once

#include <cstdint>
#include <string>

#include "common/dims.h"

namespace mask2edge {

struct MaskedAttentionShape {
    int64_t batch, queries, keys, heads, head_dim;
};

// Returns what is wrong (the op's name, expected and got), or nothing and fills in `shape`.
std::string masked_attention_shape(const Dims& query, const Dims& key, const Dims& value, const Dims& mask_logits,
                                   int64_t num_heads, MaskedAttentionShape& shape);

}  // namespace mask2edge
