// What the plugins answer to types, shapes and formats, and what they do when a kernel cannot be launched.
#include <algorithm>

#include "plugin_testing.h"

namespace plugin_testing {

namespace {

using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

constexpr DataType kFloat = DataType::kFLOAT, kHalf = DataType::kHALF, kBFloat = DataType::kBF16,
                   kInt32 = DataType::kINT32, kInt64 = DataType::kINT64, kInt8 = DataType::kINT8;

// One op with tensors that fit: two images, two heads of 16 channels.
struct Case {
    const char* op;
    Plugin plugin;
    std::vector<const char*> names;
    std::vector<PluginTensorDesc> inputs;  // of the types that a float16 graph has
    PluginTensorDesc output;

    std::vector<PluginTensorDesc> with(std::size_t input, std::initializer_list<int64_t> sizes) const {
        std::vector<PluginTensorDesc> changed = inputs;
        changed[input].dims = dims(sizes);
        return changed;
    }
};

// Levels of 4x4 and 2x2 pixels, 3 points, 5 queries.
Case deformable_case(const Library& library) {
    const Fields fields{{"num_heads", 2}, {"num_points", 3}};
    return {"MultiscaleDeformableAttention",
            Plugin(library.creator("MultiscaleDeformableAttention")
                       .createPlugin("", fields.get(), nvinfer1::TensorRTPhase::kBUILD)),
            {"value", "offsets", "logits", "reference_points", "spatial_shapes"},
            {tensor(kHalf, {2, 20, 32}), tensor(kFloat, {2, 5, 24}), tensor(kFloat, {2, 5, 12}),
             tensor(kFloat, {1, 5, 2}), tensor(kInt32, {2, 2})},
            tensor(kHalf, {2, 5, 32})};
}

Case masked_case(const Library& library) {
    const Fields fields{{"num_heads", 2}};
    return {
        "MaskedAttention",
        Plugin(library.creator("MaskedAttention").createPlugin("", fields.get(), nvinfer1::TensorRTPhase::kBUILD)),
        {"query", "key", "value", "mask_logits"},
        {tensor(kHalf, {2, 5, 32}), tensor(kHalf, {2, 20, 32}), tensor(kHalf, {2, 20, 32}), tensor(kFloat, {2, 5, 20})},
        tensor(kHalf, {2, 5, 32})};
}

int32_t count(const Case& c) { return static_cast<int32_t>(c.inputs.size()); }

// ---- Types and formats ----------------------------------------------------------------------------------------------
void test_output_types(const Case& c, Logger& logger) {
    for (DataType type : {kFloat, kHalf, kBFloat}) {
        std::vector<DataType> types;
        for (const PluginTensorDesc& input : c.inputs) types.push_back(input.type == kHalf ? type : input.type);
        DataType output = kInt8;
        CHECK(c.plugin.build()->getOutputDataTypes(&output, 1, types.data(), count(c)) == 0);
        CHECK(output == type);
        CHECK(logger.last().empty());
    }
    std::vector<DataType> types;
    for (const PluginTensorDesc& input : c.inputs) types.push_back(input.type);
    DataType output = kInt8;
    CHECK(c.plugin.build()->getOutputDataTypes(&output, 1, types.data(), count(c) - 1) != 0);
    CHECK_SAID(logger, c.op, "inputs and 1 output, got");
    types.back() = kInt8;  // TensorRT will refuse it; who reads the log learns which tensor it was
    CHECK(c.plugin.build()->getOutputDataTypes(&output, 1, types.data(), count(c)) == 0);
    CHECK(output == kHalf);
    CHECK(logger.severity() == nvinfer1::ILogger::Severity::kWARNING);
    CHECK_SAID(logger, c.op, c.names.back(), ", got int8");
    types[0] = kInt32;
    CHECK(c.plugin.build()->getOutputDataTypes(&output, 1, types.data(), count(c)) != 0);
    CHECK_SAID(logger, c.op, c.names[0], "must be float32, float16 or bfloat16, got int32");
}

struct Combination {
    std::vector<DataType> types;  // inputs, then the output
    int refused_at;               // -1: taken
};

// The whole walk that TensorRT makes: position by position, what lies behind not yet valid.
void test_formats(const Case& c, const std::vector<Combination>& table) {
    const int32_t positions = count(c) + 1;
    for (const Combination& row : table) {
        std::vector<DynamicPluginTensorDesc> tensors;
        for (int32_t i = 0; i < positions; ++i) {
            tensors.push_back(fixed(i < count(c) ? c.inputs[i] : c.output));
            tensors.back().desc.type = static_cast<DataType>(-1);
        }
        int refused_at = -1;
        for (int32_t i = 0; i < positions && refused_at < 0; ++i) {
            tensors[i].desc.type = row.types[i];
            if (!c.plugin.build()->supportsFormatCombination(i, tensors.data(), count(c), 1)) refused_at = i;
        }
        if (refused_at != row.refused_at) std::printf("%s, combination %td\n", c.op, &row - table.data());
        CHECK(refused_at == row.refused_at);
    }
    for (int32_t i = 0; i < positions; ++i)  // of the right types, but not linear
        for (TensorFormat format : {TensorFormat::kCHW2, TensorFormat::kHWC8, TensorFormat::kCHW32}) {
            std::vector<DynamicPluginTensorDesc> tensors;
            for (const PluginTensorDesc& input : c.inputs) tensors.push_back(fixed(input));
            tensors.push_back(fixed(c.output));
            CHECK(c.plugin.build()->supportsFormatCombination(i, tensors.data(), count(c), 1));
            tensors[i].desc.format = format;
            CHECK(!c.plugin.build()->supportsFormatCombination(i, tensors.data(), count(c), 1));
            CHECK(!c.plugin.build()->supportsFormatCombination(i, tensors.data(), count(c) + 1, 1));
        }
}

const std::vector<Combination> kDeformableTypes = {
    {{kFloat, kFloat, kFloat, kFloat, kInt32, kFloat}, -1},
    {{kHalf, kHalf, kHalf, kFloat, kInt32, kHalf}, -1},
    {{kHalf, kFloat, kFloat, kFloat, kInt32, kHalf}, -1},
    {{kBFloat, kBFloat, kBFloat, kFloat, kInt32, kBFloat}, -1},
    {{kBFloat, kFloat, kFloat, kFloat, kInt32, kBFloat}, -1},
    {{kInt8, kFloat, kFloat, kFloat, kInt32, kInt8}, 0},
    {{kFloat, kHalf, kHalf, kFloat, kInt32, kFloat}, 1},
    {{kHalf, kBFloat, kBFloat, kFloat, kInt32, kHalf}, 1},
    {{kHalf, kHalf, kFloat, kFloat, kInt32, kHalf}, 2},
    {{kHalf, kFloat, kHalf, kFloat, kInt32, kHalf}, 2},
    {{kHalf, kHalf, kHalf, kHalf, kInt32, kHalf}, 3},
    {{kHalf, kHalf, kHalf, kFloat, kInt64, kHalf}, 4},
    {{kHalf, kHalf, kHalf, kFloat, kInt32, kFloat}, 5},
    {{kFloat, kFloat, kFloat, kFloat, kInt32, kHalf}, 5},
};
const std::vector<Combination> kMaskedTypes = {
    {{kFloat, kFloat, kFloat, kFloat, kFloat}, -1},     {{kHalf, kHalf, kHalf, kFloat, kHalf}, -1},
    {{kBFloat, kBFloat, kBFloat, kFloat, kBFloat}, -1}, {{kInt32, kInt32, kInt32, kFloat, kInt32}, 0},
    {{kHalf, kFloat, kHalf, kFloat, kHalf}, 1},         {{kHalf, kBFloat, kHalf, kFloat, kHalf}, 1},
    {{kHalf, kHalf, kFloat, kFloat, kHalf}, 2},         {{kHalf, kHalf, kHalf, kHalf, kHalf}, 3},
    {{kHalf, kHalf, kHalf, kFloat, kFloat}, 4},
};

// ---- Shapes ---------------------------------------------------------------------------------------------------------
void test_output_shape(const Case& c, Logger& logger) {
    ExpressionBuilder builder;
    const auto shapes_of = [&](bool symbolic) {
        std::vector<nvinfer1::DimsExprs> shapes;
        for (const PluginTensorDesc& input : c.inputs) {
            nvinfer1::DimsExprs shape{};
            for (int32_t axis = 0; axis < input.dims.nbDims; ++axis)  // channels stay known
                shape.d[shape.nbDims++] = builder.constant(symbolic && axis < 2 ? -1 : input.dims.d[axis]);
            shapes.push_back(shape);
        }
        return shapes;
    };
    const std::size_t queries_of = std::string(c.op) == "MaskedAttention" ? 0 : 1;
    for (bool symbolic : {false, true}) {
        std::vector<nvinfer1::DimsExprs> shapes = shapes_of(symbolic);
        nvinfer1::DimsExprs output{};
        CHECK(c.plugin.build()->getOutputShapes(shapes.data(), count(c), nullptr, 0, &output, 1, builder) == 0);
        CHECK(output.nbDims == 3);
        CHECK(output.d[0] == shapes[0].d[0]);  // the expressions themselves, symbols included
        CHECK(output.d[1] == shapes[queries_of].d[1]);
        CHECK(output.d[2] == shapes[0].d[2]);
        CHECK(logger.last().empty());
    }
    std::vector<nvinfer1::DimsExprs> shapes = shapes_of(false);
    nvinfer1::DimsExprs output{};
    const auto refused = [&] {
        return c.plugin.build()->getOutputShapes(shapes.data(), count(c), nullptr, 0, &output, 1, builder) != 0;
    };
    shapes[2].d[2] = builder.constant(7);
    CHECK(refused());
    CHECK_SAID(logger, c.op, c.names[2], "got [2, ", ", 7]");
    shapes = shapes_of(true);
    shapes[1] = builder.shape({5, 24});
    CHECK(refused());
    CHECK_SAID(logger, c.op, c.names[1], "must have 3 axes, got [5, 24]");
    shapes = shapes_of(false);
    CHECK(c.plugin.build()->getOutputShapes(shapes.data(), count(c) - 1, nullptr, 0, &output, 1, builder) != 0);
    CHECK_SAID(logger, c.op, "inputs and 1 output, got");
    CHECK(c.plugin.build()->getOutputShapes(shapes.data(), count(c), shapes.data(), 1, &output, 1, builder) != 0);
    CHECK_SAID(logger, c.op, "expected no shape tensors, got 1");
}

int32_t configure(const Case& c, const std::vector<PluginTensorDesc>& inputs, const PluginTensorDesc& output) {
    std::vector<DynamicPluginTensorDesc> in;
    for (const PluginTensorDesc& input : inputs) in.push_back(fixed(input));
    const DynamicPluginTensorDesc out = fixed(output);
    return c.plugin.build()->configurePlugin(in.data(), static_cast<int32_t>(in.size()), &out, 1);
}

// Both that check sizes say the same of the same tensors.
void check_refused(const Case& c, Logger& logger, const std::vector<PluginTensorDesc>& inputs,
                   const PluginTensorDesc& output, const char* tensor_name, const char* expected) {
    CHECK(configure(c, inputs, output) != 0);
    CHECK_SAID(logger, c.op, tensor_name, expected);
    CHECK(c.plugin.runtime()->onShapeChange(inputs.data(), static_cast<int32_t>(inputs.size()), &output, 1) != 0);
    CHECK_SAID(logger, c.op, tensor_name, expected);
}

void test_refused_layouts(const Case& c, Logger& logger) {
    CHECK(configure(c, c.inputs, c.output) == 0);
    CHECK(c.plugin.runtime()->onShapeChange(c.inputs.data(), count(c), &c.output, 1) == 0);
    CHECK(logger.last().empty());
    std::vector<PluginTensorDesc> changed = c.inputs;
    changed.back().type = kInt8;
    check_refused(c, logger, changed, c.output, c.names.back(), ", got int8");
    changed = c.inputs;
    changed[2].format = TensorFormat::kCHW4;
    check_refused(c, logger, changed, c.output, c.names[2], "must be in the linear format");
    PluginTensorDesc output = c.output;
    output.type = kFloat;
    check_refused(c, logger, c.inputs, output, "output", "must be float16");
    changed = c.inputs;
    changed.pop_back();
    check_refused(c, logger, changed, c.output, "expected", "inputs and 1 output, got");
}

void test_refused_sizes(const Case& deformable, const Case& masked, Logger& logger) {
    const auto refused = [&](const Case& c, std::size_t input, std::initializer_list<int64_t> sizes,
                             const char* expected) {
        check_refused(c, logger, c.with(input, sizes), c.output, c.names[input], expected);
    };
    refused(deformable, 0, {2, 20, 31}, "multiple of num_heads = 2, got [2, 20, 31]");
    refused(deformable, 0, {20, 32}, "got [20, 32]");
    refused(deformable, 1, {2, 5, 23}, "must be [2, 5, 24]");
    refused(deformable, 2, {2, 6, 12}, "must be [2, 5, 12]");
    refused(deformable, 3, {3, 5, 2}, "got [3, 5, 2]");
    refused(deformable, 4, {2, 3}, "got [2, 3]");
    refused(masked, 0, {2, 5, 31}, "multiple of num_heads = 2");
    refused(masked, 1, {1, 20, 32}, "must be [2, 20, 32]");
    refused(masked, 2, {2, 19, 32}, "must be [2, 20, 32]");
    refused(masked, 3, {2, 5, 21}, "must be [2, 5, 20]");
    // Sizes that fit together and that no kernel takes: heads of 6 channels, in the other op of 4 in float16.
    std::vector<PluginTensorDesc> odd = masked.inputs;
    for (std::size_t i = 0; i < 3; ++i) odd[i].dims.d[2] = 12;
    check_refused(masked, logger, odd, masked.output, "16, 32 or 64", "got 6");
    odd = deformable.inputs;
    odd[0].dims.d[2] = 8;
    check_refused(deformable, logger, odd, deformable.output, "multiple of 8 in float16", "got 4");
    PluginTensorDesc output = deformable.output;
    odd[0].type = output.type = kFloat;
    CHECK(configure(deformable, odd, output) == 0);
    CHECK(deformable.plugin.runtime()->onShapeChange(odd.data(), count(deformable), &output, 1) == 0);
}

void test_dynamic_batch(const Case& c, Logger& logger) {
    std::vector<DynamicPluginTensorDesc> in;
    for (const PluginTensorDesc& input : c.inputs)
        in.push_back(input.dims.d[0] == 2 && input.dims.nbDims == 3 ? dynamic(input, 8) : fixed(input));
    const DynamicPluginTensorDesc out = dynamic(c.output, 8);
    CHECK(c.plugin.build()->configurePlugin(in.data(), count(c), &out, 1) == 0);
    CHECK(logger.last().empty());
    // Bounds are found axis by axis and need not fit together.
    in[1].max.d[1] += 100;
    CHECK(c.plugin.build()->configurePlugin(in.data(), count(c), &out, 1) == 0);
    in[1].opt.d[2] += 1;
    CHECK(c.plugin.build()->configurePlugin(in.data(), count(c), &out, 1) != 0);
    CHECK_SAID(logger, c.op, c.names[1]);
}

// Enough for every size up to the bounds; nothing where the op wants nothing.
void test_workspace(const Case& c, bool wanted) {
    const auto bytes = [&](int64_t batch, bool is_dynamic) {
        std::vector<DynamicPluginTensorDesc> in;
        for (PluginTensorDesc input : c.inputs) {
            if (input.dims.nbDims == 3 && input.dims.d[0] == 2) input.dims.d[0] = batch;
            in.push_back(is_dynamic && input.dims.nbDims == 3 ? dynamic(input, batch) : fixed(input));
        }
        const DynamicPluginTensorDesc out = fixed(c.output);
        return c.plugin.build()->getWorkspaceSize(in.data(), count(c), &out, 1);
    };
    CHECK(wanted ? bytes(2, false) > 0 : bytes(2, false) == 0);
    CHECK(bytes(16, false) >= bytes(2, false));
    CHECK(bytes(16, true) == bytes(16, false));
}

// ---- Running --------------------------------------------------------------------------------------------------------
void test_enqueue_reports(const Case& c, Logger& logger) {
    alignas(256) static unsigned char memory[1 << 16];  // no kernel runs: nothing reads it
    std::vector<const void*> inputs(c.inputs.size(), memory);
    void* output = memory;
    const auto enqueue = [&](const std::vector<PluginTensorDesc>& in) {
        return c.plugin.runtime()->enqueue(in.data(), &c.output, inputs.data(), &output, memory, nullptr);
    };
    CHECK(enqueue(c.inputs) != 0);
    CHECK_SAID(logger, c.op, "the kernel was not launched: ", "(cudaError");
    CHECK(enqueue(c.with(2, {2, 5, 7})) != 0);
    CHECK_SAID(logger, c.op, c.names[2], "got [2, 5, 7]");
    std::vector<PluginTensorDesc> changed = c.inputs;
    changed[0].type = kInt64;
    CHECK(enqueue(changed) != 0);
    CHECK_SAID(logger, c.op, "expected float32, float16 or bfloat16, got int64");
    // An empty batch is nothing to do, not an error.
    changed = c.inputs;
    for (PluginTensorDesc& input : changed)
        if (input.dims.nbDims == 3 && input.dims.d[0] == 2) input.dims.d[0] = 0;
    CHECK(enqueue(changed) == 0);
    CHECK(logger.last().empty());
}

}  // namespace

void test_calls(const Library& library, LoggerFinder& finder) {
    const Case deformable = deformable_case(library), masked = masked_case(library);
    test_formats(deformable, kDeformableTypes);
    test_formats(masked, kMaskedTypes);
    for (const Case* c : {&deformable, &masked}) {
        test_output_types(*c, finder.logger);
        test_output_shape(*c, finder.logger);
        test_refused_layouts(*c, finder.logger);
        test_dynamic_batch(*c, finder.logger);
        test_enqueue_reports(*c, finder.logger);
    }
    test_refused_sizes(deformable, masked, finder.logger);
    test_workspace(deformable, false);
    test_workspace(masked, true);
}

}  // namespace plugin_testing
