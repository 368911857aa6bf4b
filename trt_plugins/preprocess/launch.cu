#include <cfloat>
#include <cmath>

#include "common/launch.cuh"
#include "preprocess/kernel.cuh"
#include "preprocess/launch.h"

namespace mask2edge {

namespace {

TwoFloats two_floats(double x) {
    const float high = static_cast<float>(x);
    return {high, static_cast<float>(x - high)};
}

bool is_whole(const LineAxis& axis) { return std::abs(axis.step - std::round(axis.step)) < DBL_EPSILON; }

// What runtime/preprocess.py asks OpenCV for, and which of its ways OpenCV then takes.
Resampling resampling(const LineAxis& rows, const LineAxis& columns) {
    const bool shrinks = rows.to < rows.from || columns.to < columns.from;
    const bool grows = rows.to > rows.from || columns.to > columns.from;
    if (grows) return shrinks ? Resampling::seams : Resampling::linear;
    return is_whole(rows) && is_whole(columns) ? Resampling::whole_area : Resampling::area;
}

}  // namespace

cudaError_t launch_preprocess(const PreprocessShape& shape, const Normalisation& normalisation, const uint8_t* image,
                              float* pixels, cudaStream_t stream) {
    PreprocessArguments a{};
    a.image = image;
    a.pixels = pixels;
    a.rows = line_axis(shape.image_height, shape.content_height);
    a.columns = line_axis(shape.image_width, shape.content_width);
    a.padded_height = shape.padded_height;
    a.padded_width = shape.padded_width;
    a.tiles = (shape.padded_width + kPreprocessColumns - 1) / kPreprocessColumns;
    a.whole_rows = static_cast<int32_t>(std::lround(a.rows.step));
    a.whole_columns = static_cast<int32_t>(std::lround(a.columns.step));
    for (int channel = 0; channel < 3; ++channel) {
        a.mean[channel] = two_floats(normalisation.mean[channel]);
        a.inverse_std[channel] = two_floats(1.0 / normalisation.std[channel]);
    }
    const auto blocks =
        static_cast<unsigned>(a.tiles * ((shape.padded_height + kPreprocessRows - 1) / kPreprocessRows));
    const auto launch = [&](void (*kernel)(PreprocessArguments)) {
        return launch_kernel(kernel, dim3(blocks), preprocess_block(), 0, stream, a);
    };
    switch (resampling(a.rows, a.columns)) {
        case Resampling::linear:
            return launch(preprocess_kernel<Resampling::linear>);
        case Resampling::seams:
            return launch(preprocess_kernel<Resampling::seams>);
        case Resampling::area:
            return launch(preprocess_kernel<Resampling::area>);
        case Resampling::whole_area:
            return launch(preprocess_kernel<Resampling::whole_area>);
    }
    return cudaErrorInvalidValue;
}

}  // namespace mask2edge
