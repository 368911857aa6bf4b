// What the tile kernels share: a line of a mask spread to the tile's columns, the sigmoid, the bounds of a window, and
// counting labels. In the namespace of the instruction set, like common/simd.h.
#pragma once

#include "common/simd.h"
#include "segment_fusion/cpu_tile.h"

namespace mask2edge::MASK2EDGE_SIMD {

// Lane i of the result is lane lanes[i] of x; 0 <= lanes[i] < kWidth.
inline Floats permute(Floats x, Ints lanes) {
#if !defined(__clang__)
    return __builtin_shuffle(x, lanes);
#elif defined(__AVX512F__)
    return (Floats)_mm512_permutexvar_ps((__m512i)lanes, (__m512)x);
#elif defined(__AVX2__)
    return (Floats)_mm256_permutevar8x32_ps((__m256)x, (__m256i)lanes);
#else
    Floats result;
    for (int i = 0; i < kWidth; ++i) result[i] = x[lanes[i]];
    return result;
#endif
}

// 1 / x for 1 <= x <= 2^120.
inline Floats reciprocal(Floats x) {
#if defined(__AVX512F__)
    const Floats guess = (Floats)_mm512_maskz_rcp14_ps(0xffff, (__m512)x);
    return guess * (2.0f - x * guess);
#elif defined(__AVX2__)
    const Floats guess = (Floats)_mm256_rcp_ps((__m256)x);
    return guess * (2.0f - x * guess);
#else
    return 1.0f / x;
#endif
}

// 1 / (1 + e^-x), to about 3e-7 of it; below -80 and above 80 as there. e^-x = 2^n 2^r with |r| <= 1/2: 1.5 * 2^23 is
// where floats are whole numbers, so that adding it rounds to n and leaves n in the lowest bits; 2^r by its Taylor
// polynomial, whose next term is below 2e-7.
inline Floats sigmoid(Floats x) {
    constexpr float kWhole = 12582912.0f, kPowersOfTwo = -1.44269504f;
    x = min(max(x, broadcast(-80.0f)), broadcast(80.0f));
    const Floats shifted = x * kPowersOfTwo + kWhole, steps = shifted - kWhole;
    const Floats r = x * kPowersOfTwo - steps;
    Floats power = r * 1.5403530e-4f + 1.3333558e-3f;
    power = power * r + 9.6181291e-3f;
    power = power * r + 5.5504109e-2f;
    power = power * r + 2.4022651e-1f;
    power = power * r + 6.9314718e-1f;
    power = power * r + 1.0f;
    Ints bits, exponent;
    __builtin_memcpy(&bits, &power, sizeof bits);
    __builtin_memcpy(&exponent, &shifted, sizeof exponent);
    bits += exponent << 23;
    __builtin_memcpy(&power, &bits, sizeof power);
    return reciprocal(1.0f + power);
}

inline Ints lane_numbers() {
    Ints lanes{};
    for (int i = 0; i < kWidth; ++i) lanes[i] = i;
    return lanes;
}

// output[x] of the tile's columns, filled up to whole vectors. `source` holds the mask's columns begin … end - 1.
inline void spread_line(const float* source, int begin, int end, const TileColumns& taps, float* output) {
    for (int v = 0; v < taps.vectors; ++v) {
        const int base = taps.base[v], x = v * kWidth;
        if (base >= 0) {
            const float* from = source + (base - begin);
            const Floats columns = end - base >= kWidth ? load(from) : load_partial(from, end - base);
            store(output + x, load(taps.weight[0] + x) * permute(columns, load(taps.lane[0] + x)) +
                                  load(taps.weight[1] + x) * permute(columns, load(taps.lane[1] + x)) +
                                  load(taps.weight[2] + x) * permute(columns, load(taps.lane[2] + x)));
            continue;
        }
        for (int i = x; i < x + kWidth; ++i) {
            float sum = 0;
            for (int tap = 0; tap < 3; ++tap) {
                const int column = taps.lane[tap][i];  // past the end in lanes that nobody reads
                sum += taps.weight[tap][i] * source[(column < end ? column : end - 1) - begin];
            }
            output[i] = sum;
        }
    }
}

// Some lines of one mask, spread: lines[i] is that of line window.lines.first + i, `pitch` apart.
inline void spread_mask(const float* mask, int mask_width, const TileWindow& window, float* lines, int pitch) {
    for (int i = 0; i < window.lines.count; ++i)
        spread_line(mask + int64_t{window.lines.first + i} * mask_width, 0, mask_width, window.column_taps,
                    lines + i * pitch);
}

// One row of the tile, made from spread lines.
struct RowOfLines {
    const float* line[3];
    float weight[3];

