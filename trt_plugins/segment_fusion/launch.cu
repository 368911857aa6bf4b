#include <algorithm>
#include <cmath>

#include "common/launch.cuh"
#include "segment_fusion/launch.h"
#include "segment_fusion/panoptic_kernel.cuh"
#include "segment_fusion/semantic_kernel.cuh"

namespace mask2edge {

namespace {

// Arrays in the workspace, one after another; without a workspace it only counts.
class Arrays {
  public:
    explicit Arrays(void* workspace) : base_(static_cast<char*>(workspace)) {}

    template <typename T>
    T* take(int64_t count) {
        T* const array = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + bytes_);
        bytes_ += (static_cast<std::size_t>(count) * sizeof(T) + 255) / 256 * 256;
        return array;
    }
    std::size_t bytes() const { return bytes_; }

  private:
    char* base_;
    std::size_t bytes_ = 0;
};

struct SemanticWorkspace {
    LineTriple *rows, *columns;                                         // order `image`
    LinePair *pair_rows, *pair_columns, *padded_rows, *padded_columns;  // order `padded`
    float* probabilities;
    SegmentRow* tallies;
    unsigned long long* sums;
    std::size_t bytes;

    SemanticWorkspace(const FusionSizes& s, SemanticOrder order, void* workspace) {
        Arrays arrays(workspace);
        if (order == SemanticOrder::image) {
            rows = arrays.take<LineTriple>(s.image_height);
            columns = arrays.take<LineTriple>(s.image_width);
        } else {
            pair_rows = arrays.take<LinePair>(s.image_height);
            pair_columns = arrays.take<LinePair>(s.image_width);
            padded_rows = arrays.take<LinePair>(s.content_height);
            padded_columns = arrays.take<LinePair>(s.content_width);
        }
        probabilities = arrays.take<float>(int64_t{s.queries} * probability_stride(s));
        tallies = arrays.take<SegmentRow>(s.classes);
        sums = arrays.take<unsigned long long>(s.classes);
        bytes = arrays.bytes();
    }

    static int32_t probability_stride(const FusionSizes& s) {
        return (s.classes + kClassPadding - 1) / kClassPadding * kClassPadding;
    }
};

struct PanopticWorkspace {
    LineTriple *rows, *columns;
    PanopticState state;
    std::size_t bytes;

    PanopticWorkspace(const FusionSizes& s, void* workspace) {
        Arrays arrays(workspace);
        rows = arrays.take<LineTriple>(s.image_height);
        columns = arrays.take<LineTriple>(s.image_width);
        state.kept_count = arrays.take<int32_t>(1);
        state.kept = arrays.take<KeptQuery>(s.queries);
        state.winners = arrays.take<uint16_t>(int64_t{s.image_height} * s.image_width);
        bytes = arrays.bytes();
    }
};

TwoResizes row_resizes(const FusionSizes& s) {
    return two_resizes(s.mask_height, s.padded_height, s.content_height, s.image_height);
}
TwoResizes column_resizes(const FusionSizes& s) {
    return two_resizes(s.mask_width, s.padded_width, s.content_width, s.image_width);
}

MaskLogits mask_logits(const FusionSizes& s, const FusionTensors& tensors) {
    return {tensors.mask_logits, s.queries, s.mask_height, s.mask_width};
}

SegmentTableHeader* header_of(const FusionTensors& tensors) {
    return reinterpret_cast<SegmentTableHeader*>(tensors.table);
}

int32_t tiles_of_row(const FusionSizes& s) { return (s.image_width + kTilePixels - 1) / kTilePixels; }

unsigned blocks_for(int64_t items, int block) { return static_cast<unsigned>((items + block - 1) / block); }

cudaError_t launch_image_tables(const FusionSizes& s, const FusionTensors& tensors, LineTriple* rows,
                                LineTriple* columns, cudaStream_t stream) {
    const ImageTablesArguments a{header_of(tensors), row_resizes(s), column_resizes(s), rows, columns};
    return launch_kernel(image_tables_kernel, dim3(blocks_for(s.image_height + s.image_width, kTableThreads)),
                         dim3(kTableThreads), 0, stream, a);
}

cudaError_t launch_padded_tables(const FusionSizes& s, const FusionTensors& tensors, const SemanticWorkspace& w,
                                 cudaStream_t stream) {
    const PaddedTablesArguments a{header_of(tensors), row_resizes(s), column_resizes(s), w.pair_rows,
                                  w.pair_columns,     w.padded_rows,  w.padded_columns};
    const int lines = s.image_height + s.image_width + s.content_height + s.content_width;
    return launch_kernel(padded_tables_kernel, dim3(blocks_for(lines, kTableThreads)), dim3(kTableThreads), 0, stream,
                         a);
}

// The largest power of two with which the sums of all pixels' scores, each at most the number of queries, fit 63 bits.
float score_unit(const FusionSizes& s) {
    const double largest = static_cast<double>(s.image_height) * s.image_width * (s.queries + 1);
    return std::ldexp(1.0f, std::min(40, 62 - static_cast<int>(std::ceil(std::log2(largest)))));
}

// Few classes: 8 for each warp, so that not many are padding; many: 16, so that shared memory is read less often.
template <typename Order, int kClasses>
cudaError_t launch_semantic_pixels(SemanticArguments<Order> a, int32_t height, cudaStream_t stream) {
    const int groups = (a.classes + kClasses - 1) / kClasses;
    const int warps = std::min(groups, kSemanticWarps<kClasses>);
    // Short chunks leave room for several blocks on a multiprocessor.
    a.chunk = 16;
    while (a.chunk > 4 && SemanticShared::bytes(a.chunk, warps * kClasses, a.pitch) > 32 * 1024) a.chunk /= 2;
    const std::size_t shared = SemanticShared::bytes(a.chunk, warps * kClasses, a.pitch);
    return launch_kernel(semantic_kernel<Order, kClasses>, dim3(static_cast<unsigned>(height * a.tiles)),
                         dim3(static_cast<unsigned>(warps * kWarp)), shared, stream, a);
}

template <typename Order>
cudaError_t launch_semantic_pixels(const FusionSizes& s, const typename Order::Tables& tables,
                                   const SemanticWorkspace& w, const FusionTensors& tensors, cudaStream_t stream) {
    SemanticArguments<Order> a{};
    a.masks = mask_logits(s, tensors);
    a.tables = tables;
    a.probabilities = w.probabilities;
    a.stride = SemanticWorkspace::probability_stride(s);
    a.classes = s.classes;
    a.width = s.image_width;
    a.tiles = tiles_of_row(s);
    a.pitch = staged_pitch<Order>(column_resizes(s));
    a.score_unit = score_unit(s);
    a.label_map = tensors.label_map;
    a.tallies = w.tallies;
    a.sums = w.sums;
    a.header = header_of(tensors);
    return a.classes <= 8 * kSemanticWarps<8> ? launch_semantic_pixels<Order, 8>(a, s.image_height, stream)
                                              : launch_semantic_pixels<Order, 16>(a, s.image_height, stream);
}

}  // namespace

