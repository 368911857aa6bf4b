// Resize, BGR to RGB, normalise, pad: one kernel, each pixel of the input read for the pixels that need it, each pixel
// of the output written once. The resized image is rounded to uint8 as OpenCV rounds it, and is never in memory.
//
//     launch_kernel(preprocess_kernel<Resampling::area>, grid, preprocess_block(), 0, stream, arguments);
#pragma once

#include "common/cuda.cuh"
#include "preprocess/opencv_resize.cuh"

namespace mask2edge {

enum class Resampling {
    linear,      // INTER_LINEAR: no axis shrinks
    seams,       // INTER_AREA where one axis shrinks and the other grows
    area,        // INTER_AREA where both shrink or stay
    whole_area,  // INTER_AREA by whole numbers; also no resize at all
};

// The value's two parts: their sum is the double that runtime/preprocess.py works with, to 48 digits.
struct TwoFloats {
    float high, low;
};

struct PreprocessArguments {
    const uint8_t* image;  // [H0, W0, 3] BGR
    float* pixels;         // [3, H, W] RGB
    LineAxis rows, columns;
    int32_t padded_height, padded_width;
    int32_t tiles;                      // of a row of tiles
    int32_t whole_rows, whole_columns;  // whole_area: lines of the image for each line of the content
    TwoFloats mean[3], inverse_std[3];
};

constexpr int kPreprocessColumns = 32, kPreprocessRows = 32;  // of a tile; a row of it is written as 128 bytes
constexpr int kPreprocessThreadRows = 8;
constexpr int kPreprocessThreads = kPreprocessColumns * kPreprocessThreadRows;

inline dim3 preprocess_block() { return {kPreprocessColumns, kPreprocessThreadRows}; }

// What a line of the content is made of.
template <Resampling mode>
__device__ inline auto line_source(int32_t line, const LineAxis& axis) {
    if constexpr (mode == Resampling::linear)
        return unclamped_pair(line, axis);
    else if constexpr (mode == Resampling::seams)
        return seam_pair(line, axis);
    else
        return line_span(line, axis);
}

// (level - mean) / std, rounded to float once: the look-up table of runtime/preprocess.py without the table.
__device__ inline float normalised(int level, TwoFloats mean, TwoFloats inverse_std) {
    const float x = static_cast<float>(level), difference = x - mean.high;
    const float subtracted = x - difference;
    const float rest = (x - (difference + subtracted)) + (subtracted - mean.high) - mean.low;  // TwoSum (Knuth)
    const float product = rounded_product(difference, inverse_std.high);
    const float error = fmaf(difference, inverse_std.high, -product);
    return product + (error + fmaf(difference, inverse_std.low, rounded_product(rest, inverse_std.high)));
}

// The three channels (B, G, R) of one pixel of the resized image.
template <Resampling mode>
struct Sampler;

template <>
struct Sampler<Resampling::whole_area> {
    static __device__ void sample(const PreprocessArguments& a, int row, int column, const LineSpan&, const LineSpan&,
                                  int (&level)[3]) {
        int sum[3] = {};
        for (int y = 0; y < a.whole_rows; ++y) {
            const uint8_t* pixel =
                a.image + (int64_t{row * a.whole_rows + y} * a.columns.from + column * a.whole_columns) * 3;
            for (int x = 0; x < a.whole_columns; ++x, pixel += 3)
                for (int c = 0; c < 3; ++c) sum[c] += pixel[c];
        }
        const int count = a.whole_rows * a.whole_columns;
        const float share = 1.0f / static_cast<float>(count);
        for (int c = 0; c < 3; ++c)
            level[c] = a.whole_rows == 2 && a.whole_columns == 2  // rounded up there, to even elsewhere
                           ? (sum[c] + 2) >> 2
                           : __float2int_rn(rounded_product(static_cast<float>(sum[c]), share));
    }
};

template <>
struct Sampler<Resampling::area> {
    static __device__ void sample(const PreprocessArguments& a, int, int, const LineSpan& rows, const LineSpan& columns,
                                  int (&level)[3]) {
        float sum[3] = {};
        for (int y = 0; y < rows.count; ++y) {
            const uint8_t* pixel = a.image + (int64_t{rows.first + y} * a.columns.from + columns.first) * 3;
            float line[3] = {};
            for (int x = 0; x < columns.count; ++x, pixel += 3) {
                const float weight = columns.weight(x);
                for (int c = 0; c < 3; ++c) line[c] += rounded_product(static_cast<float>(pixel[c]), weight);
            }
            const float weight = rows.weight(y);
            for (int c = 0; c < 3; ++c) sum[c] += rounded_product(line[c], weight);
        }
        for (int c = 0; c < 3; ++c) level[c] = min(__float2int_rn(sum[c]), 255);
    }
};

// Bilinear in OpenCV's fixed point: weights of 11 bits, columns first. Columns outside of the image count as its edge
// by weight, rows by reading the edge twice, which is not the same once bits are dropped.
struct FixedPointSampler {
    static __device__ void sample(const PreprocessArguments& a, int, int, LinePair rows, LinePair columns,
                                  int (&level)[3]) {
        const int last_row = a.rows.from - 1, last_column = a.columns.from - 1;
        if (columns.first < 0) columns = {0, 0.0f};
        if (columns.first >= last_column) columns = {last_column, 0.0f};
        const uint8_t* upper = a.image + int64_t{max(rows.first, 0)} * a.columns.from * 3;
        const uint8_t* lower = a.image + int64_t{min(rows.first + 1, last_row)} * a.columns.from * 3;
        const int left = columns.first * 3, right = min(columns.first + 1, last_column) * 3;
        const int right_share = share(columns.second_weight), left_share = share(1.0f - columns.second_weight);
        const int lower_share = share(rows.second_weight), upper_share = share(1.0f - rows.second_weight);
        for (int c = 0; c < 3; ++c) {
            const int above = upper[left + c] * left_share + upper[right + c] * right_share;
            const int below = lower[left + c] * left_share + lower[right + c] * right_share;
            level[c] = (((upper_share * (above >> 4)) >> 16) + ((lower_share * (below >> 4)) >> 16) + 2) >> 2;
        }
    }

