// The CUDA kernel for preprocessing, executed thread by thread, against a reference in double precision.
//
//     simt_preprocess [random cases, default 60] [seed]
//
// At most one level off what a calculation without rounding gives: half a level of rounding, and OpenCV's own habits
// (lines of which 1/1000 is covered are left out; bilinear weights have 11 bits). Equality with OpenCV itself, level by
// level: tests/runtime/test_device_kernels.py.
#include <algorithm>

#include "preprocess/c_api.h"
#include "simt/testing.h"

using namespace mask2edge;
using namespace simt;

namespace {

std::string to_text(const PreprocessShape& s) {
    const auto size = [](int32_t height, int32_t width) {
        return std::to_string(height) + "x" + std::to_string(width);
    };
    return "preprocess " + size(s.image_height, s.image_width) + " -> " + size(s.content_height, s.content_width) +
           " in " + size(s.padded_height, s.padded_width);
}

// (line, weight) of an axis, by the definitions: the mean of what is covered where the image shrinks, else bilinear.
std::vector<std::pair<int, double>> lines_of(int line, int from, int to, bool shrinks) {
    std::vector<std::pair<int, double>> lines;
    const double scale = static_cast<double>(from) / to;
    if (shrinks) {
        for (int i = static_cast<int>(line * scale); i < from; ++i) {
            const double covered = std::min<double>(i + 1, (line + 1) * scale) - std::max<double>(i, line * scale);
            if (covered > 0) lines.emplace_back(i, covered / scale);
        }
    } else {
        const double where = std::max(0.0, (line + 0.5) * scale - 0.5);
        const int first = std::min(static_cast<int>(where), from - 1);
        lines.emplace_back(first, 1 - (where - first));
        lines.emplace_back(std::min(first + 1, from - 1), where - first);
    }
    return lines;
}

void test(const PreprocessShape& s, const Normalisation& normalisation) {
    Buffer<uint8_t> image(static_cast<std::size_t>(s.image_height) * s.image_width * 3);
    for (uint8_t& level : image) level = static_cast<uint8_t>(between(0, 255));
    const std::size_t plane = static_cast<std::size_t>(s.padded_height) * s.padded_width;
    Buffer<float> first;
    for (const Options& schedule : all_schedules(3)) {
        if (schedule.lazy_copies) continue;  // the kernel copies nothing asynchronously
        use(schedule);
        const std::string what = to_text(s) + ", " + to_text(schedule);
        Buffer<float> pixels(3 * plane);
        pixels.fill_bytes(0xff);
        expect_success(what, launch_preprocess(s, normalisation, image.data(), pixels.data(), nullptr));
        if (first.size() == 0)
            first = std::move(pixels);
        else
            expect(std::memcmp(first.data(), pixels.data(), 4 * first.size()) == 0,
                   what + ": not what the first order gave");
    }
    const bool shrinks = s.content_height < s.image_height || s.content_width < s.image_width;
    const bool grows = s.content_height > s.image_height || s.content_width > s.image_width;
    for (int channel = 0; channel < 3; ++channel)
        for (int y = 0; y < s.padded_height; ++y)
            for (int x = 0; x < s.padded_width; ++x) {
                const float got =
                    first[static_cast<std::size_t>(channel) * plane + static_cast<std::size_t>(y * s.padded_width + x)];
                if (y >= s.content_height || x >= s.content_width) {
                    if (got != 0) return expect(false, to_text(s) + ": the padding is not 0");
                    continue;
                }
                const double level = got * normalisation.std[channel] + normalisation.mean[channel];
                if (std::abs(level - std::round(level)) > 1e-3)
                    return expect(false, to_text(s) + ": a level that is not whole");
                double expected = 0;
                for (const auto& [row, row_weight] : lines_of(y, s.image_height, s.content_height, shrinks))
                    for (const auto& [column, weight] : lines_of(x, s.image_width, s.content_width, shrinks))
                        expected += row_weight * weight *
                                    image[static_cast<std::size_t>((row * s.image_width + column) * 3 + 2 - channel)];
                // Where one axis shrinks and the other grows OpenCV does something of its own.
                if (!(std::abs(level - expected) <= (shrinks && grows ? 255 : 1)))
                    return expect(false, to_text(s) + ": expected " + std::to_string(expected) + ", got " +
                                             std::to_string(level));
            }
}

void test_refusals() {
    const PreprocessShape good{4, 4, 2, 2, 32, 32};
    const Normalisation rules{{127.5, 127.5, 127.5}, {127.5, 127.5, 127.5}};
    const auto refused = [](PreprocessShape shape, const Normalisation& normalisation, const std::string& part) {
        char text[200];
        const int32_t length = mask2edge_preprocess_problem(&shape, &normalisation, text, sizeof text);
        expect(length > 0 && std::string(text).find(part) != std::string::npos, "expected " + part + ", got " + text);
        expect(mask2edge_preprocess(&shape, &normalisation, nullptr, nullptr, nullptr) == cudaErrorInvalidValue,
               "not refused: " + part);
    };
    expect(preprocess_problem(good, rules).empty(), "good sizes are refused");
    refused({0, 4, 2, 2, 32, 32}, rules, "expected an image of 1 to 32768 pixels a side, got 0x4");
    refused({4, 4, 2, 40000, 32, 32}, rules, "a content");
    refused({4, 4, 2, 33, 32, 32}, rules, "within the padded 32x32, got 2x33");
    refused(good, {{0, 0, 0}, {1, 0, 1}}, "(std) above 0");
    refused(good, {{0, NAN, 0}, {1, 1, 1}}, "finite means");
}

}  // namespace

int main(int argc, char** argv) {
    const int cases = argc > 1 ? std::atoi(argv[1]) : 60;
    random_bits().seed(argc > 2 ? static_cast<uint64_t>(std::atoll(argv[2])) : 1);
    test_refusals();
    for (int i = 0; i < cases; ++i) {
        PreprocessShape s{};
        s.content_height = static_cast<int32_t>(between(1, 40));
        s.content_width = static_cast<int32_t>(between(1, 40));
        const int64_t kind = between(0, 4), factor = between(1, 4);
        const auto image_line = [&](int32_t content) {
            if (kind == 0) return static_cast<int32_t>(content * factor);
            if (kind == 1) return static_cast<int32_t>(between(content, 4 * content));
            if (kind == 2) return static_cast<int32_t>(between(1, content));
            return kind == 3 ? content : static_cast<int32_t>(between(1, 80));
        };
        s.image_height = image_line(s.content_height);
        s.image_width = image_line(s.content_width);
        s.padded_height = s.content_height + static_cast<int32_t>(between(0, 40));
        s.padded_width = s.content_width + static_cast<int32_t>(between(0, 40));
        const bool lite = between(0, 1) == 1;
        test(s, lite ? Normalisation{{127.5, 127.5, 127.5}, {127.5, 127.5, 127.5}}
                     : Normalisation{{123.675, 116.28, 103.53}, {58.395, 57.12, 57.375}});
    }
    return finish();
}
