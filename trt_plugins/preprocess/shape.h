// The sizes and numbers of one preprocessing, and the only place that checks them.
//
//     if (std::string problem = preprocess_problem(shape, normalisation); !problem.empty()) refuse(problem);
#pragma once

#include <cstdint>
#include <string>

namespace mask2edge {

// The content is the resized image, at the top left of the padded input.
struct PreprocessShape {
    int32_t image_height, image_width;
    int32_t content_height, content_width;
    int32_t padded_height, padded_width;
};

// Of R, G, B; in 0-255 units.
struct Normalisation {
    double mean[3], std[3];
};

// "" or what is wrong, in one line: expected and got.
std::string preprocess_problem(const PreprocessShape& shape, const Normalisation& normalisation);

}  // namespace mask2edge