    RowOfLines(const float* lines, int pitch, int first_line, const Taps& taps) {
        for (int i = 0; i < 3; ++i) {
            line[i] = lines + int64_t{taps.line[i] - first_line} * pitch;
            weight[i] = taps.weight[i];
        }
    }
    Floats at(int x) const {
        const Floats two = weight[0] * load(line[0] + x) + weight[1] * load(line[1] + x);
        return weight[2] == 0.0f ? two : two + weight[2] * load(line[2] + x);  // the third line seldom counts
    }
};

// The smallest and the largest logit of each query in the window; [stride] each.
inline void bounds_of_window(const MasksByPixel& masks, const TileWindow& window, float* lowest, float* highest) {
    for (int q = 0; q < masks.stride; q += kWidth) {
        const float* first =
            masks.values + (int64_t{window.lines.first} * masks.width + window.mask_columns.first) * masks.stride + q;
        Floats low = load(first), high = low;
        for (int y = 0; y < window.lines.count; ++y, first += int64_t{masks.width} * masks.stride) {
            const float* p = first;
            for (int x = 0; x < window.mask_columns.count; ++x, p += masks.stride) {
                const Floats logit = load(p);
                low = min(logit, low);
                high = max(logit, high);
            }
        }
        store(lowest + q, low);
        store(highest + q, high);
    }
}

inline int sum_of_lanes(Ints x) {
    int sum = 0;
    for (int i = 0; i < kWidth; ++i) sum += x[i];
    return sum;
}

// Adds the pixels of a tile that carry `label`: labels[row * pitch + x], whole vectors, those past the tile's columns
// carrying none; `scores` likewise, or null.
inline void tally_label(const int32_t* labels, const float* scores, int pitch, int vectors, Span rows, Span columns,
                        int32_t label, Tally& tally) {
    const bool box_grows =
        rows.first < tally.y0 || rows.end() > tally.y1 || columns.first < tally.x0 || columns.end() > tally.x1;
    const Ints wanted = broadcast(label), nowhere = broadcast(int32_t{INT32_MAX}), lanes = lane_numbers();
    Ints count{}, left = nowhere, right{};
    Floats sum{};
    for (int y = 0; y < rows.count; ++y) {
        Ints in_row{};
        for (int v = 0; v < vectors; ++v) {
            const Ints matches = load(labels + y * pitch + v * kWidth) == wanted;
            count -= matches;
            in_row |= matches;
            if (scores != nullptr) sum += matches ? load(scores + y * pitch + v * kWidth) : Floats{};
            if (box_grows) {
                const Ints x = lanes + v * kWidth;
                left = min(matches ? x : nowhere, left);
                right = max(matches ? x + 1 : Ints{}, right);
            }
        }
        if (box_grows && sum_of_lanes(in_row) != 0) {
            const int32_t row = rows.first + y;
            if (row < tally.y0) tally.y0 = row;
            if (row + 1 > tally.y1) tally.y1 = row + 1;
        }
    }
    const int area = sum_of_lanes(count);
    if (area == 0) return;
    tally.area += area;
    if (scores != nullptr) tally.score += static_cast<double>(sum_of_lanes(sum)[0]);
    if (!box_grows) return;
    for (int i = 0; i < kWidth; ++i) {
        if (right[i] == 0) continue;
        if (columns.first + left[i] < tally.x0) tally.x0 = columns.first + left[i];
        if (columns.first + right[i] > tally.x1) tally.x1 = columns.first + right[i];
    }
}

// Adds all of the tile's pixels.
inline void tally_whole(Span rows, Span columns, Tally& tally) {
    tally.area += rows.count * columns.count;
    if (columns.first < tally.x0) tally.x0 = columns.first;
    if (columns.end() > tally.x1) tally.x1 = columns.end();
    if (rows.first < tally.y0) tally.y0 = rows.first;
    if (rows.end() > tally.y1) tally.y1 = rows.end();
}

// The tile's labels to the image, whose columns end where they do.
inline void write_labels(const int32_t* labels, int pitch, Span rows, Span columns, int32_t* label_map,
                         int64_t image_width) {
    for (int y = 0; y < rows.count; ++y) {
        int32_t* to = label_map + int64_t{rows.first + y} * image_width + columns.first;
        const int32_t* from = labels + y * pitch;
        int x = 0;
        for (; x + kWidth <= columns.count; x += kWidth) store(to + x, load(from + x));
        for (; x < columns.count; ++x) to[x] = from[x];
    }
}

inline void fill_labels(int32_t label, Span rows, Span columns, int32_t* label_map, int64_t image_width) {
    for (int y = 0; y < rows.count; ++y) {
        int32_t* to = label_map + int64_t{rows.first + y} * image_width + columns.first;
        int x = 0;
        for (; x + kWidth <= columns.count; x += kWidth) store(to + x, broadcast(label));
        for (; x < columns.count; ++x) to[x] = label;
    }
}

constexpr int32_t kNoLabel = INT32_MIN;

// Marks the lanes past the tile's columns.
inline void end_of_rows(int32_t* labels, int pitch, int rows, int columns) {
    for (int y = 0; y < rows; ++y)
        for (int x = columns; x < pitch; ++x) labels[y * pitch + x] = kNoLabel;
}

}  // namespace mask2edge::MASK2EDGE_SIMD
