// What one task of the gradient's kernels does. Compiled once per instruction set.
#pragma once

#include <cstdint>

namespace mask2edge {

struct DepthwiseShape {
    int64_t batch, height, width, channels, out_height, out_width, kernel, stride, padding;
};

struct DepthwiseGradientTensors {
    const float* input;        // [N, H, W, C]
    const float* taps;         // [K*K, C]: the weights with channels side by side
    const float* grad_output;  // [N, H', W', C]
    float* grad_input;         // [N, H, W, C]
    float* grad_weights;       // [C, K*K]
};

constexpr int64_t kDepthwiseChannels = 16;  // of a task of the weights' gradient; divides C
constexpr int64_t kLargestKernel = 5;

#define MASK2EDGE_DECLARE(set)                                                                                         \
    namespace set {                                                                                                    \
    void depthwise_grad_input_row(const DepthwiseGradientTensors& tensors, const DepthwiseShape& shape, int64_t image, \
                                  int64_t row);                                                                        \
    void depthwise_grad_weights(const DepthwiseGradientTensors& tensors, const DepthwiseShape& shape,                  \
                                int64_t first_channel);                                                                \
    }
MASK2EDGE_DECLARE(portable)
MASK2EDGE_DECLARE(avx2)
MASK2EDGE_DECLARE(avx512)
#undef MASK2EDGE_DECLARE

}  // namespace mask2edge
