// Masks of 128 pixels of one row of the image, made from the network's small mask logits where they are needed.
//
// Resizing twice (mask to padded input, content to image) is a sum over a few rows and columns of the logits. Rows are
// summed first, into shared memory, once for each column of the logits that the 128 pixels need: most pixels share
// them. The two orders differ in what a staged column holds, and in what a pixel does with its columns:
//
//     const StagedLines staged = staged_lines<Order>(tables, width, left, pitch);
//     stage_columns<Order>(masks, tables, Order::row(tables, masks, y), staged, count, query_of, stage, pitch, finite);
//     __syncthreads();
//     float probability = Order::value(stage + i * pitch, Order::pixel(tables, staged, x));  // of query_of(i)
#pragma once

#include "common/cuda.cuh"
#include "segment_fusion/class_scores.cuh"
#include "segment_fusion/resize_tables.cuh"

namespace mask2edge {

constexpr int kTilePixels = 128;
constexpr int kPixelsOfLane = kTilePixels / kWarp;

struct MaskLogits {
    const float* values;  // [Q, h, w]
    int32_t queries, height, width;
};

// Which lines a tile stages. Side by side where they are close, as they are unless the image is much smaller than the
// masks; else the lines of each pixel by themselves.
struct StagedLines {
    int32_t first, count, left;
    bool side_by_side;
};

// `pitch` columns are room for either: staged_pitch().
template <typename Order>
__device__ StagedLines staged_lines(const typename Order::Tables& tables, int width, int left, int pitch) {
    const int last = min(left + kTilePixels, width) - 1, first = tables.columns[left].first;
    const int span = tables.columns[last].first + Order::kTaps - first;
    if (span <= pitch) return {first, span, left, true};
    return {first, (last + 1 - left) * Order::kTaps, left, false};
}

// The most columns that a tile of this image stages.
template <typename Order>
int staged_pitch(const TwoResizes& columns) {
    const int width = columns.content_to_image.to, by_themselves = kTilePixels * Order::kTaps;
    int most = 0;
    for (int left = 0; left < width; left += kTilePixels) {
        const int last = left + kTilePixels < width ? left + kTilePixels - 1 : width - 1;
        const int span = Order::line(last, columns) + Order::kTaps - Order::line(left, columns);
        most = span > most ? span : most;
    }
    most += 2;  // a host whose compiler fuses operations may round a line's place to the other side
    return most < by_themselves ? most : by_themselves;
}

template <typename Order>
__device__ int staged_line(const typename Order::Tables& tables, const StagedLines& staged, int index) {
    if (staged.side_by_side) return staged.first + index;
    return tables.columns[staged.left + index / Order::kTaps].first + index % Order::kTaps;
}

// Where a pixel's first line is staged.
template <int kTaps, typename Line>
__device__ int stage_index(const StagedLines& staged, const Line& line, int pixel) {
    return staged.side_by_side ? line.first - staged.first : (pixel - staged.left) * kTaps;
}

// 1 / (1 + e^-x). The fast exponential is off by 2 ulp and |x| / 2^24: no more than 1e-6 of any probability above 1e-6.
__device__ inline float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

// ---- Logits go to the image's size, then become probabilities -------------------------------------------------------
struct ImageOrder {
    static constexpr int kTaps = 3;
    using Tables = ImageTables;

    struct Row {
        int32_t offset[3];  // of rows of the logits
        float weight[3];
    };
    struct Pixel {
        int32_t index;
        float weight[3];
    };

    static int line(int x, const TwoResizes& columns) { return line_triple(x, columns).first; }

    static __device__ Row row(const Tables& tables, const MaskLogits& masks, int y) {
        const LineTriple line = tables.rows[y];
        Row row;
        for (int i = 0; i < 3; ++i) {
            row.offset[i] = min(line.first + i, masks.height - 1) * masks.width;
            row.weight[i] = line.weight[i];
        }
        return row;
    }

    static __device__ Pixel pixel(const Tables& tables, const StagedLines& staged, int x) {
        const LineTriple line = tables.columns[x];
        return {stage_index<kTaps>(staged, line, x), {line.weight[0], line.weight[1], line.weight[2]}};
    }

