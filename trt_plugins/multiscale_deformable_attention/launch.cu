#include "common/launch.cuh"
#include "multiscale_deformable_attention/kernel.cuh"
#include "multiscale_deformable_attention/launch.h"

namespace mask2edge {

namespace {

constexpr int64_t kMaximumItems = int64_t{1} << 30;
constexpr int64_t kMaximumPoints = 1 << 16;
constexpr std::size_t kSharedBudget = 32 * 1024;  // of a block: leaves room for several on each multiprocessor

bool aligned(const void* address) { return reinterpret_cast<std::uintptr_t>(address) % 16 == 0; }

// Enough lanes for 16 bytes each, and as many items to a block as the budget holds, in whole warps.
int arrange(SamplingParameters& p, int vectors) {
    p.lane_bits = 0;
    while (p.lane_bits < 5 && 1 << p.lane_bits < vectors) ++p.lane_bits;
    p.points_at_once = std::min(p.levels * p.points, kPointsAtOnce);
    int threads = kSamplingThreads;
    while (threads > 32 && sampling_shared_bytes(p, threads) > kSharedBudget) threads /= 2;
    return threads;
}

template <typename T, typename O>
cudaError_t launch(SamplingParameters p, cudaStream_t stream) {
    const int threads = arrange(p, p.head_dim / kVectorLength<T>), items_per_block = threads >> p.lane_bits;
    const dim3 grid(static_cast<unsigned>((p.items + items_per_block - 1) / items_per_block));
    return launch_kernel(sampling_kernel<T, O>, grid, dim3(threads), sampling_shared_bytes(p, threads), stream, p);
}

}  // namespace

std::string deformable_attention_unsupported(const DeformableAttentionShape& shape, DataType value_type) {
    const auto wrong = [](const std::string& what, int64_t got) {
        return "MultiscaleDeformableAttention (CUDA): " + what + ", got " + std::to_string(got);
    };
    const int64_t multiple = 16 / static_cast<int64_t>(size_of(value_type));
    const int64_t levels = static_cast<int64_t>(shape.levels.size());
    if (shape.head_dim < 1 || shape.head_dim % multiple != 0)
        return wrong("the head size must be a multiple of " + std::to_string(multiple) + " in " + name(value_type),
                     shape.head_dim);
    if (shape.head_dim > 1 << 16) return wrong("the head size must be at most 65536", shape.head_dim);
    if (levels * shape.points > kMaximumPoints)
        return wrong("L * num_points must be at most " + std::to_string(kMaximumPoints), levels * shape.points);
    if (levels > 1024) return wrong("L must be at most 1024", levels);
    if (shape.batch * shape.queries * shape.heads > kMaximumItems)
        return wrong("N * Lq * num_heads must be at most 2^30", shape.batch * shape.queries * shape.heads);
    return "";
}

cudaError_t launch_deformable_attention(const DeformableAttentionShape& shape,
                                        const DeformableAttentionTensors& tensors, cudaStream_t stream) {
    if (!deformable_attention_unsupported(shape, tensors.value_type).empty()) return cudaErrorInvalidValue;
    if (tensors.sampling_type != tensors.value_type && tensors.sampling_type != DataType::float32)
        return cudaErrorInvalidValue;
    if (shape.batch == 0 || shape.queries == 0) return cudaSuccess;
    for (const void* address :
         {tensors.value, tensors.offsets, tensors.logits, static_cast<const void*>(tensors.reference_points),
          static_cast<const void*>(tensors.output)})
        if (!aligned(address)) return cudaErrorInvalidValue;

    SamplingParameters p{};
    p.value = tensors.value;
    p.offsets = tensors.offsets;
    p.logits = tensors.logits;
    p.reference_points = tensors.reference_points;
    p.spatial_shapes = tensors.spatial_shapes;
    p.output = tensors.output;
    p.items = static_cast<int32_t>(shape.batch * shape.queries * shape.heads);
    p.queries = static_cast<int32_t>(shape.queries);
    p.heads = static_cast<int32_t>(shape.heads);
    p.head_dim = static_cast<int32_t>(shape.head_dim);
    p.levels = static_cast<int32_t>(shape.levels.size());
    p.points = static_cast<int32_t>(shape.points);
    p.value_rows = static_cast<int32_t>(shape.value_rows);
    p.shared_reference_points = shape.shared_reference_points;
    return with_type(tensors.value_type, [&](auto zero) {
        using T = decltype(zero);
        return tensors.sampling_type == DataType::float32 ? launch<T, float>(p, stream) : launch<T, T>(p, stream);
    });
}

}  // namespace mask2edge
