// Masked attention for a block of queries (lanes are queries, one vector of them) and one head, with a running softmax
// over chunks of the attended keys. Neither product packs key or value: both read their rows where they lie.
#include "masked_attention/cpu_tile.h"

#include "common/simd.h"

namespace mask2edge::MASK2EDGE_SIMD {

namespace {

// scores[k][lane] = sum over channels of query[channel][lane] * row[k][channel]
template <int Keys>
void score_keys(const float* query, int head_dim, const float* key, int64_t channels, const int32_t* rows,
                float* scores) {
    const float* row[Keys];
    for (int k = 0; k < Keys; ++k) row[k] = key + rows[k] * channels;
    Floats sum[Keys] = {};
    for (int channel = 0; channel < head_dim; ++channel) {
        const Floats q = load(query + channel * kWidth);
        for (int k = 0; k < Keys; ++k) sum[k] += q * row[k][channel];
    }
    for (int k = 0; k < Keys; ++k) store(scores + k * kWidth, sum[k]);
}

// output[q][channels of Vectors vectors] += sum over keys of weights[k][q] * value[rows[k]], for Queries queries
template <int Queries, int Vectors>
void add_values(const float* weights, const float* value, int64_t channels, const int32_t* rows, int keys,
                float* output, int output_stride) {
    Floats sum[Queries][Vectors];
    for (int q = 0; q < Queries; ++q)
        for (int v = 0; v < Vectors; ++v) sum[q][v] = load(output + q * output_stride + v * kWidth);
    for (int k = 0; k < keys; ++k) {
        const float* row = value + rows[k] * channels;
        Floats x[Vectors];
        for (int v = 0; v < Vectors; ++v) x[v] = load(row + v * kWidth);
        for (int q = 0; q < Queries; ++q)
            for (int v = 0; v < Vectors; ++v) sum[q][v] += weights[k * kWidth + q] * x[v];
    }
    for (int q = 0; q < Queries; ++q)
        for (int v = 0; v < Vectors; ++v) store(output + q * output_stride + v * kWidth, sum[q][v]);
}

// The last head_dim % kWidth channels of an unusual head size.
void add_values_partial(const float* weights, const float* value, int64_t channels, const int32_t* rows, int keys,
                        float* output, int output_stride, int count) {
    for (int k = 0; k < keys; ++k)
        for (int q = 0; q < kWidth; ++q)
            for (int i = 0; i < count; ++i)
                output[q * output_stride + i] += weights[k * kWidth + q] * value[rows[k] * channels + i];
}

void add_all_values(const float* weights, const MaskedAttentionTile& tile, const int32_t* rows, int keys,
                    float* output) {
    constexpr int kRows = kWidth == 16 ? 8 : 4;  // with two vectors each they fill the registers
    const int head_dim = tile.head_dim;
    int channel = 0;
    for (; channel + 2 * kWidth <= head_dim; channel += 2 * kWidth)
        for (int q = 0; q < kWidth; q += kRows)
            add_values<kRows, 2>(weights + q, tile.value + channel, tile.channels, rows, keys,
                                 output + q * head_dim + channel, head_dim);
    for (; channel + kWidth <= head_dim; channel += kWidth)
        for (int q = 0; q < kWidth; q += kRows)
            add_values<kRows, 1>(weights + q, tile.value + channel, tile.channels, rows, keys,
                                 output + q * head_dim + channel, head_dim);
    if (channel < head_dim)
        add_values_partial(weights, tile.value + channel, tile.channels, rows, keys, output + channel, head_dim,
                           head_dim - channel);
}

}  // namespace

int masked_attention_block() { return kWidth; }

int64_t find_attended_keys(const float* mask_logits, int queries, int64_t keys, int32_t* rows, uint32_t* bits) {
    for (int64_t k = 0; k < keys; ++k) bits[k] = 0;
    for (int q = 0; q < queries; ++q) {
        const float* logits = mask_logits + q * keys;
        const uint32_t bit = 1u << q;
        uint32_t any = 0;
        for (int64_t k = 0; k < keys; ++k) {
            const uint32_t attended = logits[k] >= 0 ? bit : 0;
            bits[k] |= attended;
            any |= attended;
        }
        for (int64_t k = 0; any == 0 && k < keys; ++k) bits[k] |= bit;
    }
    int64_t count = 0;
    for (int64_t k = 0; k < keys; ++k) {
        const uint32_t attending = bits[k];
        rows[count] = static_cast<int32_t>(k);
        bits[count] = attending;
        count += attending != 0;
    }
    return count;
}

void masked_attention_tile(const MaskedAttentionTile& tile) {
    const int head_dim = tile.head_dim;
    float* query = tile.scratch;                           // [head_dim, kWidth], scaled
    float* output = query + kMaximumBlock * head_dim;      // [kWidth, head_dim], not yet divided by the sums
    float* weights = output + kMaximumBlock * head_dim;    // [kChunk, kWidth]: scores, then their exponentials
    float* correction = weights + kMaximumBlock * kChunk;  // [kWidth]
    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(head_dim));
    for (int channel = 0; channel < head_dim; ++channel)
        for (int q = 0; q < kWidth; ++q) {
            query[channel * kWidth + q] = q < tile.queries ? tile.query[q * tile.channels + channel] * scale : 0;
            output[channel * kWidth + q] = 0;
        }
    Ints lane_bit{};
    for (int q = 0; q < kWidth; ++q) lane_bit[q] = 1 << q;

    Floats largest = broadcast(kLowest), sum{};
    for (int64_t first = 0; first < tile.keys.count; first += kChunk) {
        const int keys = tile.keys.count - first < kChunk ? static_cast<int>(tile.keys.count - first) : kChunk;
        const int32_t* rows = tile.keys.row + first;
        const uint32_t* bits = tile.keys.queries + first;
        int k = 0;
        for (; k + 12 <= keys; k += 12)
            score_keys<12>(query, head_dim, tile.key, tile.channels, rows + k, weights + k * kWidth);
        for (; k + 4 <= keys; k += 4)
            score_keys<4>(query, head_dim, tile.key, tile.channels, rows + k, weights + k * kWidth);
        for (; k < keys; ++k) score_keys<1>(query, head_dim, tile.key, tile.channels, rows + k, weights + k * kWidth);

        const Floats before = largest;
        for (k = 0; k < keys; ++k) {
            const Ints attends = (broadcast(static_cast<int32_t>(bits[k])) & lane_bit) != 0;
            largest = max(attends ? load(weights + k * kWidth) : broadcast(kLowest), largest);
        }
        const Floats shrink = exp_of_nonpositive(before - largest);
        sum *= shrink;
        for (k = 0; k < keys; ++k) {
            const Ints attends = (broadcast(static_cast<int32_t>(bits[k])) & lane_bit) != 0;
            const Floats weight = attends ? exp_of_nonpositive(load(weights + k * kWidth) - largest) : Floats{};
            store(weights + k * kWidth, weight);
            sum += weight;
        }
        store(correction, shrink);
        for (int q = 0; q < kWidth; ++q)
            for (int channel = 0; channel < head_dim; ++channel) output[q * head_dim + channel] *= correction[q];
        add_all_values(weights, tile, rows, keys, output);
    }
    for (int q = 0; q < tile.queries; ++q) {
        const float share = 1.0f / sum[q];
        for (int channel = 0; channel < head_dim; ++channel)
            tile.output[q * tile.channels + channel] = output[q * head_dim + channel] * share;
    }
}

}  // namespace mask2edge::MASK2EDGE_SIMD
