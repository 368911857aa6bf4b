// The CUDA kernel of MultiscaleDeformableAttention, executed thread by thread, against OPS' definition in float64:
// every combination of types, shapes at the edges and random ones, every order of threads.
//
//     simt_deformable_attention [random shapes, default 10] [seed] [--large]     --large: an encoder layer at 512x512
//
// The reference reads the same rounded inputs. In float32 the bound is 1e-5; in float16 and bfloat16 it is that and one
// rounding of the result, which is what an implementation without any error of its own would have. (PyTorch's error in
// the same type is larger: tests/trt_plugins/test_simt_kernels.py measures it.)
#include <limits>

#include "multiscale_deformable_attention/launch.h"
#include "simt/testing.h"

using namespace mask2edge;
using namespace simt;

namespace {

struct Case {
    std::string name;
    std::vector<std::pair<int, int>> sizes;  // (height, width)
    int64_t batch, queries, heads, head_dim, points;
    bool shared_reference;
    float spread;  // of the offsets, in pixels
};

struct Types {
    DataType value, sampling;
};

constexpr Types kTypes[] = {{DataType::float32, DataType::float32},
                            {DataType::float16, DataType::float16},
                            {DataType::float16, DataType::float32},
                            {DataType::bfloat16, DataType::bfloat16},
                            {DataType::bfloat16, DataType::float32}};

const std::vector<Case> kCases = {
    {"one pixel", {{1, 1}}, 1, 5, 2, 16, 4, true, 1},
    {"odd maps", {{5, 7}, {3, 3}, {1, 2}}, 2, 50, 8, 32, 4, true, 2},
    {"own reference points", {{6, 4}, {3, 2}}, 3, 9, 2, 64, 2, false, 1},
    {"one query, one head, one point", {{4, 4}}, 1, 1, 1, 32, 1, true, 1},
    {"more points than one turn", {{9, 3}, {2, 11}, {4, 4}}, 1, 7, 3, 32, 7, true, 3},
    {"head size 8", {{7, 5}, {3, 4}}, 1, 37, 4, 8, 4, false, 2},
    {"head size 24: idle lanes", {{7, 5}, {3, 4}}, 2, 11, 3, 24, 3, true, 2},
    {"head size 264: more than 32 lanes hold", {{3, 5}}, 1, 3, 1, 264, 5, true, 1},
    {"wide map: coordinates", {{2, 1344}}, 1, 40, 1, 16, 2, false, 100},
    {"all outside", {{5, 5}, {2, 2}}, 1, 8, 2, 16, 4, true, 1e6f},
};

// Numbers of a type known at run time, in memory of exactly their size.
class Tensor {
  public:
    Tensor(DataType type, int64_t count) : type_(type), bytes_(static_cast<std::size_t>(count) * size_of(type)) {}

    void set(int64_t i, float x) {
        if (type_ == DataType::float32) reinterpret_cast<float*>(bytes_.data())[i] = x;
        if (type_ == DataType::float16) reinterpret_cast<half_t*>(bytes_.data())[i] = from_float<half_t>(x);
        if (type_ == DataType::bfloat16) reinterpret_cast<bfloat16_t*>(bytes_.data())[i] = from_float<bfloat16_t>(x);
    }
    float get(int64_t i) const {
        if (type_ == DataType::float32) return reinterpret_cast<const float*>(bytes_.data())[i];
        if (type_ == DataType::float16) return to_float(reinterpret_cast<const half_t*>(bytes_.data())[i]);
        return to_float(reinterpret_cast<const bfloat16_t*>(bytes_.data())[i]);
    }
    int64_t count() const { return static_cast<int64_t>(bytes_.size() / size_of(type_)); }
    void* data() { return bytes_.data(); }
    void erase() { bytes_.fill_bytes(0xff); }

  private:
    DataType type_;
    Buffer<unsigned char> bytes_;
};

Tensor normals(DataType type, int64_t count, float scale) {
    Tensor tensor(type, count);
    for (int64_t i = 0; i < count; ++i) tensor.set(i, normal(scale));
    return tensor;
}

// Of the value's types: half an ulp of the result, relative to it.
double rounding(DataType type) {
    return type == DataType::float32 ? 0 : type == DataType::float16 ? 1.0 / (1 << 11) : 1.0 / (1 << 8);
}

struct Problem {
    Case shape_case;
    Types types;
    DeformableAttentionShape shape;
    Buffer<int32_t> spatial_shapes;
    Tensor value, offsets, logits, output;
    Buffer<float> reference;

