#include "segment_fusion/cpu_instance_mask.h"

#include <algorithm>

namespace mask2edge {

namespace {

// The lowest and highest logit of each column of a mask, over some lines.
void bound_columns(const float* mask, int32_t width, Span lines, float* lowest, float* highest) {
    const float* line = mask + int64_t{lines.first} * width;
    std::copy_n(line, width, lowest);
    std::copy_n(line, width, highest);
    for (int32_t y = 1; y < lines.count; ++y) {
        line += width;
        for (int32_t x = 0; x < width; ++x) {
            lowest[x] = std::min(lowest[x], line[x]);
            highest[x] = std::max(highest[x], line[x]);
        }
    }
}

uint32_t rows_of_band(int32_t rows) { return rows == 32 ? 0xffffffffu : (1u << rows) - 1; }

void add_box(InstanceMask& mask, Span rows, Span columns) {
    mask.x0 = std::min(mask.x0, columns.first);
    mask.x1 = std::max(mask.x1, columns.end());
    mask.y0 = std::min(mask.y0, rows.first);
    mask.y1 = std::max(mask.y1, rows.end());
}

void add_box_of_words(InstanceMask& mask, const int32_t* words, Span rows, Span columns) {
    uint32_t all = 0;
    int32_t first = -1, last = -1;
    for (int32_t x = 0; x < columns.count; ++x) {
        const uint32_t word = static_cast<uint32_t>(words[x]);
        if (word == 0) continue;
        all |= word;
        last = x;
        if (first < 0) first = x;
    }
    if (all == 0) return;
    const int32_t top = __builtin_ctz(all), bottom = 31 - __builtin_clz(all);
    add_box(mask, {rows.first + top, bottom + 1 - top}, {columns.first + first, last + 1 - first});
}

// Where runs begin and end, one after another.
class Runs {
  public:
    explicit Runs(std::vector<int32_t>& counts) : counts_(counts) {}

    // What comes next, from `at` on, is `is_inside`.
    void turn(int64_t at, bool is_inside) {
        if (is_inside == is_inside_) return;
        counts_.push_back(static_cast<int32_t>(at - last_));
        last_ = at;
        is_inside_ = is_inside;
    }
    void add(int64_t at, uint32_t word, int32_t rows) {
        uint32_t turns = (word ^ (word << 1 | (is_inside_ ? 1u : 0u))) & rows_of_band(rows);
        for (; turns != 0; turns &= turns - 1) turn(at + __builtin_ctz(turns), !is_inside_);
    }
    void end(int64_t at) {
        if (last_ != at || counts_.empty()) counts_.push_back(static_cast<int32_t>(at - last_));
    }

