#include "multiscale_deformable_attention/cpu.h"

#include <algorithm>

#include "multiscale_deformable_attention/cpu_points.h"
#include "multiscale_deformable_attention/cpu_tile.h"

namespace mask2edge {

namespace {

constexpr int64_t kTileQueries = 32;  // enough work for a task (some 30 us), few enough to share out evenly

using TileFunction = void (*)(const DeformableAttentionTile&);

TileFunction tile_function(InstructionSet set) {
#ifdef MASK2EDGE_HAS_X86_KERNELS
    if (set == InstructionSet::avx512) return avx512::multiscale_deformable_attention_tile;
    if (set == InstructionSet::avx2) return avx2::multiscale_deformable_attention_tile;
#endif
    (void)set;
    return portable::multiscale_deformable_attention_tile;
}

}  // namespace

void multiscale_deformable_attention(const DeformableAttentionTensors& tensors, const DeformableAttentionShape& shape,
                                     const ParallelFor& parallel_for, InstructionSet set) {
    const PointConstants constants(shape);
    const int points = constants.points, padded = constants.padded;
    const TileFunction compute = tile_function(set);
    const int64_t channels = shape.heads * shape.head_dim, samples = shape.heads * points;
    const int64_t tiles = (shape.queries + kTileQueries - 1) / kTileQueries;
    parallel_for(static_cast<std::size_t>(shape.batch * tiles), [&](std::size_t index) {
        const int64_t image = static_cast<int64_t>(index) / tiles;
        const int64_t first = static_cast<int64_t>(index) % tiles * kTileQueries;
        const int64_t query = image * shape.queries + first;
        std::vector<float> scratch(static_cast<std::size_t>((1 + shape.heads * kScratchArraysPerHead) * padded));
        DeformableAttentionTile tile;
        tile.value = tensors.value + image * shape.value_rows * channels;
        tile.offsets = tensors.offsets + query * samples * 2;
        tile.logits = tensors.logits + query * samples;
        tile.reference_points = tensors.reference_points + (shape.shared_reference_points ? first : query) * 2;
        tile.output = tensors.output + query * channels;
        tile.queries = std::min(kTileQueries, shape.queries - first);
        tile.heads = static_cast<int>(shape.heads);
        tile.head_dim = static_cast<int>(shape.head_dim);
        tile.points = points;
        tile.padded_points = padded;
        tile.constants = constants.pointers();
        tile.scratch = scratch.data();
        compute(tile);
    });
}

}  // namespace mask2edge
