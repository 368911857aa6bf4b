#include "masked_attention/plugin.h"

#include <algorithm>

#include "masked_attention/launch.h"
#include "masked_attention/shape.h"

namespace mask2edge {

namespace {

constexpr const char* kName = "MaskedAttention";

std::string shape_of(const std::vector<Dims>& inputs, const Attributes& attributes, MaskedAttentionShape& shape) {
    std::string problem = masked_attention_shape(inputs[0], inputs[1], inputs[2], inputs[3], attributes[0], shape);
    return problem.empty() ? masked_attention_unsupported(shape) : problem;
}

std::string check(const std::vector<Dims>& inputs, DataType, const Attributes& attributes) {
    MaskedAttentionShape shape;
    return shape_of(inputs, attributes, shape);
}

std::size_t workspace(const std::vector<Dims>& largest, const Attributes& attributes) {
    const Dims &query = largest[0], &key = largest[1], &mask_logits = largest[3];
    const int64_t heads = attributes[0];
    return masked_attention_workspace({std::max({query[0], key[0], mask_logits[0]}), std::max(query[1], mask_logits[1]),
                                       std::max({key[1], largest[2][1], mask_logits[2]}), heads, query[2] / heads});
}

std::string launch(const Call& call, const Attributes& attributes) {
    MaskedAttentionShape shape;
    const std::string problem = shape_of(call.dims, attributes, shape);
    if (!problem.empty()) return problem;
    const MaskedAttentionTensors tensors{kernel_type(call.types[0]),
                                         call.inputs[0],
                                         call.inputs[1],
                                         call.inputs[2],
                                         static_cast<const float*>(call.inputs[3]),
                                         call.output,
                                         call.workspace};
    return launch_problem(kName, launch_masked_attention(shape, tensors, call.stream));
}

}  // namespace

const Op& masked_attention_op() {
    static const Op op{
        kName,
        {"num_heads"},
        {{"query", TypeRule::value, 3},           // [N, Q, M*D]
         {"key", TypeRule::value, 3},             // [N, S, M*D]
         {"value", TypeRule::value, 3},           // [N, S, M*D]
         {"mask_logits", TypeRule::float32, 3}},  // [N, Q, S]: their sign decides, in no type but float32
        {{{0, 0}, {0, 1}, {0, 2}}},               // [N, Q, M*D]
        check,
        workspace,
        launch};
    return op;
}

}  // namespace mask2edge
