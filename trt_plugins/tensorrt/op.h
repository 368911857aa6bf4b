// What TensorRT has to know of one op: a table of its attributes and tensors, and three functions. Each op fills in one
// (masked_attention/plugin.cpp); OpPlugin and OpCreator (plugin.h) make TensorRT's interfaces of it.
#pragma once

#include <NvInferRuntime.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "common/data_type.h"
#include "common/dims.h"

namespace mask2edge {

// Every attribute of every op is one int32 from 1 to kMaxAttribute.
using Attributes = std::vector<int32_t>;  // in the order of Op::attributes
inline constexpr int32_t kMaxAttribute = 1024;

enum class TypeRule {
    value,             // float32, float16 or bfloat16; as the first input
    value_or_float32,  // as the first input, or float32; all tensors of this rule alike
    float32,
    int32,
};

struct TensorRule {
    const char* name;
    TypeRule type;
    int32_t rank;
};

struct Axis {
    int32_t input, axis;  // the output's size along this axis is that input's along that one
};

// One execution: everything on the device, sizes as enqueue() got them.
struct Call {
    std::vector<Dims> dims;  // of each input
    std::vector<nvinfer1::DataType> types;
    const void* const* inputs;
    void* output;
    void* workspace;
    cudaStream_t stream;
};

struct Op {
    const char* name;
    std::vector<const char*> attributes;
    std::vector<TensorRule> inputs;
    std::array<Axis, 3> output;  // [N, queries, M*D], of the first input's type

    // "", or what is wrong with these sizes: op, tensor, expected and got. `type`: of the first input.
    std::string (*check)(const std::vector<Dims>& inputs, DataType type, const Attributes& attributes);
    // Bytes of device memory that no smaller sizes exceed. The sizes need not fit together: each axis is a maximum.
    std::size_t (*workspace)(const std::vector<Dims>& largest, const Attributes& attributes);
    // Starts the kernel. "", or what is wrong.
    std::string (*launch)(const Call& call, const Attributes& attributes);
};

// Which of the types that the kernels know; throws std::invalid_argument for another one.
DataType kernel_type(nvinfer1::DataType type);

const char* name_of(nvinfer1::DataType type);

// "", or what is wrong with the type of input `position`, or of the output where position is the number of inputs.
// Looks at types[0 … position] alone.
std::string type_problem(const Op& op, const nvinfer1::DataType* types, int32_t position);

// "", or which input has the wrong number of axes. `dims` may hold -1 for unknown sizes.
std::string rank_problem(const Op& op, const std::vector<Dims>& dims);

// "", or MaskedAttention: the kernel was not launched: no CUDA-capable device is detected (cudaErrorNoDevice)
std::string launch_problem(const char* op, cudaError_t error);

}  // namespace mask2edge
