// Pre- and post-processing on the CPU, on random shapes, on every instruction set of this machine. Inputs and outputs
// sit in allocations of exactly their size, so that AddressSanitizer sees an access past the end. That labels and
// scores are the reference's is tests/runtime/test_native_postprocess.py's to show; here the results must hold
// together, and semantic labels are compared with scores in double precision.
//
//     image_tests [cases, default 150] [seed]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>

#include "preprocess/cpu.h"
#include "segment_fusion/cpu.h"
#include "segment_fusion/cpu_taps.h"

using namespace mask2edge;

namespace {

int g_failures = 0;

std::mt19937_64 g_random;

int32_t between(int32_t low, int32_t high) { return std::uniform_int_distribution<int32_t>(low, high)(g_random); }

void expect(bool holds, const char* what, InstructionSet set, int number) {
    if (holds) return;
    std::printf("%s (%s), case %d\n", what, name(set), number);
    ++g_failures;
}

struct Case {
    FusionSizes sizes;
    std::vector<float> class_logits, mask_logits;

    Case() {
        FusionSizes& s = sizes;
        s.queries = between(1, 35);
        s.classes = between(1, 40);
        s.padded_height = between(1, 90);
        s.padded_width = between(1, 90);
        const int32_t stride = between(1, 4);
        s.mask_height = std::max(1, s.padded_height / stride);
        s.mask_width = std::max(1, s.padded_width / stride);
        s.content_height = between(1, s.padded_height);
        s.content_width = between(1, s.padded_width);
        const bool grows = between(0, 3) > 0;
        s.image_height = between(1, grows ? 3 * s.content_height : s.content_height);
        s.image_width = between(1, grows ? 3 * s.content_width : s.content_width);
        std::normal_distribution<float> normal;
        const float sure = static_cast<float>(between(1, 6)), steep = static_cast<float>(between(1, 12));
        class_logits.resize(static_cast<std::size_t>(s.queries * (s.classes + 1)));
        mask_logits.resize(static_cast<std::size_t>(s.queries * s.mask_height * s.mask_width));
        for (float& logit : class_logits) logit = sure * normal(g_random);
        for (float& logit : mask_logits) logit = steep * normal(g_random);
        class_logits.shrink_to_fit();
        mask_logits.shrink_to_fit();
    }

    std::size_t pixels() const {
        return static_cast<std::size_t>(sizes.image_height) * static_cast<std::size_t>(sizes.image_width);
    }
};

double resized(const float* mask, const FusionSizes& s, const Taps& row, const Taps& column) {
    double logit = 0;
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j)
            logit += static_cast<double>(row.weight[i]) * column.weight[j] *
                     mask[int64_t{row.line[i]} * s.mask_width + column.line[j]];
    return logit;
}

// [K] of one pixel, scores formed at the image's size.
std::vector<double> scores_at(const Case& c, const Taps& row, const Taps& column) {
    const FusionSizes& s = c.sizes;
    std::vector<double> scores(static_cast<std::size_t>(s.classes), 0.0);
    for (int32_t q = 0; q < s.queries; ++q) {
        const float* logits = c.class_logits.data() + int64_t{q} * (s.classes + 1);
        double sum = 0;
        for (int32_t k = 0; k <= s.classes; ++k) sum += std::exp(static_cast<double>(logits[k]));
        const double logit = resized(c.mask_logits.data() + int64_t{q} * s.mask_height * s.mask_width, s, row, column);
        for (int32_t k = 0; k < s.classes; ++k)
            scores[static_cast<std::size_t>(k)] +=
                std::exp(static_cast<double>(logits[k])) / sum / (1 + std::exp(-logit));
    }
    return scores;
}

