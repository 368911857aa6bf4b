// The C functions that train/ calls through ctypes, with host addresses of contiguous fp32.
//
//     if (mask2edge_deformable_attention(&sizes, levels, value, …, output, threads, -1, text, sizeof text))
//     refuse(text);
//
// Each returns 0 when all is done; else what is written to `text` says why not, in one line.
#pragma once

#include <cstdint>

#include "depthwise_convolution/gradient_tile.h"
#include "point_sampling/cpu.h"

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

// trt_plugins/depthwise_convolution/README.md. sizes: DepthwiseShape of gradient_tile.h.
MASK2EDGE_C_FUNCTION int32_t mask2edge_depthwise_gradient(const mask2edge::DepthwiseShape* sizes, const float* input,
                                                          const float* weights, const float* grad_output,
                                                          float* grad_input, float* grad_weights, int32_t threads,
                                                          int32_t set, char* text, int32_t capacity);

// trt_plugins/point_sampling/README.md. `set` is not used: there is one way to read a byte.
MASK2EDGE_C_FUNCTION int32_t mask2edge_sample_masks(const mask2edge::MaskSamplingSizes* sizes, const uint8_t* masks,
                                                    const int64_t* which, const float* coordinates, float* output,
                                                    int32_t threads, int32_t set, char* text, int32_t capacity);
