// TensorRT's interfaces over an Op: one plugin class and one creator class for every op. No kernels, no arithmetic.
//
//     static OpCreator creator(masked_attention_op());
//     nvinfer1::IPluginV3* plugin = creator.createPlugin("layer", &fields, nvinfer1::TensorRTPhase::kBUILD);
//
// Written for TensorRT 10.3 (JetPack 6) to 11: only IPluginV3's first version, no call into libnvinfer.
// Every function returns 0 (or a pointer), or logs one line that names the tensor or attribute and returns non-zero.
#pragma once

#include <NvInferRuntime.h>

#include <string>
#include <vector>

#include "tensorrt/op.h"

namespace mask2edge {

// Holds the attributes and nothing else: what depends on sizes is calculated in each call, so that clones, contexts and
// threads share nothing.
class OpPlugin final : public nvinfer1::IPluginV3,
                       public nvinfer1::IPluginV3OneCore,
                       public nvinfer1::IPluginV3OneBuild,
                       public nvinfer1::IPluginV3OneRuntime {
  public:
    // `op` outlives the plugin: each is a constant of the library.
    OpPlugin(const Op& op, Attributes attributes);
    OpPlugin(const OpPlugin&) = delete;
    OpPlugin& operator=(const OpPlugin&) = delete;

    // IPluginV3
    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
    nvinfer1::IPluginV3* clone() noexcept override;

    // IPluginV3OneCore
    const char* getPluginName() const noexcept override;
    const char* getPluginVersion() const noexcept override;
    const char* getPluginNamespace() const noexcept override;

    // IPluginV3OneBuild
    int32_t getNbOutputs() const noexcept override;
    int32_t getOutputDataTypes(nvinfer1::DataType* output_types, int32_t outputs, const nvinfer1::DataType* input_types,
                               int32_t inputs) const noexcept override;
    int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t input_count,
                            const nvinfer1::DimsExprs* shape_inputs, int32_t shape_input_count,
                            nvinfer1::DimsExprs* outputs, int32_t output_count,
                            nvinfer1::IExprBuilder& builder) noexcept override;
    bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t inputs,
                                   int32_t outputs) noexcept override;
    int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                            const nvinfer1::DynamicPluginTensorDesc* out, int32_t outputs) noexcept override;
    size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                            const nvinfer1::DynamicPluginTensorDesc* out, int32_t outputs) const noexcept override;
    const char* getTimingCacheID() noexcept override;
    const char* getMetadataString() noexcept override;

    // IPluginV3OneRuntime
    int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t inputs, const nvinfer1::PluginTensorDesc* out,
                          int32_t outputs) noexcept override;
    int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* out,
                    const void* const* inputs, void* const* outputs, void* workspace,
                    cudaStream_t stream) noexcept override;
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
    const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

  private:
    int32_t report(const std::string& problem) const noexcept;  // logs; 0 for "", else 1
    std::string count_problem(int32_t inputs, int32_t outputs) const;

    const Op& op_;
    const Attributes attributes_;
    std::string description_;  // num_heads=8;num_points=4
    std::vector<nvinfer1::PluginField> fields_;
    nvinfer1::PluginFieldCollection serialized_;
};

class OpCreator final : public nvinfer1::IPluginCreatorV3One {
  public:
    explicit OpCreator(const Op& op);

    // nullptr, and one line in the log, where an attribute is missing, unknown, given twice, of another type or size.
    nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                      nvinfer1::TensorRTPhase phase) noexcept override;
    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override;
    const char* getPluginName() const noexcept override;
    const char* getPluginVersion() const noexcept override;
    const char* getPluginNamespace() const noexcept override;

  private:
    const Op& op_;
    std::vector<nvinfer1::PluginField> fields_;
    nvinfer1::PluginFieldCollection names_;
};

}  // namespace mask2edge
