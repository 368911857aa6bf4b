// The constants of a head's sampling points, as the kernels read them: by point, padded to whole vectors.
#pragma once

#include <cstdint>
#include <vector>

#include "multiscale_deformable_attention/cpu_tile.h"
#include "multiscale_deformable_attention/shape.h"

namespace mask2edge {

struct PointConstants {
    int points, padded;  // L*P; up to a multiple of kMaximumWidth
    std::vector<float> width, height;
    std::vector<int32_t> columns, rows, first_row;

    // The padding is a point of a 1x1 map: computed with the others, never summed.
    explicit PointConstants(const DeformableAttentionShape& shape)
        : points(static_cast<int>(shape.levels.size() * shape.points)),
          padded((points + kMaximumWidth - 1) / kMaximumWidth * kMaximumWidth),
          width(padded, 1.0f),
          height(padded, 1.0f),
          columns(padded, 1),
          rows(padded, 1),
          first_row(padded, 0) {
        for (int i = 0; i < points; ++i) {
            const auto& level = shape.levels[i / shape.points];
            width[i] = static_cast<float>(level.width);
            height[i] = static_cast<float>(level.height);
            columns[i] = static_cast<int32_t>(level.width);
            rows[i] = static_cast<int32_t>(level.height);
            first_row[i] = static_cast<int32_t>(level.first_row);
        }
    }

    DeformableAttentionPoints pointers() const {
        return {width.data(), height.data(), columns.data(), rows.data(), first_row.data()};
    }
};

}  // namespace mask2edge
