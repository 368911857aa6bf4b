// Deformable DETR, eq. 3, for a tile of queries. Two steps for each query and head, both vectorised: the points become
// four weighted rows of `value` each (lanes are points), then the rows are summed (lanes are channels).
#include "multiscale_deformable_attention/cpu_tile.h"

#include "common/simd.h"
#include "multiscale_deformable_attention/cpu_corners.h"

namespace mask2edge::MASK2EDGE_SIMD {

namespace {

// The four rows that each point reads and what they count: bilinear weight times softmax, 0 outside the map.
struct Corners {
    float* weight[4];  // [padded_points]
    int32_t* row[4];   // [padded_points]

    Corners(float* scratch, int padded_points) {
        for (int corner = 0; corner < 4; ++corner) {
            weight[corner] = scratch + corner * padded_points;
            row[corner] = reinterpret_cast<int32_t*>(scratch + (4 + corner) * padded_points);
        }
    }
};

void find_corners(const DeformableAttentionTile& tile, const float* offsets, const float* logits, float reference_x,
                  float reference_y, float* softmax, const Corners& corners) {
    const Floats scale = 1.0f / exponentials(logits, tile.points, softmax);
    for (int i = 0; i < tile.points; i += kWidth) {
        const Neighbours near = find_neighbours(tile.constants, offsets, i, tile.points, reference_x, reference_y);
        const Ints columns = load(tile.constants.columns + i), first_row = load(tile.constants.first_row + i);
        const Floats weight = load(softmax + i) * scale;
        const Floats y_weights[2] = {near.y_weight[0] * weight, near.y_weight[1] * weight};
        for (int corner = 0; corner < 4; ++corner) {
            store(corners.weight[corner] + i, y_weights[corner / 2] * near.x_weight[corner % 2]);
            store(corners.row[corner] + i, near.value_row(corner, first_row, columns));
        }
    }
}

// output[0 … Vectors * kWidth) = sum over points and corners of weight * value[row]
template <int Vectors>
void sum_rows(const float* value, int64_t row_stride, const Corners& corners, int points, float* output) {
    Floats sum[Vectors] = {};
    for (int i = 0; i < points; ++i) {
        Floats sample[Vectors] = {};  // of its own, so that the points do not wait for one another
        for (int corner = 0; corner < 4; ++corner) {
            const float* row = value + corners.row[corner][i] * row_stride;
            const Floats weight = broadcast(corners.weight[corner][i]);
            for (int v = 0; v < Vectors; ++v) sample[v] += weight * load(row + v * kWidth);
        }
        for (int v = 0; v < Vectors; ++v) sum[v] += sample[v];
    }
    for (int v = 0; v < Vectors; ++v) store(output + v * kWidth, sum[v]);
}

void sum_rows_partial(const float* value, int64_t row_stride, const Corners& corners, int points, float* output,
                      int channels) {
    Floats sum{};
    for (int i = 0; i < points; ++i)
        for (int corner = 0; corner < 4; ++corner)
            sum += corners.weight[corner][i] * load_partial(value + corners.row[corner][i] * row_stride, channels);
    store_partial(output, sum, channels);
}

// All channels of one head, in blocks of vectors that fit the registers.
void sum_head(const float* value, int64_t row_stride, const Corners& corners, int points, float* output, int head_dim) {
    int channel = 0;
    for (; channel + 8 * kWidth <= head_dim; channel += 8 * kWidth)
        sum_rows<8>(value + channel, row_stride, corners, points, output + channel);
    for (; channel + 4 * kWidth <= head_dim; channel += 4 * kWidth)
        sum_rows<4>(value + channel, row_stride, corners, points, output + channel);
    for (; channel + 2 * kWidth <= head_dim; channel += 2 * kWidth)
        sum_rows<2>(value + channel, row_stride, corners, points, output + channel);
    for (; channel + kWidth <= head_dim; channel += kWidth)
        sum_rows<1>(value + channel, row_stride, corners, points, output + channel);
    if (channel < head_dim)
        sum_rows_partial(value + channel, row_stride, corners, points, output + channel, head_dim - channel);
}

}  // namespace

// The heads of a query follow one another, although one head at a time would touch less of `value`: a head's slice
// alone, one in M*D floats, falls into an eighth of the cache's sets (measured: 1.4 times slower). The corners of all
// heads come first, so that many rows are on their way from memory at once (1.17 times faster than head by head).
void multiscale_deformable_attention_tile(const DeformableAttentionTile& tile) {
    const int head_dim = tile.head_dim, padded = tile.padded_points;
    const int64_t channels = int64_t{tile.heads} * head_dim;
    float* softmax = tile.scratch;
    const auto corners_of = [&](int head) {
        return Corners(tile.scratch + (1 + head * kScratchArraysPerHead) * padded, padded);
    };
    for (int64_t query = 0; query < tile.queries; ++query) {
        for (int head = 0; head < tile.heads; ++head) {
            const int64_t sample = (query * tile.heads + head) * tile.points;
            find_corners(tile, tile.offsets + 2 * sample, tile.logits + sample, tile.reference_points[2 * query],
                         tile.reference_points[2 * query + 1], softmax, corners_of(head));
        }
        for (int head = 0; head < tile.heads; ++head)
            sum_head(tile.value + head * head_dim, channels, corners_of(head), tile.points,
                     tile.output + query * channels + head * head_dim, head_dim);
    }
}

}  // namespace mask2edge::MASK2EDGE_SIMD
