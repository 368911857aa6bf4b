#include "segment_fusion/shape.h"

namespace mask2edge {

namespace {

std::string count_problem(const char* what, int32_t count, int32_t most) {
    if (count >= 1 && count <= most) return "";
    return std::string("segment fusion: expected 1 to ") + std::to_string(most) + " " + what + ", got " +
           std::to_string(count);
}

std::string size_problem(const char* what, int32_t height, int32_t width, int32_t most_height, int32_t most_width) {
    if (height >= 1 && width >= 1 && height <= most_height && width <= most_width) return "";
    return std::string("segment fusion: expected ") + what + " of 1x1 to " + std::to_string(most_height) + "x" +
           std::to_string(most_width) + ", got " + std::to_string(height) + "x" + std::to_string(width);
}

}  // namespace

std::string fusion_problem(const FusionSizes& s) {
    std::string problem = count_problem("queries", s.queries, kMaximumQueries);
    if (problem.empty()) problem = count_problem("classes", s.classes, kMaximumClasses);
    if (problem.empty())
        problem = size_problem("a padded input", s.padded_height, s.padded_width, kMaximumSide, kMaximumSide);
    if (problem.empty()) problem = size_problem("an image", s.image_height, s.image_width, kMaximumSide, kMaximumSide);
    if (problem.empty())
        problem = size_problem("mask logits within the padded input", s.mask_height, s.mask_width, s.padded_height,
                               s.padded_width);
    if (problem.empty())
        problem = size_problem("a content within the padded input", s.content_height, s.content_width, s.padded_height,
                               s.padded_width);
    return problem;
}

}  // namespace mask2edge
