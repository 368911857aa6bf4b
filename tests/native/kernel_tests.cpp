// The CPU kernels against references in double precision, on random shapes, on every instruction set of this machine.
// Inputs sit in allocations of exactly their size, so that AddressSanitizer sees a read past the end.
//
//     kernel_tests [cases per kernel, default 400] [seed] [file for what the kernels gave]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>

#include "add_layer_normalization/cpu.h"
#include "convolution_3x3/cpu.h"
#include "masked_attention/cpu.h"
#include "multiscale_deformable_attention/cpu.h"
#include "multiscale_deformable_attention/cpu_gradient.h"

using namespace mask2edge;

namespace {

int g_failures = 0;
// For a comparison with another machine: kernel, set, case and count with tabs between, a new line, so many floats.
std::FILE* g_given = nullptr;

std::mt19937_64 g_random;

int64_t between(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(g_random); }

template <typename T>
T one_of(std::initializer_list<T> choices) {
    return choices.begin()[between(0, static_cast<int64_t>(choices.size()) - 1)];
}

// Sums of twelve uniform 16-bit numbers: nearly normal, and the same bits on every machine, whose logarithms differ.
std::vector<float> normals(int64_t count, float scale = 1) {
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) {
        int32_t sum = -6 * 65535;
        for (int draw = 0; draw < 3; ++draw)
            for (uint64_t bits = g_random(), part = 0; part < 4; ++part) sum += bits >> (16 * part) & 0xffff;
        value = static_cast<float>(sum) / 65536 * scale;
    }
    values.shrink_to_fit();
    return values;
}

// Backwards, so that a kernel that relies on the order of tasks is caught.
const ParallelFor kBackwards = [](std::size_t count, const std::function<void(std::size_t)>& task) {
    while (count > 0) task(--count);
};

void compare(const char* kernel, InstructionSet set, int number, const std::vector<float>& got,
             const std::vector<double>& expected, double tolerance) {
    if (g_given != nullptr) {
        std::fprintf(g_given, "%s\t%s\t%d\t%zu\n", kernel, name(set), number, got.size());
        std::fwrite(got.data(), sizeof(float), got.size(), g_given);
    }
    for (std::size_t i = 0; i < got.size(); ++i) {
        const double error = std::abs(got[i] - expected[i]);
        if (error <= tolerance) continue;  // false for NaN
        std::printf("%s (%s), case %d: expected %.9g at %zu, got %.9g\n", kernel, name(set), number, expected[i], i,
                    static_cast<double>(got[i]));
        ++g_failures;
        return;
    }
}

// OPS.md, word by word.
std::vector<double> deformable_reference(const DeformableAttentionTensors& t, const DeformableAttentionShape& s) {
    const int64_t levels = static_cast<int64_t>(s.levels.size()), points = levels * s.points;
    const int64_t channels = s.heads * s.head_dim;
    std::vector<double> output(static_cast<std::size_t>(s.batch * s.queries * channels));
    for (int64_t n = 0; n < s.batch; ++n)
        for (int64_t q = 0; q < s.queries; ++q)
            for (int64_t m = 0; m < s.heads; ++m) {
                const int64_t row = n * s.queries + q;
                const float* logits = t.logits + (row * s.heads + m) * points;
                const float* offsets = t.offsets + (row * s.heads + m) * points * 2;
                const float* reference = t.reference_points + (s.shared_reference_points ? q : row) * 2;
                double largest = -INFINITY, sum = 0;
                for (int64_t i = 0; i < points; ++i) largest = std::max<double>(largest, logits[i]);
                for (int64_t i = 0; i < points; ++i) sum += std::exp(logits[i] - largest);
                for (int64_t i = 0; i < points; ++i) {
                    const auto& level = s.levels[static_cast<std::size_t>(i / s.points)];
                    const double weight = std::exp(logits[i] - largest) / sum;
                    const double x = static_cast<double>(reference[0]) * level.width + offsets[2 * i] - 0.5;
                    const double y = static_cast<double>(reference[1]) * level.height + offsets[2 * i + 1] - 0.5;
                    for (int corner = 0; corner < 4; ++corner) {
                        const double column = std::floor(x) + corner % 2, line = std::floor(y) + corner / 2;
                        if (column < 0 || column >= level.width || line < 0 || line >= level.height) continue;
                        const double share = (1 - std::abs(x - column)) * (1 - std::abs(y - line)) * weight;
                        const int64_t pixel = level.first_row + int64_t(line) * level.width + int64_t(column);
                        const float* value = t.value + (n * s.value_rows + pixel) * channels + m * s.head_dim;
                        for (int64_t d = 0; d < s.head_dim; ++d)
                            output[static_cast<std::size_t>(row * channels + m * s.head_dim + d)] += share * value[d];
                    }
                }
            }
    return output;
}

