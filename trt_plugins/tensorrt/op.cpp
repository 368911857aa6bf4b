#include "tensorrt/op.h"

#include <cuda_runtime_api.h>

#include <stdexcept>

namespace mask2edge {

namespace {

using Type = nvinfer1::DataType;

bool is_value_type(Type type) { return type == Type::kFLOAT || type == Type::kHALF || type == Type::kBF16; }

}  // namespace

const char* name_of(nvinfer1::DataType type) {
    switch (type) {
        case Type::kFLOAT:
            return "float32";
        case Type::kHALF:
            return "float16";
        case Type::kBF16:
            return "bfloat16";
        case Type::kINT8:
            return "int8";
        case Type::kINT32:
            return "int32";
        case Type::kINT64:
            return "int64";
        case Type::kBOOL:
            return "bool";
        default:  // newer headers have more than older ones
            return "another type";
    }
}

DataType kernel_type(nvinfer1::DataType type) {
    switch (type) {
        case Type::kFLOAT:
            return DataType::float32;
        case Type::kHALF:
            return DataType::float16;
        case Type::kBF16:
            return DataType::bfloat16;
        default:
            throw std::invalid_argument(std::string("expected float32, float16 or bfloat16, got ") + name_of(type));
    }
}

std::string type_problem(const Op& op, const nvinfer1::DataType* types, int32_t position) {
    const auto inputs = static_cast<int32_t>(op.inputs.size());
    const TypeRule rule = position < inputs ? op.inputs[position].type : TypeRule::value;
    const Type type = types[position], first = types[0];
    std::string expected;
    switch (rule) {
        case TypeRule::value:
            if (position == 0 && !is_value_type(type)) expected = "float32, float16 or bfloat16";
            if (position != 0 && type != first)
                expected = std::string(name_of(first)) + " (as " + op.inputs[0].name + ")";
            break;
        case TypeRule::value_or_float32: {
            if (type != Type::kFLOAT && type != first) {
                expected = std::string("float32 or ") + name_of(first) + " (as " + op.inputs[0].name + ")";
                break;
            }
            for (int32_t earlier = 0; earlier < position && expected.empty(); ++earlier)
                if (op.inputs[earlier].type == rule && types[earlier] != type)
                    expected = std::string(name_of(types[earlier])) + " (as " + op.inputs[earlier].name + ")";
            break;
        }
        case TypeRule::float32:
            if (type != Type::kFLOAT) expected = "float32";
            break;
        case TypeRule::int32:
            if (type != Type::kINT32) expected = "int32";
            break;
    }
    if (expected.empty()) return "";
    return std::string(op.name) + ": " + (position < inputs ? op.inputs[position].name : "output") + " must be " +
           expected + ", got " + name_of(type);
}

std::string rank_problem(const Op& op, const std::vector<Dims>& dims) {
    for (std::size_t input = 0; input < op.inputs.size(); ++input)
        if (static_cast<int32_t>(dims[input].size()) != op.inputs[input].rank)
            return std::string(op.name) + ": " + op.inputs[input].name + " must have " +
                   std::to_string(op.inputs[input].rank) + " axes, got " + to_text(dims[input]);
    return "";
}

std::string launch_problem(const char* op, cudaError_t error) {
    if (error == cudaSuccess) return "";
    return std::string(op) + ": the kernel was not launched: " + cudaGetErrorString(error) + " (" +
           cudaGetErrorName(error) + ")";
}

}  // namespace mask2edge
