#include "multiscale_deformable_attention/cpu_gradient.h"

#include <algorithm>

#include "multiscale_deformable_attention/cpu_gradient_tile.h"
#include "multiscale_deformable_attention/cpu_points.h"

namespace mask2edge {

namespace {

using TileFunction = void (*)(const DeformableAttentionGradientTile&);

TileFunction tile_function(InstructionSet set) {
#ifdef MASK2EDGE_HAS_X86_KERNELS
    if (set == InstructionSet::avx512) return avx512::multiscale_deformable_attention_gradient_tile;
    if (set == InstructionSet::avx2) return avx2::multiscale_deformable_attention_gradient_tile;
#endif
    (void)set;
    return portable::multiscale_deformable_attention_gradient_tile;
}

}  // namespace

int64_t gradient_groups(const DeformableAttentionShape& shape, int64_t threads) {
    for (int64_t groups = 1; groups < shape.heads; ++groups)
        if (shape.heads % groups == 0 && shape.batch * groups % std::max<int64_t>(threads, 1) == 0) return groups;
    return shape.heads;
}

void multiscale_deformable_attention_gradient(const DeformableAttentionGradientTensors& tensors,
                                              const DeformableAttentionShape& shape, int64_t groups,
                                              const ParallelFor& parallel_for, InstructionSet set) {
    const PointConstants constants(shape);
    const TileFunction compute = tile_function(set);
    const int64_t channels = shape.heads * shape.head_dim, samples = shape.heads * constants.points;
    std::fill_n(tensors.grad_value, shape.batch * shape.value_rows * channels, 0.0f);
    parallel_for(static_cast<std::size_t>(shape.batch * groups), [&](std::size_t index) {
        const int64_t image = static_cast<int64_t>(index) / groups, group = static_cast<int64_t>(index) % groups;
        const int64_t query = image * shape.queries;
        std::vector<float> scratch(static_cast<std::size_t>(2 * constants.padded));
        DeformableAttentionGradientTile tile;
        tile.value = tensors.value + image * shape.value_rows * channels;
        tile.offsets = tensors.offsets + query * samples * 2;
        tile.logits = tensors.logits + query * samples;
        tile.reference_points = tensors.reference_points + (shape.shared_reference_points ? 0 : query) * 2;
        tile.grad_output = tensors.grad_output + query * channels;
        tile.grad_value = tensors.grad_value + image * shape.value_rows * channels;
        tile.grad_offsets = tensors.grad_offsets + query * samples * 2;
        tile.grad_logits = tensors.grad_logits + query * samples;
        tile.queries = shape.queries;
        tile.first_head = static_cast<int>(group * shape.heads / groups);
        tile.end_head = static_cast<int>((group + 1) * shape.heads / groups);
        tile.heads = static_cast<int>(shape.heads);
        tile.head_dim = static_cast<int>(shape.head_dim);
        tile.points = constants.points;
        tile.padded_points = constants.padded;
        tile.constants = constants.pointers();
        tile.scratch = scratch.data();
        compute(tile);
    });
}

}  // namespace mask2edge
