#include "multiscale_deformable_attention/plugin.h"

#include "multiscale_deformable_attention/launch.h"
#include "multiscale_deformable_attention/shape.h"

namespace mask2edge {

namespace {

constexpr const char* kName = "MultiscaleDeformableAttention";

// spatial_shapes is on the device: the host knows how many levels there are, the kernel how large they are.
std::string shape_of(const std::vector<Dims>& inputs, DataType type, const Attributes& attributes,
                     DeformableAttentionShape& shape) {
    std::string problem = deformable_attention_shape(inputs[0], inputs[1], inputs[2], inputs[3], inputs[4], nullptr,
                                                     attributes[0], attributes[1], shape);
    return problem.empty() ? deformable_attention_unsupported(shape, type) : problem;
}

std::string check(const std::vector<Dims>& inputs, DataType type, const Attributes& attributes) {
    DeformableAttentionShape shape;
    return shape_of(inputs, type, attributes, shape);
}

std::size_t workspace(const std::vector<Dims>&, const Attributes&) { return 0; }

std::string launch(const Call& call, const Attributes& attributes) {
    DeformableAttentionShape shape;
    const DataType type = kernel_type(call.types[0]);
    const std::string problem = shape_of(call.dims, type, attributes, shape);
    if (!problem.empty()) return problem;
    const DeformableAttentionTensors tensors{type,
                                             kernel_type(call.types[1]),
                                             call.inputs[0],
                                             call.inputs[1],
                                             call.inputs[2],
                                             static_cast<const float*>(call.inputs[3]),
                                             static_cast<const int32_t*>(call.inputs[4]),
                                             call.output};
    return launch_problem(kName, launch_deformable_attention(shape, tensors, call.stream));
}

}  // namespace

const Op& deformable_attention_op() {
    static const Op op{kName,
                       {"num_heads", "num_points"},
                       {{"value", TypeRule::value, 3},               // [N, S, M*D]
                        {"offsets", TypeRule::value_or_float32, 3},  // [N, Lq, M*L*P*2]
                        {"logits", TypeRule::value_or_float32, 3},   // [N, Lq, M*L*P]
                        {"reference_points", TypeRule::float32, 3},  // [1 or N, Lq, 2]
                        {"spatial_shapes", TypeRule::int32, 2}},     // [L, 2]
                       {{{0, 0}, {1, 1}, {0, 2}}},                   // [N, Lq, M*D]
                       check,
                       workspace,
                       launch};
    return op;
}

}  // namespace mask2edge
