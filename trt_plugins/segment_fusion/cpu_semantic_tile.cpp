// One tile of semantic output: of each pixel the class with the highest sum over queries of class probability x mask
// probability. Computed for every pixel, class and query that is 55 GFLOP at 1080p. Here only as far as it decides:
//
// 1. A mask's probability lies between the sigmoids of its smallest and largest logit in the tile, mid - radius and
//    mid + radius. Class k beats class j nowhere in the tile where
//    sum over q of (P[q,k] - P[q,j]) mid[q] + |P[q,k] - P[q,j]| radius[q] < 0: it is left out.
// 2. Classes are computed in the order of the highest score that each could have in the tile, some at a time; those
//    that could not reach what each pixel already has are left out.
// 3. The sigmoid is close to its chord between the two ends. Queries for which that changes no class's score by more
//    than kTolerance in all count as their chords. Chords are linear, and so is resizing: their sum over queries is
//    formed at the masks' few logits in the tile, once for each class, and resized instead of them.
// 4. What remains, a few queries and classes, is computed for every pixel.
#include "segment_fusion/cpu_semantic_bounds.h"

namespace mask2edge::MASK2EDGE_SIMD {

namespace {

// The sum of the chords of one class at the masks' logits in the tile, and spread to its columns.
void make_field(const SemanticTile& tile, const SemanticScratch& s, int label, int queries, float* spread) {
    const int stride = tile.by_pixel.stride;
    const float* const probabilities = tile.by_class + int64_t{label} * stride;
    for (int q = 0; q < stride; q += kWidth) store(s.coefficient + q, load(probabilities + q));
    for (int i = 0; i < queries; ++i) s.coefficient[s.queries[i]] = 0;
    Floats constants{};
    for (int q = 0; q < stride; q += kWidth) {
        const Floats probability = load(s.coefficient + q);
        constants += probability * load(s.offset + q);
        store(s.coefficient + q, probability * load(s.slope + q));
    }
    const float constant = sum_of_lanes(constants)[0];
    const Span lines = tile.window.lines, columns = tile.window.mask_columns;
    for (int y = 0; y < lines.count; ++y) {
        const float* logits =
            tile.by_pixel.values + (int64_t{lines.first + y} * tile.by_pixel.width + columns.first) * stride;
        float* const field = s.field + y * columns.count;
        for (int x = 0; x < columns.count; ++x, logits += stride) {
            Floats sum{};
            for (int q = 0; q < stride; q += kWidth) sum += load(s.coefficient + q) * load(logits + q);
            field[x] = constant + sum_of_lanes(sum)[0];
        }
        spread_line(field, columns.first, columns.end(), tile.window.column_taps, spread + y * s.pitch);
    }
}

// scores[class][x of Vectors vectors] of Classes classes: the field's row and the queries'.
template <int Classes, int Vectors>
void add_up(const RowOfLines& field, int64_t field_size, const float* weights, const float* row, int queries, int pitch,
            int x, float* scores) {
    Floats sum[Classes][Vectors];
    for (int c = 0; c < Classes; ++c)
        for (int v = 0; v < Vectors; ++v) {
            const int64_t at = c * field_size + x + v * kWidth;
            sum[c][v] = field.weight[0] * load(field.line[0] + at) + field.weight[1] * load(field.line[1] + at) +
                        field.weight[2] * load(field.line[2] + at);
        }
    for (int q = 0; q < queries; ++q) {
        Floats probability[Vectors];
        for (int v = 0; v < Vectors; ++v) probability[v] = load(row + int64_t{q} * pitch + x + v * kWidth);
        for (int c = 0; c < Classes; ++c)
            for (int v = 0; v < Vectors; ++v) sum[c][v] += weights[c * queries + q] * probability[v];
    }
    for (int c = 0; c < Classes; ++c)
        for (int v = 0; v < Vectors; ++v) store(scores + c * pitch + x + v * kWidth, sum[c][v]);
}

template <int Classes>
void add_up_row(const RowOfLines& field, int64_t field_size, const float* weights, const float* row, int queries,
                int pitch, float* scores) {
    int x = 0;
    for (; x + 2 * kWidth <= pitch; x += 2 * kWidth)
        add_up<Classes, 2>(field, field_size, weights, row, queries, pitch, x, scores);
    for (; x < pitch; x += kWidth) add_up<Classes, 1>(field, field_size, weights, row, queries, pitch, x, scores);
}

// scores[class][x] of one row of the window.
void score_row(const SemanticTile& tile, const SemanticScratch& s, const Taps& taps, int classes, int queries) {
    const int64_t size = int64_t{tile.window.lines.count} * s.pitch;
    for (int i = 0; i < queries; ++i) {
        const RowOfLines row(s.lines + i * size, s.pitch, tile.window.lines.first, taps);
        for (int x = 0; x < s.pitch; x += kWidth) store(s.row + i * s.pitch + x, sigmoid(row.at(x)));
    }
    int c = 0;
    const auto field = [&] { return RowOfLines(s.fields + c * size, s.pitch, tile.window.lines.first, taps); };
    for (; c + 4 <= classes; c += 4)
        add_up_row<4>(field(), size, s.weights + c * queries, s.row, queries, s.pitch, s.scores + c * s.pitch);
    for (; c + 2 <= classes; c += 2)
        add_up_row<2>(field(), size, s.weights + c * queries, s.row, queries, s.pitch, s.scores + c * s.pitch);
    for (; c < classes; ++c)
        add_up_row<1>(field(), size, s.weights + c * queries, s.row, queries, s.pitch, s.scores + c * s.pitch);
}

// The classes that are computed together.
struct Leaders {
    const int32_t* labels;
    int classes, queries;
    bool are_first;
};

// Puts the leaders where they beat those before them, of equals the first, at each column of one row. A class's score
// there: upper[class][x] * (1 - lower_share) + lower[class][x] * lower_share. Returns the lowest score now reached.
Floats keep_best(const SemanticScratch& s, const float* upper, const float* lower, float lower_share,
                 const Leaders& leaders, int y) {
    const int pitch = s.image_pitch;
    Floats least = broadcast(-kLowest);
    for (int x = 0; x < pitch; x += kWidth) {
        float* const best_there = s.best + y * pitch + x;
        int32_t* const label_there = s.labels + y * pitch + x;
        Floats best = leaders.are_first ? broadcast(kLowest) : load(best_there);
        Ints label = leaders.are_first ? Ints{} : load(label_there);
        for (int c = 0; c < leaders.classes; ++c) {
            Floats value = load(upper + c * pitch + x);
            if (lower_share != 0.0f) value = value * (1.0f - lower_share) + load(lower + c * pitch + x) * lower_share;
            const Ints own = broadcast(leaders.labels[c]);
            const Ints wins = (value > best) | ((value == best) & (own < label));
            best = wins ? value : best;
            label = wins ? own : label;
        }
        store(best_there, best);
        store(label_there, label);
        least = min(best, least);
    }
    return least;
}

Floats compete_at_image(const SemanticTile& tile, const SemanticScratch& s, const Leaders& leaders) {
    Floats least = broadcast(-kLowest);
    for (int y = 0; y < tile.window.rows.count; ++y) {
        score_row(tile, s, tile.window.row_taps[y], leaders.classes, leaders.queries);
        least = min(keep_best(s, s.scores, s.scores, 0.0f, leaders, y), least);
    }
    return least;
}

Floats compete_at_padded(const SemanticTile& tile, const SemanticScratch& s, const Leaders& leaders) {
    int32_t kept[2] = {-1, -1};  // the rows of the padded input in s.spread
    const auto spread_row = [&](int32_t line, int32_t besides) {
        for (int i = 0; i < 2; ++i)
            if (kept[i] == line) return i;
        const int slot = kept[0] == besides ? 1 : 0;
        kept[slot] = line;
        score_row(tile, s, tile.content_row_taps[line], leaders.classes, leaders.queries);
        for (int c = 0; c < leaders.classes; ++c)
            spread_line(s.scores + c * s.pitch, tile.window.columns.first, tile.window.columns.end(),
                        tile.image_column_taps, s.spread[slot] + c * s.image_pitch);
        return slot;
    };
    Floats least = broadcast(-kLowest);
    for (int y = 0; y < tile.image_rows.count; ++y) {
        const Taps& taps = tile.image_row_taps[y];
        const int upper = spread_row(taps.line[0], taps.line[1]), lower = spread_row(taps.line[1], taps.line[0]);
        least = min(keep_best(s, s.spread[upper], s.spread[lower], taps.weight[1], leaders, y), least);
    }
    return least;
}

// Returns the lowest score of the tile, up to now.
float compete(const SemanticTile& tile, const SemanticScratch& s, const int32_t* labels, int classes, bool are_first) {
    const int queries = choose_queries(tile, s, labels, classes, are_first && classes == 1);
    const int64_t size = int64_t{tile.window.lines.count} * s.pitch;
    for (int c = 0; c < classes; ++c) {
        make_field(tile, s, labels[c], queries, s.fields + c * size);
        for (int i = 0; i < queries; ++i)
            s.weights[c * queries + i] = tile.by_class[int64_t{labels[c]} * tile.by_pixel.stride + s.queries[i]];
    }
    for (int i = 0; i < queries; ++i)
        spread_mask(tile.masks.values + int64_t{s.queries[i]} * tile.masks.height * tile.masks.width, tile.masks.width,
                    tile.window, s.lines + i * size, s.pitch);
    const Leaders leaders{labels, classes, queries, are_first};
    const Floats least =
        tile.is_padded_order ? compete_at_padded(tile, s, leaders) : compete_at_image(tile, s, leaders);
    return -max_of_lanes(-least)[0];
}

}  // namespace

void semantic_tile(const SemanticTile& tile) {
    const SemanticScratch s(tile);
    bound_queries(tile, s);
    bound_classes(tile, s);
    const int leader = largest(s.class_middle, tile.classes);
    int computed = 0;
    float surest = 0.5f * s.class_middle[leader];  // first those that are likely to matter
    while (const int classes = next_leaders(tile, s, leader, surest, s.classes + computed)) {
        surest = compete(tile, s, s.classes + computed, classes, computed == 0) - kSlack;
        computed += classes;
    }

    const Span rows = tile.is_padded_order ? tile.image_rows : tile.window.rows;
    const Span columns = tile.is_padded_order ? tile.image_columns : tile.window.columns;
    end_of_rows(s.labels, s.image_pitch, rows.count, columns.count);
    for (int c = 0; c < computed; ++c)
        tally_label(s.labels, s.best, s.image_pitch, s.image_pitch / kWidth, rows, columns, s.classes[c],
                    tile.tallies[s.classes[c]]);
    write_labels(s.labels, s.image_pitch, rows, columns, tile.label_map, tile.image_width);
}

}  // namespace mask2edge::MASK2EDGE_SIMD
