#include "segment_fusion/c_api.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "preprocess/shape.h"

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
    sizeof(FusionTensors),
    offsetof(FusionTensors, class_logits),
    offsetof(FusionTensors, mask_logits),
    offsetof(FusionTensors, is_thing),
    offsetof(FusionTensors, label_map),
    offsetof(FusionTensors, table),
    offsetof(FusionTensors, workspace),
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
    sizeof(Normalisation),
    offsetof(Normalisation, mean),
    offsetof(Normalisation, std),
};
constexpr int32_t kLayoutNumbers = sizeof kLayout / sizeof kLayout[0];

bool is_order(int32_t order) { return order == 0 || order == 1; }

// Vectors of 16 bytes are read there.
bool is_aligned(const FusionTensors& tensors) { return reinterpret_cast<uintptr_t>(tensors.workspace) % 16 == 0; }

}  // namespace

int32_t mask2edge_device_interface() { return kDeviceInterface; }

int32_t mask2edge_device_layout(int32_t* numbers, int32_t capacity) {
    std::copy_n(kLayout, std::clamp(capacity, 0, kLayoutNumbers), numbers);
    return kLayoutNumbers;
}

const char* mask2edge_error_text(int32_t error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

int32_t mask2edge_fusion_problem(const FusionSizes* sizes, char* text, int32_t capacity) {
    const std::string problem = fusion_problem(*sizes);
    if (capacity > 0) {
        const std::size_t length = std::min(problem.size(), static_cast<std::size_t>(capacity) - 1);
        std::memcpy(text, problem.data(), length);
        text[length] = '\0';
    }
    return static_cast<int32_t>(problem.size());
}

int64_t mask2edge_semantic_workspace(const FusionSizes* sizes, int32_t order) {
    return is_order(order) ? static_cast<int64_t>(semantic_workspace(*sizes, static_cast<SemanticOrder>(order))) : -1;
}

int64_t mask2edge_panoptic_workspace(const FusionSizes* sizes) {
    return static_cast<int64_t>(panoptic_workspace(*sizes));
}

int32_t mask2edge_semantic(const FusionSizes* sizes, int32_t order, const FusionTensors* tensors, void* stream) {
    if (!is_order(order) || !is_aligned(*tensors) || !fusion_problem(*sizes).empty()) return cudaErrorInvalidValue;
    return launch_semantic(*sizes, static_cast<SemanticOrder>(order), *tensors, static_cast<cudaStream_t>(stream));
}

int32_t mask2edge_panoptic(const FusionSizes* sizes, double object_threshold, double overlap_threshold,
                           const FusionTensors* tensors, void* stream) {
    if (!is_aligned(*tensors) || !fusion_problem(*sizes).empty()) return cudaErrorInvalidValue;
    return launch_panoptic(*sizes, {object_threshold, overlap_threshold}, *tensors, static_cast<cudaStream_t>(stream));
}
