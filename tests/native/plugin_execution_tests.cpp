// The life of a plugin from build to enqueue, with a result: the same plugin objects over kernels that
// tests/native/simt executes on the host, against the CPU ops.
#include <cmath>
#include <cstring>
#include <random>

#include "masked_attention/cpu.h"
#include "multiscale_deformable_attention/cpu.h"
#include "plugin_testing.h"

namespace plugin_testing {

namespace {

using nvinfer1::PluginTensorDesc;

// Numbers that bfloat16 holds exactly, so that every type starts from the same ones.
std::vector<float> numbers(const Dims& dims, float scale) {
    static std::mt19937 random(1);
    std::normal_distribution<float> normal(0, scale);
    std::size_t count = 1;
    for (int32_t axis = 0; axis < dims.nbDims; ++axis) count *= static_cast<std::size_t>(dims.d[axis]);
    std::vector<float> values(count);
    for (float& value : values) {
        value = normal(random);
        uint32_t bits;
        std::memcpy(&bits, &value, 4);
        bits &= 0xffff0000U;
        std::memcpy(&value, &bits, 4);
    }
    return values;
}

// A tensor where TensorRT would have it: 256-byte aligned, of the type that its description names.
class Memory {
  public:
    Memory(DataType type, const std::vector<float>& values) : type_(type), bytes_(values.size() * 4 + 256) {
        if (type == DataType::kBF16) {
            for (std::size_t i = 0; i < values.size(); ++i)  // the upper half of a little-endian float
                std::memcpy(data() + 2 * i, reinterpret_cast<const unsigned char*>(&values[i]) + 2, 2);
        } else {
            std::memcpy(data(), values.data(), values.size() * 4);
        }
    }
    explicit Memory(const std::vector<int32_t>& values) : type_(DataType::kINT32), bytes_(values.size() * 4 + 256) {
        std::memcpy(data(), values.data(), values.size() * 4);
    }
    unsigned char* data() {
        const auto address = reinterpret_cast<std::uintptr_t>(bytes_.data());
        return bytes_.data() + (256 - address % 256) % 256;
    }
    std::vector<float> read(std::size_t count) {
        std::vector<float> values(count, 0.0F);
        for (std::size_t i = 0; i < count; ++i) {
            if (type_ == DataType::kBF16)
                std::memcpy(reinterpret_cast<unsigned char*>(&values[i]) + 2, data() + 2 * i, 2);
            else
                std::memcpy(&values[i], data() + 4 * i, 4);
        }
        return values;
    }

