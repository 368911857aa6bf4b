#include "depthwise_convolution/gradient_tile.h"

#include "common/simd.h"

namespace mask2edge::MASK2EDGE_SIMD {

namespace {

// The output pixels that read one input pixel, each through another tap.
struct Readers {
    const float* grad_output[kLargestKernel * kLargestKernel];  // [C] each
    const float* tap[kLargestKernel * kLargestKernel];          // [C] each
    int count;
};

template <int Vectors>
void sum_readers(const Readers& readers, int64_t channel, float* grad_input) {
    Floats sum[Vectors] = {};
    for (int i = 0; i < readers.count; ++i)
        for (int v = 0; v < Vectors; ++v)
            sum[v] += load(readers.grad_output[i] + channel + v * kWidth) * load(readers.tap[i] + channel + v * kWidth);
    for (int v = 0; v < Vectors; ++v) store(grad_input + channel + v * kWidth, sum[v]);
}

// The gradient of one row of the filters, row `i`, for the channels of a vector.
template <int Kernel>
void filter_row(const DepthwiseGradientTensors& tensors, const DepthwiseShape& shape, int64_t i, int64_t channel) {
    const int64_t channels = shape.channels;
    Floats total[Kernel] = {};
    for (int64_t image = 0; image < shape.batch; ++image)
        for (int64_t out_row = 0; out_row < shape.out_height; ++out_row) {
            const int64_t row = out_row * shape.stride - shape.padding + i;
            if (row < 0 || row >= shape.height) continue;
            const float* grad =
                tensors.grad_output + (image * shape.out_height + out_row) * shape.out_width * channels + channel;
            const float* input = tensors.input + (image * shape.height + row) * shape.width * channels + channel;
            Floats sum[Kernel] = {};  // of a row by itself: sums of sums lose less
            for (int64_t out_column = 0; out_column < shape.out_width; ++out_column) {
                const int64_t left = out_column * shape.stride - shape.padding;
                const Floats g = load(grad + out_column * channels);
                if (left >= 0 && left + Kernel <= shape.width) {
                    for (int j = 0; j < Kernel; ++j) sum[j] += g * load(input + (left + j) * channels);
                } else {
                    for (int j = 0; j < Kernel; ++j)
                        if (left + j >= 0 && left + j < shape.width) sum[j] += g * load(input + (left + j) * channels);
                }
            }
            for (int j = 0; j < Kernel; ++j) total[j] += sum[j];
        }
    for (int j = 0; j < Kernel; ++j)
        for (int lane = 0; lane < kWidth; ++lane)
            tensors.grad_weights[(channel + lane) * Kernel * Kernel + i * Kernel + j] = total[j][lane];
}

}  // namespace

void depthwise_grad_input_row(const DepthwiseGradientTensors& tensors, const DepthwiseShape& shape, int64_t image,
                              int64_t row) {
    const int64_t channels = shape.channels;
    for (int64_t column = 0; column < shape.width; ++column) {
        Readers readers;
        readers.count = 0;
        for (int64_t i = 0; i < shape.kernel; ++i) {
            const int64_t y = row + shape.padding - i;
            if (y < 0 || y % shape.stride != 0 || y / shape.stride >= shape.out_height) continue;
            for (int64_t j = 0; j < shape.kernel; ++j) {
                const int64_t x = column + shape.padding - j;
                if (x < 0 || x % shape.stride != 0 || x / shape.stride >= shape.out_width) continue;
                const int64_t pixel =
                    (image * shape.out_height + y / shape.stride) * shape.out_width + x / shape.stride;
                readers.grad_output[readers.count] = tensors.grad_output + pixel * channels;
                readers.tap[readers.count++] = tensors.taps + (i * shape.kernel + j) * channels;
            }
        }
        float* grad_input = tensors.grad_input + ((image * shape.height + row) * shape.width + column) * channels;
        int64_t channel = 0;
        for (; channel + 4 * kWidth <= channels; channel += 4 * kWidth) sum_readers<4>(readers, channel, grad_input);
        for (; channel < channels; channel += kWidth) sum_readers<1>(readers, channel, grad_input);
    }
}

void depthwise_grad_weights(const DepthwiseGradientTensors& tensors, const DepthwiseShape& shape,
                            int64_t first_channel) {
    for (int64_t channel = first_channel; channel < first_channel + kDepthwiseChannels; channel += kWidth)
        for (int64_t i = 0; i < shape.kernel; ++i) {
            if (shape.kernel == 3)
                filter_row<3>(tensors, shape, i, channel);
            else
                filter_row<5>(tensors, shape, i, channel);
        }
}

}  // namespace mask2edge::MASK2EDGE_SIMD
