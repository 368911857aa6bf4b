// Panoptic output on the CPU: the kept queries, their winners tile by tile, which segments stay, and the label map.
#include <algorithm>
#include <cmath>

#include "common/threads.h"
#include "segment_fusion/cpu_kernels.h"

namespace mask2edge {

namespace {

struct KeptQueries {
    std::vector<int32_t> queries, labels;
    std::vector<float> scores;  // filled up to a multiple of kBlock with 0
};

KeptQueries keep_queries(const FusionSizes& s, const float* class_logits, double object_threshold) {
    const std::vector<float> probabilities = class_probabilities(s, class_logits);
    KeptQueries kept;
    for (int32_t query = 0; query < s.queries; ++query) {
        const float* row = probabilities.data() + int64_t{query} * (s.classes + 1);
        const float* best = std::max_element(row, row + s.classes + 1);
        if (best - row == s.classes || !(*best > static_cast<float>(object_threshold))) continue;
        kept.queries.push_back(query);
        kept.labels.push_back(static_cast<int32_t>(best - row));
        kept.scores.push_back(*best);
    }
    kept.scores.resize(static_cast<std::size_t>(padded(static_cast<int>(kept.queries.size()))), 0.0f);
    return kept;
}

void add(const PanopticTally& from, PanopticTally& to) {
    to.own_area += from.own_area;
    to.won_area += from.won_area;
    to.solid.area += from.solid.area;
    to.solid.x0 = std::min(to.solid.x0, from.solid.x0);
    to.solid.y0 = std::min(to.solid.y0, from.solid.y0);
    to.solid.x1 = std::max(to.solid.x1, from.solid.x1);
    to.solid.y1 = std::max(to.solid.y1, from.solid.y1);
}

// Fills the table; returns the segment of each place among the kept queries from 1, 0 = none.
std::vector<int32_t> decide_segments(const KeptQueries& kept, const std::vector<PanopticTally>& tallies,
                                     double overlap_threshold, const FusionSizes& s, const CpuTensors& tensors) {
    std::vector<int32_t> ids(kept.queries.size() + 1, 0), stuff(static_cast<std::size_t>(s.classes), 0);
    int32_t count = 0;
    for (std::size_t i = 0; i < kept.queries.size(); ++i) {
        const PanopticTally& tally = tallies[i];
        if (tally.solid.area == 0 || static_cast<double>(tally.won_area) / tally.own_area < overlap_threshold) continue;
        const int32_t label = kept.labels[i];
        int32_t& id_of_stuff = stuff[static_cast<std::size_t>(label)];
        if (id_of_stuff == 0) {
            ids[i + 1] = ++count;
            if (tensors.is_thing[label] == 0) id_of_stuff = count;
            tensors.table[count] = {count,          label,          kept.scores[i], tally.solid.area,
                                    tally.solid.x0, tally.solid.y0, tally.solid.x1, tally.solid.y1};
            continue;
        }
        ids[i + 1] = id_of_stuff;
        SegmentRow& row = tensors.table[id_of_stuff];
        row.score = std::max(row.score, kept.scores[i]);
        row.area += tally.solid.area;
        row.x0 = std::min(row.x0, tally.solid.x0);
        row.y0 = std::min(row.y0, tally.solid.y0);
        row.x1 = std::max(row.x1, tally.solid.x1);
        row.y1 = std::max(row.y1, tally.solid.y1);
    }
    tensors.table[0].id = count;
    return ids;
}

}  // namespace

void cpu_panoptic(const FusionSizes& s, const PanopticThresholds& thresholds, const CpuTensors& tensors,
                  const CpuOptions& options) {
    const FusionKernels kernels = fusion_kernels(options.set);
    const int threads = thread_count(options.threads);
    tensors.table[0] = {};
    if (!logits_are_finite(s, tensors, kernels, threads)) {
        tensors.table[0].label = 1;
        return;
    }
    const KeptQueries kept = keep_queries(s, tensors.class_logits, thresholds.object);
    const std::size_t count = kept.queries.size(),
                      pixels = static_cast<std::size_t>(s.image_height) * static_cast<std::size_t>(s.image_width);
    if (count == 0) {
        std::fill_n(tensors.label_map, pixels, 0);
        return;
    }
    const MaskGrid grid = image_grid(s, kernels.vector_width());
    const MaskLogits masks{tensors.mask_logits, s.mask_height, s.mask_width};
    const Span lines = input_span(grid.rows, {0, s.image_height});
    const AlignedFloats by_pixel = masks_by_pixel(masks, kept.queries, lines, threads);

    std::vector<PanopticTally> of_bands(grid.bands.size() * count);
    const std::size_t columns = static_cast<std::size_t>(grid.tile_vectors * grid.column_taps.width);
    run_on_threads(grid.bands.size(), threads, [&](std::size_t index) {
        const AlignedFloats scratch(panoptic_scratch(static_cast<std::size_t>(grid.most_lines), columns, count));
        PanopticTile tile;
        tile.masks = masks;
        tile.by_pixel = {by_pixel.data(), s.mask_width, padded(static_cast<int>(count))};
        tile.queries = kept.queries.data();
        tile.scores = kept.scores.data();
        tile.count = static_cast<int>(count);
        tile.label_map = tensors.label_map;
        tile.image_width = s.image_width;
        tile.tallies = of_bands.data() + index * count;
        tile.scratch = scratch.data();
        for (const ColumnTile& column_tile : grid.tiles) {
            tile.window = tile_window(grid.rows, grid.bands[index], grid.column_taps, column_tile);
            kernels.panoptic_tile(tile);
        }
    });
    std::vector<PanopticTally> tallies(count);
    for (std::size_t i = 0; i < of_bands.size(); ++i) add(of_bands[i], tallies[i % count]);

    const std::vector<int32_t> ids = decide_segments(kept, tallies, thresholds.overlap, s, tensors);
    run_on_threads(grid.bands.size(), threads, [&](std::size_t index) {
        const Span rows = grid.bands[index].rows;
        int32_t* const first = tensors.label_map + int64_t{rows.first} * s.image_width;
        int32_t* const end = first + int64_t{rows.count} * s.image_width;
        for (int32_t* label = first; label != end; ++label) *label = ids[static_cast<std::size_t>(*label)];
    });
}

}  // namespace mask2edge
