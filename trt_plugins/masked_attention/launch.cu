// Grids, workspace and the choice of kernels for MaskedAttention. See launch.h.
#include <algorithm>
#include <cmath>
#include <limits>

#include "common/launch.cuh"
#include "masked_attention/kernel.cuh"
#include "masked_attention/launch.h"

namespace mask2edge {

namespace {

using masked::Arguments;

// Blocks wanted on the device: with 100 queries and 8 heads there are 16, a small part of what a GPU holds. Keys are
// then dealt out to more blocks, but no fewer than four tiles to each, for a block costs time before its first tile.
constexpr int64_t kWantedBlocks = 256;
constexpr int64_t kTilesOfSplit = 4;
constexpr int64_t kMaximumBlocks = std::numeric_limits<int32_t>::max();  // of a grid's x

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t tiles_of(const MaskedAttentionShape& s) { return divide_up(s.keys, masked::kKeys); }

// Blocks without splits.
int64_t tasks_of(const MaskedAttentionShape& s) { return s.batch * s.heads * divide_up(s.queries, masked::kQueries); }

// Byte offsets of the parts of the workspace, and its end.
struct Workspace {
    int64_t totals, sums, end;
};

Workspace workspace_for(const MaskedAttentionShape& s, int64_t units) {
    const auto aligned = [](int64_t bytes) { return divide_up(bytes, 256) * 256; };
    Workspace w;
    w.totals = aligned(s.batch * tiles_of(s) * s.queries * int64_t{sizeof(uint64_t)});
    w.sums = w.totals + aligned(units * masked::kQueries * 2 * int64_t{sizeof(float)});
    w.end = w.sums + aligned(units * masked::kQueries * s.head_dim * int64_t{sizeof(float)});
    return w;
}

template <typename T, int D>
cudaError_t launch(const Arguments& a, int64_t units, cudaStream_t stream) {
    cudaError_t status = launch_kernel(masked::pack_mask, dim3(static_cast<unsigned>(a.batch * a.queries)),
                                       dim3(masked::kPackThreads), 0, stream, a);
    if (status != cudaSuccess) return status;
    status = launch_kernel(masked::attend<T, D>, dim3(static_cast<unsigned>(units)), dim3(masked::kThreads),
                           masked::shared_bytes<T, D>(), stream, a);
    if (status != cudaSuccess || a.splits == 1) return status;
    const int64_t blocks = divide_up(a.batch * a.queries * a.heads * D, masked::kCombineThreads);
    return launch_kernel(masked::combine_splits<T>, dim3(static_cast<unsigned>(blocks)), dim3(masked::kCombineThreads),
                         0, stream, a, D);
}

}  // namespace

int64_t masked_attention_splits(const MaskedAttentionShape& s) {
    const int64_t tiles = tiles_of(s);
    const int64_t wanted = divide_up(kWantedBlocks, std::max<int64_t>(1, tasks_of(s)));
    return std::max(std::min(wanted, divide_up(tiles, kTilesOfSplit)), divide_up(tiles, masked::kMaximumTiles));
}

std::string masked_attention_unsupported(const MaskedAttentionShape& s) {
    const std::string op = "MaskedAttention on CUDA: ";
    if (s.head_dim != 16 && s.head_dim != 32 && s.head_dim != 64)
        return op + "the head size must be 16, 32 or 64, got " + std::to_string(s.head_dim) +
               ": choose num_heads so that the channels divide into such heads";
    const int64_t largest = std::max({tasks_of(s) * masked_attention_splits(s), s.batch * s.queries,
                                      divide_up(s.batch * s.queries * s.heads * s.head_dim, masked::kCombineThreads)});
    if (largest > kMaximumBlocks)
        return op + "batch, queries and heads must make a grid of no more than 2^31 - 1 blocks, got " +
               std::to_string(largest) + ": split the batch";
    return "";
}

std::size_t masked_attention_workspace(const MaskedAttentionShape& s) {
    // With a growing batch the splits become fewer: what they need together is bounded, not followed.
    const int64_t tasks = tasks_of(s), tiles = tiles_of(s), needed = divide_up(tiles, masked::kMaximumTiles);
    const int64_t wanted = std::min(tasks * divide_up(tiles, kTilesOfSplit), 2 * kWantedBlocks);
    return static_cast<std::size_t>(workspace_for(s, std::max(wanted, needed > 1 ? tasks * needed : 0)).end);
}

cudaError_t launch_masked_attention(const MaskedAttentionShape& s, const MaskedAttentionTensors& t,
                                    cudaStream_t stream) {
    if (!masked_attention_unsupported(s).empty()) return cudaErrorInvalidValue;
    if (s.batch == 0 || s.queries == 0) return cudaSuccess;
    Arguments a{};
    a.query = t.query;
    a.key = t.key;
    a.value = t.value;
    a.mask_logits = t.mask_logits;
    a.output = t.output;
    a.batch = s.batch;
    a.queries = static_cast<int>(s.queries);
    a.keys = static_cast<int>(s.keys);
    a.heads = static_cast<int>(s.heads);
    a.tiles = static_cast<int>(tiles_of(s));
    a.query_blocks = static_cast<int>(divide_up(s.queries, masked::kQueries));
    a.splits = static_cast<int>(masked_attention_splits(s));
    a.scale = static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(s.head_dim)));
    const int64_t units = tasks_of(s) * a.splits;
    const Workspace workspace = workspace_for(s, a.splits == 1 ? 0 : units);
    char* const start = static_cast<char*>(t.workspace);
    a.attended = reinterpret_cast<uint64_t*>(start);
    a.totals = reinterpret_cast<float*>(start + workspace.totals);
    a.sums = reinterpret_cast<float*>(start + workspace.sums);
    return with_type(t.type, [&](auto zero) {
        using T = decltype(zero);
        if (s.head_dim == 16) return launch<T, 16>(a, units, stream);
        if (s.head_dim == 32) return launch<T, 32>(a, units, stream);
        return launch<T, 64>(a, units, stream);
    });
}

}  // namespace mask2edge
