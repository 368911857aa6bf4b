// The CPU ops for ONNX Runtime: this file knows ONNX Runtime and no arithmetic.
//
//     options = onnxruntime.SessionOptions()
//     options.register_custom_ops_library(str(mask2edge.trt_plugins.onnxruntime_ops_library()))
//
// Written against the C API of release 1.17, whatever the headers' release, so that one library loads on every later
// one: the API table is asked for version 17, and the ops say that they are of version 17. Nothing is linked: all comes
// through the table. No exception leaves a function that ONNX Runtime calls.
#include <onnxruntime_c_api.h>

#include <atomic>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "add_layer_normalization/cpu.h"
#include "convolution_3x3/cpu.h"
#include "masked_attention/cpu.h"
#include "multiscale_deformable_attention/cpu.h"

namespace mask2edge {
namespace {

constexpr uint32_t kApiVersion = 17;  // KernelContext_ParallelFor, shape inference; ONNX Runtime >= 1.18 is required
static_assert(ORT_API_VERSION >= kApiVersion, "ONNX Runtime headers of release 1.17 or later are needed");

const OrtApi* g_api = nullptr;

// An OrtStatus on its way up to the function that ONNX Runtime called.
struct Failure {
    OrtStatus* status;
};

void check(OrtStatus* status) {
    if (status != nullptr) throw Failure{status};
}

[[noreturn]] void fail(const std::string& message) {
    throw Failure{g_api->CreateStatus(ORT_INVALID_ARGUMENT, message.c_str())};
}

// Runs the body; whatever it throws becomes a status.
template <typename Body>
OrtStatus* guarded(const char* op, const Body& body) noexcept {
    try {
        body();
        return nullptr;
    } catch (const Failure& failure) {
        return failure.status;
    } catch (const std::exception& error) {
        return g_api->CreateStatus(ORT_FAIL, (std::string(op) + ": " + error.what()).c_str());
    } catch (...) {
        return g_api->CreateStatus(ORT_FAIL, op);
    }
}

Dims dims_of(const OrtTensorTypeAndShapeInfo* info) {
    size_t rank = 0;
    check(g_api->GetDimensionsCount(info, &rank));
    Dims dims(rank);
    check(g_api->GetDimensions(info, dims.data(), rank));
    return dims;
}

Dims dims_of(const OrtValue* tensor) {
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(g_api->GetTensorTypeAndShape(tensor, &info));
    Dims dims;
    size_t rank = 0;
    OrtStatus* status = g_api->GetDimensionsCount(info, &rank);
    if (status == nullptr) {
        dims.resize(rank);
        status = g_api->GetDimensions(info, dims.data(), rank);
    }
    g_api->ReleaseTensorTypeAndShapeInfo(info);
    check(status);
    return dims;
}

template <typename T>
const T* tensor_data(const OrtValue* tensor) {
    void* pointer = nullptr;
    check(g_api->GetTensorMutableData(const_cast<OrtValue*>(tensor), &pointer));
    return static_cast<const T*>(pointer);
}

struct Input {
    const OrtValue* tensor = nullptr;
    Dims dims;

    Input(const OrtKernelContext* context, size_t index) {
        check(g_api->KernelContext_GetInput(context, index, &tensor));
        dims = dims_of(tensor);
    }

    template <typename T>
    const T* data() const {
        return tensor_data<T>(tensor);
    }
};

// A tensor that does not change between runs, as the session knows it when it makes the kernel.
struct ConstantInput {
    const OrtValue* tensor = nullptr;
    Dims dims;

    ConstantInput(const OrtKernelInfo* info, const char* op, const char* name, size_t index) {
        int constant = 0;
        check(g_api->KernelInfoGetConstantInput_tensor(info, index, &constant, &tensor));
        if (!constant) fail(std::string(op) + ": " + name + " must be constant");
        dims = dims_of(tensor);
    }

