// The CUDA kernels of SegmentFusion, executed thread by thread, against a reference in double precision.
//
//     simt_segment_fusion [random cases, default 10] [seed]
//
// The reference knows of each pixel what is certain: where two classes or queries are closer than rounding can tell, or
// a mask is that close to one half, either answer is right. Areas and boxes are counted from the label map that came
// out. Every order of threads has to give the same bytes. Equality with runtime/postprocess.py: tests/runtime.
#include <algorithm>
#include <map>

#include "segment_fusion/c_api.h"
#include "simt/testing.h"

using namespace mask2edge;
using namespace simt;

namespace {

constexpr double kClose = 2e-4;  // of scores and probabilities; coordinates are floats, logits change by 10 a pixel

std::string to_text(const FusionSizes& s) {
    const auto size = [](int32_t height, int32_t width) {
        return std::to_string(height) + "x" + std::to_string(width);
    };
    return "Q " + std::to_string(s.queries) + ", K " + std::to_string(s.classes) + ", mask " +
           size(s.mask_height, s.mask_width) + ", padded " + size(s.padded_height, s.padded_width) + ", content " +
           size(s.content_height, s.content_width) + ", image " + size(s.image_height, s.image_width);
}

double probability_of(double logit) { return 1 / (1 + std::exp(-logit)); }

// ---- Bilinear, align_corners = False --------------------------------------------------------------------------------
struct Line {
    int first, second;
    double second_weight;
};

Line line_of(int line, int from, int to) {
    const double where = std::max(0.0, (line + 0.5) * from / to - 0.5);
    const int first = std::min(static_cast<int>(where), from - 1);
    return {first, std::min(first + 1, from - 1), where - first};
}

template <typename Value>
double bilinear(int y, int x, int height, int width, int to_height, int to_width, const Value& value) {
    const Line row = line_of(y, height, to_height), column = line_of(x, width, to_width);
    const auto at = [&](int line) {
        return value(line, column.first) * (1 - column.second_weight) +
               value(line, column.second) * column.second_weight;
    };
    return at(row.first) * (1 - row.second_weight) + at(row.second) * row.second_weight;
}

// ---- Input and output -----------------------------------------------------------------------------------------------
struct Result {
    Buffer<int32_t> label_map;
    Buffer<SegmentRow> table;

    SegmentTableHeader header() const { return *reinterpret_cast<const SegmentTableHeader*>(table.data()); }
};

struct Problem {
    FusionSizes sizes;
    Buffer<float> class_logits, mask_logits;
    Buffer<uint8_t> is_thing;

    // Discs with soft, noisy borders; some queries sure of a class, some of nothing.
    explicit Problem(const FusionSizes& s)
        : sizes(s),
          class_logits(normals<float>(int64_t{s.queries} * (s.classes + 1), 2)),
          mask_logits(normals<float>(int64_t{s.queries} * s.mask_height * s.mask_width, 0.3f)),
          is_thing(static_cast<std::size_t>(s.classes)) {
        for (uint8_t& thing : is_thing) thing = static_cast<uint8_t>(between(0, 1));
        for (int q = 0; q < s.queries; ++q) {
            class_logits[static_cast<std::size_t>(q * (s.classes + 1) + between(0, s.classes))] +=
                static_cast<float>(between(0, 9));
            const double cy = static_cast<double>(between(0, s.mask_height)),
                         cx = static_cast<double>(between(0, s.mask_width));
            const double radius = static_cast<double>(between(1, 1 + std::max(s.mask_height, s.mask_width) / 2));
            for (int y = 0; y < s.mask_height; ++y)
                for (int x = 0; x < s.mask_width; ++x)
                    mask_logits[static_cast<std::size_t>((q * s.mask_height + y) * s.mask_width + x)] +=
                        static_cast<float>(2 * (radius - std::hypot(y - cy, x - cx)));
        }
    }