    Problem(const Case& c, Types t)
        : shape_case(c),
          types(t),
          spatial_shapes(2 * c.sizes.size()),
          value(drawn(t.value, c.batch * rows(c) * c.heads * c.head_dim, 1)),
          offsets(drawn(t.sampling, c.batch * c.queries * samples(c) * 2, c.spread)),
          logits(drawn(t.sampling, c.batch * c.queries * samples(c), one_of({1.0f, 8.0f}))),
          output(t.value, c.batch * c.queries * c.heads * c.head_dim),
          reference(static_cast<std::size_t>((c.shared_reference ? 1 : c.batch) * c.queries * 2)) {
        for (std::size_t level = 0; level < c.sizes.size(); ++level) {
            spatial_shapes[2 * level] = c.sizes[level].first;
            spatial_shapes[2 * level + 1] = c.sizes[level].second;
        }
        for (float& x : reference) x = 0.5f + normal(0.3f);
        // Whole and half pixels, what no integer holds, and what is no number; in logits also minus infinity.
        for (int64_t i = 0; i < offsets.count(); ++i)
            if (between(0, 19) == 0) offsets.set(i, one_of({0.0f, 0.5f, -1.0f, 2.0f, 1e30f, -1e30f, NAN, INFINITY}));
        for (int64_t i = 0; i < logits.count(); ++i)
            if (i % samples_of_head(c) != 0 && between(0, 19) == 0) logits.set(i, one_of({NAN, -INFINITY, 20.0f}));
        const std::string problem = deformable_attention_shape(
            {c.batch, rows(c), c.heads * c.head_dim}, {c.batch, c.queries, samples(c) * 2},
            {c.batch, c.queries, samples(c)}, {c.shared_reference ? 1 : c.batch, c.queries, 2},
            {static_cast<int64_t>(c.sizes.size()), 2}, nullptr, c.heads, c.points, shape);
        expect(problem.empty(), problem);
    }

    static Tensor drawn(DataType type, int64_t count, float scale) { return normals(type, count, scale); }
    static int64_t rows(const Case& c) {
        int64_t sum = 0;
        for (const auto& [height, width] : c.sizes) sum += int64_t{height} * width;
        return sum;
    }
    static int64_t samples_of_head(const Case& c) { return static_cast<int64_t>(c.sizes.size()) * c.points; }
    static int64_t samples(const Case& c) { return c.heads * samples_of_head(c); }

