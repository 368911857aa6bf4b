// runtime/postprocess.py on the CPU: from one image's logits to a label map and a table of segments, or instances. No
// mask of the image's size exists on the way: tiles of the image are decided from bounds on the small masks of the
// network, and pixel by pixel where the bounds do not decide.
//
//     if (std::string problem = fusion_problem(sizes); !problem.empty()) refuse(problem);
//     cpu_panoptic(sizes, {0.8, 0.8}, tensors, {2, best_instruction_set()});
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/instruction_set.h"
#include "segment_fusion/segments.h"
#include "segment_fusion/shape.h"

namespace mask2edge {

struct CpuTensors {
    const float* class_logits;  // [Q, K + 1], the last: no object
    const float* mask_logits;   // [Q, h, w]
    const uint8_t* is_thing;    // [K], not 0: a thing; panoptic alone
    int32_t* label_map;         // [H0, W0]
    SegmentRow* table;          // a header; semantic: K rows, panoptic: Q rows, instance: as many as are asked for
};

struct CpuOptions {
    int threads;  // 0: as many as the process may use
    InstructionSet set;
};

// They trust the sizes (fusion_problem() checks them) and refuse logits that are not finite: the header then says so
// and nothing else is written. label_map and rows as in launch.h.
void cpu_semantic(const FusionSizes& sizes, SemanticOrder order, const CpuTensors& tensors, const CpuOptions& options);
void cpu_panoptic(const FusionSizes& sizes, const PanopticThresholds& thresholds, const CpuTensors& tensors,
                  const CpuOptions& options);

// Masks of instances overlap: each row has run lengths of its own, as COCO counts them (down the columns, zeros first).
struct InstanceCounts {
    std::vector<int32_t> counts;  // of one mask after another
    std::vector<int64_t> begin;   // [rows + 1]; rows of one query have the same part, it is here once for each
};

// The best `top_k` pairs of query and class; `is_allowed`, [K], not 0: a class that is returned. Rows rise in score.
InstanceCounts cpu_instances(const FusionSizes& sizes, int32_t top_k, const uint8_t* is_allowed,
                             const CpuTensors& tensors, const CpuOptions& options);

}  // namespace mask2edge
