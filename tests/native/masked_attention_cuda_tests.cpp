// The CUDA kernels of MaskedAttention, executed thread by thread, against a reference in double precision.
//
//     simt_masked_attention [random cases, default 6] [seed]
//
// float32: at most 1e-5 off. float16, bfloat16: at most twice the error of a calculation that rounds where a fused
// attention in that type has to, the weights and the result (PyTorch's own error: tests/trt_plugins). With
// MASK2EDGE_AS_ON_SM75 (simt_masked_attention_sm75) bfloat16 takes the path without tensor cores.
#include <algorithm>
#include <functional>
#include <numeric>

#include "masked_attention/launch.h"
#include "simt/testing.h"
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif
#ifdef MASK2EDGE_AS_ON_SM75
#include "masked_attention/launch.cu"
#endif

using namespace mask2edge;
using namespace simt;

namespace {

const std::vector<Options> kSchedules = all_schedules(7);

std::string to_text(const MaskedAttentionShape& s) {
    return "N " + std::to_string(s.batch) + ", Q " + std::to_string(s.queries) + ", S " + std::to_string(s.keys) +
           ", heads " + std::to_string(s.heads) + " of " + std::to_string(s.head_dim);
}

template <typename T>
constexpr DataType kType = sizeof(T) == 4              ? DataType::float32
                           : std::is_same_v<T, half_t> ? DataType::float16
                                                       : DataType::bfloat16;

template <typename T>
struct Problem {
    MaskedAttentionShape shape;
    Buffer<T> query, key, value;
    Buffer<float> mask;

    explicit Problem(const MaskedAttentionShape& s, float query_scale = 1)
        : shape(s),
          query(normals<T>(s.batch * s.queries * s.heads * s.head_dim, query_scale)),
          key(normals<T>(s.batch * s.keys * s.heads * s.head_dim)),
          value(normals<T>(s.batch * s.keys * s.heads * s.head_dim)),
          mask(static_cast<std::size_t>(s.batch * s.queries * s.keys)) {}

