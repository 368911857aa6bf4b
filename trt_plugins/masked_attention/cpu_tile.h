// What one task of the CPU kernel does: a block of queries of one image and head. Compiled once per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mask2edge {

// The keys that a block of queries has to look at, shared by all heads.
struct AttendedKeys {
    const int32_t* row;       // [count] rows of key and value, rising
    const uint32_t* queries;  // [count] bit i: query i of the block attends to the key
    int64_t count;
};

struct MaskedAttentionTile {
    const float* query;  // [queries, channels] of the block, shifted to the head
    const float* key;    // [S, channels] of the image, shifted to the head
    const float* value;  // likewise
    float* output;       // as query
    int64_t channels;    // M*D, the stride of all four
    int queries, head_dim;
    AttendedKeys keys;
    float* scratch;  // masked_attention_scratch() floats
};

constexpr int kMaximumBlock = 16;  // queries of a block: the lanes of the widest instruction set
constexpr int kChunk = 96;         // keys between two corrections of the running softmax; their scores stay in L1

constexpr int64_t masked_attention_scratch(int64_t head_dim) { return kMaximumBlock * (2 * head_dim + kChunk + 1); }

#define MASK2EDGE_DECLARE(set)                                                                                      \
    namespace set {                                                                                                 \
    int masked_attention_block();                                                                                   \
    int64_t find_attended_keys(const float* mask_logits, int queries, int64_t keys, int32_t* rows, uint32_t* bits); \
    void masked_attention_tile(const MaskedAttentionTile& tile);                                                    \
    }
MASK2EDGE_DECLARE(portable)
MASK2EDGE_DECLARE(avx2)
MASK2EDGE_DECLARE(avx512)
#undef MASK2EDGE_DECLARE

}  // namespace mask2edge
