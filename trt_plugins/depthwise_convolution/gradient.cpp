#include "depthwise_convolution/gradient.h"

#include <vector>

#include "common/dims.h"

namespace mask2edge {

namespace {

struct TileFunctions {
    void (*grad_input_row)(const DepthwiseGradientTensors&, const DepthwiseShape&, int64_t, int64_t);
    void (*grad_weights)(const DepthwiseGradientTensors&, const DepthwiseShape&, int64_t);
};

TileFunctions tile_functions(InstructionSet set) {
#ifdef MASK2EDGE_HAS_X86_KERNELS
    if (set == InstructionSet::avx512) return {avx512::depthwise_grad_input_row, avx512::depthwise_grad_weights};
    if (set == InstructionSet::avx2) return {avx2::depthwise_grad_input_row, avx2::depthwise_grad_weights};
#endif
    (void)set;
    return {portable::depthwise_grad_input_row, portable::depthwise_grad_weights};
}

}  // namespace

std::string depthwise_problem(const DepthwiseShape& shape) {
    const std::string op = "depthwise convolution: ";
    if (shape.kernel != 3 && shape.kernel != 5)
        return op + "the kernel must be 3 or 5, got " + std::to_string(shape.kernel);
    if (shape.channels % kDepthwiseChannels != 0)
        return op + "channels must be a multiple of 16, got " + std::to_string(shape.channels);
    if (shape.stride < 1 || shape.padding < 0)
        return op + "expected a stride from 1 and a padding from 0, got " + std::to_string(shape.stride) + " and " +
               std::to_string(shape.padding);
    const Dims expected = {(shape.height + 2 * shape.padding - shape.kernel) / shape.stride + 1,
                           (shape.width + 2 * shape.padding - shape.kernel) / shape.stride + 1};
    return expect_dims("depthwise convolution", "the output", expected, "input, stride and padding",
                       {shape.out_height, shape.out_width});
}

void depthwise_gradient(const float* input, const float* weights, const float* grad_output, float* grad_input,
                        float* grad_weights, const DepthwiseShape& shape, const ParallelFor& parallel_for,
                        InstructionSet set) {
    const int64_t taps = shape.kernel * shape.kernel;
    std::vector<float> by_tap(static_cast<std::size_t>(taps * shape.channels));  // [K*K, C]
    for (int64_t channel = 0; channel < shape.channels; ++channel)
        for (int64_t tap = 0; tap < taps; ++tap)
            by_tap[static_cast<std::size_t>(tap * shape.channels + channel)] = weights[channel * taps + tap];
    const DepthwiseGradientTensors tensors{input, by_tap.data(), grad_output, grad_input, grad_weights};
    const TileFunctions tile = tile_functions(set);
    const int64_t blocks = shape.channels / kDepthwiseChannels;
    // the weights' tasks are the longer ones and come first
    parallel_for(static_cast<std::size_t>(blocks + shape.batch * shape.height), [&](std::size_t index) {
        const int64_t task = static_cast<int64_t>(index);
        if (task < blocks)
            tile.grad_weights(tensors, shape, task * kDepthwiseChannels);
        else
            tile.grad_input_row(tensors, shape, (task - blocks) / shape.height, (task - blocks) % shape.height);
    });
}

}  // namespace mask2edge
