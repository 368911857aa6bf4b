// runtime/preprocess.py on the device: a uint8 BGR image becomes the network's input.
//
//     if (std::string problem = preprocess_problem(shape, normalisation); !problem.empty()) refuse(problem);
//     cudaError_t status = launch_preprocess(shape, normalisation, image, pixels, stream);
#pragma once

#include <cuda_runtime_api.h>

#include "preprocess/shape.h"

namespace mask2edge {

// image: [H0, W0, 3] BGR, without gaps; pixels: [3, H, W] RGB, all of it is written. Trusts shape and normalisation.
cudaError_t launch_preprocess(const PreprocessShape& shape, const Normalisation& normalisation, const uint8_t* image,
                              float* pixels, cudaStream_t stream);

}  // namespace mask2edge
