// Layer normalisation of a sum, row by row. The sum is kept in the output row, which stays in the first cache.
#include "add_layer_normalization/cpu_tile.h"

#include "common/simd.h"

namespace mask2edge::MASK2EDGE_SIMD {

namespace {

// update(channel, lanes): lanes is kWidth but for the last vector of a row.
template <typename Update>
inline void for_each_vector(int64_t channels, const Update& update) {
    int64_t channel = 0;
    for (; channel + kWidth <= channels; channel += kWidth) update(channel, kWidth);
    if (channel < channels) update(channel, static_cast<int>(channels - channel));
}

inline Floats load_lanes(const float* p, int lanes) { return lanes == kWidth ? load(p) : load_partial(p, lanes); }

inline void store_lanes(float* p, Floats v, int lanes) {
    if (lanes == kWidth)
        store(p, v);
    else
        store_partial(p, v, lanes);
}

}  // namespace

void add_layer_normalization_tile(const AddLayerNormalizationTile& tile) {
    const int64_t channels = tile.channels;
    const float share = 1.0f / static_cast<float>(channels);
    Ints lane{};
    for (int i = 0; i < kWidth; ++i) lane[i] = i;
    for (int64_t row = 0; row < tile.rows; ++row) {
        const float *x = tile.x + row * channels, *residual = tile.residual + row * channels;
        float* output = tile.output + row * channels;
        Floats sum{};
        for_each_vector(channels, [&](int64_t c, int lanes) {
            const Floats both = load_lanes(x + c, lanes) + load_lanes(residual + c, lanes);
            store_lanes(output + c, both, lanes);
            sum += both;
        });
        const Floats mean = sum_of_lanes(sum) * share;
        Floats squares{};
        for_each_vector(channels, [&](int64_t c, int lanes) {
            const Floats deviation = load_lanes(output + c, lanes) - mean;
            squares += lane < lanes ? deviation * deviation : Floats{};
        });
        const float variance = sum_of_lanes(squares)[0] * share;
        const Floats factor = broadcast(1.0f / __builtin_sqrtf(variance + tile.epsilon));
        for_each_vector(channels, [&](int64_t c, int lanes) {
            const Floats normalised = (load_lanes(output + c, lanes) - mean) * factor;
            store_lanes(output + c, normalised * load_lanes(tile.scale + c, lanes) + load_lanes(tile.bias + c, lanes),
                        lanes);
        });
    }
}

}  // namespace mask2edge::MASK2EDGE_SIMD
