#include "segment_fusion/cpu_kernels.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <new>

#include "common/threads.h"

namespace mask2edge {

namespace {

constexpr std::size_t kCacheLine = 64;

}  // namespace

#define MASK2EDGE_KERNELS(set)                                                                              \
    FusionKernels {                                                                                         \
        set::fusion_vector_width, set::all_finite, set::panoptic_tile, set::instance_tile, set::paint_tile, \
            set::semantic_tile                                                                              \
    }
FusionKernels fusion_kernels(InstructionSet set) {
#ifdef MASK2EDGE_HAS_X86_KERNELS
    if (set == InstructionSet::avx512) return MASK2EDGE_KERNELS(avx512);
    if (set == InstructionSet::avx2) return MASK2EDGE_KERNELS(avx2);
#endif
    (void)set;
    return MASK2EDGE_KERNELS(portable);
}
#undef MASK2EDGE_KERNELS

bool logits_are_finite(const FusionSizes& s, const CpuTensors& tensors, const FusionKernels& kernels, int threads) {
    if (!kernels.all_finite(tensors.class_logits, int64_t{s.queries} * (s.classes + 1))) return false;
    const int64_t mask = int64_t{s.mask_height} * s.mask_width;
    std::atomic<bool> finite{true};
    run_on_threads(static_cast<std::size_t>(s.queries), threads, [&](std::size_t query) {
        if (!kernels.all_finite(tensors.mask_logits + static_cast<int64_t>(query) * mask, mask)) finite = false;
    });
    return finite;
}

std::vector<float> class_probabilities(const FusionSizes& s, const float* class_logits) {
    const int32_t columns = s.classes + 1;
    std::vector<float> probabilities(static_cast<std::size_t>(s.queries) * static_cast<std::size_t>(columns));
    for (int32_t query = 0; query < s.queries; ++query) {
        const float* logits = class_logits + int64_t{query} * columns;
        float* row = probabilities.data() + int64_t{query} * columns;
        const float largest = *std::max_element(logits, logits + columns);
        float sum = 0;
        for (int32_t i = 0; i < columns; ++i) sum += row[i] = std::exp(logits[i] - largest);
        for (int32_t i = 0; i < columns; ++i) row[i] /= sum;
    }
    return probabilities;
}

AlignedFloats::AlignedFloats(std::size_t count)
    : memory_(static_cast<float*>(::operator new(count * sizeof(float), std::align_val_t{kCacheLine}))) {}

void AlignedFloats::Free::operator()(float* memory) const { ::operator delete(memory, std::align_val_t{kCacheLine}); }

AlignedFloats masks_by_pixel(const MaskLogits& masks, const std::vector<int32_t>& queries, Span lines, int threads) {
    const int count = static_cast<int>(queries.size()), stride = padded(count);
    AlignedFloats by_pixel(static_cast<std::size_t>(masks.height) * static_cast<std::size_t>(masks.width) *
                           static_cast<std::size_t>(stride));
    constexpr int kColumns = 64;  // their queries' vectors stay in the first-level cache
    run_on_threads(static_cast<std::size_t>(lines.count), threads, [&](std::size_t index) {
        const int64_t y = lines.first + static_cast<int64_t>(index);
        for (int32_t left = 0; left < masks.width; left += kColumns) {
            const int32_t end = std::min(left + kColumns, masks.width);
            for (int i = 0; i < stride; ++i) {
                const int64_t query = queries[static_cast<std::size_t>(i < count ? i : 0)];
                const float* from = masks.values + (query * masks.height + y) * masks.width;
                float* to = by_pixel.data() + y * masks.width * stride + i;
                for (int32_t x = left; x < end; ++x) to[int64_t{x} * stride] = from[x];
            }
        }
    });
    return by_pixel;
}

TileColumns tile_columns(const ColumnTaps& columns, Span part) {
    const std::size_t vector = static_cast<std::size_t>(part.first / columns.width);
    const std::size_t first = vector * static_cast<std::size_t>(columns.width);
    return {columns.base.data() + vector,
            {columns.lane[0].data() + first, columns.lane[1].data() + first, columns.lane[2].data() + first},
            {columns.weight[0].data() + first, columns.weight[1].data() + first, columns.weight[2].data() + first},
            (part.count + columns.width - 1) / columns.width,
            columns.width};
}

TileWindow tile_window(const std::vector<Taps>& rows, const RowBand& band, const ColumnTaps& columns,
                       const ColumnTile& tile) {
    return {band.rows,
            tile.columns,
            band.lines,
            tile.mask_columns,
            rows.data() + band.rows.first,
            tile_columns(columns, tile.columns)};
}

}  // namespace mask2edge
