// The gradient of Deformable DETR, eq. 3. With the output's gradient g, a point's softmax a and corners c of bilinear
// weight w_c, and s_c = g · value[row_c]:
//
//     d value[row_c] += a w_c g        d a = Σ w_c s_c        d place = a Σ (d w_c / d place) s_c
//
// Rows and weights are found with points in the lanes, as for the output; each row is then read and added to once, with
// channels in the lanes; and the products s of a vector of points become the lanes of one vector again.
//
// The head's slice of `value` and of its gradient is copied into memory of its own: side by side the rows fit the
// cache, while a slice of rows of all heads would fall into an eighth of the cache's sets.
#include "multiscale_deformable_attention/cpu_gradient_tile.h"

#include "common/simd.h"
#include "multiscale_deformable_attention/cpu_corners.h"

namespace mask2edge::MASK2EDGE_SIMD {

namespace {

Floats pair_sums(Floats x, Floats y) { return first_of_pairs(x, y) + second_of_pairs(x, y); }

// For up to kWidth points, of whose corners `row` and `weight` tell: adds weight * grad_output to the rows of
// grad_value, and gives the products of grad_output with the rows of `value`, by corner, with points in the lanes.
// Vectors: padded_dim / kWidth, or 0 for any.
template <int Vectors>
void visit(const float* value, float* grad_value, int padded_dim, const float* grad_output,
           const int32_t (&row)[4][kWidth], const float (&weight)[4][kWidth], int count, Floats (&products)[4]) {
    const int vectors = Vectors > 0 ? Vectors : padded_dim / kWidth;
    Floats sums[kWidth];  // by point; in the lanes, from corner 0 to 3, kWidth / 4 parts of each corner's product
    for (int i = 0; i < count; ++i) {
        Floats product[4] = {};
        for (int corner = 0; corner < 4; ++corner) {
            const int64_t start = int64_t{row[corner][i]} * padded_dim;
            const Floats share = broadcast(weight[corner][i]);
            for (int v = 0; v < vectors; ++v) {
                const int64_t place = start + v * kWidth;
                const Floats g = load(grad_output + v * kWidth);
                product[corner] += g * load(value + place);
                store(grad_value + place, load(grad_value + place) + share * g);
            }
        }
        sums[i] = pair_sums(pair_sums(product[0], product[1]), pair_sums(product[2], product[3]));
    }
    for (int i = count; i < kWidth; ++i) sums[i] = Floats{};
    for (int vectors_left = kWidth / 2; vectors_left >= 4; vectors_left /= 2)
        for (int i = 0; i < vectors_left; ++i) sums[i] = pair_sums(sums[2 * i], sums[2 * i + 1]);
    // now four vectors hold all points, each with its four corners side by side
    const Floats even[2] = {first_of_pairs(sums[0], sums[1]), first_of_pairs(sums[2], sums[3])};
    const Floats odd[2] = {second_of_pairs(sums[0], sums[1]), second_of_pairs(sums[2], sums[3])};
    products[0] = first_of_pairs(even[0], even[1]);
    products[1] = first_of_pairs(odd[0], odd[1]);
    products[2] = second_of_pairs(even[0], even[1]);
    products[3] = second_of_pairs(odd[0], odd[1]);
}

using Visit = void (*)(const float*, float*, int, const float*, const int32_t (&)[4][kWidth],
                       const float (&)[4][kWidth], int, Floats (&)[4]);

Visit visit_for(int padded_dim) {
    if (padded_dim == kWidth) return visit<1>;
    if (padded_dim == 2 * kWidth) return visit<2>;
    if (padded_dim == 4 * kWidth) return visit<4>;
    if (padded_dim == 8 * kWidth) return visit<8>;
    return visit<0>;
}

// A head's channels of a row, with zeros after them.
void copy_padded(const float* from, int head_dim, float* to, int padded_dim) {
    int channel = 0;
    for (; channel + kWidth <= head_dim; channel += kWidth) store(to + channel, load(from + channel));
    for (; channel < padded_dim; channel += kWidth)
        store(to + channel, channel < head_dim ? load_partial(from + channel, head_dim - channel) : Floats{});
}

// The first `count` of the vector x.
void store_up_to(float* p, Floats x, int count) {
    if (count >= kWidth)
        store(p, x);
    else
        store_partial(p, x, count);
}

}  // namespace

void multiscale_deformable_attention_gradient_tile(const DeformableAttentionGradientTile& tile) {
    const int64_t channels = int64_t{tile.heads} * tile.head_dim, first_channel = int64_t{tile.head} * tile.head_dim;
    const int padded_dim = tile.padded_dim;
    const DeformableAttentionPoints& constants = tile.constants;
    float* value = tile.scratch;                                     // [S, padded_dim]
    float* grad_value = value + tile.value_rows * padded_dim;        // [S, padded_dim]
    float* grad_output = grad_value + tile.value_rows * padded_dim;  // [padded_dim]
    float* softmax = grad_output + padded_dim;                       // [padded_points]
    float* grad_softmax = softmax + tile.padded_points;              // [padded_points]
    for (int64_t row = 0; row < tile.value_rows; ++row) {
        copy_padded(tile.value + row * channels + first_channel, tile.head_dim, value + row * padded_dim, padded_dim);
        for (int channel = 0; channel < padded_dim; channel += kWidth)
            store(grad_value + row * padded_dim + channel, Floats{});
    }
    const Visit visit_rows = visit_for(padded_dim);
    for (int64_t query = 0; query < tile.queries; ++query) {
        const float* reference = tile.reference_points + 2 * query;
        const int64_t sample = (query * tile.heads + tile.head) * tile.points;
        const float* offsets = tile.offsets + 2 * sample;
        copy_padded(tile.grad_output + query * channels + first_channel, tile.head_dim, grad_output, padded_dim);
        const Floats scale = 1.0f / exponentials(tile.logits + sample, tile.points, softmax);
        Floats mean{};  // of the softmax's gradient, weighed by the softmax: lane by lane, to be summed
        for (int i = 0; i < tile.points; i += kWidth) {
            const int count = tile.points - i < kWidth ? tile.points - i : kWidth;
            const Neighbours near = find_neighbours(constants, offsets, i, tile.points, reference[0], reference[1]);
            const Ints columns = load(constants.columns + i), first_row = load(constants.first_row + i);
            const Floats a = load(softmax + i) * scale;
            float weight[4][kWidth];  // by corner
            int32_t row[4][kWidth];
            for (int corner = 0; corner < 4; ++corner) {
                store(weight[corner], a * near.y_weight[corner / 2] * near.x_weight[corner % 2]);
                store(row[corner], near.value_row(corner, first_row, columns));
            }
            Floats s[4];
            visit_rows(value, grad_value, padded_dim, grad_output, row, weight, count, s);
            // A neighbour outside of the map counts zero, and goes on doing so when the point moves.
            for (int corner = 0; corner < 4; ++corner)
                s[corner] = (near.y_inside[corner / 2] & near.x_inside[corner % 2]) ? s[corner] : Floats{};
            const Floats above = near.x_weight[0] * s[0] + near.x_weight[1] * s[1];
            const Floats below = near.x_weight[0] * s[2] + near.x_weight[1] * s[3];
            const Floats grad_x = a * (near.y_weight[0] * (s[1] - s[0]) + near.y_weight[1] * (s[3] - s[2]));
            const Floats grad_y = a * (below - above);
            const Floats grad_a = near.y_weight[0] * above + near.y_weight[1] * below;
            store(softmax + i, a);
            store(grad_softmax + i, grad_a);
            mean += a * grad_a;
            float* grad_offsets = tile.grad_offsets + 2 * (sample + i);
            for (int k = 0; k < count; ++k) {
                grad_offsets[2 * k] = grad_x[k];
                grad_offsets[2 * k + 1] = grad_y[k];
            }
        }
        mean = sum_of_lanes(mean);
        for (int i = 0; i < tile.points; i += kWidth)
            store_up_to(tile.grad_logits + sample + i, load(softmax + i) * (load(grad_softmax + i) - mean),
                        tile.points - i);
    }
    for (int64_t row = 0; row < tile.value_rows; ++row)
        for (int channel = 0; channel < tile.head_dim; channel += kWidth)
            store_up_to(tile.grad_value + row * channels + first_channel + channel,
                        load(grad_value + row * padded_dim + channel), tile.head_dim - channel);
}

}  // namespace mask2edge::MASK2EDGE_SIMD
