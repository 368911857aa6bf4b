#include "segment_fusion/cpu_c_api.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "preprocess/cpu.h"

using namespace mask2edge;

namespace {

constexpr int32_t kLayout[] = {
    sizeof(FusionSizes),
    offsetof(FusionSizes, queries),
    offsetof(FusionSizes, classes),
    offsetof(FusionSizes, mask_height),
    offsetof(FusionSizes, mask_width),
    offsetof(FusionSizes, padded_height),
    offsetof(FusionSizes, padded_width),
    offsetof(FusionSizes, content_height),
    offsetof(FusionSizes, content_width),
    offsetof(FusionSizes, image_height),
    offsetof(FusionSizes, image_width),
    sizeof(CpuTensors),
    offsetof(CpuTensors, class_logits),
    offsetof(CpuTensors, mask_logits),
    offsetof(CpuTensors, is_thing),
    offsetof(CpuTensors, label_map),
    offsetof(CpuTensors, table),
    sizeof(SegmentRow),
    offsetof(SegmentRow, id),
    offsetof(SegmentRow, label),
    offsetof(SegmentRow, score),
    offsetof(SegmentRow, area),
    offsetof(SegmentRow, x0),
    offsetof(SegmentRow, y0),
    offsetof(SegmentRow, x1),
    offsetof(SegmentRow, y1),
    sizeof(PreprocessShape),
    offsetof(PreprocessShape, image_height),
    offsetof(PreprocessShape, image_width),
    offsetof(PreprocessShape, content_height),
    offsetof(PreprocessShape, content_width),
    offsetof(PreprocessShape, padded_height),
    offsetof(PreprocessShape, padded_width),
};
constexpr int32_t kLayoutNumbers = sizeof kLayout / sizeof kLayout[0];

CpuOptions options_of(int32_t threads, int32_t set) {
    const std::vector<InstructionSet> sets = available_instruction_sets();
    const bool is_there = set >= 0 && set < static_cast<int32_t>(sets.size());
    return {threads, is_there ? sets[static_cast<std::size_t>(set)] : best_instruction_set()};
}

// No exception leaves a C function.
template <typename Work>
int32_t guarded(const Work& work) noexcept {
    try {
        work();
        return 0;
    } catch (...) {  // nothing is thrown but what memory is missing for
        return 1;
    }
}

}  // namespace

int32_t mask2edge_cpu_interface() { return kCpuInterface; }

int32_t mask2edge_cpu_layout(int32_t* numbers, int32_t capacity) {
    std::copy_n(kLayout, std::clamp(capacity, 0, kLayoutNumbers), numbers);
    return kLayoutNumbers;
}

const char* mask2edge_cpu_instruction_sets() {
    static const std::string names = [] {
        std::string text;
        for (const InstructionSet set : available_instruction_sets())
            text += (text.empty() ? "" : " ") + std::string(name(set));
        return text;
    }();
    return names.c_str();
}

int32_t mask2edge_cpu_problem(const FusionSizes* sizes, char* text, int32_t capacity) {
    const std::string problem = fusion_problem(*sizes);
    if (capacity > 0) {
        const std::size_t length = std::min(problem.size(), static_cast<std::size_t>(capacity) - 1);
        std::memcpy(text, problem.data(), length);
        text[length] = '\0';
    }
    return static_cast<int32_t>(problem.size());
}

int32_t mask2edge_cpu_semantic(const FusionSizes* sizes, int32_t order, const CpuTensors* tensors, int32_t threads,
                               int32_t set) {
    return guarded([&] {
        cpu_semantic(*sizes, order == 0 ? SemanticOrder::image : SemanticOrder::padded, *tensors,
                     options_of(threads, set));
    });
}

int32_t mask2edge_cpu_panoptic(const FusionSizes* sizes, double object_threshold, double overlap_threshold,
                               const CpuTensors* tensors, int32_t threads, int32_t set) {
    return guarded(
        [&] { cpu_panoptic(*sizes, {object_threshold, overlap_threshold}, *tensors, options_of(threads, set)); });
}

int32_t mask2edge_cpu_instances(const FusionSizes* sizes, int32_t top_k, const CpuTensors* tensors, int32_t threads,
                                int32_t set, void** counts) {
    *counts = nullptr;
    return guarded([&] {
        auto result = std::make_unique<InstanceCounts>(
            cpu_instances(*sizes, top_k, tensors->is_thing, *tensors, options_of(threads, set)));
        *counts = result.release();
    });
}

int64_t mask2edge_cpu_counts(const void* counts, const int32_t** values, const int64_t** begin) {
    const InstanceCounts& result = *static_cast<const InstanceCounts*>(counts);
    *values = result.counts.data();
    *begin = result.begin.data();
    return static_cast<int64_t>(result.counts.size());
}

void mask2edge_cpu_free_counts(void* counts) { delete static_cast<InstanceCounts*>(counts); }

int32_t mask2edge_cpu_shrinks_by_area(const PreprocessShape* shape) { return cpu_shrinks_by_area(*shape) ? 1 : 0; }

int32_t mask2edge_cpu_preprocess(const uint8_t* image, int64_t row_bytes, const PreprocessShape* shape, int32_t shrinks,
                                 const float* tables, float* pixels, int32_t threads) {
    return guarded([&] {
        const auto work = shrinks != 0 ? cpu_shrink : cpu_normalise;
        work(image, row_bytes, *shape, tables, pixels, threads);
    });
}
