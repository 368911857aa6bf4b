// The sizes of one image's logits and of its result, and the only place that checks them.
//
//     if (std::string problem = fusion_problem(sizes); !problem.empty()) refuse(problem);
#pragma once

#include <cstdint>
#include <string>

namespace mask2edge {

// C functions and ctypes see it as it is: 32-bit fields in this order.
struct FusionSizes {
    int32_t queries, classes;               // Q, and K without "no object"
    int32_t mask_height, mask_width;        // of the mask logits
    int32_t padded_height, padded_width;    // the network's input, to which they are resized
    int32_t content_height, content_width;  // the resized image at its top left
    int32_t image_height, image_width;      // the image, and the label map
};

constexpr int32_t kMaximumQueries = 1024;  // one block puts them in order
constexpr int32_t kMaximumClasses = 4096;
constexpr int32_t kMaximumSide = 32768;  // the product of two sides stays below 2^31

// "" or what is wrong, in one line: expected and got.
std::string fusion_problem(const FusionSizes& sizes);

}  // namespace mask2edge
