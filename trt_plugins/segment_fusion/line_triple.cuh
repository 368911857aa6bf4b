// Two resizes in a row as one: mask to padded input, then content to image. Plain C++ as well (MASK2EDGE_PLAIN_CPP).
//
//     const LineTriple triple = line_triple(row, two_resizes(mask_height, padded_height, content_height,
//     image_height));
#pragma once

#include "preprocess/opencv_resize.cuh"

namespace mask2edge {

// Lines first, first + 1, first + 2. Those past the end count 0.
struct alignas(16) LineTriple {
    int32_t first;
    float weight[3];
};

// Mask to padded input, then content to image.
struct TwoResizes {
    LineAxis mask_to_padded, content_to_image;
};

inline TwoResizes two_resizes(int32_t mask, int32_t padded, int32_t content, int32_t image) {
    return {line_axis(mask, padded), line_axis(content, image)};
}

// The two as one. The padded input has at least as many lines as the mask, so that neighbours there are neighbours, or
// one, in the mask.
__host__ __device__ inline LineTriple line_triple(int32_t line, const TwoResizes& resizes) {
    const LinePair outer = line_pair(line, resizes.content_to_image);
    const LinePair upper = line_pair(outer.first, resizes.mask_to_padded);
    const LinePair lower = line_pair(outer.first + 1 < resizes.content_to_image.from ? outer.first + 1 : outer.first,
                                     resizes.mask_to_padded);
    const float lower_share = outer.second_weight, upper_share = 1.0f - lower_share;
    const float first = lower_share * (1.0f - lower.second_weight), second = lower_share * lower.second_weight;
    const bool moves = lower.first > upper.first;
    LineTriple triple;
    triple.first = upper.first;
    triple.weight[0] = upper_share * (1.0f - upper.second_weight) + (moves ? 0.0f : first);
    triple.weight[1] = upper_share * upper.second_weight + (moves ? first : second);
    triple.weight[2] = moves ? second : 0.0f;
    return triple;
}

}  // namespace mask2edge
