// Where OpenCV's resize looks for a pixel: which lines (rows or columns) of the input a line of the output is made of,
// and what each of them counts. Its own rules and roundings (modules/imgproc/src/resize.cpp of OpenCV 4 and 5), because
// runtime/preprocess.py and runtime/postprocess.py use OpenCV and the device has to give what they give.
//
//     const LineAxis axis = line_axis(image_height, content_height);
//     const LinePair pair = line_pair(row, axis);  // first * (1 - second_weight) + (first + 1) * second_weight
#pragma once

#if defined(MASK2EDGE_PLAIN_CPP)  // the library for the CPU, which knows no CUDA
#include <algorithm>
#include <cstdint>
#define __host__
#define __device__
namespace mask2edge {
using std::min;
}
#else
#include "common/cuda.cuh"
#endif

namespace mask2edge {

// One operation, one rounding: nvcc would make a multiplication and an addition into one operation of one rounding.
__host__ __device__ inline float rounded_product(float a, float b) {
#if defined(__CUDA_ARCH__)
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}
__host__ __device__ inline double rounded_product(double a, double b) {
#if defined(__CUDA_ARCH__)
    return __dmul_rn(a, b);
#else
    return a * b;
#endif
}

// One axis of a resize.
struct LineAxis {
    int32_t from, to;  // lines of the input and of the output
    double step;       // input lines per output line
};

inline LineAxis line_axis(int32_t from, int32_t to) { return {from, to, 1.0 / (static_cast<double>(to) / from)}; }

// ---- INTER_LINEAR, as F.interpolate(mode="bilinear", align_corners=False) has it ------------------------------------
// The lines `first` and `first + 1`; outside of the input its edge goes on. first + 1 may be past the end: it counts 0.
struct alignas(8) LinePair {
    int32_t first;
    float second_weight;
};

// The line and the part of the way to the next one, before the edges.
__host__ __device__ inline LinePair unclamped_pair(int32_t line, const LineAxis& axis) {
    // A float already here: at line 1000 that is worth 1/16384 of a line.
    const float where = static_cast<float>(rounded_product(line + 0.5, axis.step) - 0.5);
    int32_t first = static_cast<int32_t>(where);
    first -= static_cast<float>(first) > where ? 1 : 0;
    return {first, where - static_cast<float>(first)};
}

__host__ __device__ inline LinePair line_pair(int32_t line, const LineAxis& axis) {
    const LinePair pair = unclamped_pair(line, axis);
    if (pair.first < 0) return {0, 0.0f};
    if (pair.first >= axis.from - 1) return {axis.from - 1, 0.0f};
    return pair;
}

// INTER_AREA where an axis of the image grows: a line of the output lies in one of the input, or on the seam of two.
__host__ __device__ inline LinePair seam_pair(int32_t line, const LineAxis& axis) {
    const int32_t first = static_cast<int32_t>(rounded_product(static_cast<double>(line), axis.step));
    const double growth = static_cast<double>(axis.to) / axis.from;
    float second = static_cast<float>((line + 1) - rounded_product(static_cast<double>(first + 1), growth));
    second = second <= 0.0f ? 0.0f : second - static_cast<float>(static_cast<int32_t>(second));
    return {first, second};
}

// ---- INTER_AREA where the image shrinks -----------------------------------------------------------------------------
// The lines first … first + count - 1; those in between count `inner`.
struct LineSpan {
    int32_t first, count;
    float first_weight, inner, last_weight;

    __host__ __device__ float weight(int32_t i) const {
        return i == 0 ? first_weight : i == count - 1 ? last_weight : inner;
    }
};

// Output line i covers the lines i from / to … (i + 1) from / to of the input: exact as a fraction, which spares the
// double precision that is slow on most GPUs. OpenCV calculates in double precision, and leaves out a line of which no
// more than 1/1000 is covered: where it is 1/1000 to the digit its rounding error decides, so there it is repeated.
__host__ __device__ inline LineSpan line_span(int32_t line, const LineAxis& axis) {
    const uint32_t from = static_cast<uint32_t>(axis.from), to = static_cast<uint32_t>(axis.to);
    const uint32_t begin = static_cast<uint32_t>(line) * from, end = begin + from;  // in parts of 1 / to
    uint32_t whole = (begin + to - 1) / to, last = end / to;  // the first whole line, the line that `end` is in
    if (last > from - 1) last = from - 1;
    if (whole > last) whole = last;
    const uint32_t head = whole * to > begin ? whole * to - begin : 0;  // of line whole - 1
    const uint32_t tail = min(end - last * to, to);                     // of line `last`
    bool has_head = 1000 * head > to, has_tail = 1000 * tail > to;
    if (1000 * head == to) has_head = whole - rounded_product(static_cast<double>(line), axis.step) > 1e-3;
    if (1000 * tail == to) has_tail = rounded_product(static_cast<double>(line), axis.step) + axis.step - last > 1e-3;
    // A part of a line divided by what is covered, from / to lines.
    const float cell = static_cast<float>(from), inner = static_cast<float>(to) / cell;
    const float head_weight = static_cast<float>(head) / cell;
    const float tail_weight = static_cast<float>(tail) / cell;
    LineSpan span;
    span.first = static_cast<int32_t>(has_head ? whole - 1 : whole);
    span.count = static_cast<int32_t>(last - whole) + (has_head ? 1 : 0) + (has_tail ? 1 : 0);
    span.inner = inner;
    span.last_weight = has_tail ? tail_weight : inner;
    span.first_weight = has_head ? head_weight : span.count == 1 ? span.last_weight : inner;
    return span;
}

}  // namespace mask2edge
