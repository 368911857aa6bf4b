// What the CPU's three outputs share outside of the tiles: the kernels of an instruction set, class probabilities, and
// masks with their queries side by side.
#pragma once

#include <memory>
#include <vector>

#include "segment_fusion/cpu.h"
#include "segment_fusion/cpu_tile.h"

namespace mask2edge {

struct FusionKernels {
    decltype(&portable::fusion_vector_width) vector_width;
    decltype(&portable::all_finite) all_finite;
    decltype(&portable::panoptic_tile) panoptic_tile;
    decltype(&portable::instance_tile) instance_tile;
    decltype(&portable::paint_tile) paint_tile;
    decltype(&portable::semantic_tile) semantic_tile;
};

FusionKernels fusion_kernels(InstructionSet set);

bool logits_are_finite(const FusionSizes& sizes, const CpuTensors& tensors, const FusionKernels& kernels, int threads);

// softmax over the K + 1 classes: [Q, K + 1]
std::vector<float> class_probabilities(const FusionSizes& sizes, const float* class_logits);

// Aligned to a cache line, and not written to before it is used.
class AlignedFloats {
  public:
    explicit AlignedFloats(std::size_t count);
    float* data() const { return memory_.get(); }

  private:
    struct Free {
        void operator()(float* memory) const;
    };
    std::unique_ptr<float, Free> memory_;
};

// The masks' lines `lines` of some queries as [height, width, padded(queries)]; other lines are left as they are. The
// queries that fill up the last vector are the first one again.
AlignedFloats masks_by_pixel(const MaskLogits& masks, const std::vector<int32_t>& queries, Span lines, int threads);

TileWindow tile_window(const std::vector<Taps>& rows, const RowBand& band, const ColumnTaps& columns,
                       const ColumnTile& tile);
TileColumns tile_columns(const ColumnTaps& columns, Span part);

}  // namespace mask2edge
