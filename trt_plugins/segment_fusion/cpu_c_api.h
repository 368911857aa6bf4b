// The C functions that runtime/native_postprocess.py calls through ctypes, with host addresses. They return when all is
// done, may be called from several threads at a time, and allocate what they need.
//
//     char text[256];
//     if (mask2edge_cpu_problem(&sizes, text, sizeof text)) refuse(text);
//     if (mask2edge_cpu_panoptic(&sizes, 0.8, 0.8, &tensors, &options) != 0) out_of_memory();
//
// Sizes are to be checked with mask2edge_cpu_problem first.
#pragma once

#include <cstdint>

#include "preprocess/shape.h"
#include "segment_fusion/cpu.h"

#define MASK2EDGE_C_FUNCTION extern "C" __attribute__((visibility("default")))

// Raised when a structure or a function of this library changes; runtime/native_postprocess.py refuses another one.
constexpr int32_t kCpuInterface = 1;

MASK2EDGE_C_FUNCTION int32_t mask2edge_cpu_interface();

// sizeof and offsets of FusionSizes, CpuTensors, SegmentRow, PreprocessShape; returns how many numbers there are.
MASK2EDGE_C_FUNCTION int32_t mask2edge_cpu_layout(int32_t* numbers, int32_t capacity);

// The instruction sets that this processor has and the library was compiled for, slowest first: "portable avx2 avx512".
MASK2EDGE_C_FUNCTION const char* mask2edge_cpu_instruction_sets();

// 0 where the sizes can be worked on, else the length of the one line that says why not, of which as much as `capacity`
// allows is written.
MASK2EDGE_C_FUNCTION int32_t mask2edge_cpu_problem(const mask2edge::FusionSizes* sizes, char* text, int32_t capacity);

// 0: done; 1: not enough memory. order: 0 image, 1 padded; set: a place among mask2edge_cpu_instruction_sets(), or -1
// for the last.
MASK2EDGE_C_FUNCTION int32_t mask2edge_cpu_semantic(const mask2edge::FusionSizes* sizes, int32_t order,
                                                    const mask2edge::CpuTensors* tensors, int32_t threads, int32_t set);
MASK2EDGE_C_FUNCTION int32_t mask2edge_cpu_panoptic(const mask2edge::FusionSizes* sizes, double object_threshold,
                                                    double overlap_threshold, const mask2edge::CpuTensors* tensors,
                                                    int32_t threads, int32_t set);

// is_thing of `tensors` says here which classes are returned; the table has room for a header and `top_k` rows. What
// *counts is then set to is read and given back with the functions below it.
MASK2EDGE_C_FUNCTION int32_t mask2edge_cpu_instances(const mask2edge::FusionSizes* sizes, int32_t top_k,
                                                     const mask2edge::CpuTensors* tensors, int32_t threads, int32_t set,
                                                     void** counts);
MASK2EDGE_C_FUNCTION int64_t mask2edge_cpu_counts(const void* counts, const int32_t** values, const int64_t** begin);
MASK2EDGE_C_FUNCTION void mask2edge_cpu_free_counts(void* counts);

// See preprocess/cpu.h. 0: done; 1: not enough memory. image: the image where `shrinks`, else the resized one.
MASK2EDGE_C_FUNCTION int32_t mask2edge_cpu_shrinks_by_area(const mask2edge::PreprocessShape* shape);
MASK2EDGE_C_FUNCTION int32_t mask2edge_cpu_preprocess(const uint8_t* image, int64_t row_bytes,
                                                      const mask2edge::PreprocessShape* shape, int32_t shrinks,
                                                      const float* tables, float* pixels, int32_t threads);
