// Tensor dimensions as text, for error messages: [1, 5376, 256]
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mask2edge {

using Dims = std::vector<int64_t>;

inline std::string to_text(const Dims& dims) {
    std::string text = "[";
    for (std::size_t i = 0; i < dims.size(); ++i) text += (i ? ", " : "") + std::to_string(dims[i]);
    return text + "]";
}

// "" when equal, else one line: MaskedAttention: value must be [1, 20, 32] (as key), got [1, 21, 32]
inline std::string expect_dims(const char* op, const char* tensor, const Dims& expected, const char* reason,
                               const Dims& got) {
    if (expected == got) return "";
    return std::string(op) + ": " + tensor + " must be " + to_text(expected) + " (" + reason + "), got " + to_text(got);
}

}  // namespace mask2edge