struct DeformableGradients {
    std::vector<double> value, offsets, logits;
};

// The derivative of deformable_reference, corner by corner.
DeformableGradients deformable_gradient_reference(const DeformableAttentionGradientTensors& t,
                                                  const DeformableAttentionShape& s) {
    const int64_t levels = static_cast<int64_t>(s.levels.size()), points = levels * s.points;
    const int64_t channels = s.heads * s.head_dim, rows = s.batch * s.queries;
    DeformableGradients result;
    result.value.resize(static_cast<std::size_t>(s.batch * s.value_rows * channels));
    result.offsets.resize(static_cast<std::size_t>(rows * s.heads * points * 2));
    result.logits.resize(static_cast<std::size_t>(rows * s.heads * points));
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t m = 0; m < s.heads; ++m) {
            const int64_t n = row / s.queries, sample = (row * s.heads + m) * points;
            const float* reference = t.reference_points + (s.shared_reference_points ? row % s.queries : row) * 2;
            const float* grad = t.grad_output + row * channels + m * s.head_dim;
            double largest = -INFINITY, sum = 0, mean = 0;
            for (int64_t i = 0; i < points; ++i) largest = std::max<double>(largest, t.logits[sample + i]);
            for (int64_t i = 0; i < points; ++i) sum += std::exp(t.logits[sample + i] - largest);
            std::vector<double> weights, of_weights;
            for (int64_t i = 0; i < points; ++i) {
                const auto& level = s.levels[static_cast<std::size_t>(i / s.points)];
                const double weight = std::exp(t.logits[sample + i] - largest) / sum;
                const double x = static_cast<double>(reference[0]) * level.width + t.offsets[2 * (sample + i)] - 0.5;
                const double y =
                    static_cast<double>(reference[1]) * level.height + t.offsets[2 * (sample + i) + 1] - 0.5;
                double of_weight = 0, of_x = 0, of_y = 0;
                for (int corner = 0; corner < 4; ++corner) {
                    const double column = std::floor(x) + corner % 2, line = std::floor(y) + corner / 2;
                    if (column < 0 || column >= level.width || line < 0 || line >= level.height) continue;
                    const double beside = 1 - std::abs(x - column), below = 1 - std::abs(y - line);
                    const int64_t pixel = level.first_row + int64_t(line) * level.width + int64_t(column);
                    const int64_t start = (n * s.value_rows + pixel) * channels + m * s.head_dim;
                    double product = 0;
                    for (int64_t d = 0; d < s.head_dim; ++d) {
                        product += static_cast<double>(grad[d]) * t.value[start + d];
                        result.value[static_cast<std::size_t>(start + d)] += weight * beside * below * grad[d];
                    }
                    of_weight += beside * below * product;
                    of_x += (corner % 2 ? 1 : -1) * below * product;
                    of_y += (corner / 2 ? 1 : -1) * beside * product;
                }
                result.offsets[static_cast<std::size_t>(2 * (sample + i))] = weight * of_x;
                result.offsets[static_cast<std::size_t>(2 * (sample + i) + 1)] = weight * of_y;
                weights.push_back(weight);
                of_weights.push_back(of_weight);
                mean += weight * of_weight;
            }
            for (int64_t i = 0; i < points; ++i)
                result.logits[static_cast<std::size_t>(sample + i)] =
                    weights[static_cast<std::size_t>(i)] * (of_weights[static_cast<std::size_t>(i)] - mean);
        }
    return result;
}

// Where a place is a whole pixel to float's precision, the derivative jumps: sides could fall on different pixels.
bool is_smooth(float reference, int64_t length, float offset) {
    const double place = static_cast<double>(reference) * static_cast<double>(length) + offset - 0.5;
    return std::abs(place - std::round(place)) > 1e-4;
}

