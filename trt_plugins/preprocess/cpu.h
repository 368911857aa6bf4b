// From an image to the network's input on the CPU: channel order, normalisation and padding in one pass, and where the
// image shrinks by no whole number, OpenCV's INTER_AREA in the same pass, bit for bit, at a fraction of its time.
//
//     if (cpu_shrinks_by_area(shape)) cpu_shrink(image, row_bytes, shape, tables, pixels, threads);
//     else cpu_normalise(resized_by_opencv, row_bytes, shape, tables, pixels, threads);
//
// Images are uint8 [height, width, 3] BGR with rows `row_bytes` apart; tables: [3, 256], what a byte of R, G, B
// becomes; pixels: [3, padded height, padded width], 0 where there is no image. threads 0: as many as the process may
// use.
#pragma once

#include <cstdint>

#include "preprocess/shape.h"

namespace mask2edge {

// No axis grows, one shrinks, and not both by whole numbers, for which OpenCV has a way of its own.
bool cpu_shrinks_by_area(const PreprocessShape& shape);

// image: of the image's size. cpu_shrinks_by_area(shape) must hold.
void cpu_shrink(const uint8_t* image, int64_t row_bytes, const PreprocessShape& shape, const float* tables,
                float* pixels, int threads);

// content: of the content's size.
void cpu_normalise(const uint8_t* content, int64_t row_bytes, const PreprocessShape& shape, const float* tables,
                   float* pixels, int threads);

}  // namespace mask2edge