std::size_t semantic_workspace(const FusionSizes& sizes, SemanticOrder order) {
    return SemanticWorkspace(sizes, order, nullptr).bytes;
}

std::size_t panoptic_workspace(const FusionSizes& sizes) { return PanopticWorkspace(sizes, nullptr).bytes; }

cudaError_t launch_semantic(const FusionSizes& s, SemanticOrder order, const FusionTensors& tensors,
                            cudaStream_t stream) {
    const SemanticWorkspace w(s, order, tensors.workspace);
    cudaError_t status = order == SemanticOrder::image ? launch_image_tables(s, tensors, w.rows, w.columns, stream)
                                                       : launch_padded_tables(s, tensors, w, stream);
    if (status != cudaSuccess) return status;

    const ProbabilitiesArguments probabilities{
        tensors.class_logits, s.queries, s.classes, SemanticWorkspace::probability_stride(s),
        w.probabilities,      w.tallies, w.sums,    header_of(tensors)};
    status = launch_kernel(probabilities_kernel, dim3(blocks_for(int64_t{s.queries} * kWarp, kProbabilityThreads)),
                           dim3(kProbabilityThreads), 0, stream, probabilities);
    if (status != cudaSuccess) return status;

    if (order == SemanticOrder::image) {
        status = launch_semantic_pixels<ImageOrder>(s, {w.rows, w.columns}, w, tensors, stream);
    } else {
        const PaddedTables tables{w.pair_rows,      w.pair_columns,   w.padded_rows,
                                  w.padded_columns, s.content_height, s.content_width};
        status = launch_semantic_pixels<PaddedOrder>(s, tables, w, tensors, stream);
    }
    if (status != cudaSuccess) return status;

    const SemanticTableArguments table{w.tallies, w.sums, s.classes, score_unit(s), tensors.table};
    return launch_kernel(semantic_table_kernel, dim3(1), dim3(kOneBlockThreads), 0, stream, table);
}

cudaError_t launch_panoptic(const FusionSizes& s, const PanopticThresholds& thresholds, const FusionTensors& tensors,
                            cudaStream_t stream) {
    const PanopticWorkspace w(s, tensors.workspace);
    cudaError_t status = launch_image_tables(s, tensors, w.rows, w.columns, stream);
    if (status != cudaSuccess) return status;

    // Scores are floats, and the reference compares them with the threshold as a float.
    const SelectArguments select{
        tensors.class_logits, s.queries, s.classes, static_cast<float>(thresholds.object), w.state, header_of(tensors)};
    status = launch_kernel(select_queries_kernel, dim3(1), dim3(kOrderingThreads), 0, stream, select);
    if (status != cudaSuccess) return status;

    WinnersArguments winners{};
    winners.masks = mask_logits(s, tensors);
    winners.tables = {w.rows, w.columns};
    winners.width = s.image_width;
    winners.tiles = tiles_of_row(s);
    winners.pitch = staged_pitch<ImageOrder>(column_resizes(s));
    winners.chunk = std::clamp(4096 / winners.pitch, 4, 32);
    winners.state = w.state;
    winners.header = header_of(tensors);
    const int64_t all_tiles = int64_t{s.image_height} * winners.tiles;
    status = launch_kernel(winners_kernel, dim3(static_cast<unsigned>(all_tiles)), dim3(kWinnersThreads),
                           winners_shared(s.queries, winners.chunk, winners.pitch), stream, winners);
    if (status != cudaSuccess) return status;

    const DecideArguments decide{w.state, tensors.is_thing, s.classes, thresholds.overlap, tensors.table};
    status = launch_kernel(decide_segments_kernel, dim3(1), dim3(kOrderingThreads),
                           static_cast<std::size_t>(s.classes) * sizeof(int), stream, decide);
    if (status != cudaSuccess) return status;

    const RelabelArguments relabel{w.state, s.image_width, winners.tiles, all_tiles, tensors.label_map, tensors.table};
    return launch_kernel(relabel_kernel, dim3(blocks_for(all_tiles, kRelabelThreads / kWarp)), dim3(kRelabelThreads), 0,
                         stream, relabel);
}

}  // namespace mask2edge
