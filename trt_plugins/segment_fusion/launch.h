// runtime/postprocess.py on the device: from one image's logits to a label map and a table of segments.
//
//     void* workspace = allocate(panoptic_workspace(sizes));  // once, for the largest sizes
//     cudaError_t status = launch_panoptic(sizes, thresholds, tensors, stream);
//
// Nothing is allocated, and the host waits for nothing: it may all be captured into a CUDA graph, which then keeps the
// sizes and thresholds that it was captured with.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "segment_fusion/shape.h"

namespace mask2edge {

// One segment; the box's x1 and y1 are exclusive. NumPy reads it as it is (SEGMENT_DTYPE of runtime/device_kernels.py).
struct SegmentRow {
    int32_t id, label;
    float score;
    int32_t area;
    int32_t x0, y0, x1, y1;
};

// The first row of a table; `count` rows of segments follow.
struct SegmentTableHeader {
    int32_t count;
    int32_t not_finite;  // not 0: infinities or NaN among the logits that were read; the result means nothing
    int32_t unused[6];
};
static_assert(sizeof(SegmentTableHeader) == sizeof(SegmentRow), "the header is the table's first row");

enum class SemanticOrder : int32_t { image = 0, padded = 1 };

struct PanopticThresholds {
    double object, overlap;
};

struct FusionTensors {
    const float* class_logits;  // [Q, K + 1], the last: no object
    const float* mask_logits;   // [Q, h, w]
    const uint8_t* is_thing;    // [K], not 0: a thing; panoptic alone
    int32_t* label_map;         // [H0, W0]
    SegmentRow* table;          // semantic: 1 + K rows, panoptic: 1 + Q
    void* workspace;            // a multiple of 16
};

// Bytes. Never less for larger sizes.
std::size_t semantic_workspace(const FusionSizes& sizes, SemanticOrder order);
std::size_t panoptic_workspace(const FusionSizes& sizes);

// Trust the sizes: fusion_problem() checks them. label_map holds class ids; rows are the classes that are there.
cudaError_t launch_semantic(const FusionSizes& sizes, SemanticOrder order, const FusionTensors& tensors,
                            cudaStream_t stream);

// label_map holds segment ids from 1, 0 = none; rows are segments 1, 2, ….
cudaError_t launch_panoptic(const FusionSizes& sizes, const PanopticThresholds& thresholds,
                            const FusionTensors& tensors, cudaStream_t stream);

}  // namespace mask2edge