    Buffer<T> run(const std::string& what) const {
        Buffer<T> output(query.size());
        output.fill_bytes(0xff);
        Buffer<char> workspace(masked_attention_workspace(shape));
        workspace.fill_bytes(0xff);
        const MaskedAttentionTensors tensors{kType<T>,    query.data(),  key.data(),      value.data(),
                                             mask.data(), output.data(), workspace.data()};
        expect_success(what, launch_masked_attention(shape, tensors, nullptr));
        return output;
    }
};

struct Expected {
    std::vector<double> output;
    double rounding = 0;  // the largest error where weights and result are rounded to the type
};

template <typename T>
double rounded(double x) {
    return to_float(from_float<T>(static_cast<float>(x)));
}

template <typename T>
Expected reference(const Problem<T>& p) {
    const MaskedAttentionShape& s = p.shape;
    const int64_t channels = s.heads * s.head_dim;
    Expected expected;
    expected.output.resize(p.query.size());
    std::vector<int64_t> attended;
    std::vector<double> weights;
    for (int64_t row = 0; row < s.batch * s.queries; ++row) {
        const float* mask = p.mask.data() + row * s.keys;
        const bool none = std::none_of(mask, mask + s.keys, [](float x) { return x >= 0; });
        attended.clear();
        for (int64_t k = 0; k < s.keys; ++k)
            if (none || mask[k] >= 0) attended.push_back(row / s.queries * s.keys + k);
        for (int64_t m = 0; m < s.heads; ++m) {
            double largest = -INFINITY, sum = 0;
            weights.clear();
            for (const int64_t k : attended) {
                double score = 0;
                for (int64_t d = m * s.head_dim; d < (m + 1) * s.head_dim; ++d)
                    score += double{to_float(p.query[row * channels + d])} * to_float(p.key[k * channels + d]);
                weights.push_back(score / std::sqrt(double(s.head_dim)));
                largest = std::max(largest, weights.back());
            }
            for (double& weight : weights) sum += weight = std::exp(weight - largest);
            for (int64_t d = m * s.head_dim; d < (m + 1) * s.head_dim; ++d) {
                double exact = 0, coarse = 0;
                for (std::size_t i = 0; i < attended.size(); ++i) {
                    const double value = to_float(p.value[attended[i] * channels + d]);
                    exact += weights[i] * value;
                    coarse += rounded<T>(weights[i]) * value;
                }
                expected.output[row * channels + d] = exact / sum;
                expected.rounding = std::max(expected.rounding, std::abs(rounded<T>(coarse / sum) - exact / sum));
            }
        }
    }
    return expected;
}

template <typename T>
double tolerance(const Expected& expected) {
    return sizeof(T) == 4 ? 1e-5 : 2 * expected.rounding;
}

// ---- Masks ----------------------------------------------------------------------------------------------------------
using Mask = std::function<float(int64_t query, int64_t key)>;

template <typename T>
void set_mask(Problem<T>& p, const Mask& mask) {
    const int64_t keys = p.shape.keys, queries = p.shape.queries;
    for (int64_t i = 0; i < p.shape.batch * queries * keys; ++i) p.mask[i] = mask(i / keys % queries, i % keys);
}

// A share of the keys, scattered, with the values that are easily got wrong.
template <typename T>
void set_scattered(Problem<T>& p, double density) {
    std::bernoulli_distribution attends(density);
    for (float& x : p.mask)
        x = attends(random_bits()) ? one_of({0.0f, -0.0f, 3.0f, INFINITY}) : one_of({-1e-30f, -3.0f, -INFINITY, NAN});
}

// What masks look like: a run of keys for each query; some see none.
template <typename T>
void set_runs(Problem<T>& p) {
    for (int64_t row = 0; row < p.shape.batch * p.shape.queries; ++row) {
        const int64_t first = between(0, p.shape.keys - 1), length = between(0, std::min<int64_t>(p.shape.keys, 90));
        for (int64_t k = 0; k < p.shape.keys; ++k)
            p.mask[row * p.shape.keys + k] = k >= first && k < first + length ? 1.0f : -1.0f;
    }
}

template <typename T>
void check(const std::string& what, const Problem<T>& p, const std::vector<Options>& schedules) {
    const Expected expected = reference(p);
    for (const Options& schedule : schedules) {
        use(schedule);
        const std::string where = what + ", " + name(kType<T>) + ", " + to_text(p.shape) + ", " + to_text(schedule);
        expect_close(where, p.run(where), expected.output, tolerance<T>(expected));
    }
}

// ---- Shapes ---------------------------------------------------------------------------------------------------------
const MaskedAttentionShape kShapes[] = {
    // batch, queries, keys, heads, head size
    {1, 1, 1, 1, 16},    {1, 3, 64, 2, 32},  {2, 17, 65, 1, 64}, {1, 36, 63, 1, 16},
    {1, 65, 129, 1, 32}, {1, 9, 321, 1, 64}, {1, 5, 700, 1, 32},
};

template <typename T>
void test_shapes(const std::vector<Options>& schedules) {
    bool split = false, whole = false;
    for (const MaskedAttentionShape& shape : kShapes) {
        (masked_attention_splits(shape) > 1 ? split : whole) = true;
        Problem<T> p(shape);
        set_scattered(p, 0.3);
        check("scattered", p, schedules);
    }
    expect(split && whole, "the table has shapes whose keys are split, and others");
}

template <typename T>
void test_random(int cases) {
    for (int i = 0; i < cases; ++i) {
        const MaskedAttentionShape shape{between(1, 2), one_of({between(1, 70), between(1, 20)}), between(1, 400),
                                         between(1, 3), one_of<int64_t>({16, 32, 64})};
        Problem<T> p(shape, one_of({0.3f, 1.0f, 3.0f}));
        if (between(0, 1))
            set_runs(p);
        else
            set_scattered(p, one_of({0.003, 0.1, 0.5, 0.95}));
        check("random case " + std::to_string(i), p,
              {one_of({kSchedules[0], kSchedules[1], kSchedules[2], kSchedules[3], kSchedules[4], kSchedules[5]})});
    }
}

// 34 tiles in one block, more than a word of TileList: so many blocks that keys are not split.
template <typename T>
void test_many_tiles() {
    const MaskedAttentionShape shape{1, 129, 2150, 86, 16};
    expect(masked_attention_splits(shape) == 1, "3 blocks of queries and 86 heads need no splits");
    Problem<T> p(shape);
    set_mask(p, [](int64_t q, int64_t k) { return k == 333 || k == 2120 + q % 30 ? 1.0f : -1.0f; });
    check("many tiles", p, {kSchedules[5]});
}

// ---- Masks that matter ----------------------------------------------------------------------------------------------
template <typename T>
void test_masks() {
    const MaskedAttentionShape shape{1, 20, 261, 1, 32};
    const std::pair<const char*, Mask> masks[] = {
        {"no key at all", [](int64_t, int64_t) { return -1.0f; }},
        {"NaN everywhere", [](int64_t, int64_t) { return NAN; }},
        {"every key", [](int64_t, int64_t) { return 0.0f; }},
        {"negative zero attends", [](int64_t q, int64_t k) { return (q + k) % 3 == 0 ? -0.0f : -1e-38f; }},
        {"NaN does not attend", [](int64_t q, int64_t k) { return k == q ? 1.0f : NAN; }},
        {"one key", [](int64_t q, int64_t k) { return k == (q * 37) % 261 ? 1.0f : -1.0f; }},
        {"the last key", [](int64_t, int64_t k) { return k == 260 ? 1.0f : -1.0f; }},
        {"one tile", [](int64_t, int64_t k) { return k / 64 == 3 ? 1.0f : -1.0f; }},
        {"every other query none", [](int64_t q, int64_t k) { return q % 2 == 0 && k < 9 ? 1.0f : -1.0f; }},
    };
    for (const auto& [what, mask] : masks) {
        Problem<T> p(shape);
        set_mask(p, mask);
        check(what, p, {kSchedules[1], kSchedules[5]});
    }
}

// With AddressSanitizer whoever reads these rows is reported.
template <typename T>
void forbid(const T* rows, int64_t count, bool forbidden) {
#ifdef __SANITIZE_ADDRESS__
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    forbidden ? __asan_poison_memory_region(rows, bytes) : __asan_unpoison_memory_region(rows, bytes);
#else
    (void)rows, (void)count, (void)forbidden;
#endif
}

// Tiles of keys that no query attends to hold NaN: neither loaded nor multiplied. The last tile is a part of one.
template <typename T>
void test_skipped_tiles() {
    for (const int64_t keys : {740, 1700}) {
        Problem<T> p({1, 70, keys, 1, 32});
        const auto needed = [](int64_t tile) { return tile % 5 == 1; };
        set_mask(p, [&](int64_t q, int64_t k) { return needed(k / 64) && (q + k) % 4 == 0 ? 1.0f : -1.0f; });
        const auto forbid_others = [&](bool forbidden) {
            for (int64_t tile = 0; tile * 64 < keys; ++tile)
                for (Buffer<T>* rows : {&p.key, &p.value})
                    if (!needed(tile)) forbid(rows->data() + tile * 64 * 32, 64 * 32, forbidden);
        };
        for (int64_t i = 0; i < keys * 32; ++i)
            if (!needed(i / 32 / 64)) p.key[i] = p.value[i] = from_float<T>(NAN);
        forbid_others(true);
        check("skipped tiles", p, {kSchedules[3]});
        forbid_others(false);
    }
    // A tile that only the first 16 queries attend to is not multiplied for the other warps of their block.
    Problem<T> p({1, 48, 192, 1, 16});
    set_mask(p, [](int64_t q, int64_t k) { return k / 64 == (q < 16 ? 0 : q < 32 ? 2 : 1) ? 1.0f : -1.0f; });
    for (int64_t i = 0; i < 64 * 16; ++i) p.value[i] = from_float<T>(NAN);
    use(kSchedules[4]);
    const Buffer<T> output = p.run("a tile of one warp");
    for (int64_t q = 0; q < 48; ++q)
        expect(std::isnan(to_float(output[q * 16])) == (q < 16), "a tile of one warp, query " + std::to_string(q));
}

// The order of keys is nothing to attention.
template <typename T>
void test_permuted_keys() {
    const MaskedAttentionShape s{1, 20, 500, 1, 32};
    Problem<T> p(s), permuted(s);
    set_runs(p);
    std::vector<int64_t> order(static_cast<std::size_t>(s.keys));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random_bits());
    std::copy(p.query.begin(), p.query.end(), permuted.query.begin());
    for (int64_t k = 0; k < s.keys; ++k) {
        for (int64_t d = 0; d < 32; ++d) {
            permuted.key[k * 32 + d] = p.key[order[k] * 32 + d];
            permuted.value[k * 32 + d] = p.value[order[k] * 32 + d];
        }
        for (int64_t q = 0; q < s.queries; ++q) permuted.mask[q * s.keys + k] = p.mask[q * s.keys + order[k]];
    }
    use(kSchedules[2]);
    const Expected expected = reference(p);
    expect_close("permuted keys", permuted.run("permuted keys"), expected.output, tolerance<T>(expected));
}