    std::string text() const {
        return shape_case.name + ", " + mask2edge::name(types.value) + " sampled by " + mask2edge::name(types.sampling);
    }
    cudaError_t launch() {
        output.erase();
        const DeformableAttentionTensors tensors{types.value,   types.sampling,   value.data(),          offsets.data(),
                                                 logits.data(), reference.data(), spatial_shapes.data(), output.data()};
        return launch_deformable_attention(shape, tensors, nullptr);
    }
};

// Deformable DETR, eq. 3, as trt_plugins/multiscale_deformable_attention/README.md states it.
std::vector<double> reference_output(const Problem& p) {
    const DeformableAttentionShape& s = p.shape;
    const int64_t points = Problem::samples_of_head(p.shape_case), channels = s.heads * s.head_dim;
    std::vector<double> output(static_cast<std::size_t>(p.output.count()));
    for (int64_t item = 0; item < s.batch * s.queries * s.heads; ++item) {
        const int64_t row = item / s.heads, head = item % s.heads, image = row / s.queries;
        const int64_t place = s.shared_reference_points ? row % s.queries : row;
        const auto logit = [&](int64_t i) { return static_cast<double>(p.logits.get(item * points + i)); };
        double largest = -INFINITY, sum = 0;
        for (int64_t i = 0; i < points; ++i)
            if (logit(i) > largest) largest = logit(i);
        const auto weight = [&](int64_t i) { return logit(i) > -INFINITY ? std::exp(logit(i) - largest) : 0; };
        for (int64_t i = 0; i < points; ++i) sum += weight(i);
        int64_t first_row = 0;
        for (int64_t i = 0; i < points; ++i) {
            const auto [height, width] = p.shape_case.sizes[static_cast<std::size_t>(i / s.points)];
            const double x = double{p.reference[2 * place]} * width + p.offsets.get((item * points + i) * 2) - 0.5;
            const double y =
                double{p.reference[2 * place + 1]} * height + p.offsets.get((item * points + i) * 2 + 1) - 0.5;
            for (int corner = 0; corner < 4; ++corner) {
                const double column = std::floor(x) + corner % 2, line = std::floor(y) + corner / 2;
                if (!(column >= 0 && column < width && line >= 0 && line < height)) continue;
                const double share = (1 - std::abs(x - column)) * (1 - std::abs(y - line)) * weight(i) / sum;
                const int64_t pixel = first_row + static_cast<int64_t>(line) * width + static_cast<int64_t>(column);
                const int64_t source = (image * s.value_rows + pixel) * channels + head * s.head_dim;
                for (int64_t d = 0; d < s.head_dim; ++d)
                    output[static_cast<std::size_t>(item * s.head_dim + d)] += share * p.value.get(source + d);
            }
            if (i % s.points == s.points - 1) first_row += int64_t{height} * width;
        }
    }
    return output;
}

double g_worst[3];  // by type: the largest share of its bound

void expect_reference(const Problem& p, const std::vector<double>& expected, const Options& schedule) {
    for (int64_t i = 0; i < p.output.count(); ++i) {
        const double want = expected[static_cast<std::size_t>(i)], got = p.output.get(i);
        const double share = std::abs(got - want) / (1e-5 + rounding(p.types.value) * std::abs(want));
        double& worst = g_worst[static_cast<int>(p.types.value)];
        if (share <= 1) {
            worst = std::max(worst, share);
            continue;
        }
        char numbers[96];
        std::snprintf(numbers, sizeof numbers, ": expected %.9g at %lld, got %.9g", want, static_cast<long long>(i),
                      got);
        return expect(false, p.text() + " [" + to_text(schedule) + "]" + numbers);
    }
}

void test_case(const Case& c, Types types, const std::vector<Options>& schedules) {
    Problem problem(c, types);
    const std::vector<double> expected = reference_output(problem);
    for (const Options& schedule : schedules) {
        use(schedule);
        expect_success(problem.text(), problem.launch());
        expect_reference(problem, expected, schedule);
    }
}

Case random_case(int number) {
    Case c;
    c.name = "random shape " + std::to_string(number);
    const int64_t levels = between(1, 5);
    for (int64_t level = 0; level < levels; ++level)
        c.sizes.emplace_back(static_cast<int>(between(1, 9)), static_cast<int>(between(1, 9)));
    c.batch = between(1, 3);
    c.queries = one_of<int64_t>({1, 2, 7, 16, 33});
    c.heads = between(1, 5);
    c.head_dim = one_of<int64_t>({8, 16, 32, 40, 64});
    c.points = between(1, 9);
    c.shared_reference = between(0, 1) == 1;
    c.spread = one_of({0.5f, 3.0f, 50.0f});
    return c;
}

// ---- What does not fit: no read out of bounds, NaN or a refusal -----------------------------------------------------
void test_wrong_spatial_shapes() {
    constexpr int kHuge = std::numeric_limits<int>::max();
    for (const auto& second : {std::pair{4, 4}, {3, 5}, {0, 3}, {-2, -3}, {kHuge, kHuge}, {1, kHuge}}) {
        Problem problem({"wrong sizes", {{5, 4}, {3, 4}}, 2, 6, 2, 16, 2, true, 2}, kTypes[1]);
        problem.spatial_shapes[2] = second.first;
        problem.spatial_shapes[3] = second.second;
        for (const Options& schedule : all_schedules()) {
            use(schedule);
            expect_success("wrong sizes", problem.launch());
            bool all_nan = true;
            for (int64_t i = 0; i < problem.output.count(); ++i) all_nan &= std::isnan(problem.output.get(i));
            expect(all_nan, "sizes that exceed value's rows must give NaN");
        }
    }
    Problem problem({"rows that no level has", {{5, 4}, {3, 4}}, 1, 6, 2, 16, 2, true, 2}, kTypes[0]);
    problem.spatial_shapes[3] = 3;
    problem.shape_case.sizes[1].second = 3;
    expect_success(problem.text(), problem.launch());
    expect_reference(problem, reference_output(problem), options());
}

void test_refusals() {
    Problem problem({"refusals", {{5, 4}}, 1, 6, 2, 16, 2, true, 2}, kTypes[2]);
    const DeformableAttentionShape& good = problem.shape;
    expect(deformable_attention_unsupported(good).empty(), "a head size of 16 is supported");
    DeformableAttentionShape shape = good;
    shape.head_dim = 12;
    expect(deformable_attention_unsupported(shape, DataType::float32).empty(), "12 is a multiple of 4");
    expect(deformable_attention_unsupported(shape) ==
               "MultiscaleDeformableAttention (CUDA): the head size must be a multiple of 8 in float16, got 12",
           "the message says what was expected and what came: " + deformable_attention_unsupported(shape));
    shape = good;
    shape.queries = int64_t{1} << 30;
    expect(!deformable_attention_unsupported(shape).empty(), "2^31 items are too many");
    shape = good;
    shape.points = 1 << 17;
    expect(!deformable_attention_unsupported(shape).empty(), "2^17 points are too many");

    DeformableAttentionTensors tensors{
        DataType::float16,     DataType::float32,        problem.value.data(),          problem.offsets.data(),
        problem.logits.data(), problem.reference.data(), problem.spatial_shapes.data(), problem.output.data()};
    const auto launch = [&] { return launch_deformable_attention(shape, tensors, nullptr); };
    shape = good;
    shape.head_dim = 12;
    expect(launch() == cudaErrorInvalidValue, "an unsupported shape is not launched");
    shape = good;
    tensors.sampling_type = DataType::bfloat16;
    expect(launch() == cudaErrorInvalidValue, "offsets of a third type");
    tensors.sampling_type = DataType::float32;
    tensors.value = static_cast<const char*>(tensors.value) + 2;
    expect(launch() == cudaErrorInvalidValue, "an address that is no multiple of 16");
    tensors = {DataType::float16, DataType::float16, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
    shape.queries = 0;
    expect(launch() == cudaSuccess, "no queries");
    shape.queries = 1;
    shape.batch = 0;
    expect(launch() == cudaSuccess, "no images");

    const auto text = [](const Dims& value) {
        DeformableAttentionShape ignored;
        return deformable_attention_shape(value, {1, 6, 16}, {1, 6, 8}, {1, 6, 2}, {2, 2}, nullptr, 2, 2, ignored);
    };
    expect(text({1, 2, 32}).empty(), "two rows may be two levels of one pixel");
    expect(text({1, 1, 32}).find("a row for each of the 2 levels") != std::string::npos,
           "one row cannot be two levels");
    expect(!text({1, int64_t{1} << 31, 32}).empty(), "2^31 rows are too many");
}

}  // namespace

int main(int argc, char** argv) {
    int random_cases = 10;
    uint64_t seed = 0;
    bool large = false;
    for (int i = 1, position = 0; i < argc; ++i) {
        if (std::string(argv[i]) == "--large")
            large = true;
        else if (position++ == 0)
            random_cases = std::atoi(argv[i]);
        else
            seed = std::strtoull(argv[i], nullptr, 10);
    }
    random_bits().seed(seed);
    for (const Case& c : kCases)
        for (const Types& types : kTypes) test_case(c, types, all_schedules(seed));
    for (int number = 0; number < random_cases; ++number)
        test_case(random_case(number), kTypes[number % 5], all_schedules(seed + static_cast<uint64_t>(number)));
    if (large)
        for (const Types& types : kTypes)
            test_case({"an encoder layer at 512x512", {{16, 16}, {32, 32}, {64, 64}}, 1, 5376, 8, 32, 4, true, 2},
                      types, {{Order::forward, 0, false}, {Order::shuffled, seed, true}});
    test_wrong_spatial_shapes();
    test_refusals();
    std::printf("largest error, in shares of the bound: float32 %.2f, float16 %.2f, bfloat16 %.2f\n", g_worst[0],
                g_worst[1], g_worst[2]);
    return finish();
}
