// Semantic output on the CPU, in both orders: the tiles, and the table of the classes that are there.
#include <algorithm>

#include "common/threads.h"
#include "segment_fusion/cpu_kernels.h"

namespace mask2edge {

namespace {

struct Probabilities {
    AlignedFloats by_query, by_class;  // [Q, padded(K)], [K, padded(Q)]; 0 in what is filled up
};

Probabilities probabilities_of(const FusionSizes& s, const float* class_logits) {
    const std::vector<float> all = class_probabilities(s, class_logits);
    const int64_t width = padded(s.classes), stride = padded(s.queries);
    Probabilities p{AlignedFloats(static_cast<std::size_t>(s.queries * width)),
                    AlignedFloats(static_cast<std::size_t>(s.classes * stride))};
    std::fill_n(p.by_query.data(), s.queries * width, 0.0f);
    std::fill_n(p.by_class.data(), s.classes * stride, 0.0f);
    for (int64_t query = 0; query < s.queries; ++query)
        for (int64_t label = 0; label < s.classes; ++label)
            p.by_query.data()[query * width + label] = p.by_class.data()[label * stride + query] =
                all[static_cast<std::size_t>(query * (s.classes + 1) + label)];
    return p;
}

// The image's tiles where scores are formed at the padded size: each has a window of the padded input.
struct PaddedGrid {
    std::vector<Taps> rows, columns;                  // of the image, made from the padded input's
    std::vector<Taps> content_rows, content_columns;  // of the padded input, made from the masks'
    ColumnTaps column_taps, content_taps;
    std::vector<Span> bands, tiles;
    int window_vectors = 0, most_lines = 0, most_mask_columns = 0;

    PaddedGrid(const FusionSizes& s, int width)
        : rows(content_to_image(s.content_height, s.image_height)),
          columns(content_to_image(s.content_width, s.image_width)),
          content_rows(mask_to_content(s.mask_height, s.padded_height, s.content_height)),
          content_columns(mask_to_content(s.mask_width, s.padded_width, s.content_width)),
          column_taps(mask2edge::column_taps(columns, width)),
          content_taps(mask2edge::column_taps(content_columns, width)) {
        constexpr int32_t kRows = 32;
        for (int32_t top = 0; top < s.image_height;) {
            Span band{top, std::min(kRows, s.image_height - top)};
            while (band.count > 1 && lines(band).count > kMaximumBandLines) band.count = (band.count + 1) / 2;
            bands.push_back(band);
            most_lines = std::max(most_lines, lines(band).count);
            top = band.end();
        }
        for (int32_t left = 0; left < s.image_width; left += kTileColumns) {
            tiles.push_back({left, std::min<int32_t>(kTileColumns, s.image_width - left)});
            const Span needed = window(tiles.back());
            window_vectors = std::max(window_vectors, tile_columns(content_taps, needed).vectors);
            most_mask_columns = std::max(most_mask_columns, input_span(content_columns, needed).count);
        }
    }

    // Of the masks.
    Span lines(Span band) const { return input_span(content_rows, input_span(rows, band)); }

    // Columns of the padded input, from the first of a vector on.
    Span window(Span tile) const {
        const Span needed = input_span(columns, tile);
        const int32_t first = needed.first / content_taps.width * content_taps.width;
        return {first, needed.end() - first};
    }

