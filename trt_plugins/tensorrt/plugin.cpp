#include "tensorrt/plugin.h"

#include <algorithm>

#include "tensorrt/log.h"
#include "tensorrt/version.h"

namespace mask2edge {

namespace {

Dims to_dims(const nvinfer1::Dims& dims) { return dims.nbDims < 0 ? Dims() : Dims(dims.d, dims.d + dims.nbDims); }

bool all_known(const std::vector<Dims>& tensors) {
    for (const Dims& dims : tensors)
        if (std::any_of(dims.begin(), dims.end(), [](int64_t size) { return size < 0; })) return false;
    return true;
}

bool is_dynamic(const nvinfer1::Dims& dims) {
    return std::any_of(dims.d, dims.d + std::max(dims.nbDims, 0), [](int64_t size) { return size < 0; });
}

const nvinfer1::PluginTensorDesc& description(const nvinfer1::PluginTensorDesc& tensor) { return tensor; }
const nvinfer1::PluginTensorDesc& description(const nvinfer1::DynamicPluginTensorDesc& tensor) { return tensor.desc; }

// The first tensor of the wrong type or format, inputs first, then the output.
template <typename Tensor>
std::string layout_problem(const Op& op, const Tensor* in, const Tensor* out) {
    std::vector<nvinfer1::DataType> types;
    for (std::size_t position = 0; position <= op.inputs.size(); ++position) {
        const bool is_output = position == op.inputs.size();
        const nvinfer1::PluginTensorDesc& tensor = description(is_output ? out[0] : in[position]);
        types.push_back(tensor.type);
        std::string problem = type_problem(op, types.data(), static_cast<int32_t>(position));
        if (problem.empty() && tensor.format != nvinfer1::TensorFormat::kLINEAR)
            problem = std::string(op.name) + ": " + (is_output ? "output" : op.inputs[position].name) +
                      " must be in the linear format, got format " +
                      std::to_string(static_cast<int32_t>(tensor.format));
        if (!problem.empty()) return problem;
    }
    return "";
}

}  // namespace

OpPlugin::OpPlugin(const Op& op, Attributes attributes) : op_(op), attributes_(std::move(attributes)) {
    for (std::size_t i = 0; i < op_.attributes.size(); ++i) {
        description_ += (i ? ";" : "") + std::string(op_.attributes[i]) + "=" + std::to_string(attributes_[i]);
        fields_.emplace_back(op_.attributes[i], &attributes_[i], nvinfer1::PluginFieldType::kINT32, 1);
    }
    serialized_.nbFields = static_cast<int32_t>(fields_.size());
    serialized_.fields = fields_.data();
}

int32_t OpPlugin::report(const std::string& problem) const noexcept {
    if (problem.empty()) return 0;
    log_message(Severity::kERROR, problem);
    return 1;
}

std::string OpPlugin::count_problem(int32_t inputs, int32_t outputs) const {
    if (inputs == static_cast<int32_t>(op_.inputs.size()) && outputs == 1) return "";
    return std::string(op_.name) + ": expected " + std::to_string(op_.inputs.size()) + " inputs and 1 output, got " +
           std::to_string(inputs) + " and " + std::to_string(outputs);
}

// ---- IPluginV3, core ------------------------------------------------------------------------------------------------
nvinfer1::IPluginCapability* OpPlugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
    switch (type) {  // three bases with a common one: the cast says which
        case nvinfer1::PluginCapabilityType::kCORE:
            return static_cast<nvinfer1::IPluginV3OneCore*>(this);
        case nvinfer1::PluginCapabilityType::kBUILD:
            return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
        case nvinfer1::PluginCapabilityType::kRUNTIME:
            return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
}

nvinfer1::IPluginV3* OpPlugin::clone() noexcept {
    return guarded<nvinfer1::IPluginV3*>(op_.name, nullptr, [this] { return new OpPlugin(op_, attributes_); });
}

const char* OpPlugin::getPluginName() const noexcept { return op_.name; }
const char* OpPlugin::getPluginVersion() const noexcept { return kPluginVersion; }
const char* OpPlugin::getPluginNamespace() const noexcept { return kPluginNamespace; }

// ---- Build ----------------------------------------------------------------------------------------------------------
int32_t OpPlugin::getNbOutputs() const noexcept { return 1; }

int32_t OpPlugin::getOutputDataTypes(nvinfer1::DataType* output_types, int32_t outputs,
                                     const nvinfer1::DataType* input_types, int32_t inputs) const noexcept {
    return guarded<int32_t>(op_.name, 1, [&] {
        if (const std::string problem = count_problem(inputs, outputs); !problem.empty()) return report(problem);
        if (const std::string problem = type_problem(op_, input_types, 0); !problem.empty()) return report(problem);
        // The other types may still change where the network is weakly typed. Where it is not, TensorRT will find no
        // format for the layer, and its message names no tensor: this one does.
        for (int32_t input = 1; input < inputs; ++input)
            if (const std::string problem = type_problem(op_, input_types, input); !problem.empty())
                log_message(Severity::kWARNING, problem);
        output_types[0] = input_types[0];
        return 0;
    });
}

int32_t OpPlugin::getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t input_count, const nvinfer1::DimsExprs*,
                                  int32_t shape_input_count, nvinfer1::DimsExprs* outputs, int32_t output_count,
                                  nvinfer1::IExprBuilder&) noexcept {
    return guarded<int32_t>(op_.name, 1, [&] {
        if (const std::string problem = count_problem(input_count, output_count); !problem.empty())
            return report(problem);
        if (shape_input_count != 0)
            return report(std::string(op_.name) + ": expected no shape tensors, got " +
                          std::to_string(shape_input_count));
        std::vector<Dims> dims;
        for (int32_t input = 0; input < input_count; ++input) {
            dims.emplace_back();
            for (int32_t axis = 0; axis < inputs[input].nbDims; ++axis) {
                const nvinfer1::IDimensionExpr& size = *inputs[input].d[axis];
                dims.back().push_back(size.isConstant() ? size.getConstantValue() : -1);
            }
        }
        std::string problem = rank_problem(op_, dims);
        // Types are not known yet: float32 is the one that no kernel asks more of.
        if (problem.empty() && all_known(dims)) problem = op_.check(dims, DataType::float32, attributes_);
        if (!problem.empty()) return report(problem);
        outputs[0].nbDims = static_cast<int32_t>(op_.output.size());
        for (std::size_t axis = 0; axis < op_.output.size(); ++axis)
            outputs[0].d[axis] = inputs[op_.output[axis].input].d[op_.output[axis].axis];
        return 0;
    });
}

