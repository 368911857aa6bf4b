// What post-processing hands to Python, and what it asks for: rows of the table of segments, orders, thresholds.
//
//     SegmentRow table[1 + 100];  // a header and up to 100 segments
#pragma once

#include <cstdint>

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

}  // namespace mask2edge
