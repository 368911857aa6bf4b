// One tile of panoptic output: of each pixel the kept query with the highest score x mask probability, as runtime/
// postprocess.py has it. Queries compete in the order of the best score that each could have in the tile; one whose
// best is below what others have reached at every pixel is not looked at. Nor is one for its own area, unless its
// mask's border crosses the tile.
#include "segment_fusion/cpu_vectors.h"

namespace mask2edge::MASK2EDGE_SIMD {

namespace {

constexpr float kSlack = 1e-6f;  // what rounding may do to a score

struct Scratch {
    float *best, *lines, *low, *high, *low_score, *high_score;
    int32_t* winner;  // [rows, pitch]: the place from 1, negative where its mask is below one half
    int32_t* order;   // [count] those that compete, the highest possible score first

    Scratch(float* memory, int lines_of_tile, int pitch, int stride) {
        best = memory;
        winner = reinterpret_cast<int32_t*>(best + kMaximumBandRows * pitch);
        lines = best + 2 * kMaximumBandRows * pitch;
        low = lines + lines_of_tile * pitch;
        high = low + stride;
        low_score = high + stride;
        high_score = low_score + stride;
        order = reinterpret_cast<int32_t*>(high_score + stride);
    }
};

// Both bounds of every query's score; returns the score that some query has at every pixel.
float bound_scores(const PanopticTile& tile, const Scratch& s) {
    Floats surest = broadcast(-1.0f);
    for (int q = 0; q < tile.count; q += kWidth) {
        const Floats score = load(tile.scores + q), low = score * sigmoid(load(s.low + q));
        store(s.low_score + q, low);
        store(s.high_score + q, score * sigmoid(load(s.high + q)));
        surest = max(low, surest);
    }
    return max_of_lanes(surest)[0];
}

int count_inside(const TileWindow& window, const float* lines, int pitch) {
    const Ints lanes = lane_numbers();
    Ints count{};
    for (int y = 0; y < window.rows.count; ++y) {
        const RowOfLines row(lines, pitch, window.lines.first, window.row_taps[y]);
        for (int x = 0; x < pitch; x += kWidth)
            count -= (row.at(x) >= 0.0f) & (lanes + x < broadcast(window.columns.count));
    }
    return sum_of_lanes(count);
}

const float* mask_of(const PanopticTile& tile, int place) {
    return tile.masks.values + int64_t{tile.queries[place]} * tile.masks.height * tile.masks.width;
}

// How many may win somewhere in the tile: those that can reach what some query has everywhere.
int competitors(const PanopticTile& tile, const Scratch& s, float surest) {
    int count = 0;
    for (int i = 0; i < tile.count; ++i) {
        if (s.high_score[i] < surest) continue;
        int place = count++;
        for (; place > 0 && s.high_score[s.order[place - 1]] < s.high_score[i]; --place)
            s.order[place] = s.order[place - 1];
        s.order[place] = i;
    }
    return count;
}

struct Outcome {
    int own_area;
    float least;  // the lowest score that is now reached by some query
};

// Puts the query where it beats those before it; of equals the first in the queries' order wins.
Outcome compete(const PanopticTile& tile, const Scratch& s, int pitch, float score, int32_t place, bool is_first) {
    const TileWindow& window = tile.window;
    const Ints lanes = lane_numbers();
    Ints count{};
    Floats least = broadcast(2.0f);
    for (int y = 0; y < window.rows.count; ++y) {
        const RowOfLines row(s.lines, pitch, window.lines.first, window.row_taps[y]);
        float* best = s.best + y * pitch;
        int32_t* winner = s.winner + y * pitch;
        for (int x = 0; x < pitch; x += kWidth) {
            const Floats logit = row.at(x), value = score * sigmoid(logit);
            const Ints is_inside = logit >= 0.0f;
            const Ints candidate = is_inside ? broadcast(place) : broadcast(-place);
            count -= is_inside & (lanes + x < broadcast(window.columns.count));
            if (is_first) {
                store(best + x, value);
                store(winner + x, candidate);
                least = min(value, least);
                continue;
            }
            const Floats before = load(best + x);
            const Ints winner_before = load(winner + x);
            const Ints wins =
                (value > before) | ((value == before) & (broadcast(place) < max(winner_before, -winner_before)));
            const Floats now = wins ? value : before;
            store(best + x, now);
            store(winner + x, wins ? candidate : winner_before);
            least = min(now, least);
        }
    }
    return {sum_of_lanes(count), -max_of_lanes(-least)[0]};
}

}  // namespace

int fusion_vector_width() { return kWidth; }

bool all_finite(const float* values, int64_t count) {
    Floats sum{};
    int64_t i = 0;
    for (; i + kWidth <= count; i += kWidth) sum += load(values + i) * 0.0f;  // NaN of infinity and of NaN
    float rest = 0;
    for (; i < count; ++i) rest += values[i] * 0.0f;
    return sum_of_lanes(sum)[0] + rest == 0.0f;
}

void panoptic_tile(const PanopticTile& tile) {
    const TileWindow& window = tile.window;
    const int pitch = window.column_taps.vectors * kWidth;
    const Scratch s(tile.scratch, window.lines.count, pitch, tile.by_pixel.stride);
    bounds_of_window(tile.by_pixel, window, s.low, s.high);
    float surest = bound_scores(tile, s) * (1.0f - kSlack);

    const int area = window.rows.count * window.columns.count;
    const int candidates = competitors(tile, s, surest), first = candidates > 0 ? s.order[0] : 0;
    const bool is_solid = candidates == 1 && s.low[first] >= 0.0f;
    int competed = 0;
    for (; competed < candidates && !is_solid; ++competed) {
        const int i = s.order[competed];
        if (s.high_score[i] < surest) break;
        spread_mask(mask_of(tile, i), tile.masks.width, window, s.lines, pitch);
        const Outcome outcome = compete(tile, s, pitch, tile.scores[i], i + 1, competed == 0);
        surest = outcome.least * (1.0f - kSlack);
        tile.tallies[i].own_area += outcome.own_area;
        s.low[i] = kLowest;  // its own area is counted
    }
    for (int i = 0; i < tile.count; ++i) {
        if (s.low[i] >= 0.0f) {
            tile.tallies[i].own_area += area;
        } else if (s.low[i] > kLowest && s.high[i] >= 0.0f) {
            spread_mask(mask_of(tile, i), tile.masks.width, window, s.lines, pitch);
            tile.tallies[i].own_area += count_inside(window, s.lines, pitch);
        }
    }
    if (is_solid) {
        tile.tallies[first].won_area += area;
        tally_whole(window.rows, window.columns, tile.tallies[first].solid);
        fill_labels(first + 1, window.rows, window.columns, tile.label_map, tile.image_width);
        return;
    }
    end_of_rows(s.winner, pitch, window.rows.count, window.columns.count);
    for (int order = 0; order < competed; ++order) {
        const int i = s.order[order];
        PanopticTally& tally = tile.tallies[i];
        const int before = tally.solid.area;
        const auto count = [&](int32_t label, Tally& to) {
            tally_label(s.winner, nullptr, pitch, window.column_taps.vectors, window.rows, window.columns, label, to);
        };
        if (s.high[i] >= 0.0f) count(i + 1, tally.solid);
        Tally faint{0, 0, 0, INT32_MAX, INT32_MAX, 0};  // a box that need not grow
        count(-(i + 1), faint);
        tally.won_area += tally.solid.area - before + faint.area;
    }
    for (int i = 0; i < window.rows.count * pitch; i += kWidth) store(s.winner + i, max(load(s.winner + i), Ints{}));
    write_labels(s.winner, pitch, window.rows, window.columns, tile.label_map, tile.image_width);
}

}  // namespace mask2edge::MASK2EDGE_SIMD