bool OpPlugin::supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors,
                                         int32_t inputs, int32_t outputs) noexcept {
    return guarded<bool>(op_.name, false, [&] {
        if (!count_problem(inputs, outputs).empty() || position < 0 || position > inputs) return false;
        std::vector<nvinfer1::DataType> types;  // what lies behind position is not set yet
        for (int32_t i = 0; i <= position; ++i) types.push_back(tensors[i].desc.type);
        return tensors[position].desc.format == nvinfer1::TensorFormat::kLINEAR &&
               type_problem(op_, types.data(), position).empty();
    });
}

int32_t OpPlugin::configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                                  const nvinfer1::DynamicPluginTensorDesc* out, int32_t outputs) noexcept {
    return guarded<int32_t>(op_.name, 1, [&] {
        std::string problem = count_problem(inputs, outputs);
        if (problem.empty()) problem = layout_problem(op_, in, out);
        if (!problem.empty()) return report(problem);
        // Of the profile only the optimum is a set of sizes that fit together; bounds are found axis by axis.
        std::vector<Dims> dims;
        for (int32_t input = 0; input < inputs; ++input) {
            const nvinfer1::Dims& fixed = in[input].desc.dims;
            const bool use_optimum = is_dynamic(fixed) && in[input].opt.nbDims == fixed.nbDims;
            dims.push_back(to_dims(use_optimum ? in[input].opt : fixed));
        }
        problem = rank_problem(op_, dims);
        if (problem.empty() && all_known(dims)) problem = op_.check(dims, kernel_type(in[0].desc.type), attributes_);
        return report(problem);
    });
}

size_t OpPlugin::getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                                  const nvinfer1::DynamicPluginTensorDesc*, int32_t outputs) const noexcept {
    return guarded<size_t>(op_.name, 0, [&]() -> size_t {
        if (report(count_problem(inputs, outputs)) != 0) return 0;
        std::vector<Dims> largest;
        for (int32_t input = 0; input < inputs; ++input) {
            Dims dims = to_dims(in[input].desc.dims);
            const Dims bound = to_dims(in[input].max);
            for (std::size_t axis = 0; axis < std::min(dims.size(), bound.size()); ++axis)
                dims[axis] = std::max(dims[axis], bound[axis]);
            largest.push_back(std::move(dims));
        }
        if (report(rank_problem(op_, largest)) != 0 || !all_known(largest)) return 0;
        return op_.workspace(largest, attributes_);
    });
}

// Tensors are part of TensorRT's key; the attributes are all that is left.
const char* OpPlugin::getTimingCacheID() noexcept { return description_.c_str(); }
const char* OpPlugin::getMetadataString() noexcept { return description_.c_str(); }

// ---- Run ------------------------------------------------------------------------------------------------------------
int32_t OpPlugin::onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t inputs,
                                const nvinfer1::PluginTensorDesc* out, int32_t outputs) noexcept {
    return guarded<int32_t>(op_.name, 1, [&] {
        std::string problem = count_problem(inputs, outputs);
        if (problem.empty()) problem = layout_problem(op_, in, out);
        if (!problem.empty()) return report(problem);
        std::vector<Dims> dims;
        for (int32_t input = 0; input < inputs; ++input) dims.push_back(to_dims(in[input].dims));
        return report(op_.check(dims, kernel_type(in[0].type), attributes_));
    });
}

int32_t OpPlugin::enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc*,
                          const void* const* inputs, void* const* outputs, void* workspace,
                          cudaStream_t stream) noexcept {
    return guarded<int32_t>(op_.name, 1, [&] {
        Call call{{}, {}, inputs, outputs[0], workspace, stream};
        for (std::size_t input = 0; input < op_.inputs.size(); ++input) {
            call.dims.push_back(to_dims(in[input].dims));
            call.types.push_back(in[input].type);
        }
        return report(op_.launch(call, attributes_));
    });
}

// Nothing of the context is used.
nvinfer1::IPluginV3* OpPlugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept { return clone(); }

const nvinfer1::PluginFieldCollection* OpPlugin::getFieldsToSerialize() noexcept { return &serialized_; }

}  // namespace mask2edge
