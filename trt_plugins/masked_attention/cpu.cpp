#include "masked_attention/cpu.h"

#include <algorithm>
#include <vector>

#include "masked_attention/cpu_tile.h"

namespace mask2edge {

namespace {

struct Kernel {
    int block;  // queries of a tile
    decltype(&portable::find_attended_keys) find_attended_keys;
    decltype(&portable::masked_attention_tile) compute;
};

Kernel kernel(InstructionSet set) {
#ifdef MASK2EDGE_HAS_X86_KERNELS
    if (set == InstructionSet::avx512)
        return {avx512::masked_attention_block(), avx512::find_attended_keys, avx512::masked_attention_tile};
    if (set == InstructionSet::avx2)
        return {avx2::masked_attention_block(), avx2::find_attended_keys, avx2::masked_attention_tile};
#endif
    (void)set;
    return {portable::masked_attention_block(), portable::find_attended_keys, portable::masked_attention_tile};
}

}  // namespace

void masked_attention(const MaskedAttentionTensors& tensors, const MaskedAttentionShape& shape,
                      const ParallelFor& parallel_for, InstructionSet set) {
    const Kernel chosen = kernel(set);
    const int64_t channels = shape.heads * shape.head_dim;
    const int64_t blocks = (shape.queries + chosen.block - 1) / chosen.block;
    const int64_t all_blocks = shape.batch * blocks;

    // Which keys each block looks at: once for all heads.
    std::vector<int32_t> rows(static_cast<std::size_t>(all_blocks * shape.keys));
    std::vector<uint32_t> bits(rows.size());
    std::vector<int64_t> counts(static_cast<std::size_t>(all_blocks));
    const auto first_query = [&](int64_t block) { return block % blocks * chosen.block; };
    const auto queries_of = [&](int64_t block) {
        return static_cast<int>(std::min<int64_t>(chosen.block, shape.queries - first_query(block)));
    };
    parallel_for(static_cast<std::size_t>(all_blocks), [&](std::size_t index) {
        const int64_t block = static_cast<int64_t>(index), image = block / blocks;
        counts[index] = chosen.find_attended_keys(
            tensors.mask_logits + (image * shape.queries + first_query(block)) * shape.keys, queries_of(block),
            shape.keys, rows.data() + block * shape.keys, bits.data() + block * shape.keys);
    });

    // Blocks of one head follow one another, so that its keys and values are still in the cache.
    parallel_for(static_cast<std::size_t>(all_blocks * shape.heads), [&](std::size_t index) {
        const int64_t task = static_cast<int64_t>(index), image = task / (blocks * shape.heads);
        const int64_t head = task / blocks % shape.heads, block = image * blocks + task % blocks;
        const int64_t offset = (image * shape.queries + first_query(block)) * channels + head * shape.head_dim;
        std::vector<float> scratch(static_cast<std::size_t>(masked_attention_scratch(shape.head_dim)));
        MaskedAttentionTile tile;
        tile.query = tensors.query + offset;
        tile.key = tensors.key + image * shape.keys * channels + head * shape.head_dim;
        tile.value = tensors.value + image * shape.keys * channels + head * shape.head_dim;
        tile.output = tensors.output + offset;
        tile.channels = channels;
        tile.queries = queries_of(block);
        tile.head_dim = static_cast<int>(shape.head_dim);
        tile.keys = {rows.data() + block * shape.keys, bits.data() + block * shape.keys, counts[block]};
        tile.scratch = scratch.data();
        chosen.compute(tile);
    });
}

}  // namespace mask2edge
