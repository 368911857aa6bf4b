#include "multiscale_deformable_attention/cpu_gradient.h"

#include <memory>

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

void multiscale_deformable_attention_gradient(const DeformableAttentionGradientTensors& tensors,
                                              const DeformableAttentionShape& shape, const ParallelFor& parallel_for,
                                              InstructionSet set) {
    const PointConstants constants(shape);
    const TileFunction compute = tile_function(set);
    const int64_t channels = shape.heads * shape.head_dim, samples = shape.heads * constants.points;
    parallel_for(static_cast<std::size_t>(shape.batch * shape.heads), [&](std::size_t index) {
        const int64_t image = static_cast<int64_t>(index) / shape.heads;
        const int64_t query = image * shape.queries;
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
        tile.value_rows = shape.value_rows;
        tile.head = static_cast<int>(static_cast<int64_t>(index) % shape.heads);
        tile.heads = static_cast<int>(shape.heads);
        tile.head_dim = static_cast<int>(shape.head_dim);
        tile.padded_dim = (tile.head_dim + kMaximumWidth - 1) / kMaximumWidth * kMaximumWidth;
        tile.points = constants.points;
        tile.padded_points = constants.padded;
        tile.constants = constants.pointers();
        // on a whole vector's place: rows that straddle cache lines took half as long again
        const std::size_t size = static_cast<std::size_t>(gradient_scratch(tile)) + kMaximumWidth;
        const std::unique_ptr<float[]> scratch(new float[size]);
        void* start = scratch.get();
        std::size_t space = size * sizeof(float);
        tile.scratch = static_cast<float*>(
            std::align(kMaximumWidth * sizeof(float), space - kMaximumWidth * sizeof(float), start, space));
        compute(tile);
    });
}

}  // namespace mask2edge
