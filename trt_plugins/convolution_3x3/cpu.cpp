#include "convolution_3x3/cpu.h"

#include <algorithm>
#include <memory>

#include "convolution_3x3/cpu_tile.h"

namespace mask2edge {

namespace {

constexpr int64_t kTaskTiles = 96;  // enough for each time that the filters are read
constexpr int64_t kLeastTasks = 4;  // of an image, so that a small map is shared out as well

struct Kernel {
    int rows;  // filters that are multiplied together
    decltype(&portable::convolution_3x3_scratch) scratch;
    decltype(&portable::convolution_3x3_tile) compute;
};

Kernel kernel(InstructionSet set) {
#ifdef MASK2EDGE_HAS_X86_KERNELS
    if (set == InstructionSet::avx512)
        return {avx512::convolution_3x3_filter_rows(), avx512::convolution_3x3_scratch, avx512::convolution_3x3_tile};
    if (set == InstructionSet::avx2)
        return {avx2::convolution_3x3_filter_rows(), avx2::convolution_3x3_scratch, avx2::convolution_3x3_tile};
#endif
    (void)set;
    return {portable::convolution_3x3_filter_rows(), portable::convolution_3x3_scratch, portable::convolution_3x3_tile};
}

// Lavin and Gray, "Fast algorithms for convolutional neural networks", sec. 4.2: F(4x4, 3x3).
constexpr double kFilterTransform[kPatchSize][3] = {
    {1.0 / 4, 0, 0},
    {-1.0 / 6, -1.0 / 6, -1.0 / 6},
    {-1.0 / 6, 1.0 / 6, -1.0 / 6},
    {1.0 / 24, 1.0 / 12, 1.0 / 6},
    {1.0 / 24, -1.0 / 12, 1.0 / 6},
    {0, 0, 1},
};

}  // namespace

Convolution3x3Weights::Convolution3x3Weights(const float* weight, const float* bias, int64_t filters, int64_t channels,
                                             InstructionSet set)
    : set_(set) {
    const int64_t rows = kernel(set).rows, padded = (filters + rows - 1) / rows * rows;
    transformed_.assign(static_cast<std::size_t>(padded * kPositions * channels), 0.0f);
    bias_.assign(static_cast<std::size_t>(padded), 0.0f);
    std::copy(bias, bias + filters, bias_.begin());
    for (int64_t filter = 0; filter < filters; ++filter)
        for (int64_t channel = 0; channel < channels; ++channel) {
            const float* g = weight + (filter * channels + channel) * 9;
            for (int i = 0; i < kPatchSize; ++i)
                for (int j = 0; j < kPatchSize; ++j) {
                    double sum = 0;
                    for (int k = 0; k < 9; ++k) sum += kFilterTransform[i][k / 3] * g[k] * kFilterTransform[j][k % 3];
                    const int64_t position = i * kPatchSize + j;
                    transformed_[static_cast<std::size_t>(
                        ((filter / rows * kPositions + position) * channels + channel) * rows + filter % rows)] =
                        static_cast<float>(sum);
                }
        }
}

void convolution_3x3(const float* x, const Convolution3x3Weights& weights, bool relu, float* output,
                     const Convolution3x3Shape& shape, const ParallelFor& parallel_for) {
    const Kernel chosen = kernel(weights.set());
    const int64_t columns = (shape.width + kTileSize - 1) / kTileSize;  // of tiles
    const int64_t tile_rows = (shape.height + kTileSize - 1) / kTileSize;
    if (columns == 0 || tile_rows == 0) return;
    const int64_t rows = std::max<int64_t>(1, std::min(kTaskTiles / columns, tile_rows / kLeastTasks));
    const int64_t tasks = (tile_rows + rows - 1) / rows;
    parallel_for(static_cast<std::size_t>(shape.batch * tasks), [&](std::size_t index) {
        const int64_t image = static_cast<int64_t>(index) / tasks, first = static_cast<int64_t>(index) % tasks * rows;
        const int64_t pixels = shape.height * shape.width;
        const auto size = static_cast<std::size_t>(chosen.scratch(shape.channels, shape.width, rows));
        const std::unique_ptr<float[]> scratch(new float[size]);
        Convolution3x3Tile tile;
        tile.x = x + image * shape.channels * pixels;
        tile.transformed = weights.transformed();
        tile.bias = weights.bias();
        tile.output = output + image * shape.filters * pixels;
        tile.channels = shape.channels;
        tile.filters = shape.filters;
        tile.height = shape.height;
        tile.width = shape.width;
        tile.first_row = first;
        tile.rows = std::min(rows, tile_rows - first);
        tile.relu = relu;
        tile.scratch = scratch.get();
        chosen.compute(tile);
    });
}

}  // namespace mask2edge
