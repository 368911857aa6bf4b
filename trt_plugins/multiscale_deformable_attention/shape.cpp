#include "multiscale_deformable_attention/shape.h"

#include <limits>

namespace mask2edge {

namespace {
constexpr const char* kOp = "MultiscaleDeformableAttention";
}

std::string deformable_attention_shape(const Dims& value, const Dims& offsets, const Dims& logits,
                                       const Dims& reference_points, const Dims& spatial_shapes_dims,
                                       const int32_t* spatial_shapes, int64_t num_heads, int64_t num_points,
                                       DeformableAttentionShape& shape) {
    const std::string op = std::string(kOp) + ": ";
    if (num_heads < 1 || num_points < 1)
        return op + "num_heads and num_points must be 1 or more, got " + std::to_string(num_heads) + " and " +
               std::to_string(num_points);
    if (value.size() != 3) return op + "value must be [N, S, M*D], got " + to_text(value);
    if (offsets.size() != 3) return op + "offsets must be [N, Lq, M*L*P*2], got " + to_text(offsets);
    if (value[2] < num_heads || value[2] % num_heads != 0)
        return op + "the last axis of value must be a multiple of num_heads = " + std::to_string(num_heads) + ", got " +
               to_text(value);
    if (spatial_shapes_dims.size() != 2 || spatial_shapes_dims[0] < 1 || spatial_shapes_dims[1] != 2)
        return op + "spatial_shapes must be [L, 2] with L >= 1, got " + to_text(spatial_shapes_dims);

    const int64_t levels = spatial_shapes_dims[0], samples = num_heads * levels * num_points;
    const int64_t batch = value[0], queries = offsets[1];
    std::string problem =
        expect_dims(kOp, "offsets", {batch, queries, samples * 2}, "[N, Lq, num_heads * L * num_points * 2]", offsets);
    if (problem.empty())
        problem = expect_dims(kOp, "logits", {batch, queries, samples}, "[N, Lq, num_heads * L * num_points]", logits);
    if (!problem.empty()) return problem;
    if (reference_points != Dims{batch, queries, 2} && reference_points != Dims{1, queries, 2})
        return op + "reference_points must be [1 or " + std::to_string(batch) + ", " + std::to_string(queries) +
               ", 2], got " + to_text(reference_points);

    shape = {batch, queries, value[1], num_heads, value[2] / num_heads, num_points, reference_points[0] == 1, {}};
    if (spatial_shapes == nullptr) {
        if (value[1] < levels || value[1] > std::numeric_limits<int32_t>::max())
            return op + "value must have a row for each of the " + std::to_string(levels) +
                   " levels, and 2^31 - 1 rows at most, got " + to_text(value);
        shape.levels.resize(static_cast<std::size_t>(levels));
        return "";
    }
    int64_t rows = 0;
    for (int64_t level = 0; level < levels; ++level) {
        const int64_t height = spatial_shapes[2 * level], width = spatial_shapes[2 * level + 1];
        if (height < 1 || width < 1)
            return op + "spatial_shapes must be 1 or more, got " + to_text({height, width}) + " at level " +
                   std::to_string(level);
        shape.levels.push_back({height, width, rows});
        rows += height * width;  // at most 2^62 a level, and never more than 2^31 before the next one
        if (rows > std::numeric_limits<int32_t>::max()) break;
    }
    if (rows != value[1])
        return op + "the areas of spatial_shapes must add up to value's S = " + std::to_string(value[1]) + ", got " +
               std::to_string(rows);
    return "";
}

}  // namespace mask2edge
