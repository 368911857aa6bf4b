// One tile of one instance's mask: which pixels are in it, as a word of bits for each column, and their probabilities.
#include "segment_fusion/cpu_vectors.h"

namespace mask2edge::MASK2EDGE_SIMD {

namespace {

constexpr float kSaturated = 17.0f;  // from here on a probability is 1 in float

}  // namespace

InstanceSum instance_tile(const InstanceTile& tile) {
    const TileWindow& window = tile.window;
    const int area = window.rows.count * window.columns.count;
    if (tile.lowest >= kSaturated) return {area, static_cast<double>(area)};
    const int pitch = window.column_taps.vectors * kWidth;
    float* const lines = tile.scratch;
    spread_mask(tile.mask, tile.mask_width, window, lines, pitch);
    const Ints lanes = lane_numbers();
    const bool is_full = tile.lowest > 0.0f;
    Ints count{};
    double probability = 0;
    for (int x = 0; x < pitch; x += kWidth) {
        const Ints in_image = lanes + x < broadcast(window.columns.count);
        Ints words{};
        Floats sum{};
        for (int y = 0; y < window.rows.count; ++y) {
            const RowOfLines row(lines, pitch, window.lines.first, window.row_taps[y]);
            const Floats logit = row.at(x);
            const Ints is_inside = is_full ? in_image : in_image & (logit > 0.0f);
            words |= is_inside & static_cast<int32_t>(1u << y);
            count -= is_inside;
            sum += is_inside ? sigmoid(logit) : Floats{};
        }
        store(tile.words + x, words);
        probability += static_cast<double>(sum_of_lanes(sum)[0]);
    }
    return {sum_of_lanes(count), probability};
}

void paint_tile(const int32_t* words, int32_t* unset, int32_t label, Span rows, Span columns, int32_t* label_map,
                int64_t image_width) {
    for (int x = 0; x < columns.count; x += kWidth) {
        const Ints painted = load(words + x) & load(unset + x);
        Ints any = painted;
        for (int i = 1; i < kWidth; ++i) any[0] |= any[i];
        if (any[0] == 0) continue;
        store(unset + x, load(unset + x) & ~painted);
        for (int y = 0; y < rows.count; ++y) {
            int32_t* to = label_map + int64_t{rows.first + y} * image_width + columns.first + x;
            const Ints here = (painted & static_cast<int32_t>(1u << y)) != 0;
            if (x + kWidth <= columns.count) {
                store(to, here ? broadcast(label) : load(to));
                continue;
            }
            for (int i = 0; x + i < columns.count; ++i)
                if (here[i] != 0) to[i] = label;
        }
    }
}

}  // namespace mask2edge::MASK2EDGE_SIMD