void test_deformable_gradient(const DeformableAttentionTensors& tensors, const DeformableAttentionShape& shape,
                              std::vector<float> offsets, int number) {
    const int64_t samples = shape.heads * static_cast<int64_t>(shape.levels.size()) * shape.points;
    for (int64_t i = 0; i < shape.batch * shape.queries * samples * 2; ++i) {
        const int64_t row = i / (2 * samples), point = i / 2 % samples / shape.points;
        const auto& level = shape.levels[static_cast<std::size_t>(point) % shape.levels.size()];
        const int64_t query = shape.shared_reference_points ? row % shape.queries : row;
        float& offset = offsets[static_cast<std::size_t>(i)];
        while (!is_smooth(tensors.reference_points[2 * query + i % 2], i % 2 ? level.height : level.width, offset))
            offset = std::abs(offset) > 1000 ? 0.1f : offset + 0.01f;
    }
    const auto grad_output = normals(shape.batch * shape.queries * shape.heads * shape.head_dim);
    std::vector<float> value(static_cast<std::size_t>(shape.batch * shape.value_rows * shape.heads * shape.head_dim));
    std::vector<float> places(offsets.size()), logits(offsets.size() / 2);
    const DeformableAttentionGradientTensors gradients{
        tensors.value,      offsets.data(), tensors.logits, tensors.reference_points,
        grad_output.data(), value.data(),   places.data(),  logits.data()};
    const DeformableGradients expected = deformable_gradient_reference(gradients, shape);
    double largest = 1;
    for (const double x : expected.value) largest = std::max(largest, std::abs(x));
    for (const InstructionSet set : available_instruction_sets()) {
        for (std::vector<float>* each : {&value, &places, &logits}) std::fill(each->begin(), each->end(), NAN);
        multiscale_deformable_attention_gradient(gradients, shape, kBackwards, set);
        compare("gradient of value", set, number, value, expected.value, 2e-5 * largest);
        // sums of head_dim products of normals, up to 80 of them
        compare("gradient of offsets", set, number, places, expected.offsets, 1e-3);
        compare("gradient of logits", set, number, logits, expected.logits, 1e-3);
    }
}

void test_deformable(int number) {
    const int64_t batch = between(1, 3), heads = between(1, 5), points = between(1, 9), levels = between(1, 4);
    const int64_t head_dim = one_of<int64_t>({1, 5, 8, 12, 16, 24, 32, 33, 64, 80});
    const int64_t queries = one_of<int64_t>({0, 1, 7, 31, 32, 33, 70});
    std::vector<int32_t> sizes;
    int64_t rows = 0;
    for (int64_t level = 0; level < levels; ++level) {
        sizes.push_back(static_cast<int32_t>(between(1, 9)));
        sizes.push_back(static_cast<int32_t>(between(1, 9)));
        rows += int64_t{sizes[2 * level]} * sizes[2 * level + 1];
    }
    const int64_t samples = heads * levels * points, references = one_of<int64_t>({1, batch});
    const auto value = normals(batch * rows * heads * head_dim);
    auto offsets = normals(batch * queries * samples * 2, one_of({0.5f, 3.0f, 100.0f}));
    const auto logits = normals(batch * queries * samples, one_of({1.0f, 30.0f}));
    auto reference = normals(references * queries * 2, 0.3f);
    for (float& x : reference) x += 0.5f;
    for (float& x : offsets)  // whole and half pixels, and what no integer holds
        if (between(0, 9) == 0) x = one_of({0.0f, 0.5f, -1.0f, 2.0f, 1e30f, -1e30f});
    DeformableAttentionShape shape;
    const std::string problem = deformable_attention_shape(
        {batch, rows, heads * head_dim}, {batch, queries, samples * 2}, {batch, queries, samples},
        {references, queries, 2}, {levels, 2}, sizes.data(), heads, points, shape);
    if (!problem.empty()) {
        std::printf("case %d: %s\n", number, problem.c_str());
        ++g_failures;
        return;
    }
    std::vector<float> output(static_cast<std::size_t>(batch * queries * heads * head_dim));
    const DeformableAttentionTensors tensors{value.data(), offsets.data(), logits.data(), reference.data(),
                                             output.data()};
    const auto expected = deformable_reference(tensors, shape);
    for (const InstructionSet set : available_instruction_sets()) {
        std::fill(output.begin(), output.end(), NAN);
        multiscale_deformable_attention(tensors, shape, kBackwards, set);
        // A coordinate near 100 is exact to 4e-6 pixel, and a pixel's worth of value is about 3.
        compare("multiscale_deformable_attention", set, number, output, expected, 5e-5);
    }
    test_deformable_gradient(tensors, shape, offsets, number);
}

