// What stands in for TensorRT in plugin_tests: the library loaded as the registry loads it, a logger that keeps what it
// is told, an expression builder with symbols, and descriptions of tensors.
#pragma once

#include <NvInferRuntime.h>

#include <cstdio>
#include <deque>
#include <memory>
#include <string>
#include <vector>

namespace plugin_testing {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::IPluginV3;

inline int g_failures = 0;

#define CHECK(condition)                                                         \
    do {                                                                         \
        if (!(condition)) {                                                      \
            std::printf("%s:%d: expected %s\n", __FILE__, __LINE__, #condition); \
            ++plugin_testing::g_failures;                                        \
        }                                                                        \
    } while (false)

// The last message is about this; it is then forgotten.
#define CHECK_SAID(logger, ...)                                                                          \
    do {                                                                                                 \
        for (const char* part : {__VA_ARGS__})                                                           \
            if ((logger).last().find(part) == std::string::npos) {                                       \
                std::printf("%s:%d: expected a message with '%s', got '%s'\n", __FILE__, __LINE__, part, \
                            (logger).last().c_str());                                                    \
                ++plugin_testing::g_failures;                                                            \
            }                                                                                            \
        (logger).forget();                                                                               \
    } while (false)

// ---- Messages -------------------------------------------------------------------------------------------------------
class Logger final : public nvinfer1::ILogger {
  public:
    void log(Severity severity, const char* message) noexcept override {
        severity_ = severity;
        last_ = message;
    }
    const std::string& last() const { return last_; }
    Severity severity() const { return severity_; }
    void forget() { last_.clear(); }

  private:
    std::string last_;
    Severity severity_ = Severity::kVERBOSE;
};

class LoggerFinder final : public nvinfer1::ILoggerFinder {
  public:
    enum class Answer { logger, nothing, exception };
    Logger logger;
    Answer answer = Answer::logger;

    nvinfer1::ILogger* findLogger() override {
        if (answer == Answer::exception) throw 1;
        return answer == Answer::logger ? &logger : nullptr;
    }
};

// ---- The library ----------------------------------------------------------------------------------------------------
struct Library {
    std::vector<nvinfer1::IPluginCreatorV3One*> creators;
    void (*set_logger_finder)(nvinfer1::ILoggerFinder*) = nullptr;
    int32_t (*op_version)() = nullptr;

    nvinfer1::IPluginCreatorV3One& creator(const std::string& name) const;  // ends the program where there is none
};

// ---- Attributes -----------------------------------------------------------------------------------------------------
// Fields with data of their own: {{"num_heads", 8}, {"num_points", 4}}
class Fields {
  public:
    struct Field {
        const char* name;
        int32_t value;
        nvinfer1::PluginFieldType type = nvinfer1::PluginFieldType::kINT32;
        int32_t length = 1;
    };
    Fields(std::initializer_list<Field> fields) : fields_(fields) {
        for (const Field& field : fields_) entries_.emplace_back(field.name, &field.value, field.type, field.length);
        collection_.nbFields = static_cast<int32_t>(entries_.size());
        collection_.fields = entries_.data();
    }
    const nvinfer1::PluginFieldCollection* get() const { return &collection_; }

  private:
    std::vector<Field> fields_;
    std::vector<nvinfer1::PluginField> entries_;
    nvinfer1::PluginFieldCollection collection_;
};

// ---- Plugins --------------------------------------------------------------------------------------------------------
struct Plugin {
    std::unique_ptr<IPluginV3> object;

    explicit Plugin(IPluginV3* plugin) : object(plugin) {}
    nvinfer1::IPluginV3OneCore* core() const { return capability<nvinfer1::IPluginV3OneCore>(0); }
    nvinfer1::IPluginV3OneBuild* build() const { return capability<nvinfer1::IPluginV3OneBuild>(1); }
    nvinfer1::IPluginV3OneRuntime* runtime() const { return capability<nvinfer1::IPluginV3OneRuntime>(2); }

  private:
    template <typename Capability>
    Capability* capability(int32_t type) const {
        return static_cast<Capability*>(
            object->getCapabilityInterface(static_cast<nvinfer1::PluginCapabilityType>(type)));
    }
};

// ---- Expressions ----------------------------------------------------------------------------------------------------
// TensorRT makes these itself and lets nobody else; the pointer to the implementation is all that they hold.
class Size final : public nvinfer1::IDimensionExpr {
  public:
    explicit Size(int64_t value) : implementation_{value} { mImpl = &implementation_; }  // -1: a symbol

  private:
    struct Implementation final : nvinfer1::apiv::VDimensionExpr {
        int64_t value;
        explicit Implementation(int64_t v) : value(v) {}
        bool isConstant() const override { return value >= 0; }
        int64_t getConstantValue() const override { return value; }
        bool isSizeTensor() const override { return false; }
    };
    Implementation implementation_;
};

class ExpressionBuilder final : public nvinfer1::IExprBuilder {
  public:
    ExpressionBuilder() { mImpl = &implementation_; }

    nvinfer1::DimsExprs shape(std::initializer_list<int64_t> sizes) {
        nvinfer1::DimsExprs dims{};
        for (int64_t size : sizes) dims.d[dims.nbDims++] = implementation_.constant(size);
        return dims;
    }

  private:
    struct Implementation final : nvinfer1::apiv::VExprBuilder {
        std::deque<Size> sizes;
        const nvinfer1::IDimensionExpr* constant(int64_t value) override { return &sizes.emplace_back(value); }
        const nvinfer1::IDimensionExpr* operation(nvinfer1::DimensionOperation, const nvinfer1::IDimensionExpr&,
                                                  const nvinfer1::IDimensionExpr&) override {
            return constant(-1);
        }
        const nvinfer1::IDimensionExpr* declareSizeTensor(int32_t, const nvinfer1::IDimensionExpr&,
                                                          const nvinfer1::IDimensionExpr&) override {
            return nullptr;
        }
    };
    Implementation implementation_;
};

// ---- Tensors --------------------------------------------------------------------------------------------------------
inline Dims dims(std::initializer_list<int64_t> sizes) {
    Dims result{};
    for (int64_t size : sizes) result.d[result.nbDims++] = size;
    return result;
}

inline nvinfer1::PluginTensorDesc tensor(DataType type, std::initializer_list<int64_t> sizes) {
    return {dims(sizes), type, nvinfer1::TensorFormat::kLINEAR, 1.0F};
}

// Of a fixed size; `dynamic` below makes its first axis one.
inline nvinfer1::DynamicPluginTensorDesc fixed(const nvinfer1::PluginTensorDesc& tensor) {
    return {tensor, tensor.dims, tensor.dims, tensor.dims};
}

// The batch runs from 1 to `largest`, the other axes stay.
inline nvinfer1::DynamicPluginTensorDesc dynamic(nvinfer1::PluginTensorDesc tensor, int64_t largest) {
    nvinfer1::DynamicPluginTensorDesc result = fixed(tensor);
    result.desc.dims.d[0] = -1;
    result.min.d[0] = 1;
    result.max.d[0] = largest;
    return result;
}

// plugin_call_tests.cpp: what depends on types and sizes, and a launch that fails.
void test_calls(const Library& library, LoggerFinder& finder);

// plugin_execution_tests.cpp: results. The library's kernels are executed on the host.
void test_execution(const Library& library);

}  // namespace plugin_testing