// ---- The launcher ---------------------------------------------------------------------------------------------------
void test_launcher() {
    const MaskedAttentionTensors nothing{DataType::float32, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
    for (const MaskedAttentionShape& shape : {MaskedAttentionShape{0, 5, 7, 1, 32}, {2, 0, 7, 1, 32}})
        expect(launch_masked_attention(shape, nothing, nullptr) == cudaSuccess, "nothing to do: " + to_text(shape));
    expect(launch_masked_attention({1, 5, 7, 1, 24}, nothing, nullptr) == cudaErrorInvalidValue, "head size 24");
    expect(masked_attention_unsupported({1, 5, 7, 1, 24}).find("16, 32 or 64, got 24") != std::string::npos,
           "the message for head size 24: " + masked_attention_unsupported({1, 5, 7, 1, 24}));
    expect(masked_attention_unsupported({1 << 20, 1 << 12, 7, 8, 32}).find("2^31 - 1") != std::string::npos,
           "a grid beyond what x takes");
    expect(masked_attention_unsupported({16, 300, 1 << 20, 8, 64}).empty(), "16 images of a million keys");
    // More tiles than a block takes: split, however many blocks there are.
    expect(masked_attention_splits({64, 100, 64 * 4096, 8, 32}) == 1, "4096 tiles in a block");
    expect(masked_attention_splits({64, 100, 64 * 4096 + 1, 8, 32}) == 2, "4097 tiles in two");
}

// The bits of the mask; and where keys are split, sums, the largest score and the total for each query of each block.
std::size_t needed_workspace(const MaskedAttentionShape& s) {
    const int64_t splits = masked_attention_splits(s), rows = s.batch * s.heads * ((s.queries + 63) / 64) * 64;
    return s.batch * s.queries * ((s.keys + 63) / 64) * 8 + (splits > 1 ? splits * rows * (s.head_dim + 2) * 4 : 0);
}

// There is enough, and a larger shape never gets less: TensorRT asks for the largest of a profile.
void test_workspace() {
    const auto size = [] { return between(0, 3) == 0 ? between(1, 40) : between(1, 3000); };
    for (int i = 0; i < 20000; ++i) {
        MaskedAttentionShape small{between(1, 70), size(), size() * one_of<int64_t>({1, 40, 400}), between(1, 20), 16};
        MaskedAttentionShape large = small;
        int64_t* const grown = one_of({&large.batch, &large.queries, &large.keys, &large.heads, &large.head_dim});
        *grown = grown == &large.head_dim ? 64 : *grown + one_of<int64_t>({1, 2, 63, 1000});
        const std::size_t for_small = masked_attention_workspace(small), for_large = masked_attention_workspace(large);
        expect(for_small >= needed_workspace(small), "enough workspace for " + to_text(small));
        expect(for_large >= for_small, "as much workspace for " + to_text(large) + " as for " + to_text(small));
        if (failures() > 0) return;
    }
}

template <typename T>
void test_type(int random_cases) {
    test_shapes<T>(kSchedules);
    test_masks<T>();
    test_skipped_tiles<T>();
    test_permuted_keys<T>();
    test_random<T>(random_cases);
}

}  // namespace

int main(int argc, char** argv) {
    const int random_cases = argc > 1 ? std::atoi(argv[1]) : 6;
    random_bits().seed(argc > 2 ? static_cast<uint64_t>(std::atoll(argv[2])) : 0);
    test_launcher();
    test_workspace();
#ifdef MASK2EDGE_AS_ON_SM75
    test_type<bfloat16_t>(random_cases);
#else
    test_type<float>(random_cases);
    test_type<half_t>(random_cases);
    test_shapes<bfloat16_t>({kSchedules[5]});  // float16's kernel in all but the matrix instruction
    test_random<bfloat16_t>(random_cases);
    test_many_tiles<half_t>();
#endif
    return finish();
}
