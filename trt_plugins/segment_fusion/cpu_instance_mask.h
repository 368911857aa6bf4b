// The mask of one instance at the image's size: tiles that are empty, full, or words of bits.
#pragma once

#include <cstdint>
#include <vector>

#include "segment_fusion/cpu_kernels.h"

namespace mask2edge {

struct InstanceMask {
    static constexpr int64_t kEmpty = -1, kFull = -2;

    std::vector<int64_t> tiles;  // [bands, tiles]: kEmpty, kFull, or where its words begin
    std::vector<int32_t> words;  // of a tile: bit i of a column's is set where row i of the band is in the mask
    int32_t area = 0;
    double probability = 0;  // the sum of the pixels'
    int32_t x0 = INT32_MAX, y0 = INT32_MAX, x1 = 0, y1 = 0;
    std::vector<int32_t> counts;  // run_lengths()
    int32_t top_id = 0;           // the surest segment that has this mask
};

// mask: [h, w] of the logits.
InstanceMask make_instance_mask(const float* mask, const FusionSizes& sizes, const MaskGrid& grid,
                                const FusionKernels& kernels);

// COCO's: runs down the columns, zeros first.
std::vector<int32_t> run_lengths(const InstanceMask& mask, const FusionSizes& sizes, const MaskGrid& grid);

// One band of the label map: at each pixel the first of the masks that covers it, else 0.
void paint_band(const std::vector<const InstanceMask*>& masks, const FusionSizes& sizes, const MaskGrid& grid,
                std::size_t band, const FusionKernels& kernels, int32_t* label_map);

}  // namespace mask2edge