    void set(SemanticTile& tile, Span band, Span columns_of_image) const {
        const Span window_rows = input_span(rows, band), window_columns = window(columns_of_image);
        tile.window = {window_rows,
                       window_columns,
                       input_span(content_rows, window_rows),
                       input_span(content_columns, window_columns),
                       content_rows.data() + window_rows.first,
                       tile_columns(content_taps, window_columns)};
        tile.image_rows = band;
        tile.image_columns = columns_of_image;
        tile.image_row_taps = rows.data() + band.first;
        tile.image_column_taps = tile_columns(column_taps, columns_of_image);
        tile.content_row_taps = content_rows.data();
    }
};

void write_table(const std::vector<Tally>& of_bands, const FusionSizes& s, SegmentRow* table) {
    const std::size_t classes = static_cast<std::size_t>(s.classes);
    int32_t count = 0;
    for (std::size_t label = 0; label < classes; ++label) {
        Tally sum;
        for (std::size_t i = label; i < of_bands.size(); i += classes) {
            const Tally& band = of_bands[i];
            sum.area += band.area;
            sum.score += band.score;
            sum.x0 = std::min(sum.x0, band.x0);
            sum.y0 = std::min(sum.y0, band.y0);
            sum.x1 = std::max(sum.x1, band.x1);
            sum.y1 = std::max(sum.y1, band.y1);
        }
        if (sum.area == 0) continue;
        const int32_t id = static_cast<int32_t>(label);
        table[++count] = {id, id, static_cast<float>(sum.score / sum.area), sum.area, sum.x0, sum.y0, sum.x1, sum.y1};
    }
    table[0].id = count;
}

}  // namespace

void cpu_semantic(const FusionSizes& s, SemanticOrder order, const CpuTensors& tensors, const CpuOptions& options) {
    const FusionKernels kernels = fusion_kernels(options.set);
    const int threads = thread_count(options.threads);
    tensors.table[0] = {};
    if (!logits_are_finite(s, tensors, kernels, threads)) {
        tensors.table[0].label = 1;
        return;
    }
    const int width = kernels.vector_width();
    const bool is_padded = order == SemanticOrder::padded;
    const MaskGrid grid = is_padded ? MaskGrid{} : image_grid(s, width);
    const PaddedGrid padded_grid(is_padded ? s : FusionSizes{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, width);
    const Probabilities probabilities = probabilities_of(s, tensors.class_logits);
    const MaskLogits masks{tensors.mask_logits, s.mask_height, s.mask_width};
    std::vector<int32_t> queries(static_cast<std::size_t>(s.queries));
    for (std::size_t i = 0; i < queries.size(); ++i) queries[i] = static_cast<int32_t>(i);
    const Span all_rows{0, s.image_height};
    const Span lines = is_padded ? padded_grid.lines(all_rows) : input_span(grid.rows, all_rows);
    const AlignedFloats by_pixel = masks_by_pixel(masks, queries, lines, threads);

    const std::size_t classes = static_cast<std::size_t>(s.classes);
    const std::size_t bands = is_padded ? padded_grid.bands.size() : grid.bands.size();
    const int window_columns = (is_padded ? padded_grid.window_vectors : grid.tile_vectors) * width;
    const int most_mask_columns = is_padded ? padded_grid.most_mask_columns : grid.most_mask_columns;
    const int most_lines = is_padded ? padded_grid.most_lines : grid.most_lines;
    std::vector<Tally> of_bands(bands * classes);
    run_on_threads(bands, threads, [&](std::size_t index) {
        SemanticTile tile{};
        tile.is_padded_order = is_padded;
        tile.masks = masks;
        tile.by_pixel = {by_pixel.data(), s.mask_width, padded(s.queries)};
        tile.probabilities = probabilities.by_query.data();
        tile.by_class = probabilities.by_class.data();
        tile.queries = s.queries;
        tile.classes = s.classes;
        tile.label_map = tensors.label_map;
        tile.image_width = s.image_width;
        tile.tallies = of_bands.data() + index * classes;
        const AlignedFloats scratch(semantic_scratch(
            static_cast<std::size_t>(most_lines), static_cast<std::size_t>(most_mask_columns),
            static_cast<std::size_t>(window_columns), kTileColumns, static_cast<std::size_t>(s.queries), classes));
        tile.scratch = scratch.data();
        if (is_padded) {
            for (const Span columns : padded_grid.tiles) {
                padded_grid.set(tile, padded_grid.bands[index], columns);
                kernels.semantic_tile(tile);
            }
            return;
        }
        for (const ColumnTile& column_tile : grid.tiles) {
            tile.window = tile_window(grid.rows, grid.bands[index], grid.column_taps, column_tile);
            kernels.semantic_tile(tile);
        }
    });
    write_table(of_bands, s, tensors.table);
}

}  // namespace mask2edge
