// For each row and column of the image: which of the network's mask logits it is made of. Made once per image by a
// kernel of its own, since OpenCV's rule takes double precision, which is slow on most GPUs.
//
//     launch_kernel(image_tables_kernel, blocks, kTableThreads, 0, stream, arguments);
#pragma once

#include "common/cuda.cuh"
#include "segment_fusion/launch.h"
#include "segment_fusion/line_triple.cuh"

namespace mask2edge {

struct ImageTables {
    const LineTriple *rows, *columns;  // [H0], [W0]
};

struct PaddedTables {
    const LinePair *rows, *columns;                // [H0], [W0]: lines of the content
    const LinePair *padded_rows, *padded_columns;  // [hc], [wc]: lines of the mask
    int32_t content_height, content_width;
};

constexpr int kTableThreads = 256;

struct ImageTablesArguments {
    SegmentTableHeader* header;  // cleared: the kernels that follow set not_finite
    TwoResizes rows, columns;
    LineTriple *row_table, *column_table;
};

// Threads: one for each row and column of the image.
__global__ void __launch_bounds__(kTableThreads) image_tables_kernel(const ImageTablesArguments a) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    const int rows = a.rows.content_to_image.to, columns = a.columns.content_to_image.to;
    if (i == 0) *a.header = {};
    if (i < rows)
        a.row_table[i] = line_triple(i, a.rows);
    else if (i < rows + columns)
        a.column_table[i - rows] = line_triple(i - rows, a.columns);
}

struct PaddedTablesArguments {
    SegmentTableHeader* header;
    TwoResizes rows, columns;
    LinePair *row_table, *column_table, *padded_row_table, *padded_column_table;
};

// Threads: one for each row and column of the image, and of the content.
__global__ void __launch_bounds__(kTableThreads) padded_tables_kernel(const PaddedTablesArguments a) {
    int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i == 0) *a.header = {};
    const auto fill = [&i](LinePair* table, int count, const LineAxis& axis) {
        if (i >= 0 && i < count) table[i] = line_pair(i, axis);
        i -= count;
    };
    fill(a.row_table, a.rows.content_to_image.to, a.rows.content_to_image);
    fill(a.column_table, a.columns.content_to_image.to, a.columns.content_to_image);
    fill(a.padded_row_table, a.rows.content_to_image.from, a.rows.mask_to_padded);
    fill(a.padded_column_table, a.columns.content_to_image.from, a.columns.mask_to_padded);
}

}  // namespace mask2edge