    const float* data() const { return tensor_data<float>(tensor); }
};

float* output_data(OrtKernelContext* context, const Dims& dims) {
    OrtValue* tensor = nullptr;
    void* data = nullptr;
    check(g_api->KernelContext_GetOutput(context, 0, dims.data(), dims.size(), &tensor));
    check(g_api->GetTensorMutableData(tensor, &data));
    return static_cast<float*>(data);
}

// ONNX Runtime's own threads. num_batch = count: tasks are handed out one by one, for they differ in cost.
ParallelFor pool_of(const OrtKernelContext* context) {
    return [context](std::size_t count, const std::function<void(std::size_t)>& task) {
        if (count == 0) return;
        struct Run {
            const std::function<void(std::size_t)>& task;
            std::atomic<bool> out_of_memory{false};  // the only thing a task can throw; it must not unwind the pool
        } run{task};
        const auto call = [](void* data, size_t index) {
            Run& run = *static_cast<Run*>(data);
            try {
                run.task(index);
            } catch (...) {
                run.out_of_memory = true;
            }
        };
        check(g_api->KernelContext_ParallelFor(context, call, count, count, &run));
        if (run.out_of_memory) throw std::bad_alloc();
    };
}

int64_t integer_attribute(const OrtKernelInfo* info, const char* op, const char* name) {
    int64_t value = 0;
    if (OrtStatus* status = g_api->KernelInfoGetAttribute_int64(info, name, &value)) {
        g_api->ReleaseStatus(status);
        fail(std::string(op) + ": the integer attribute " + name + " is missing");
    }
    return value;
}

float float_attribute(const OrtKernelInfo* info, const char* op, const char* name) {
    float value = 0;
    if (OrtStatus* status = g_api->KernelInfoGetAttribute_float(info, name, &value)) {
        g_api->ReleaseStatus(status);
        fail(std::string(op) + ": the float attribute " + name + " is missing");
    }
    return value;
}

// One axis of an input during shape inference: a size, or -1 and perhaps a name ("height").
struct Axis {
    int64_t size;
    const char* name;
};

// "" and no axes where the graph does not say.
std::vector<Axis> axes_of(const OrtShapeInferContext* context, size_t input) {
    OrtTensorTypeAndShapeInfo* info = nullptr;  // stays the context's
    check(g_api->ShapeInferContext_GetInputTypeShape(context, input, &info));
    const Dims dims = dims_of(info);
    std::vector<const char*> names(dims.size(), "");
    check(g_api->GetSymbolicDimensions(info, names.data(), names.size()));
    std::vector<Axis> axes;
    for (size_t i = 0; i < dims.size(); ++i) axes.push_back({dims[i], names[i] == nullptr ? "" : names[i]});
    return axes;
}

void set_output(OrtShapeInferContext* context, const std::vector<Axis>& axes) {
    Dims dims;
    std::vector<const char*> names;
    for (const Axis& axis : axes) {
        if (axis.size < 0 && *axis.name == '\0') return;  // neither a size nor a name: nothing that could be said
        dims.push_back(axis.size);
        names.push_back(axis.name);
    }
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(g_api->CreateTensorTypeAndShapeInfo(&info));
    OrtStatus* status = g_api->SetTensorElementType(info, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
    if (status == nullptr) status = g_api->SetDimensions(info, dims.data(), dims.size());
    if (status == nullptr) status = g_api->SetSymbolicDimensions(info, names.data(), names.size());
    if (status == nullptr) status = g_api->ShapeInferContext_SetOutputTypeShape(context, 0, info);
    g_api->ReleaseTensorTypeAndShapeInfo(info);
    check(status);
}

struct MultiscaleDeformableAttentionKernel {
    static constexpr const char* kName = "MultiscaleDeformableAttention";
    static constexpr size_t kInputs = 5;
    static constexpr size_t kInt32Input = 4;  // spatial_shapes

    int64_t num_heads, num_points;

    explicit MultiscaleDeformableAttentionKernel(const OrtKernelInfo* info)
        : num_heads(integer_attribute(info, kName, "num_heads")),
          num_points(integer_attribute(info, kName, "num_points")) {}

    void compute(OrtKernelContext* context) const {
        const Input value(context, 0), offsets(context, 1), logits(context, 2), reference_points(context, 3),
            spatial_shapes(context, 4);
        DeformableAttentionShape shape;
        const std::string problem = deformable_attention_shape(
            value.dims, offsets.dims, logits.dims, reference_points.dims, spatial_shapes.dims,
            spatial_shapes.data<int32_t>(), num_heads, num_points, shape);
        if (!problem.empty()) fail(problem);
        float* output = output_data(context, {shape.batch, shape.queries, shape.heads * shape.head_dim});
        multiscale_deformable_attention(
            {value.data<float>(), offsets.data<float>(), logits.data<float>(), reference_points.data<float>(), output},
            shape, pool_of(context));
    }

    static void infer_shape(OrtShapeInferContext* context) {
        const std::vector<Axis> value = axes_of(context, 0), offsets = axes_of(context, 1);
        if (value.size() == 3 && offsets.size() == 3) set_output(context, {value[0], offsets[1], value[2]});
    }
};

struct MaskedAttentionKernel {
    static constexpr const char* kName = "MaskedAttention";
    static constexpr size_t kInputs = 4;
    static constexpr size_t kInt32Input = kInputs;  // none

    int64_t num_heads;

    explicit MaskedAttentionKernel(const OrtKernelInfo* info)
        : num_heads(integer_attribute(info, kName, "num_heads")) {}

    void compute(OrtKernelContext* context) const {
        const Input query(context, 0), key(context, 1), value(context, 2), mask_logits(context, 3);
        MaskedAttentionShape shape;
        const std::string problem =
            masked_attention_shape(query.dims, key.dims, value.dims, mask_logits.dims, num_heads, shape);
        if (!problem.empty()) fail(problem);
        float* output = output_data(context, query.dims);
        masked_attention(
            {query.data<float>(), key.data<float>(), value.data<float>(), mask_logits.data<float>(), output}, shape,
            pool_of(context));
    }

    static void infer_shape(OrtShapeInferContext* context) {
        const std::vector<Axis> query = axes_of(context, 0);
        if (query.size() == 3) set_output(context, query);
    }
};

struct AddLayerNormalizationKernel {
    static constexpr const char* kName = "AddLayerNormalization";
    static constexpr size_t kInputs = 4;
    static constexpr size_t kInt32Input = kInputs;  // none

    float epsilon;

    explicit AddLayerNormalizationKernel(const OrtKernelInfo* info)
        : epsilon(float_attribute(info, kName, "epsilon")) {}

    void compute(OrtKernelContext* context) const {
        const Input x(context, 0), residual(context, 1), scale(context, 2), bias(context, 3);
        AddLayerNormalizationShape shape;
        const std::string problem = add_layer_normalization_shape(x.dims, residual.dims, scale.dims, bias.dims, shape);
        if (!problem.empty()) fail(problem);
        float* output = output_data(context, x.dims);
        add_layer_normalization(
            {x.data<float>(), residual.data<float>(), scale.data<float>(), bias.data<float>(), output}, shape, epsilon,
            pool_of(context));
    }

    static void infer_shape(OrtShapeInferContext* context) {
        const std::vector<Axis> x = axes_of(context, 0);
        if (!x.empty()) set_output(context, x);
    }
};

struct Convolution3x3Kernel {
    static constexpr const char* kName = "Convolution3x3";
    static constexpr size_t kInputs = 3;
    static constexpr size_t kInt32Input = kInputs;  // none

    Dims weight_dims, bias_dims;
    bool relu;
    Convolution3x3Weights weights;

    explicit Convolution3x3Kernel(const OrtKernelInfo* info)
        : Convolution3x3Kernel(info, ConstantInput(info, kName, "weight", 1), ConstantInput(info, kName, "bias", 2)) {}

    void compute(OrtKernelContext* context) const {
        const Input x(context, 0);
        Convolution3x3Shape shape;
        const std::string problem = convolution_3x3_shape(x.dims, weight_dims, bias_dims, shape);
        if (!problem.empty()) fail(problem);
        float* output = output_data(context, {shape.batch, shape.filters, shape.height, shape.width});
        convolution_3x3(x.data<float>(), weights, relu, output, shape, pool_of(context));
    }

    static void infer_shape(OrtShapeInferContext* context) {
        const std::vector<Axis> x = axes_of(context, 0), bias = axes_of(context, 2);
        if (x.size() == 4 && bias.size() == 1) set_output(context, {x[0], bias[0], x[2], x[3]});
    }

  private:
    Convolution3x3Kernel(const OrtKernelInfo* info, const ConstantInput& weight, const ConstantInput& bias)
        : weight_dims(checked(weight.dims, bias.dims)),
          bias_dims(bias.dims),
          relu(integer_attribute(info, kName, "relu") != 0),
          weights(weight.data(), bias.data(), weight_dims[0], weight_dims[1]) {}

    static const Dims& checked(const Dims& weight, const Dims& bias) {
        Convolution3x3Shape shape;
        const std::string problem =
            convolution_3x3_shape({1, weight.size() > 1 ? weight[1] : 1, 1, 1}, weight, bias, shape);
        if (!problem.empty()) fail(problem);
        return weight;
    }
};

// The table of functions that ONNX Runtime asks of a custom op. What this leaves null has a default there.
template <typename Kernel>
OrtCustomOp custom_op() {
    OrtCustomOp op{};
    op.version = kApiVersion;
    op.GetName = [](const OrtCustomOp*) { return Kernel::kName; };
    op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };  // the CPU's
    op.GetInputTypeCount = [](const OrtCustomOp*) { return Kernel::kInputs; };
    op.GetInputType = [](const OrtCustomOp*, size_t index) {
        return index == Kernel::kInt32Input ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    };
    op.GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
    op.GetOutputTypeCount = [](const OrtCustomOp*) { return size_t{1}; };
    op.GetOutputType = [](const OrtCustomOp*, size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; };
    op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
    op.GetEndVersion = [](const OrtCustomOp*) { return 1; };
    op.CreateKernelV2 = [](const OrtCustomOp*, const OrtApi*, const OrtKernelInfo* info, void** kernel) {
        return guarded(Kernel::kName, [&] { *kernel = new Kernel(info); });
    };
    op.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
        return guarded(Kernel::kName, [&] { static_cast<const Kernel*>(kernel)->compute(context); });
    };
    op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
    op.InferOutputShapeFn = [](const OrtCustomOp*, OrtShapeInferContext* context) {
        return guarded(Kernel::kName, [&] { Kernel::infer_shape(context); });
    };
    return op;
}

void add_domain(OrtSessionOptions* options) {
    static const OrtCustomOp ops[] = {custom_op<MultiscaleDeformableAttentionKernel>(),
                                      custom_op<MaskedAttentionKernel>(), custom_op<AddLayerNormalizationKernel>(),
                                      custom_op<Convolution3x3Kernel>()};
    // The session keeps a pointer to the domain and never frees it; one for the process is enough.
    static OrtCustomOpDomain* const domain = [] {
        OrtCustomOpDomain* created = nullptr;
        check(g_api->CreateCustomOpDomain("mask2edge", &created));
        for (const OrtCustomOp& op : ops) check(g_api->CustomOpDomain_Add(created, &op));
        return created;
    }();
    check(g_api->AddCustomOpDomain(options, domain));
}

}  // namespace
}  // namespace mask2edge

// What register_custom_ops_library looks for in the library.
extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                               const OrtApiBase* base) {
    mask2edge::g_api = base->GetApi(mask2edge::kApiVersion);
    if (mask2edge::g_api == nullptr) {
        // Too old to speak version 17: version 1 can at least say so.
        return base->GetApi(1)->CreateStatus(
            ORT_FAIL, (std::string("mask2edge: expected ONNX Runtime 1.18 or newer, got ") + base->GetVersionString() +
                       "; upgrade onnxruntime, or export with --ops standard")
                          .c_str());
    }
    return mask2edge::guarded("mask2edge", [&] { mask2edge::add_domain(options); });
}
