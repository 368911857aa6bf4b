// Where the points of a query's head lie in their maps, with points in the lanes: what the output and its gradient need
// alike. For kernel files, which are compiled once per instruction set (common/simd.h).
#pragma once

#include "common/simd.h"
#include "multiscale_deformable_attention/cpu_tile.h"

namespace mask2edge::MASK2EDGE_SIMD {

// Softmax over `points` logits, up to the division by its sum, which is returned in every lane. Writes whole vectors;
// the padding gets 0.
inline Floats exponentials(const float* logits, int points, float* result) {
    Ints lane{};
    for (int i = 0; i < kWidth; ++i) lane[i] = i;
    Floats largest = broadcast(kLowest);
    for (int i = 0; i < points; i += kWidth) {
        const Floats x = points - i >= kWidth ? load(logits + i)
                                              : (lane < points - i ? load_partial(logits + i, points - i) : kLowest);
        store(result + i, x);
        largest = max(x, largest);
    }
    largest = max_of_lanes(largest);
    Floats sum{};
    for (int i = 0; i < points; i += kWidth) {
        const Floats x = load(result + i);
        const Floats e = x > kLowest ? exp_of_nonpositive(x - largest) : Floats{};
        store(result + i, e);
        sum += e;
    }
    return sum_of_lanes(sum);
}

// The next vector of (x, y) offsets, as x and y; the missing ones are 0.
inline void load_offsets(const float* offsets, int points, Floats& x, Floats& y) {
    const int count = 2 * points;
    const Floats first = count >= kWidth ? load(offsets) : load_partial(offsets, count);
    const Floats second = count >= 2 * kWidth ? load(offsets + kWidth)
                          : count > kWidth    ? load_partial(offsets + kWidth, count - kWidth)
                                              : Floats{};
    x = first_of_pairs(first, second);
    y = second_of_pairs(first, second);
}

// Of a vector of points, the columns at the left and right and the rows above and below.
struct Neighbours {
    Floats x_weight[2], y_weight[2];  // bilinear; 0 outside of the map
    Ints x_inside[2], y_inside[2];    // -1 or 0
    Ints column[2], row[2];           // kept inside of the map

    // Corner 0 to 3: above left, above right, below left, below right. Its row of `value`.
    Ints value_row(int corner, Ints first_row, Ints columns) const {
        return first_row + row[corner / 2] * columns + column[corner % 2];
    }
};

// Of the points i … i + kWidth - 1. offsets: of the query's head.
inline Neighbours find_neighbours(const DeformableAttentionPoints& constants, const float* offsets, int i, int points,
                                  float reference_x, float reference_y) {
    const Floats width = load(constants.width + i), height = load(constants.height + i);
    const Ints columns = load(constants.columns + i), rows = load(constants.rows + i);
    // (reference + offset / size) * size - 1/2, kept within a pixel or two of the map: what lies outside reads
    // zero however far out, and stays representable as an integer. NaN counts as outside.
    Floats px, py;
    load_offsets(offsets + 2 * i, points - i, px, py);
    px += reference_x * width - 0.5f;
    py += reference_y * height - 0.5f;
    px = min(max(px, broadcast(-2.0f)), width + 1.0f);
    py = min(max(py, broadcast(-2.0f)), height + 1.0f);
    const Ints left = floor_to_ints(px), top = floor_to_ints(py);
    const Floats right_share = px - to_floats(left), lower_share = py - to_floats(top);
    Neighbours result;
    result.x_inside[0] = (left >= 0) & (left < columns);
    result.x_inside[1] = (left >= -1) & (left < columns - 1);
    result.y_inside[0] = (top >= 0) & (top < rows);
    result.y_inside[1] = (top >= -1) & (top < rows - 1);
    result.x_weight[0] = result.x_inside[0] ? 1.0f - right_share : Floats{};
    result.x_weight[1] = result.x_inside[1] ? right_share : Floats{};
    result.y_weight[0] = result.y_inside[0] ? 1.0f - lower_share : Floats{};
    result.y_weight[1] = result.y_inside[1] ? lower_share : Floats{};
    for (int side = 0; side < 2; ++side) {
        result.column[side] = min(max(left + side, Ints{}), columns - 1);
        result.row[side] = min(max(top + side, Ints{}), rows - 1);
    }
    return result;
}

}  // namespace mask2edge::MASK2EDGE_SIMD