// Areas and boxes of the rows are those of the label map's.
bool is_consistent(const std::vector<int32_t>& labels, const std::vector<SegmentRow>& table, const FusionSizes& s) {
    std::map<int32_t, SegmentRow> seen;
    for (int32_t y = 0; y < s.image_height; ++y)
        for (int32_t x = 0; x < s.image_width; ++x) {
            const int32_t label = labels[static_cast<std::size_t>(int64_t{y} * s.image_width + x)];
            SegmentRow& row = seen.emplace(label, SegmentRow{label, 0, 0, 0, x, y, x, y}).first->second;
            ++row.area;
            row.x0 = std::min(row.x0, x);
            row.y0 = std::min(row.y0, y);
            row.x1 = std::max(row.x1, x + 1);
            row.y1 = std::max(row.y1, y + 1);
        }
    std::size_t matching = 0;
    for (int32_t i = 1; i <= table[0].id; ++i) {
        const SegmentRow& row = table[static_cast<std::size_t>(i)];
        const auto found = seen.find(row.id);
        if (found == seen.end()) return false;
        const SegmentRow& own = found->second;
        if (own.area != row.area || own.x0 != row.x0 || own.y0 != row.y0 || own.x1 != row.x1 || own.y1 != row.y1)
            return false;
        ++matching;
    }
    return matching == seen.size() - seen.count(0) || matching == seen.size();
}

void test_semantic(const Case& c, SemanticOrder order, InstructionSet set, int number) {
    std::vector<int32_t> labels(c.pixels(), -1);
    std::vector<SegmentRow> table(static_cast<std::size_t>(1 + c.sizes.classes));
    cpu_semantic(c.sizes, order, {c.class_logits.data(), c.mask_logits.data(), nullptr, labels.data(), table.data()},
                 {between(1, 3), set});
    expect(is_consistent(labels, table, c.sizes), "semantic: the table is not the label map's", set, number);
    if (order == SemanticOrder::padded) return;
    const FusionSizes& s = c.sizes;
    const auto rows = mask_to_image(s.mask_height, s.padded_height, s.content_height, s.image_height);
    const auto columns = mask_to_image(s.mask_width, s.padded_width, s.content_width, s.image_width);
    for (std::size_t i = 0; i < labels.size(); i += 17) {  // some pixels
        const std::size_t width = static_cast<std::size_t>(s.image_width);
        const auto scores = scores_at(c, rows[i / width], columns[i % width]);
        const double best = *std::max_element(scores.begin(), scores.end());
        const bool is_best = labels[i] >= 0 && scores.at(static_cast<std::size_t>(labels[i])) >= best - 1.2e-5;
        expect(is_best, "semantic: a class that is not the best", set, number);
        if (!is_best) return;
    }
}

void test_panoptic(const Case& c, InstructionSet set, int number) {
    std::vector<int32_t> labels(c.pixels(), -1);
    std::vector<SegmentRow> table(static_cast<std::size_t>(1 + c.sizes.queries));
    std::vector<uint8_t> things(static_cast<std::size_t>(c.sizes.classes));
    for (uint8_t& thing : things) thing = static_cast<uint8_t>(between(0, 1));
    cpu_panoptic(c.sizes, {0.1 * between(0, 8), 0.1 * between(0, 8)},
                 {c.class_logits.data(), c.mask_logits.data(), things.data(), labels.data(), table.data()},
                 {between(1, 3), set});
    expect(is_consistent(labels, table, c.sizes), "panoptic: the table is not the label map's", set, number);
}

void test_instances(const Case& c, InstructionSet set, int number) {
    const FusionSizes& s = c.sizes;
    const int32_t most = between(1, s.queries * s.classes);
    std::vector<int32_t> labels(c.pixels(), -1), painted(c.pixels(), 0);
    std::vector<SegmentRow> table(static_cast<std::size_t>(1 + most));
    std::vector<uint8_t> allowed(static_cast<std::size_t>(s.classes));
    for (uint8_t& one : allowed) one = static_cast<uint8_t>(between(0, 3) > 0);
    const InstanceCounts counts = cpu_instances(
        s, most, allowed.data(), {c.class_logits.data(), c.mask_logits.data(), nullptr, labels.data(), table.data()},
        {between(1, 3), set});
    bool holds = counts.begin.size() == static_cast<std::size_t>(table[0].id) + 1;
    for (int32_t id = 1; holds && id <= table[0].id; ++id) {
        int64_t at = 0, area = 0;
        for (int64_t i = counts.begin[static_cast<std::size_t>(id - 1)]; i < counts.begin[static_cast<std::size_t>(id)];
             ++i) {
            const int64_t run = counts.counts[static_cast<std::size_t>(i)];
            const bool is_inside = (i - counts.begin[static_cast<std::size_t>(id - 1)]) % 2 == 1;
            for (int64_t end = at + run; at < end; ++at)
                if (is_inside) {
                    painted.at(static_cast<std::size_t>(at % s.image_height * s.image_width + at / s.image_height)) =
                        id;
                    ++area;
                }
        }
        holds = at == static_cast<int64_t>(c.pixels()) && area == table[static_cast<std::size_t>(id)].area;
    }
    expect(holds && painted == labels, "instances: the run lengths are not the label map's", set, number);
}