    template <typename Launch>
    Result run(const std::string& what, int32_t rows, std::size_t workspace_bytes, const Launch& launch) const {
        Result result{Buffer<int32_t>(static_cast<std::size_t>(sizes.image_height) * sizes.image_width),
                      Buffer<SegmentRow>(static_cast<std::size_t>(rows))};
        result.label_map.fill_bytes(0xff);
        result.table.fill_bytes(0xff);
        Buffer<char> workspace(workspace_bytes);
        workspace.fill_bytes(0xff);
        expect_success(what, launch(FusionTensors{class_logits.data(), mask_logits.data(), is_thing.data(),
                                                  result.label_map.data(), result.table.data(), workspace.data()}));
        return result;
    }
    Result semantic(const std::string& what, SemanticOrder order) const {
        return run(what, 1 + sizes.classes, semantic_workspace(sizes, order),
                   [&](const FusionTensors& tensors) { return launch_semantic(sizes, order, tensors, nullptr); });
    }
    Result panoptic(const std::string& what, const PanopticThresholds& thresholds) const {
        return run(what, 1 + sizes.queries, panoptic_workspace(sizes),
                   [&](const FusionTensors& tensors) { return launch_panoptic(sizes, thresholds, tensors, nullptr); });
    }

    // [Q, K + 1]
    std::vector<std::vector<double>> probabilities() const {
        std::vector<std::vector<double>> result;
        for (int q = 0; q < sizes.queries; ++q) {
            std::vector<double> row;
            double sum = 0;
            for (int k = 0; k <= sizes.classes; ++k) {
                row.push_back(std::exp(class_logits[static_cast<std::size_t>(q * (sizes.classes + 1) + k)]));
                sum += row.back();
            }
            for (double& p : row) p /= sum;
            result.push_back(row);
        }
        return result;
    }
    double padded_logit(int q, int y, int x) const {
        const float* const mask = mask_logits.data() + int64_t{q} * sizes.mask_height * sizes.mask_width;
        return bilinear(y, x, sizes.mask_height, sizes.mask_width, sizes.padded_height, sizes.padded_width,
                        [&](int r, int c) { return double{mask[r * sizes.mask_width + c]}; });
    }
    // Of Value(q, y, x) at the content's size.
    template <typename Value>
    double at_image(int y, int x, const Value& value) const {
        return bilinear(y, x, sizes.content_height, sizes.content_width, sizes.image_height, sizes.image_width, value);
    }
};

// Runs in every order of threads; all results have to be the same.
template <typename Run>
Result in_all_orders(const std::string& what, const Run& run) {
    Result first;
    for (const Options& schedule : all_schedules(11)) {
        if (schedule.lazy_copies) continue;  // no kernel here copies asynchronously
        use(schedule);
        Result result = run(what + ", " + to_text(schedule));
        const auto rows = static_cast<std::size_t>(1 + std::max(0, result.header().count));
        if (first.table.size() == 0)
            first = std::move(result);
        else
            expect(std::memcmp(first.label_map.data(), result.label_map.data(), 4 * first.label_map.size()) == 0 &&
                       std::memcmp(first.table.data(), result.table.data(), rows * sizeof(SegmentRow)) == 0,
                   what + ", " + to_text(schedule) + ": not what the first order gave");
    }
    return first;
}

// Areas and boxes are those of the map; the rows are those of its ids, in order.
void expect_consistent(const std::string& what, const Problem& problem, const Result& result, int lowest_id) {
    std::map<int, SegmentRow> found;
    for (int y = 0; y < problem.sizes.image_height; ++y)
        for (int x = 0; x < problem.sizes.image_width; ++x) {
            const int id = result.label_map[static_cast<std::size_t>(y * problem.sizes.image_width + x)];
            if (id < lowest_id) continue;
            auto [entry, is_new] = found.try_emplace(id, SegmentRow{id, 0, 0, 0, x, y, x + 1, y + 1});
            SegmentRow& row = entry->second;
            row = {id, 0, 0, row.area + 1, std::min(row.x0, x), std::min(row.y0, y), std::max(row.x1, x + 1), y + 1};
        }
    const SegmentTableHeader header = result.header();
    expect(header.not_finite == 0, what + ": finite logits were taken for others");
    expect(header.count == static_cast<int>(found.size()), what + ": count " + std::to_string(header.count));
    std::size_t place = 0;
    for (const auto& [id, row] : found) {
        if (++place >= result.table.size()) break;
        const SegmentRow& got = result.table[place];
        expect(got.id == id && got.area == row.area && got.x0 == row.x0 && got.y0 == row.y0 && got.x1 == row.x1 &&
                   got.y1 == row.y1,
               what + ": row " + std::to_string(place) + " is not what the label map holds");
    }
}

void test_semantic(const Problem& problem, SemanticOrder order) {
    const FusionSizes& s = problem.sizes;
    const std::string what =
        std::string("semantic ") + (order == SemanticOrder::image ? "image, " : "padded, ") + to_text(s);
    const Result result = in_all_orders(what, [&](const std::string& name) { return problem.semantic(name, order); });
    expect_consistent(what, problem, result, 0);
    const auto probabilities = problem.probabilities();
    std::map<int, std::pair<double, int>> sums;
    for (int y = 0; y < s.image_height; ++y)
        for (int x = 0; x < s.image_width; ++x) {
            std::vector<double> scores(static_cast<std::size_t>(s.classes));
            for (int q = 0; q < s.queries; ++q) {
                const bool late = order == SemanticOrder::image;
                const double value = problem.at_image(y, x, [&](int r, int c) {
                    const double logit = problem.padded_logit(q, r, c);
                    return late ? logit : probability_of(logit);
                });
                const double mask = late ? probability_of(value) : value;
                for (int k = 0; k < s.classes; ++k)
                    scores[static_cast<std::size_t>(k)] +=
                        probabilities[static_cast<std::size_t>(q)][static_cast<std::size_t>(k)] * mask;
            }
            const int label = result.label_map[static_cast<std::size_t>(y * s.image_width + x)];
            if (label < 0 || label >= s.classes) return expect(false, what + ": a label " + std::to_string(label));
            const double best = *std::max_element(scores.begin(), scores.end());
            const double got = scores[static_cast<std::size_t>(label)];
            if (got < best - kClose) return expect(false, what + ": a class that is not the best");
            auto& [sum, count] = sums[label];
            sum += best;
            ++count;
        }
    std::size_t place = 0;
    for (const auto& [label, entry] : sums) {
        const SegmentRow& row = result.table[++place];
        expect(row.label == label && std::abs(row.score - entry.first / entry.second) <= kClose,
               what + ": class " + std::to_string(label) + " has another score");
    }
}

// Returns whether the reference is certain of every decision.
bool test_panoptic(const Problem& problem, const PanopticThresholds& thresholds) {
    const FusionSizes& s = problem.sizes;
    const std::string what = "panoptic " + std::to_string(thresholds.object) + ", " + to_text(s);
    const Result result =
        in_all_orders(what, [&](const std::string& name) { return problem.panoptic(name, thresholds); });
    expect_consistent(what, problem, result, 1);
    struct Kept {
        int query, label;
        double score;
        int own = 0, won = 0, solid = 0, doubtful = 0, id = 0;
    };
    std::vector<Kept> kept;
    bool certain = true;
    const auto probabilities = problem.probabilities();
    for (int q = 0; q < s.queries; ++q) {
        const auto& row = probabilities[static_cast<std::size_t>(q)];
        const auto best = std::max_element(row.begin(), row.end());
        certain = certain && std::abs(*best - thresholds.object) > kClose;
        if (best != row.end() - 1 && *best > thresholds.object)
            kept.push_back({q, static_cast<int>(best - row.begin()), *best});
    }
    std::vector<int> winners;  // place among `kept`; -1 none, -2 doubtful
    for (int y = 0; y < s.image_height; ++y)
        for (int x = 0; x < s.image_width; ++x) {
            double best = -1, second = -1, best_logit = -1;
            int winner = -1;
            for (std::size_t i = 0; i < kept.size(); ++i) {
                const double logit =
                    problem.at_image(y, x, [&](int r, int c) { return problem.padded_logit(kept[i].query, r, c); });
                if (std::abs(logit) < 10 * kClose) ++kept[i].doubtful;
                if (logit >= 0) ++kept[i].own;
                const double score = kept[i].score * probability_of(logit);
                if (score > best) {
                    second = best, best = score, best_logit = logit, winner = static_cast<int>(i);
                } else {
                    second = std::max(second, score);
                }
            }
            const bool doubtful = winner >= 0 && (best - second < kClose || std::abs(best_logit) < 10 * kClose);
            if (doubtful)
                for (Kept& each : kept) ++each.doubtful;
            if (winner >= 0) {
                ++kept[static_cast<std::size_t>(winner)].won;
                if (best_logit >= 0) ++kept[static_cast<std::size_t>(winner)].solid;
            }
            winners.push_back(doubtful ? -2 : winner >= 0 && best_logit >= 0 ? winner : -1);
        }
    std::map<int, int> stuff;
    std::vector<std::pair<int, double>> segments;
    for (Kept& each : kept) {
        const double share = each.own > 0 ? static_cast<double>(each.won) / each.own : 0;
        if (each.doubtful > 0)
            certain = certain && each.solid > each.doubtful &&
                      std::abs(share - thresholds.overlap) > 2.0 * each.doubtful / each.own;
        if (each.solid == 0 || share < thresholds.overlap) continue;
        if (const auto merged = stuff.find(each.label); merged != stuff.end()) {
            each.id = merged->second;
            auto& score = segments[static_cast<std::size_t>(each.id - 1)].second;
            score = std::max(score, each.score);
            continue;
        }
        segments.emplace_back(each.label, each.score);
        each.id = static_cast<int>(segments.size());
        if (problem.is_thing[static_cast<std::size_t>(each.label)] == 0) stuff[each.label] = each.id;
    }
    if (!certain) return false;
    expect(result.header().count == static_cast<int>(segments.size()), what + ": another number of segments");
    for (std::size_t i = 0; i < segments.size() && i + 1 < result.table.size(); ++i) {
        const SegmentRow& row = result.table[i + 1];
        expect(row.label == segments[i].first && std::abs(row.score - segments[i].second) <= kClose,
               what + ": segment " + std::to_string(i + 1) + " has another class or score");
    }
    for (std::size_t i = 0; i < winners.size(); ++i) {
        if (winners[i] == -2) continue;
        const int expected = winners[i] < 0 ? 0 : kept[static_cast<std::size_t>(winners[i])].id;
        if (result.label_map[i] != expected)
            return expect(false, what + ": expected segment " + std::to_string(expected) + " at " + std::to_string(i) +
                                     ", got " + std::to_string(result.label_map[i])),
                   true;
    }
    return true;
}

FusionSizes random_sizes() {
    FusionSizes s{};
    s.queries = static_cast<int32_t>(one_of<int64_t>({1, 3, 17, between(1, 40)}));
    s.classes = static_cast<int32_t>(one_of<int64_t>({1, 7, 8, between(1, 20), 70}));
    s.mask_height = static_cast<int32_t>(between(1, 9));
    s.mask_width = static_cast<int32_t>(between(1, 9));
    s.padded_height = s.mask_height * static_cast<int32_t>(between(1, 4)) + static_cast<int32_t>(between(0, 3));
    s.padded_width = s.mask_width * static_cast<int32_t>(between(1, 4)) + static_cast<int32_t>(between(0, 3));
    s.content_height = static_cast<int32_t>(between(1, s.padded_height));
    s.content_width = static_cast<int32_t>(between(1, s.padded_width));
    s.image_height = static_cast<int32_t>(between(1, 12));
    s.image_width = static_cast<int32_t>(one_of<int64_t>({1, between(1, 40), between(120, 150)}));
    return s;
}

void test_what_is_not_finite() {
    const FusionSizes sizes{5, 3, 4, 4, 16, 16, 16, 16, 8, 8};
    for (const float value : {INFINITY, -INFINITY, NAN})
        for (const bool in_classes : {true, false}) {
            Problem problem(sizes);
            if (in_classes)
                problem.class_logits[6] = value;
            else
                for (float& logit : problem.mask_logits) logit = value;
            for (const SemanticOrder order : {SemanticOrder::image, SemanticOrder::padded})
                expect(problem.semantic("not finite", order).header().not_finite != 0, "semantic: not noticed");
            expect(problem.panoptic("not finite", {0.0, 0.8}).header().not_finite != 0, "panoptic: not noticed");
        }
}

void test_refusals() {
    const FusionSizes good{5, 3, 4, 4, 16, 16, 16, 16, 8, 8};
    expect(fusion_problem(good).empty(), "good sizes are refused: " + fusion_problem(good));
    const auto refused = [&](int32_t FusionSizes::* field, int32_t value, const std::string& part) {
        FusionSizes sizes = good;
        sizes.*field = value;
        char text[200];
        const int32_t length = mask2edge_fusion_problem(&sizes, text, sizeof text);
        expect(length > 0 && std::string(text).find(part) != std::string::npos, "expected " + part + ", got " + text);
        char few[4];
        mask2edge_fusion_problem(&sizes, few, sizeof few);
        expect(std::string(few) == std::string(text).substr(0, 3), "a short text is not cut");
        const FusionTensors tensors{};
        expect(mask2edge_semantic(&sizes, 0, &tensors, nullptr) == cudaErrorInvalidValue, "semantic: not refused");
        expect(mask2edge_panoptic(&sizes, 0.8, 0.8, &tensors, nullptr) == cudaErrorInvalidValue,
               "panoptic: not refused");
    };
    refused(&FusionSizes::queries, 0, "1 to 1024 queries, got 0");
    refused(&FusionSizes::queries, 1025, "got 1025");
    refused(&FusionSizes::classes, 4097, "1 to 4096 classes, got 4097");
    refused(&FusionSizes::mask_width, 17, "mask logits within the padded input of 1x1 to 16x16, got 4x17");
    refused(&FusionSizes::content_height, 17, "a content within the padded input of 1x1 to 16x16, got 17x16");
    refused(&FusionSizes::image_width, -1, "an image of 1x1 to 32768x32768, got 8x-1");
    refused(&FusionSizes::image_height, 40000, "got 40000x8");
    refused(&FusionSizes::padded_height, 0, "a padded input");
    const FusionTensors tensors{};
    expect(mask2edge_semantic(&good, 2, &tensors, nullptr) == cudaErrorInvalidValue, "an unknown order is taken");
    expect(mask2edge_semantic_workspace(&good, 2) == -1, "an unknown order has a workspace");
}

}  // namespace

