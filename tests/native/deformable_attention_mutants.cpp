// The product's sampling kernel without one of its barriers, which must be caught; and as it is, which must pass.
//
//     simt_mutant_as_it_is    simt_mutant_without_block_barriers    simt_mutant_without_warp_barriers
//
// All values are 1, and all points lie inside of the maps: the output is 1, whatever the weights.
#include "common/launch.cuh"
#include "simt/testing.h"

#if defined(MASK2EDGE_WITHOUT_BLOCK_BARRIERS)
#define __syncthreads() static_cast<void>(0)
#elif defined(MASK2EDGE_WITHOUT_WARP_BARRIERS)
#define __syncwarp() static_cast<void>(0)
#endif
#include "multiscale_deformable_attention/launch.cu"

#if defined(MASK2EDGE_WITHOUT_BLOCK_BARRIERS) || defined(MASK2EDGE_WITHOUT_WARP_BARRIERS)
constexpr bool kHasBug = true;
#else
constexpr bool kHasBug = false;
#endif

using namespace mask2edge;
using namespace simt;

int main() {
    // Two turns of points, so that the second one overwrites what the first one left.
    constexpr int kHeight = 6, kWidth = 7, kQueries = 21, kHeads = 3, kHeadDim = 32, kPoints = 20;
    DeformableAttentionShape shape{};
    const std::string problem = deformable_attention_shape(
        {1, kHeight * kWidth, kHeads * kHeadDim}, {1, kQueries, kHeads * kPoints * 2}, {1, kQueries, kHeads * kPoints},
        {1, kQueries, 2}, {1, 2}, nullptr, kHeads, kPoints, shape);
    expect(problem.empty(), problem);

    // Room on both sides: without barriers, unwritten shared memory (-1 as an integer) becomes a row.
    constexpr int kRow = kHeads * kHeadDim, kMargin = 8 * kRow;
    Buffer<half_t> value(kHeight * kWidth * kRow + 2 * kMargin), output(kQueries * kRow);
    for (half_t& x : value) x = from_float<half_t>(1);
    Buffer<float> offsets(kQueries * kHeads * kPoints * 2), reference(kQueries * 2);
    for (float& x : offsets) x = std::uniform_real_distribution<float>(-2, 2)(random_bits());
    for (float& x : reference) x = 0.5f;
    const Buffer<float> logits = normals<float>(kQueries * kHeads * kPoints);
    Buffer<int32_t> sizes(2);
    sizes[0] = kHeight, sizes[1] = kWidth;

    int wrong = 0;
    for (const Options& schedule : all_schedules(1)) {
        use(schedule);
        output.fill_bytes(0xff);
        const cudaError_t status =
            launch_deformable_attention(shape,
                                        {DataType::float16, DataType::float32, value.data() + kMargin, offsets.data(),
                                         logits.data(), reference.data(), sizes.data(), output.data()},
                                        nullptr);
        bool right = status == cudaSuccess;
        for (const half_t x : output) right &= std::abs(to_float(x) - 1) < 1e-3;
        wrong += !right;
    }
    if (kHasBug)
        expect(wrong > 0, "no order of threads gave a wrong result without the barriers");
    else
        expect(wrong == 0, "the kernel as it is must pass in every order of threads");
    return finish();
}
