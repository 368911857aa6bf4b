// The names under which TensorRT and the runtime know this library. trt_plugins/__init__.py has the same two.
#pragma once

#include <cstdint>

namespace mask2edge {

inline constexpr const char* kPluginNamespace = "mask2edge";
inline constexpr const char* kPluginVersion = "1";
inline constexpr int32_t kOpVersion = 1;  // raised when an op takes or means something else

}  // namespace mask2edge
