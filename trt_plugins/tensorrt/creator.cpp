#include "tensorrt/log.h"
#include "tensorrt/plugin.h"
#include "tensorrt/version.h"

namespace mask2edge {

namespace {

std::string names_of(const std::vector<const char*>& attributes) {
    std::string text;
    for (std::size_t i = 0; i < attributes.size(); ++i) text += (i ? ", " : "") + std::string(attributes[i]);
    return text;
}

// "", or what is wrong with the fields; fills in `attributes`, in the op's order.
std::string read_attributes(const Op& op, const nvinfer1::PluginFieldCollection* fields, Attributes& attributes) {
    attributes.assign(op.attributes.size(), 0);  // 0: not seen yet
    const int32_t count = fields == nullptr ? 0 : fields->nbFields;
    for (int32_t i = 0; i < count; ++i) {
        const nvinfer1::PluginField& field = fields->fields[i];
        const std::string name = field.name == nullptr ? "" : field.name;
        std::size_t which = 0;
        while (which < op.attributes.size() && name != op.attributes[which]) ++which;
        if (which == op.attributes.size())
            return "unknown attribute '" + name + "': the op has " + names_of(op.attributes);
        if (attributes[which] != 0) return "attribute " + name + " is given twice";
        if (field.type != nvinfer1::PluginFieldType::kINT32 || field.length != 1 || field.data == nullptr)
            return "attribute " + name + " must be one int32, got " + std::to_string(field.length) +
                   " value(s) of field type " + std::to_string(static_cast<int32_t>(field.type));
        const int32_t value = *static_cast<const int32_t*>(field.data);
        if (value < 1 || value > kMaxAttribute)
            return "attribute " + name + " must be from 1 to " + std::to_string(kMaxAttribute) + ", got " +
                   std::to_string(value);
        attributes[which] = value;
    }
    for (std::size_t i = 0; i < attributes.size(); ++i)
        if (attributes[i] == 0) return std::string("attribute ") + op.attributes[i] + " is missing";
    return "";
}

}  // namespace

OpCreator::OpCreator(const Op& op) : op_(op) {
    for (const char* name : op_.attributes) fields_.emplace_back(name, nullptr, nvinfer1::PluginFieldType::kINT32, 1);
    names_.nbFields = static_cast<int32_t>(fields_.size());
    names_.fields = fields_.data();
}

nvinfer1::IPluginV3* OpCreator::createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                             nvinfer1::TensorRTPhase) noexcept {
    return guarded<nvinfer1::IPluginV3*>(op_.name, nullptr, [&]() -> nvinfer1::IPluginV3* {
        Attributes attributes;
        const std::string problem = read_attributes(op_, fields, attributes);
        if (problem.empty()) return new OpPlugin(op_, std::move(attributes));
        const std::string layer = name == nullptr || *name == '\0' ? "" : " (layer " + std::string(name) + ")";
        log_message(Severity::kERROR, op_.name + layer + ": " + problem);
        return nullptr;
    });
}

const nvinfer1::PluginFieldCollection* OpCreator::getFieldNames() noexcept { return &names_; }
const char* OpCreator::getPluginName() const noexcept { return op_.name; }
const char* OpCreator::getPluginVersion() const noexcept { return kPluginVersion; }
const char* OpCreator::getPluginNamespace() const noexcept { return kPluginNamespace; }

}  // namespace mask2edge
