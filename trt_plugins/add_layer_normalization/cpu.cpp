#include "add_layer_normalization/cpu.h"

#include <algorithm>

#include "add_layer_normalization/cpu_tile.h"

namespace mask2edge {

namespace {

constexpr int64_t kTaskValues = 1 << 14;  // 64 rows of 256: some 20 us

using TileFunction = void (*)(const AddLayerNormalizationTile&);

TileFunction tile_function(InstructionSet set) {
#ifdef MASK2EDGE_HAS_X86_KERNELS
    if (set == InstructionSet::avx512) return avx512::add_layer_normalization_tile;
    if (set == InstructionSet::avx2) return avx2::add_layer_normalization_tile;
#endif
    (void)set;
    return portable::add_layer_normalization_tile;
}

}  // namespace

void add_layer_normalization(const AddLayerNormalizationTensors& tensors, const AddLayerNormalizationShape& shape,
                             float epsilon, const ParallelFor& parallel_for, InstructionSet set) {
    const TileFunction compute = tile_function(set);
    const int64_t rows = std::max<int64_t>(1, kTaskValues / shape.channels);
    const int64_t tasks = (shape.rows + rows - 1) / rows;
    parallel_for(static_cast<std::size_t>(tasks), [&](std::size_t index) {
        const int64_t first = static_cast<int64_t>(index) * rows, offset = first * shape.channels;
        AddLayerNormalizationTile tile;
        tile.x = tensors.x + offset;
        tile.residual = tensors.residual + offset;
        tile.scale = tensors.scale;
        tile.bias = tensors.bias;
        tile.output = tensors.output + offset;
        tile.rows = std::min(rows, shape.rows - first);
        tile.channels = shape.channels;
        tile.epsilon = epsilon;
        compute(tile);
    });
}

}  // namespace mask2edge
