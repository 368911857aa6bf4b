// Convolution3x3 on the CPU: pointers in, pointers out, no framework.
//
//     const Convolution3x3Weights weights(weight, bias, filters, channels);      // once
//     convolution_3x3(x, weights, relu, output, shape, parallel_for);
#pragma once

#include <vector>

#include "common/instruction_set.h"
#include "common/parallel_for.h"
#include "convolution_3x3/shape.h"

namespace mask2edge {

// The filters as the kernel of an instruction set reads them: transformed, four times their size.
class Convolution3x3Weights {
  public:
    // weight [O, C, 3, 3], bias [O]
    Convolution3x3Weights(const float* weight, const float* bias, int64_t filters, int64_t channels,
                          InstructionSet set = best_instruction_set());

    const float* transformed() const { return transformed_.data(); }
    const float* bias() const { return bias_.data(); }
    InstructionSet set() const { return set_; }

  private:
    InstructionSet set_;
    std::vector<float> transformed_;  // [O / rows][36][C][rows], O up to a multiple of rows
    std::vector<float> bias_;         // [O up to a multiple of rows]
};

// x [N, C, H, W] -> output [N, O, H, W], fp32, contiguous; zeros around the map, stride 1. Trusts the shape: it comes
// from convolution_3x3_shape(), which checks, and the weights are of its filters and channels.
void convolution_3x3(const float* x, const Convolution3x3Weights& weights, bool relu, float* output,
                     const Convolution3x3Shape& shape, const ParallelFor& parallel_for);

}  // namespace mask2edge