    static __device__ int share(float weight) { return __float2int_rn(weight * 2048.0f); }
};
template <>
struct Sampler<Resampling::linear> : FixedPointSampler {};
template <>
struct Sampler<Resampling::seams> : FixedPointSampler {};

template <Resampling mode>
__global__ void __launch_bounds__(kPreprocessThreads) preprocess_kernel(const PreprocessArguments a) {
    using Source = decltype(line_source<mode>(0, a.rows));
    MASK2EDGE_SHARED(Source, column_sources, kPreprocessColumns);
    MASK2EDGE_SHARED(Source, row_sources, kPreprocessRows);
    const int left = static_cast<int>(blockIdx.x) % a.tiles * kPreprocessColumns;
    const int top = static_cast<int>(blockIdx.x) / a.tiles * kPreprocessRows;
    const int thread = static_cast<int>(threadIdx.y * kPreprocessColumns + threadIdx.x);
    const int content_height = a.rows.to, content_width = a.columns.to;
    if (thread < kPreprocessColumns) {
        if (left + thread < content_width) column_sources[thread] = line_source<mode>(left + thread, a.columns);
    } else if (thread < kPreprocessColumns + kPreprocessRows) {
        const int i = thread - kPreprocessColumns;
        if (top + i < content_height) row_sources[i] = line_source<mode>(top + i, a.rows);
    }
    __syncthreads();

    const int column = left + static_cast<int>(threadIdx.x);
    if (column >= a.padded_width) return;
    const int64_t plane = int64_t{a.padded_height} * a.padded_width;
    for (int i = static_cast<int>(threadIdx.y); i < kPreprocessRows; i += kPreprocessThreadRows) {
        const int row = top + i;
        if (row >= a.padded_height) return;
        float* const pixel = a.pixels + int64_t{row} * a.padded_width + column;
        if (row >= content_height || column >= content_width) {
            for (int channel = 0; channel < 3; ++channel) pixel[channel * plane] = 0.0f;
            continue;
        }
        int level[3];  // B, G, R
        Sampler<mode>::sample(a, row, column, row_sources[i], column_sources[threadIdx.x], level);
        for (int channel = 0; channel < 3; ++channel)
            pixel[channel * plane] = normalised(level[2 - channel], a.mean[channel], a.inverse_std[channel]);
    }
}

}  // namespace mask2edge