    // What all queries need of a staged column.
    struct Column {
        int32_t offset;
    };
    static __device__ Column column(const Tables&, const MaskLogits& masks, int line) {
        return {min(line, masks.width - 1)};
    }
    static __device__ float stage(const float* mask, const Row& row, const Column& column, bool& finite) {
        float logit = 0.0f;
        for (int i = 0; i < 3; ++i) logit = fmaf(row.weight[i], mask[row.offset[i] + column.offset], logit);
        if (!is_finite_number(logit)) finite = false;
        return logit;
    }

    static __device__ float logit(const float* columns, const Pixel& pixel) {
        const float* const c = columns + pixel.index;
        return fmaf(pixel.weight[2], c[2], fmaf(pixel.weight[1], c[1], pixel.weight[0] * c[0]));
    }
    static __device__ float value(const float* columns, const Pixel& pixel) { return sigmoid(logit(columns, pixel)); }
};

// ---- Probabilities at the padded size, which then go to the image's -------------------------------------------------
// Class scores are resized there, not masks: they are sums of masks, so resizing masks gives the same.
struct PaddedOrder {
    static constexpr int kTaps = 2;
    using Tables = PaddedTables;

    struct PaddedRow {
        int32_t offset[2];  // of rows of the logits
        float second_weight;
        float share;  // of this row in the image's
    };
    struct Row {
        PaddedRow padded[2];
    };
    struct Pixel {
        int32_t index;
        float second_weight;
    };

    static int line(int x, const TwoResizes& columns) { return line_pair(x, columns.content_to_image).first; }

    static __device__ Row row(const Tables& tables, const MaskLogits& masks, int y) {
        const LinePair line = tables.rows[y];
        Row row;
        for (int i = 0; i < 2; ++i) {
            const LinePair padded = tables.padded_rows[min(line.first + i, tables.content_height - 1)];
            row.padded[i] = {{padded.first * masks.width, min(padded.first + 1, masks.height - 1) * masks.width},
                             padded.second_weight,
                             i == 0 ? 1.0f - line.second_weight : line.second_weight};
        }
        return row;
    }

    static __device__ Pixel pixel(const Tables& tables, const StagedLines& staged, int x) {
        const LinePair line = tables.columns[x];
        return {stage_index<kTaps>(staged, line, x), line.second_weight};
    }

    struct Column {
        int32_t left, right;
        float right_weight;
    };
    static __device__ Column column(const Tables& tables, const MaskLogits& masks, int line) {
        const LinePair padded = tables.padded_columns[min(line, tables.content_width - 1)];
        return {padded.first, min(padded.first + 1, masks.width - 1), padded.second_weight};
    }
    static __device__ float stage(const float* mask, const Row& row, const Column& column, bool& finite) {
        float probability = 0.0f;
        for (int i = 0; i < 2; ++i) {
            const PaddedRow& padded = row.padded[i];
            if (padded.share == 0.0f) continue;  // the same for the whole block
            const float* const upper = mask + padded.offset[0];
            const float* const lower = mask + padded.offset[1];
            const float left =
                upper[column.left] * (1.0f - padded.second_weight) + lower[column.left] * padded.second_weight;
            const float right =
                upper[column.right] * (1.0f - padded.second_weight) + lower[column.right] * padded.second_weight;
            const float logit = left * (1.0f - column.right_weight) + right * column.right_weight;
            if (!is_finite_number(logit)) finite = false;
            probability = fmaf(padded.share, sigmoid(logit), probability);
        }
        return probability;
    }

    static __device__ float value(const float* columns, const Pixel& pixel) {
        const float* const c = columns + pixel.index;
        return fmaf(pixel.second_weight, c[1], (1.0f - pixel.second_weight) * c[0]);
    }
};

// ---- Staging --------------------------------------------------------------------------------------------------------
// stage[i * pitch + column] for query queries(i), i < count. All threads call it; a barrier follows before it is read.
template <typename Order, typename Queries>
__device__ void stage_columns(const MaskLogits& masks, const typename Order::Tables& tables,
                              const typename Order::Row& row, const StagedLines& staged, int count,
                              const Queries& query_of, float* stage, int pitch, bool& finite) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
    const int warps = static_cast<int>(blockDim.x) / kWarp;
    const int64_t mask_size = int64_t{masks.height} * masks.width;
    for (int index = lane; index < staged.count; index += kWarp) {
        const auto column = Order::column(tables, masks, staged_line<Order>(tables, staged, index));
#pragma unroll 2
        for (int i = warp; i < count; i += warps)
            stage[i * pitch + index] = Order::stage(masks.values + query_of(i) * mask_size, row, column, finite);
    }
}

}  // namespace mask2edge
