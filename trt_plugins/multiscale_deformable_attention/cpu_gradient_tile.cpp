// The gradient of Deformable DETR, eq. 3. With the output's gradient g, a point's softmax a and corners c of bilinear
// weight w_c, and s_c = g · value[row_c]:
//
//     d value[row_c] += a w_c g        d a = Σ w_c s_c        d place = a Σ (d w_c / d place) s_c
//
// Rows and weights are found with points in the lanes, as for the output; each row is then read and added to once, with
// channels in the lanes; and the products s of a vector of points become the lanes of one vector again.
#include "multiscale_deformable_attention/cpu_gradient_tile.h"

#include "common/simd.h"
#include "multiscale_deformable_attention/cpu_corners.h"

namespace mask2edge::MASK2EDGE_SIMD {

namespace {

// Lane i of the result is the sum of the lanes of x[i]. x is used up.
Floats sums_of_lanes(Floats (&x)[kWidth]) {
    for (int count = kWidth; count > 1; count /= 2)
        for (int i = 0; i < count / 2; ++i)
            x[i] = first_of_pairs(x[2 * i], x[2 * i + 1]) + second_of_pairs(x[2 * i], x[2 * i + 1]);
    return x[0];
}

// One head's slice of the rows of `value` and of its gradient.
struct Rows {
    const float* value;
    float* grad_value;
    int64_t stride;
    int head_dim;
};

// For up to kWidth points: adds weight[i] * grad_output to the gradient of row[i]; lane i of the result is the product
// of grad_output and row[i]. Vectors: head_dim / kWidth, or 0 for any head_dim.
template <int Vectors>
Floats visit(const Rows& rows, const float* grad_output, const int32_t* row, const float* weight, int count) {
    Floats products[kWidth] = {};
    for (int i = 0; i < count; ++i) {
        const int64_t start = row[i] * rows.stride;
        const float* value = rows.value + start;
        float* grad_value = rows.grad_value + start;
        const Floats share = broadcast(weight[i]);
        Floats product{};
        const int whole = Vectors > 0 ? Vectors * kWidth : rows.head_dim / kWidth * kWidth;
        for (int channel = 0; channel < whole; channel += kWidth) {
            const Floats g = load(grad_output + channel);
            product += g * load(value + channel);
            store(grad_value + channel, load(grad_value + channel) + share * g);
        }
        if (Vectors == 0 && whole < rows.head_dim) {
            const int rest = rows.head_dim - whole;
            const Floats g = load_partial(grad_output + whole, rest);
            product += g * load_partial(value + whole, rest);
            store_partial(grad_value + whole, load_partial(grad_value + whole, rest) + share * g, rest);
        }
        products[i] = product;
    }
    return sums_of_lanes(products);
}

using Visit = Floats (*)(const Rows&, const float*, const int32_t*, const float*, int);

Visit visit_for(int head_dim) {
    if (head_dim == kWidth) return visit<1>;
    if (head_dim == 2 * kWidth) return visit<2>;
    if (head_dim == 4 * kWidth) return visit<4>;
    return visit<0>;
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
    const int64_t channels = int64_t{tile.heads} * tile.head_dim;
    const DeformableAttentionPoints& constants = tile.constants;
    float* softmax = tile.scratch;
    float* grad_softmax = tile.scratch + tile.padded_points;
    const Visit visit_rows = visit_for(tile.head_dim);
    for (int64_t query = 0; query < tile.queries; ++query) {
        const float* reference = tile.reference_points + 2 * query;
        for (int head = tile.first_head; head < tile.end_head; ++head) {
            const int64_t sample = (query * tile.heads + head) * tile.points;
            const int64_t channel = int64_t{head} * tile.head_dim;
            const Rows rows = {tile.value + channel, tile.grad_value + channel, channels, tile.head_dim};
            const float* grad_output = tile.grad_output + query * channels + channel;
            const float* offsets = tile.offsets + 2 * sample;
            const Floats scale = 1.0f / exponentials(tile.logits + sample, tile.points, softmax);
            Floats mean{};  // of the softmax's gradient, weighed by the softmax: lane by lane, to be summed
            for (int i = 0; i < tile.points; i += kWidth) {
                const int count = tile.points - i < kWidth ? tile.points - i : kWidth;
                const Neighbours near =
                    find_neighbours(constants, offsets, i, tile.points, reference[0], reference[1]);
                const Ints columns = load(constants.columns + i), first_row = load(constants.first_row + i);
                const Floats a = load(softmax + i) * scale;
                Floats s[4];  // by corner
                for (int corner = 0; corner < 4; ++corner) {
                    float weight[kWidth];
                    int32_t row[kWidth];
                    store(weight, a * near.y_weight[corner / 2] * near.x_weight[corner % 2]);
                    store(row, near.value_row(corner, first_row, columns));
                    s[corner] = visit_rows(rows, grad_output, row, weight, count);
                }
                // A neighbour outside of the map counts zero, and goes on doing so when the point moves.
                for (int corner = 0; corner < 4; ++corner)
                    s[corner] = (near.y_inside[corner / 2] & near.x_inside[corner % 2]) ? s[corner] : Floats{};
                const Floats above = near.x_weight[0] * s[0] + near.x_weight[1] * s[1];
                const Floats below = near.x_weight[0] * s[2] + near.x_weight[1] * s[3];
                const Floats grad_x =
                    a * (near.y_weight[0] * (s[1] - s[0]) + near.y_weight[1] * (s[3] - s[2]));
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
    }
}

}  // namespace mask2edge::MASK2EDGE_SIMD