std::vector<double> masked_reference(const MaskedAttentionTensors& t, const MaskedAttentionShape& s) {
    const int64_t channels = s.heads * s.head_dim;
    std::vector<double> output(static_cast<std::size_t>(s.batch * s.queries * channels));
    std::vector<double> scores(static_cast<std::size_t>(s.keys));
    for (int64_t row = 0; row < s.batch * s.queries; ++row) {
        const float* mask = t.mask_logits + row * s.keys;
        const bool none = std::none_of(mask, mask + s.keys, [](float x) { return x >= 0; });
        const int64_t first_key = row / s.queries * s.keys;
        for (int64_t m = 0; m < s.heads; ++m) {
            double largest = -INFINITY, sum = 0;
            for (int64_t k = 0; k < s.keys; ++k) {
                double score = 0;
                for (int64_t d = m * s.head_dim; d < (m + 1) * s.head_dim; ++d)
                    score += double{t.query[row * channels + d]} * t.key[(first_key + k) * channels + d];
                scores[k] = none || mask[k] >= 0 ? score / std::sqrt(double(s.head_dim)) : -INFINITY;
                largest = std::max(largest, scores[k]);
            }
            for (double& score : scores) sum += score = std::exp(score - largest);
            for (int64_t k = 0; k < s.keys; ++k)
                for (int64_t d = m * s.head_dim; d < (m + 1) * s.head_dim; ++d)
                    output[row * channels + d] += scores[k] / sum * t.value[(first_key + k) * channels + d];
        }
    }
    return output;
}

void test_masked(int number) {
    const int64_t batch = between(1, 3), heads = between(1, 4);
    const int64_t head_dim = one_of<int64_t>({1, 5, 8, 12, 16, 24, 32, 33, 64, 80});
    const int64_t queries = one_of<int64_t>({0, 1, 3, 16, 17, 37}), keys = one_of<int64_t>({1, 2, 13, 95, 96, 97, 300});
    const auto query = normals(batch * queries * heads * head_dim, one_of({1.0f, 8.0f}));
    const auto key = normals(batch * keys * heads * head_dim), value = normals(batch * keys * heads * head_dim);
    auto mask = normals(batch * queries * keys);
    const float shift = one_of({0.0f, 2.0f, -2.0f, 5.0f, -5.0f});
    for (float& x : mask) {
        x += shift;
        if (between(0, 49) == 0) x = one_of({0.0f, -0.0f, NAN, INFINITY, -INFINITY});
    }
    MaskedAttentionShape shape;
    const Dims rows{batch, keys, heads * head_dim};
    const std::string problem =
        masked_attention_shape({batch, queries, heads * head_dim}, rows, rows, {batch, queries, keys}, heads, shape);
    if (!problem.empty()) {
        std::printf("case %d: %s\n", number, problem.c_str());
        ++g_failures;
        return;
    }
    std::vector<float> output(static_cast<std::size_t>(batch * queries * heads * head_dim));
    const MaskedAttentionTensors tensors{query.data(), key.data(), value.data(), mask.data(), output.data()};
    const auto expected = masked_reference(tensors, shape);
    for (const InstructionSet set : available_instruction_sets()) {
        std::fill(output.begin(), output.end(), NAN);
        masked_attention(tensors, shape, kBackwards, set);
        compare("masked_attention", set, number, output, expected, 5e-5);  // scores up to 30, rounded to 2e-6
    }
}

