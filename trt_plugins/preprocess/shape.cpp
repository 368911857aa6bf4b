#include "preprocess/shape.h"

#include <cmath>

namespace mask2edge {

namespace {

constexpr int32_t kMaximumSide = 32768;  // the product of two sides stays below 2^31

std::string size_text(int32_t height, int32_t width) { return std::to_string(height) + "x" + std::to_string(width); }

bool is_size(int32_t height, int32_t width) {
    return height >= 1 && width >= 1 && height <= kMaximumSide && width <= kMaximumSide;
}

}  // namespace

std::string preprocess_problem(const PreprocessShape& s, const Normalisation& normalisation) {
    const struct {
        const char* name;
        int32_t height, width;
    } sizes[] = {{"an image", s.image_height, s.image_width},
                 {"a content", s.content_height, s.content_width},
                 {"a padded input", s.padded_height, s.padded_width}};
    for (const auto& size : sizes)
        if (!is_size(size.height, size.width))
            return std::string("preprocess: expected ") + size.name + " of 1 to " + std::to_string(kMaximumSide) +
                   " pixels a side, got " + size_text(size.height, size.width);
    if (s.content_height > s.padded_height || s.content_width > s.padded_width)
        return "preprocess: expected a content within the padded " + size_text(s.padded_height, s.padded_width) +
               ", got " + size_text(s.content_height, s.content_width);
    for (const double std : normalisation.std)
        if (!(std > 0) || !std::isfinite(std))
            return "preprocess: expected deviations (std) above 0, got " + std::to_string(std);
    for (const double mean : normalisation.mean)
        if (!std::isfinite(mean)) return "preprocess: expected finite means, got " + std::to_string(mean);
    return "";
}

}  // namespace mask2edge
