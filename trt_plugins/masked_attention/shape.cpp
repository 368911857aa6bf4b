#include "masked_attention/shape.h"

#include <limits>

namespace mask2edge {

namespace {
constexpr const char* kOp = "MaskedAttention";
}

std::string masked_attention_shape(const Dims& query, const Dims& key, const Dims& value, const Dims& mask_logits,
                                   int64_t num_heads, MaskedAttentionShape& shape) {
    const std::string op = std::string(kOp) + ": ";
    if (num_heads < 1) return op + "num_heads must be 1 or more, got " + std::to_string(num_heads);
    if (query.size() != 3) return op + "query must be [N, Q, M*D], got " + to_text(query);
    if (key.size() != 3) return op + "key must be [N, S, M*D], got " + to_text(key);
    if (query[2] < num_heads || query[2] % num_heads != 0)
        return op + "the last axis of query must be a multiple of num_heads = " + std::to_string(num_heads) + ", got " +
               to_text(query);
    const int64_t batch = query[0], queries = query[1], channels = query[2], keys = key[1];
    if (keys < 1 || keys > std::numeric_limits<int32_t>::max())
        return op + "key must have 1 to 2^31 - 1 rows, got " + to_text(key);
    std::string problem = expect_dims(kOp, "key", {batch, keys, channels}, "[N, S, M*D] with query's N and M*D", key);
    if (problem.empty()) problem = expect_dims(kOp, "value", key, "as key", value);
    if (problem.empty()) problem = expect_dims(kOp, "mask_logits", {batch, queries, keys}, "[N, Q, S]", mask_logits);
    if (problem.empty()) shape = {batch, queries, keys, num_heads, channels / num_heads};
    return problem;
}

}  // namespace mask2edge
