// The element types that the CUDA kernels read and write. Plain C++: plugin and host code include it too.
//
//     const std::size_t bytes = elements * size_of(DataType::bfloat16);
#pragma once

#include <cstddef>
#include <cstdint>

namespace mask2edge {

// The numbers are part of the library's C functions.
enum class DataType : int32_t { float32 = 0, float16 = 1, bfloat16 = 2 };

constexpr std::size_t size_of(DataType type) { return type == DataType::float32 ? 4 : 2; }

constexpr const char* name(DataType type) {
    return type == DataType::float32 ? "float32" : type == DataType::float16 ? "float16" : "bfloat16";
}

}  // namespace mask2edge