  private:
    DataType type_;
    std::vector<unsigned char> bytes_;
};

// What TensorRT does with a layer: made from the ONNX node's attributes, configured, written into an engine, made again
// from that, attached to a context, run.
std::vector<float> run(const Library& library, const char* op, const Fields& attributes,
                       const std::vector<PluginTensorDesc>& inputs, std::vector<Memory>& memory,
                       const PluginTensorDesc& output, std::size_t output_size) {
    const auto count = static_cast<int32_t>(inputs.size());
    std::vector<nvinfer1::DynamicPluginTensorDesc> in;
    for (const PluginTensorDesc& input : inputs) in.push_back(fixed(input));
    const nvinfer1::DynamicPluginTensorDesc out = fixed(output);

    nvinfer1::IPluginCreatorV3One& creator = library.creator(op);
    Plugin built(creator.createPlugin("layer", attributes.get(), nvinfer1::TensorRTPhase::kBUILD));
    CHECK(built.build()->configurePlugin(in.data(), count, &out, 1) == 0);
    std::vector<unsigned char> workspace(built.build()->getWorkspaceSize(in.data(), count, &out, 1) + 256);
    Plugin restored(
        creator.createPlugin("layer", built.runtime()->getFieldsToSerialize(), nvinfer1::TensorRTPhase::kRUNTIME));
    built.object.reset();
    Plugin attached(restored.runtime()->attachToContext(nullptr));
    restored.object.reset();

    std::vector<const void*> addresses;
    for (Memory& tensor : memory) addresses.push_back(tensor.data());
    Memory result(output.type, std::vector<float>(output_size, NAN));
    void* result_address = result.data();
    const auto free_bytes = (256 - reinterpret_cast<std::uintptr_t>(workspace.data()) % 256) % 256;
    CHECK(attached.runtime()->onShapeChange(inputs.data(), count, &output, 1) == 0);
    CHECK(attached.runtime()->enqueue(inputs.data(), &output, addresses.data(), &result_address,
                                      workspace.data() + free_bytes, nullptr) == 0);
    return result.read(output_size);
}

void compare(const char* what, DataType type, const std::vector<float>& got, const std::vector<float>& expected) {
    const float tolerance = type == DataType::kFLOAT ? 1e-5F : 0.02F;  // bfloat16: a few of its steps at 1
    float largest = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
        const float error = std::abs(got[i] - expected[i]);
        if (!(error <= largest)) largest = error;  // NaN is larger
    }
    if (!(largest <= tolerance))
        std::printf("%s: expected at most %g off the CPU op, got %g\n", what, static_cast<double>(tolerance),
                    static_cast<double>(largest));
    CHECK(largest <= tolerance);
}

const mask2edge::ParallelFor kOneByOne = [](std::size_t count, const std::function<void(std::size_t)>& task) {
    for (std::size_t i = 0; i < count; ++i) task(i);
};

void test_deformable_attention(const Library& library, DataType type, DataType sampling_type) {
    constexpr int64_t kBatch = 2, kRows = 47, kQueries = 9, kHeads = 2, kChannels = 32, kPoints = 3, kLevels = 2;
    const std::vector<int32_t> spatial_shapes{5, 7, 3, 4};
    const std::vector<PluginTensorDesc> inputs{
        tensor(type, {kBatch, kRows, kChannels}),
        tensor(sampling_type, {kBatch, kQueries, kHeads * kLevels * kPoints * 2}),
        tensor(sampling_type, {kBatch, kQueries, kHeads * kLevels * kPoints}),
        tensor(DataType::kFLOAT, {1, kQueries, 2}),
        tensor(DataType::kINT32, {kLevels, 2}),
    };
    std::vector<std::vector<float>> values;
    for (std::size_t i = 0; i < 4; ++i) values.push_back(numbers(inputs[i].dims, i == 3 ? 0.4F : 1.0F));
    std::vector<Memory> memory;
    for (std::size_t i = 0; i < 4; ++i) memory.emplace_back(inputs[i].type, values[i]);
    memory.emplace_back(spatial_shapes);
    const PluginTensorDesc output = tensor(type, {kBatch, kQueries, kChannels});
    const Fields attributes{{"num_heads", kHeads}, {"num_points", kPoints}};
    const std::vector<float> got = run(library, "MultiscaleDeformableAttention", attributes, inputs, memory, output,
                                       kBatch * kQueries * kChannels);

    mask2edge::DeformableAttentionShape shape;
    CHECK(mask2edge::deformable_attention_shape({kBatch, kRows, kChannels}, {kBatch, kQueries, 24},
                                                {kBatch, kQueries, 12}, {1, kQueries, 2}, {kLevels, 2},
                                                spatial_shapes.data(), kHeads, kPoints, shape) == "");
    std::vector<float> expected(got.size());
    mask2edge::multiscale_deformable_attention(
        {values[0].data(), values[1].data(), values[2].data(), values[3].data(), expected.data()}, shape, kOneByOne);
    compare("MultiscaleDeformableAttention", type, got, expected);
}

void test_masked_attention(const Library& library, DataType type) {
    constexpr int64_t kBatch = 2, kQueries = 21, kKeys = 70, kHeads = 2, kChannels = 32;
    const std::vector<PluginTensorDesc> inputs{
        tensor(type, {kBatch, kQueries, kChannels}),
        tensor(type, {kBatch, kKeys, kChannels}),
        tensor(type, {kBatch, kKeys, kChannels}),
        tensor(DataType::kFLOAT, {kBatch, kQueries, kKeys}),
    };
    std::vector<std::vector<float>> values;
    std::vector<Memory> memory;
    for (const PluginTensorDesc& input : inputs) {
        values.push_back(numbers(input.dims, 1.0F));
        memory.emplace_back(input.type, values.back());
    }
    const PluginTensorDesc output = tensor(type, {kBatch, kQueries, kChannels});
    const std::vector<float> got =
        run(library, "MaskedAttention", {{"num_heads", kHeads}}, inputs, memory, output, kBatch * kQueries * kChannels);

    mask2edge::MaskedAttentionShape shape;
    CHECK(mask2edge::masked_attention_shape({kBatch, kQueries, kChannels}, {kBatch, kKeys, kChannels},
                                            {kBatch, kKeys, kChannels}, {kBatch, kQueries, kKeys}, kHeads,
                                            shape) == "");
    std::vector<float> expected(got.size());
    mask2edge::masked_attention(
        {values[0].data(), values[1].data(), values[2].data(), values[3].data(), expected.data()}, shape, kOneByOne);
    compare("MaskedAttention", type, got, expected);
}

}  // namespace

void test_execution(const Library& library) {
    for (DataType type : {DataType::kFLOAT, DataType::kBF16}) {
        test_deformable_attention(library, type, DataType::kFLOAT);
        test_deformable_attention(library, type, type);
        test_masked_attention(library, type);
    }
}

}  // namespace plugin_testing