int main(int argc, char** argv) {
    const int cases = argc > 1 ? std::atoi(argv[1]) : 10;
    random_bits().seed(argc > 2 ? static_cast<uint64_t>(std::atoll(argv[2])) : 1);
    test_refusals();
    test_what_is_not_finite();
    // More classes than one pass holds, than one block orders; more queries than one chunk; an image much smaller than
    // its masks, whose columns are not staged side by side.
    for (const FusionSizes& sizes :
         {FusionSizes{12, 600, 4, 5, 16, 20, 15, 20, 2, 35}, FusionSizes{30, 2100, 4, 5, 16, 20, 15, 20, 2, 35},
          FusionSizes{130, 5, 4, 5, 16, 20, 16, 20, 2, 35}, FusionSizes{6, 4, 3, 600, 12, 2400, 12, 2400, 2, 130}}) {
        const Problem problem(sizes);
        test_semantic(problem, SemanticOrder::image);
        test_semantic(problem, SemanticOrder::padded);
        test_panoptic(problem, {0.0, 0.1});
    }
    int certain = 0;
    for (int i = 0; i < cases; ++i) {
        const Problem problem(random_sizes());
        test_semantic(problem, one_of({SemanticOrder::image, SemanticOrder::padded}));
        certain += test_panoptic(problem, {one_of({0.0, 0.3, 0.8}), one_of({0.0, 0.5, 0.8})}) ? 1 : 0;
    }
    std::printf("panoptic: certain of %d of %d cases\n", certain, cases);
    expect(2 * certain >= cases, "panoptic: certain of " + std::to_string(certain) + " of the cases alone");
    return finish();
}