void test_add_layer_normalization(int number) {
    const int64_t rows = one_of<int64_t>({0, 1, 2, 63, 64, 65, 200}),
                  channels = one_of<int64_t>({1, 3, 8, 17, 96, 256});
    const auto x = normals(rows * channels, one_of({1.0f, 100.0f})), residual = normals(rows * channels);
    const auto scale = normals(channels), bias = normals(channels);
    const float epsilon = one_of({1e-5f, 0.1f});
    AddLayerNormalizationShape shape;
    const std::string problem =
        add_layer_normalization_shape({rows, channels}, {rows, channels}, {channels}, {channels}, shape);
    if (!problem.empty()) {
        std::printf("case %d: %s\n", number, problem.c_str());
        ++g_failures;
        return;
    }
    std::vector<double> expected;
    for (int64_t row = 0; row < rows; ++row) {
        const auto value = [&](int64_t c) { return double(x[row * channels + c] + residual[row * channels + c]); };
        double mean = 0, variance = 0;
        for (int64_t c = 0; c < channels; ++c) mean += value(c) / channels;
        for (int64_t c = 0; c < channels; ++c) variance += (value(c) - mean) * (value(c) - mean) / channels;
        for (int64_t c = 0; c < channels; ++c)
            expected.push_back((value(c) - mean) / std::sqrt(variance + epsilon) * scale[c] + bias[c]);
    }
    std::vector<float> output(expected.size());
    const AddLayerNormalizationTensors tensors{x.data(), residual.data(), scale.data(), bias.data(), output.data()};
    for (const InstructionSet set : available_instruction_sets()) {
        std::fill(output.begin(), output.end(), NAN);
        add_layer_normalization(tensors, shape, epsilon, kBackwards, set);
        // One channel is its own mean, and what rounding leaves of 0 is divided by √epsilon.
        compare("add_layer_normalization", set, number, output, expected, 5e-5);
    }
}

void test_convolution_3x3(int number) {
    const int64_t batch = between(1, 2), channels = one_of<int64_t>({1, 3, 16, 33});
    const int64_t filters = one_of<int64_t>({1, 4, 7, 8, 31, 33, 40});
    const int64_t height = one_of<int64_t>({0, 1, 2, 3, 4, 5, 9, 17}),
                  width = one_of<int64_t>({1, 3, 4, 6, 20, 65, 131});
    const auto x = normals(batch * channels * height * width), weight = normals(filters * channels * 9, 0.3f);
    const auto bias = normals(filters);
    const bool relu = between(0, 1) == 1;
    Convolution3x3Shape shape;
    const std::string problem =
        convolution_3x3_shape({batch, channels, height, width}, {filters, channels, 3, 3}, {filters}, shape);
    if (!problem.empty()) {
        std::printf("case %d: %s\n", number, problem.c_str());
        ++g_failures;
        return;
    }
    std::vector<double> expected;
    for (int64_t n = 0; n < batch; ++n)
        for (int64_t o = 0; o < filters; ++o)
            for (int64_t row = 0; row < height; ++row)
                for (int64_t column = 0; column < width; ++column) {
                    double sum = bias[o];
                    for (int64_t c = 0; c < channels; ++c)
                        for (int k = 0; k < 9; ++k) {
                            const int64_t y = row + k / 3 - 1, z = column + k % 3 - 1;
                            if (y < 0 || y >= height || z < 0 || z >= width) continue;
                            sum += double{x[((n * channels + c) * height + y) * width + z]} *
                                   weight[(o * channels + c) * 9 + k];
                        }
                    expected.push_back(relu ? std::max(sum, 0.0) : sum);
                }
    double largest = 1;
    for (const double value : expected) largest = std::max(largest, std::abs(value));
    std::vector<float> output(expected.size());
    for (const InstructionSet set : available_instruction_sets()) {
        std::fill(output.begin(), output.end(), NAN);
        const Convolution3x3Weights weights(weight.data(), bias.data(), filters, channels, set);
        convolution_3x3(x.data(), weights, relu, output.data(), shape, kBackwards);
        // The transforms' factors of up to 8 cost some three bits of the largest sum.
        compare("convolution_3x3", set, number, output, expected, 1e-5 * largest);
    }
}

}  // namespace

int main(int argc, char** argv) {
    const int cases = argc > 1 ? std::atoi(argv[1]) : 400;
    g_random.seed(argc > 2 ? static_cast<uint64_t>(std::atoll(argv[2])) : 0);
    if (argc > 3 && (g_given = std::fopen(argv[3], "wb")) == nullptr) {
        std::printf("%s cannot be written\n", argv[3]);
        return 1;
    }
    for (int number = 0; number < cases; ++number) {
        test_deformable(number);
        test_masked(number);
        test_add_layer_normalization(number);
        test_convolution_3x3(number);
    }
    if (g_given != nullptr) std::fclose(g_given);
    std::string sets;
    for (const InstructionSet set : available_instruction_sets()) sets += std::string(" ") + name(set);
    std::printf("%d cases of each kernel on%s: %d failures\n", cases, sets.c_str(), g_failures);
    return g_failures == 0 ? 0 : 1;
}
