#include "training/c_api.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "common/threads.h"
#include "multiscale_deformable_attention/cpu.h"
#include "multiscale_deformable_attention/cpu_gradient.h"

using namespace mask2edge;

namespace {

InstructionSet set_of(int32_t set) {
    const std::vector<InstructionSet> sets = available_instruction_sets();
    const bool is_there = set >= 0 && set < static_cast<int32_t>(sets.size());
    return is_there ? sets[static_cast<std::size_t>(set)] : best_instruction_set();
}

ParallelFor on_threads(int32_t threads) {
    return [threads](std::size_t count, const std::function<void(std::size_t)>& task) {
        run_on_threads(count, threads, task);
    };
}

DeformableAttentionShape shape_of(const DeformableAttentionSizes& sizes, const int32_t* spatial_shapes) {
    const int64_t samples = sizes.heads * sizes.levels * sizes.points;
    DeformableAttentionShape shape;
    const std::string problem = deformable_attention_shape(
        {sizes.batch, sizes.value_rows, sizes.channels}, {sizes.batch, sizes.queries, samples * 2},
        {sizes.batch, sizes.queries, samples}, {sizes.reference_batch, sizes.queries, 2}, {sizes.levels, 2},
        spatial_shapes, sizes.heads, sizes.points, shape);
    if (!problem.empty()) throw std::invalid_argument(problem);
    return shape;
}

// No exception leaves a C function: what it says does.
template <typename Work>
int32_t guarded(char* text, int32_t capacity, const Work& work) noexcept {
    try {
        work();
        return 0;
    } catch (const std::exception& error) {
        if (capacity > 0) {
            const std::size_t length = std::min(std::strlen(error.what()), static_cast<std::size_t>(capacity) - 1);
            std::memcpy(text, error.what(), length);
            text[length] = '\0';
        }
        return 1;
    }
}

}  // namespace

int32_t mask2edge_training_interface() { return kTrainingInterface; }

const char* mask2edge_training_instruction_sets() {
    static const std::string names = [] {
        std::string text;
        for (const InstructionSet set : available_instruction_sets())
            text += (text.empty() ? "" : " ") + std::string(name(set));
        return text;
    }();
    return names.c_str();
}

int32_t mask2edge_deformable_attention(const DeformableAttentionSizes* sizes, const int32_t* spatial_shapes,
                                       const float* value, const float* offsets, const float* logits,
                                       const float* reference_points, float* output, int32_t threads, int32_t set,
                                       char* text, int32_t capacity) {
    return guarded(text, capacity, [&] {
        multiscale_deformable_attention({value, offsets, logits, reference_points, output},
                                        shape_of(*sizes, spatial_shapes), on_threads(threads), set_of(set));
    });
}

int32_t mask2edge_deformable_attention_gradient(const DeformableAttentionSizes* sizes, const int32_t* spatial_shapes,
                                                const float* value, const float* offsets, const float* logits,
                                                const float* reference_points, const float* grad_output,
                                                float* grad_value, float* grad_offsets, float* grad_logits,
                                                int32_t threads, int32_t set, char* text, int32_t capacity) {
    return guarded(text, capacity, [&] {
        const DeformableAttentionShape shape = shape_of(*sizes, spatial_shapes);
        multiscale_deformable_attention_gradient(
            {value, offsets, logits, reference_points, grad_output, grad_value, grad_offsets, grad_logits}, shape,
            on_threads(threads), set_of(set));
    });
}
