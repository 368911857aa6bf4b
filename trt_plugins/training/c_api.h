// The C functions that train/model/native_sampling.py calls through ctypes, with host addresses of contiguous fp32.
//
//     if (mask2edge_deformable_attention(&sizes, levels, value, …, output, threads, -1, text, sizeof text))
//     refuse(text);
//
// Each returns 0 when all is done; else what is written to `text` says why not, in one line.
#pragma once

#include <cstdint>

#define MASK2EDGE_C_FUNCTION extern "C" __attribute__((visibility("default")))

// Raised when a function or structure changes; train/native_library.py refuses another one.
constexpr int32_t kTrainingInterface = 1;

// The sizes of trt_plugins/multiscale_deformable_attention/README.md, all int64.
struct DeformableAttentionSizes {
    int64_t batch, value_rows, channels, queries, reference_batch, heads, levels, points;
};

MASK2EDGE_C_FUNCTION int32_t mask2edge_training_interface();

// The instruction sets that this processor has and the library was compiled for, slowest first: "portable avx2 avx512".
MASK2EDGE_C_FUNCTION const char* mask2edge_training_instruction_sets();

// spatial_shapes: (height, width) of each level. set: a place among the instruction sets, or -1 for the last.
MASK2EDGE_C_FUNCTION int32_t mask2edge_deformable_attention(const DeformableAttentionSizes* sizes,
                                                            const int32_t* spatial_shapes, const float* value,
                                                            const float* offsets, const float* logits,
                                                            const float* reference_points, float* output,
                                                            int32_t threads, int32_t set, char* text, int32_t capacity);
MASK2EDGE_C_FUNCTION int32_t mask2edge_deformable_attention_gradient(
    const DeformableAttentionSizes* sizes, const int32_t* spatial_shapes, const float* value, const float* offsets,
    const float* logits, const float* reference_points, const float* grad_output, float* grad_value,
    float* grad_offsets, float* grad_logits, int32_t threads, int32_t set, char* text, int32_t capacity);
