// The C functions that runtime/device_kernels.py calls through ctypes: post-processing, and what it asks the library
// first.
//
//     char text[256];
//     if (mask2edge_fusion_problem(&sizes, text, sizeof text)) refuse(text);
//     int32_t error = mask2edge_panoptic(&sizes, 0.8, 0.8, &tensors, stream);  // a cudaError_t, 0 = success
//
// Pointers are device pointers, streams are cudaStream_t. Sizes are to be checked with the function above first.
#pragma once

#include <cstddef>
#include <cstdint>

#include "segment_fusion/launch.h"

#define MASK2EDGE_C_FUNCTION extern "C" __attribute__((visibility("default")))

// Raised when a structure or a function of c_api.h changes: runtime/device_kernels.py refuses a library of another one.
constexpr int32_t kDeviceInterface = 1;

MASK2EDGE_C_FUNCTION int32_t mask2edge_device_interface();

// sizeof and offsets of the structures, for a comparison with what Python declares; returns how many numbers there are.
// FusionSizes, FusionTensors, SegmentRow, PreprocessShape, Normalisation: of each the size, then each field's offset.
MASK2EDGE_C_FUNCTION int32_t mask2edge_device_layout(int32_t* numbers, int32_t capacity);

// What a cudaError_t means.
MASK2EDGE_C_FUNCTION const char* mask2edge_error_text(int32_t error);

// 0 where the sizes can be worked on, else the length of the one line that says why not, of which as much as `capacity`
// allows is written.
MASK2EDGE_C_FUNCTION int32_t mask2edge_fusion_problem(const mask2edge::FusionSizes* sizes, char* text,
                                                      int32_t capacity);

// Bytes; order: 0 image, 1 padded.
MASK2EDGE_C_FUNCTION int64_t mask2edge_semantic_workspace(const mask2edge::FusionSizes* sizes, int32_t order);
MASK2EDGE_C_FUNCTION int64_t mask2edge_panoptic_workspace(const mask2edge::FusionSizes* sizes);

MASK2EDGE_C_FUNCTION int32_t mask2edge_semantic(const mask2edge::FusionSizes* sizes, int32_t order,
                                                const mask2edge::FusionTensors* tensors, void* stream);
MASK2EDGE_C_FUNCTION int32_t mask2edge_panoptic(const mask2edge::FusionSizes* sizes, double object_threshold,
                                                double overlap_threshold, const mask2edge::FusionTensors* tensors,
                                                void* stream);