  private:
    std::vector<int32_t>& counts_;
    int64_t last_ = 0;
    bool is_inside_ = false;
};

}  // namespace

InstanceMask make_instance_mask(const float* values, const FusionSizes& s, const MaskGrid& grid,
                                const FusionKernels& kernels) {
    const std::size_t width = static_cast<std::size_t>(s.mask_width);
    const int pitch = grid.tile_vectors * grid.column_taps.width;
    const AlignedFloats scratch(
        instance_scratch(static_cast<std::size_t>(grid.most_lines), static_cast<std::size_t>(pitch)));
    std::vector<float> lowest(width), highest(width);
    InstanceMask mask;
    mask.tiles.reserve(grid.bands.size() * grid.tiles.size());
    std::vector<int32_t> words(static_cast<std::size_t>(pitch));
    InstanceTile tile;
    tile.mask = values;
    tile.mask_width = s.mask_width;
    tile.words = words.data();
    tile.scratch = scratch.data();
    for (const RowBand& band : grid.bands) {
        bound_columns(values, s.mask_width, band.lines, lowest.data(), highest.data());
        for (const ColumnTile& column_tile : grid.tiles) {
            const auto first = column_tile.mask_columns.first, count = column_tile.mask_columns.count;
            tile.lowest = *std::min_element(lowest.begin() + first, lowest.begin() + first + count);
            tile.highest = *std::max_element(highest.begin() + first, highest.begin() + first + count);
            if (tile.highest <= 0.0f) {
                mask.tiles.push_back(InstanceMask::kEmpty);
                continue;
            }
            tile.window = tile_window(grid.rows, band, grid.column_taps, column_tile);
            const InstanceSum sum = kernels.instance_tile(tile);
            mask.area += sum.area;
            mask.probability += sum.probability;
            if (tile.lowest > 0.0f) {
                mask.tiles.push_back(InstanceMask::kFull);
                add_box(mask, band.rows, column_tile.columns);
            } else if (sum.area == 0) {
                mask.tiles.push_back(InstanceMask::kEmpty);
            } else {
                mask.tiles.push_back(static_cast<int64_t>(mask.words.size()));
                mask.words.insert(mask.words.end(), words.begin(), words.end());
                add_box_of_words(mask, words.data(), band.rows, column_tile.columns);
            }
        }
    }
    return mask;
}

std::vector<int32_t> run_lengths(const InstanceMask& mask, const FusionSizes& s, const MaskGrid& grid) {
    std::vector<int32_t> counts;
    Runs runs(counts);
    struct Part {  // of a column of tiles, from the top: one tile of words, or some that are all empty or full
        Span rows;
        int64_t tile;
    };
    std::vector<Part> parts;
    for (std::size_t t = 0; t < grid.tiles.size() && mask.area > 0; ++t) {
        const Span columns = grid.tiles[t].columns;
        if (columns.end() <= mask.x0 || columns.first >= mask.x1) continue;
        parts.clear();
        for (std::size_t band = 0; band < grid.bands.size(); ++band) {
            const Span rows = grid.bands[band].rows;
            const int64_t tile = mask.tiles[band * grid.tiles.size() + t];
            if (tile < 0 && !parts.empty() && parts.back().tile == tile)
                parts.back().rows.count += rows.count;
            else
                parts.push_back({rows, tile});
        }
        for (int32_t x = 0; x < columns.count; ++x) {
            const int64_t top = int64_t{columns.first + x} * s.image_height;
            for (const Part& part : parts) {
                if (part.tile < 0) {
                    runs.turn(top + part.rows.first, part.tile == InstanceMask::kFull);
                    continue;
                }
                runs.add(top + part.rows.first,
                         static_cast<uint32_t>(mask.words[static_cast<std::size_t>(part.tile + x)]), part.rows.count);
            }
        }
        if (columns.end() >= mask.x1 && columns.end() < s.image_width)
            runs.turn(int64_t{columns.end()} * s.image_height, false);
    }
    runs.end(int64_t{s.image_height} * s.image_width);
    return counts;
}

void paint_band(const std::vector<const InstanceMask*>& masks, const FusionSizes& s, const MaskGrid& grid,
                std::size_t band, const FusionKernels& kernels, int32_t* label_map) {
    const Span rows = grid.bands[band].rows;
    std::fill_n(label_map + int64_t{rows.first} * s.image_width, int64_t{rows.count} * s.image_width, 0);
    const int32_t whole = static_cast<int32_t>(rows_of_band(rows.count));
    std::vector<int32_t> unset(kTileColumns), all(kTileColumns, whole);
    for (std::size_t t = 0; t < grid.tiles.size(); ++t) {
        const Span columns = grid.tiles[t].columns;
        std::fill(unset.begin(), unset.end(), whole);
        for (const InstanceMask* mask : masks) {
            const int64_t tile = mask->tiles[band * grid.tiles.size() + t];
            if (tile == InstanceMask::kEmpty) continue;
            const bool is_full = tile == InstanceMask::kFull;
            kernels.paint_tile(is_full ? all.data() : mask->words.data() + tile, unset.data(), mask->top_id, rows,
                               columns, label_map, s.image_width);
            if (is_full) break;
        }
    }
}

}  // namespace mask2edge
