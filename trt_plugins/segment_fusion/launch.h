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

#include "segment_fusion/segments.h"
#include "segment_fusion/shape.h"

namespace mask2edge {

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
