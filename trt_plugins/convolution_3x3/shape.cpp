#include "convolution_3x3/shape.h"

namespace mask2edge {

namespace {
constexpr const char* kOp = "Convolution3x3";
}

std::string convolution_3x3_shape(const Dims& x, const Dims& weight, const Dims& bias, Convolution3x3Shape& shape) {
    const std::string op = std::string(kOp) + ": ";
    if (x.size() != 4 || x[1] < 1) return op + "x must be [N, C, H, W] with C of 1 or more, got " + to_text(x);
    if (weight.size() != 4 || weight[0] < 1 || weight[1] != x[1] || weight[2] != 3 || weight[3] != 3)
        return op + "weight must be [O, " + std::to_string(x[1]) + ", 3, 3] with O of 1 or more, got " +
               to_text(weight);
    const std::string problem = expect_dims(kOp, "bias", {weight[0]}, "[O], one for each filter", bias);
    if (problem.empty()) shape = {x[0], x[1], x[2], x[3], weight[0]};
    return problem;
}

}  // namespace mask2edge
