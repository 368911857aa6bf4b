#include "segment_fusion/cpu_taps.h"

#include <algorithm>

#include "segment_fusion/line_triple.cuh"

namespace mask2edge {

namespace {

constexpr int kGoalRows = 16;  // a tile's bounds and tables are then a small part of its work

Taps taps_of(int32_t first, float a, float b, float c) {
    return {{first, b == 0.0f ? first : first + 1, c == 0.0f ? first : first + 2}, {a, b, c}};
}

std::vector<Taps> taps_of_axis(const LineAxis& axis, int32_t count) {
    std::vector<Taps> taps;
    for (int32_t line = 0; line < count; ++line) {
        const LinePair pair = line_pair(line, axis);
        taps.push_back(taps_of(pair.first, 1.0f - pair.second_weight, pair.second_weight, 0.0f));
    }
    return taps;
}

}  // namespace

std::vector<Taps> mask_to_image(int32_t mask, int32_t padded, int32_t content, int32_t image) {
    const TwoResizes resizes = two_resizes(mask, padded, content, image);
    std::vector<Taps> taps;
    for (int32_t line = 0; line < image; ++line) {
        const LineTriple triple = line_triple(line, resizes);
        taps.push_back(taps_of(triple.first, triple.weight[0], triple.weight[1], triple.weight[2]));
    }
    return taps;
}

std::vector<Taps> mask_to_content(int32_t mask, int32_t padded, int32_t content) {
    return taps_of_axis(line_axis(mask, padded), content);
}

std::vector<Taps> content_to_image(int32_t content, int32_t image) {
    return taps_of_axis(line_axis(content, image), image);
}

Span input_span(const std::vector<Taps>& lines, Span output) {
    int32_t first = lines[static_cast<std::size_t>(output.first)].line[0], last = first;
    for (int32_t i = output.first; i < output.end(); ++i)
        for (const int32_t line : lines[static_cast<std::size_t>(i)].line) {
            first = std::min(first, line);
            last = std::max(last, line);
        }
    return {first, last + 1 - first};
}

ColumnTaps column_taps(const std::vector<Taps>& columns, int width) {
    const int count = static_cast<int>(columns.size()), vectors = (count + width - 1) / width;
    ColumnTaps taps;
    taps.width = width;
    for (int vector = 0; vector < vectors; ++vector) {
        const int first = vector * width;
        const Span span = input_span(columns, {first, std::min(width, count - first)});
        const bool is_near = span.count <= width;
        taps.base.push_back(is_near ? span.first : -1);
        for (int i = 0; i < width; ++i) {
            const Taps& column = columns[static_cast<std::size_t>(std::min(first + i, count - 1))];
            for (int tap = 0; tap < 3; ++tap) {
                taps.lane[tap].push_back(column.line[tap] - (is_near ? span.first : 0));
                taps.weight[tap].push_back(column.weight[tap]);
            }
        }
    }
    return taps;
}

std::vector<RowBand> row_bands(const std::vector<Taps>& rows, int goal) {
    const int32_t count = static_cast<int32_t>(rows.size());
    const double rows_of_line = static_cast<double>(count) / std::max(1, input_span(rows, {0, count}).count);
    // Bands end where the masks' lines do: their values in a band are then as close together as they can be.
    const int32_t cells = std::max(1, static_cast<int32_t>(goal / rows_of_line + 0.5));
    std::vector<RowBand> bands;
    for (int32_t top = 0; top < count;) {
        const int32_t first = rows[static_cast<std::size_t>(top)].line[0];
        int32_t end = top + 1;
        while (end < count && end - top < kMaximumBandRows &&
               rows[static_cast<std::size_t>(end)].line[0] < first + cells &&
               input_span(rows, {top, end + 1 - top}).count <= kMaximumBandLines)
            ++end;
        bands.push_back({{top, end - top}, input_span(rows, {top, end - top})});
        top = end;
    }
    return bands;
}

std::vector<ColumnTile> column_tiles(const std::vector<Taps>& columns, int columns_each) {
    const int32_t count = static_cast<int32_t>(columns.size());
    std::vector<ColumnTile> tiles;
    for (int32_t left = 0; left < count; left += columns_each) {
        const Span span{left, std::min(columns_each, count - left)};
        tiles.push_back({span, input_span(columns, span)});
    }
    return tiles;
}

MaskGrid image_grid(const FusionSizes& s, int width) {
    MaskGrid grid;
    grid.rows = mask_to_image(s.mask_height, s.padded_height, s.content_height, s.image_height);
    grid.columns = mask_to_image(s.mask_width, s.padded_width, s.content_width, s.image_width);
    grid.column_taps = column_taps(grid.columns, width);
    grid.bands = row_bands(grid.rows, kGoalRows);
    grid.tiles = column_tiles(grid.columns, kTileColumns);
    grid.tile_vectors = (kTileColumns + width - 1) / width;
    grid.most_lines = grid.most_mask_columns = 0;
    for (const RowBand& band : grid.bands) grid.most_lines = std::max(grid.most_lines, band.lines.count);
    for (const ColumnTile& tile : grid.tiles)
        grid.most_mask_columns = std::max(grid.most_mask_columns, tile.mask_columns.count);
    return grid;
}

}  // namespace mask2edge
