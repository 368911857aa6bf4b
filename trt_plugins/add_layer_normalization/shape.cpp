#include "add_layer_normalization/shape.h"

namespace mask2edge {

namespace {
constexpr const char* kOp = "AddLayerNormalization";
}

std::string add_layer_normalization_shape(const Dims& x, const Dims& residual, const Dims& scale, const Dims& bias,
                                          AddLayerNormalizationShape& shape) {
    if (x.empty() || x.back() < 1)
        return std::string(kOp) + ": x must be [..., C] with C of 1 or more, got " + to_text(x);
    std::string problem = expect_dims(kOp, "residual", x, "as x", residual);
    if (problem.empty()) problem = expect_dims(kOp, "scale", {x.back()}, "[C], x's last axis", scale);
    if (problem.empty()) problem = expect_dims(kOp, "bias", {x.back()}, "[C], x's last axis", bias);
    if (!problem.empty()) return problem;
    shape = {1, x.back()};
    for (std::size_t axis = 0; axis + 1 < x.size(); ++axis) shape.rows *= x[axis];
    return "";
}

}  // namespace mask2edge
