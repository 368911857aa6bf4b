#include "point_sampling/cpu.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace mask2edge {

namespace {

// The pixels that a place lies between, along one axis, and what each counts: nothing outside of the map.
struct Neighbours {
    int64_t place[2];
    float weight[2];

    Neighbours(float coordinate, int64_t length) {
        const float size = static_cast<float>(length);
        // kept near the map, so that what lies far outside stays an integer; NaN counts as outside
        float x = coordinate * size - 0.5f;
        x = x > -2.0f ? std::min(x, size + 1.0f) : -2.0f;
        const float first = std::floor(x);
        const int64_t left = static_cast<int64_t>(first);
        const float share = x - first;
        weight[0] = left >= 0 && left < length ? 1.0f - share : 0.0f;
        weight[1] = left >= -1 && left < length - 1 ? share : 0.0f;
        place[0] = std::clamp<int64_t>(left, 0, length - 1);
        place[1] = std::clamp<int64_t>(left + 1, 0, length - 1);
    }
};

}  // namespace

void sample_masks(const uint8_t* masks, const int64_t* which, const float* coordinates, float* output,
                  const MaskSamplingSizes& sizes, const ParallelFor& parallel_for) {
    for (int64_t i = 0; i < sizes.chosen; ++i)
        if (which[i] < 0 || which[i] >= sizes.masks)
            throw std::invalid_argument("sample_masks: expected masks 0 to " + std::to_string(sizes.masks - 1) +
                                        ", got " + std::to_string(which[i]));
    parallel_for(static_cast<std::size_t>(sizes.chosen), [&](std::size_t index) {
        const int64_t i = static_cast<int64_t>(index);
        const uint8_t* mask = masks + which[i] * sizes.height * sizes.width;
        const float* place = coordinates + (sizes.shared_coordinates ? 0 : i) * sizes.points * 2;
        float* values = output + i * sizes.points;
        for (int64_t p = 0; p < sizes.points; ++p) {
            const Neighbours x(place[2 * p], sizes.width), y(place[2 * p + 1], sizes.height);
            const uint8_t* above = mask + y.place[0] * sizes.width;
            const uint8_t* below = mask + y.place[1] * sizes.width;
            values[p] = y.weight[0] * (x.weight[0] * above[x.place[0]] + x.weight[1] * above[x.place[1]]) +
                        y.weight[1] * (x.weight[0] * below[x.place[0]] + x.weight[1] * below[x.place[1]]);
        }
    });
}

}  // namespace mask2edge
