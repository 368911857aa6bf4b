// The C functions for preprocessing that runtime/device_kernels.py calls through ctypes.
//
//     char text[256];
//     if (mask2edge_preprocess_problem(&shape, &normalisation, text, sizeof text)) refuse(text);
//     int32_t error = mask2edge_preprocess(&shape, &normalisation, image, pixels, stream);  // a cudaError_t, 0 =
//     success
#pragma once

#include <cstdint>

#include "preprocess/launch.h"

#define MASK2EDGE_C_FUNCTION extern "C" __attribute__((visibility("default")))

// 0 where it can be done, else the length of the one line that says why not, of which as much as `capacity` allows is
// written.
MASK2EDGE_C_FUNCTION int32_t mask2edge_preprocess_problem(const mask2edge::PreprocessShape* shape,
                                                          const mask2edge::Normalisation* normalisation, char* text,
                                                          int32_t capacity);

// image: uint8 [H0, W0, 3] BGR, pixels: float32 [3, H, W]; both on the device.
MASK2EDGE_C_FUNCTION int32_t mask2edge_preprocess(const mask2edge::PreprocessShape* shape,
                                                  const mask2edge::Normalisation* normalisation, const uint8_t* image,
                                                  float* pixels, void* stream);