// INTER_AREA by its definition: each pixel the mean of the part of the image that it covers. Rounding may differ by
// one.
double covered_mean(const std::vector<uint8_t>& image, const PreprocessShape& s, int32_t y, int32_t x,
                    int32_t channel) {
    const double height = static_cast<double>(s.image_height) / s.content_height;
    const double width = static_cast<double>(s.image_width) / s.content_width;
    double sum = 0;
    for (int32_t row = 0; row < s.image_height; ++row)
        for (int32_t column = 0; column < s.image_width; ++column) {
            const double rows = std::min(row + 1.0, (y + 1) * height) - std::max<double>(row, y * height);
            const double columns = std::min(column + 1.0, (x + 1) * width) - std::max<double>(column, x * width);
            if (rows > 0 && columns > 0)
                sum +=
                    rows * columns * image[static_cast<std::size_t>((row * s.image_width + column) * 3 + 2 - channel)];
        }
    return sum / (height * width);
}

void test_preprocess(int number) {
    PreprocessShape s{};
    s.content_height = between(1, 20);
    s.content_width = between(1, 20);
    s.image_height = s.content_height + between(0, 30);
    s.image_width = s.content_width + between(0, 30);
    s.padded_height = s.content_height + between(0, 40);
    s.padded_width = s.content_width + between(0, 9);
    const bool shrinks = cpu_shrinks_by_area(s);
    if (!shrinks) {
        s.image_height = s.content_height;
        s.image_width = s.content_width;
    }
    std::vector<uint8_t> image(static_cast<std::size_t>(s.image_height * s.image_width * 3));
    std::vector<float> tables(3 * 256), pixels(static_cast<std::size_t>(3 * s.padded_height * s.padded_width), NAN);
    for (uint8_t& byte : image) byte = static_cast<uint8_t>(between(0, 255));
    for (int32_t i = 0; i < 3 * 256; ++i) tables[static_cast<std::size_t>(i)] = static_cast<float>(i);
    (shrinks ? cpu_shrink : cpu_normalise)(image.data(), s.image_width * 3, s, tables.data(), pixels.data(),
                                           between(1, 3));
    bool holds = true;
    for (int32_t channel = 0; channel < 3; ++channel)
        for (int32_t y = 0; y < s.padded_height; ++y)
            for (int32_t x = 0; x < s.padded_width; ++x) {
                const bool is_there = y < s.content_height && x < s.content_width;
                const double expected = is_there ? 256 * channel + covered_mean(image, s, y, x, channel) : 0.0;
                const float got =
                    pixels[static_cast<std::size_t>((channel * s.padded_height + y) * s.padded_width + x)];
                // Parts of a line below 1/1000 are left out, as OpenCV does it.
                holds &= std::abs(got - expected) <= (shrinks && is_there ? 1.6 : 0.0);
            }
    expect(holds, shrinks ? "shrink" : "normalise", InstructionSet::portable, number);
}

}  // namespace

int main(int argc, char** argv) {
    const int cases = argc > 1 ? std::atoi(argv[1]) : 150;
    g_random.seed(argc > 2 ? static_cast<uint64_t>(std::atoll(argv[2])) : 0);
    for (int number = 0; number < cases; ++number) {
        const Case one;
        for (const InstructionSet set : available_instruction_sets()) {
            test_semantic(one, SemanticOrder::image, set, number);
            test_semantic(one, SemanticOrder::padded, set, number);
            test_panoptic(one, set, number);
            test_instances(one, set, number);
        }
        test_preprocess(number);
    }
    std::string sets;
    for (const InstructionSet set : available_instruction_sets()) sets += std::string(" ") + name(set);
    std::printf("%d cases on%s: %d failures\n", cases, sets.c_str(), g_failures);
    return g_failures == 0 ? 0 : 1;
}
