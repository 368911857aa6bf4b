// Instance output on the CPU: each query's mask as words of bits by tiles, the label map painted from them, and their
// run lengths.
#include <algorithm>
#include <numeric>

#include "common/threads.h"
#include "segment_fusion/cpu_instance_mask.h"
#include "segment_fusion/cpu_kernels.h"

namespace mask2edge {

namespace {

struct Pair {
    float probability;
    int32_t query, label;
};

// The best pairs of query and class, the first of equals first.
std::vector<Pair> best_pairs(const FusionSizes& s, const float* class_logits, int32_t top_k) {
    const std::vector<float> probabilities = class_probabilities(s, class_logits);
    std::vector<Pair> pairs;
    pairs.reserve(static_cast<std::size_t>(s.queries) * static_cast<std::size_t>(s.classes));
    for (int32_t query = 0; query < s.queries; ++query)
        for (int32_t label = 0; label < s.classes; ++label)
            pairs.push_back(
                {probabilities[static_cast<std::size_t>(int64_t{query} * (s.classes + 1) + label)], query, label});
    const auto end = pairs.begin() + std::min<std::ptrdiff_t>(top_k, static_cast<std::ptrdiff_t>(pairs.size()));
    std::partial_sort(pairs.begin(), end, pairs.end(), [](const Pair& a, const Pair& b) {
        if (a.probability != b.probability) return a.probability > b.probability;
        return a.query != b.query ? a.query < b.query : a.label < b.label;
    });
    pairs.erase(end, pairs.end());
    return pairs;
}

struct Found {
    float score;
    int32_t label;
    std::size_t mask;  // of `masks` below
};

}  // namespace

InstanceCounts cpu_instances(const FusionSizes& s, int32_t top_k, const uint8_t* is_allowed, const CpuTensors& tensors,
                             const CpuOptions& options) {
    const FusionKernels kernels = fusion_kernels(options.set);
    const int threads = thread_count(options.threads);
    tensors.table[0] = {};
    if (!logits_are_finite(s, tensors, kernels, threads)) {
        tensors.table[0].label = 1;
        return {};
    }
    std::vector<std::vector<Pair>> pairs_of;  // of each query that has any, in falling order
    std::vector<int> place(static_cast<std::size_t>(s.queries), -1);
    for (const Pair& pair : best_pairs(s, tensors.class_logits, top_k)) {
        if (is_allowed[pair.label] == 0) continue;
        int& own = place[static_cast<std::size_t>(pair.query)];
        if (own < 0) {
            own = static_cast<int>(pairs_of.size());
            pairs_of.emplace_back();
        }
        pairs_of[static_cast<std::size_t>(own)].push_back(pair);
    }

    const MaskGrid grid = image_grid(s, kernels.vector_width());
    std::vector<InstanceMask> masks(pairs_of.size());
    run_on_threads(masks.size(), threads, [&](std::size_t i) {
        const int64_t query = pairs_of[i].front().query;
        masks[i] = make_instance_mask(tensors.mask_logits + query * s.mask_height * s.mask_width, s, grid, kernels);
        masks[i].counts = run_lengths(masks[i], s, grid);
    });

    std::vector<Found> found;
    std::vector<std::size_t> order_of_masks;  // those that are not empty
    for (std::size_t i = 0; i < masks.size(); ++i) {
        if (masks[i].area == 0) continue;
        order_of_masks.push_back(i);
        const float mask_score = static_cast<float>(masks[i].probability / (masks[i].area + 1e-6));
        for (const Pair& pair : pairs_of[i]) found.push_back({pair.probability * mask_score, pair.label, i});
    }
    std::vector<std::size_t> rising(found.size());
    std::iota(rising.begin(), rising.end(), std::size_t{0});
    std::sort(rising.begin(), rising.end(), [&](std::size_t a, std::size_t b) {  // of equals the first is on top
        return found[a].score != found[b].score ? found[a].score < found[b].score : a > b;
    });

    InstanceCounts result;
    result.begin.push_back(0);
    int32_t id = 0;
    for (const std::size_t index : rising) {
        InstanceMask& mask = masks[found[index].mask];
        mask.top_id = ++id;  // the last one, the surest of the query's, stays
        tensors.table[id] = {id, found[index].label, found[index].score, mask.area, mask.x0, mask.y0, mask.x1, mask.y1};
        result.counts.insert(result.counts.end(), mask.counts.begin(), mask.counts.end());
        result.begin.push_back(static_cast<int64_t>(result.counts.size()));
    }
    tensors.table[0].id = id;

    std::sort(order_of_masks.begin(), order_of_masks.end(),
              [&](std::size_t a, std::size_t b) { return masks[a].top_id > masks[b].top_id; });
    std::vector<const InstanceMask*> falling;
    for (const std::size_t i : order_of_masks) falling.push_back(&masks[i]);
    run_on_threads(grid.bands.size(), threads,
                   [&](std::size_t band) { paint_band(falling, s, grid, band, kernels, tensors.label_map); });
    return result;
}

}  // namespace mask2edge
