// Winograd's F(4x4, 3x3) (Lavin and Gray, sec. 4.2) for some rows of tiles: 36 multiplications for 16 outputs instead
// of 144. Lanes are tiles, all rows of a task one after another, so that a narrow map fills them as well.
//
//   patches (6x6, overlapping by 2) -> transformed [36][C][tiles]
//   a matrix product at each of the 36 positions, some filters at a time -> [36][filters][tiles]
//   products -> 4x4 outputs
#include "convolution_3x3/cpu_tile.h"

#include "common/simd.h"

namespace mask2edge::MASK2EDGE_SIMD {

namespace {

// As many filters by vectors of tiles as the registers hold sums of.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRows = 8;
#else
constexpr int kRows = 4;
#endif
constexpr int kVectors = 3;
static_assert(kFilterBlock % kRows == 0, "a block of filters is whole rows");

int64_t columns_of(int64_t width) { return (width + kTileSize - 1) / kTileSize; }
int64_t whole_vectors(int64_t tiles) { return (tiles + kWidth - 1) / kWidth * kWidth; }

template <int... I>
Floats zip_low(Floats x, Floats y, std::integer_sequence<int, I...>) {
    return shuffle<(I % 2 * kWidth + I / 2)...>(x, y);
}
template <int... I>
Floats zip_high(Floats x, Floats y, std::integer_sequence<int, I...>) {
    return shuffle<(I % 2 * kWidth + kWidth / 2 + I / 2)...>(x, y);
}
Floats zip_low(Floats x, Floats y) { return zip_low(x, y, std::make_integer_sequence<int, kWidth>()); }
Floats zip_high(Floats x, Floats y) { return zip_high(x, y, std::make_integer_sequence<int, kWidth>()); }

inline void transform_patch(const Floats (&d)[kPatchSize], Floats (&t)[kPatchSize]) {
    const Floats even = d[4] - 4.0f * d[2], odd = d[3] - 4.0f * d[1];
    const Floats near_even = d[4] - d[2], near_odd = 2.0f * (d[3] - d[1]);
    t[0] = 4.0f * d[0] - 5.0f * d[2] + d[4];
    t[1] = even + odd;
    t[2] = even - odd;
    t[3] = near_even + near_odd;
    t[4] = near_even - near_odd;
    t[5] = 4.0f * d[1] - 5.0f * d[3] + d[5];
}

inline void transform_products(const Floats (&m)[kPatchSize], Floats (&y)[kTileSize]) {
    const Floats sum = m[1] + m[2], difference = m[1] - m[2];
    const Floats far_sum = m[3] + m[4], far_difference = m[3] - m[4];
    y[0] = m[0] + sum + far_sum;
    y[1] = difference + 2.0f * far_difference;
    y[2] = sum + 4.0f * far_sum;
    y[3] = difference + 8.0f * far_difference + m[5];
}

// The task's memory. A line is one row of pixels of every tile, side by side: 4 to a tile, and room to read beyond.
struct Scratch {
    int64_t tiles, line;
    float* patches;   // [36][C][tiles], transformed
    float* products;  // [36][kFilterBlock][tiles]
    float* input;     // [6] lines: a row of patches with its zeros around
    float* lines;     // [6] lines: the same, transformed from top to bottom
    float* first;     // [6] lines: columns 0 to 3 of each patch
    float* last;      // [6] lines: columns 4 and 5, at 0 and 1
    float* output;    // [4] lines

    Scratch(float* memory, int64_t channels, int64_t width, int64_t rows)
        : tiles(whole_vectors(columns_of(width) * rows)), line(line_of(tiles)) {
        patches = memory;
        products = patches + kPositions * channels * tiles;
        input = products + kPositions * kFilterBlock * tiles;
        lines = input + kPatchSize * line;
        first = lines + kPatchSize * line;
        last = first + kPatchSize * line;
        output = last + kPatchSize * line;
    }

    static int64_t lines_of(int64_t line) { return (4 * kPatchSize + kTileSize) * line; }

    static int64_t size(int64_t channels, int64_t width, int64_t rows) {
        const int64_t tiles = whole_vectors(columns_of(width) * rows);
        return kPositions * (channels + kFilterBlock) * tiles + lines_of(line_of(tiles));
    }

    static int64_t line_of(int64_t tiles) { return kTileSize * tiles + kTileSize + 2 * kWidth; }
};

// One row of patches of a channel into `scratch.lines`: a patch's column is at 4 * tile + column.
void transform_downwards(const Convolution3x3Tile& tile, const float* map, int64_t row, const Scratch& scratch) {
    const int64_t columns = columns_of(tile.width), top = kTileSize * row - 1;
    for (int i = 0; i < kPatchSize; ++i) {
        const bool inside = top + i >= 0 && top + i < tile.height;
        float* padded = scratch.input + i * scratch.line + 1;  // 0 is left of the map
        if (inside)
            __builtin_memcpy(padded, map + (top + i) * tile.width,
                             static_cast<std::size_t>(tile.width) * sizeof(float));
        else
            __builtin_memset(padded, 0, static_cast<std::size_t>(tile.width) * sizeof(float));
    }
    for (int64_t column = 0; column < kTileSize * columns + 2; column += kWidth) {
        Floats d[kPatchSize], t[kPatchSize];
        for (int i = 0; i < kPatchSize; ++i) d[i] = load(scratch.input + i * scratch.line + column);
        transform_patch(d, t);
        for (int i = 0; i < kPatchSize; ++i) store(scratch.lines + i * scratch.line + column, t[i]);
    }
}

void transform_patches(const Convolution3x3Tile& tile, const Scratch& scratch) {
    const int64_t row_size = kTileSize * columns_of(tile.width);  // floats of a row of tiles in a line
    for (int64_t channel = 0; channel < tile.channels; ++channel) {
        const float* map = tile.x + channel * tile.height * tile.width;
        const float *first = scratch.first, *last = scratch.last;
        for (int64_t row = 0; row < tile.rows; ++row) {
            transform_downwards(tile, map, tile.first_row + row, scratch);
            for (int i = 0; tile.rows > 1 && i < kPatchSize; ++i) {
                const float* line = scratch.lines + i * scratch.line;
                const int64_t offset = i * scratch.line + row * row_size;
                __builtin_memcpy(scratch.first + offset, line, static_cast<std::size_t>(row_size) * sizeof(float));
                __builtin_memcpy(scratch.last + offset, line + kTileSize,
                                 static_cast<std::size_t>(row_size) * sizeof(float));
            }
        }
        if (tile.rows == 1) {  // nothing to put side by side
            first = scratch.lines;
            last = scratch.lines + kTileSize;
        }
        for (int64_t t = 0; t < scratch.tiles; t += kWidth)
            for (int i = 0; i < kPatchSize; ++i) {
                const float* p = first + i * scratch.line + kTileSize * t;
                const float* q = last + i * scratch.line + kTileSize * t;
                const Floats a[] = {load(p), load(p + kWidth), load(p + 2 * kWidth), load(p + 3 * kWidth)};
                const Floats b[] = {load(q), load(q + kWidth), load(q + 2 * kWidth), load(q + 3 * kWidth)};
                const Floats even[] = {first_of_pairs(a[0], a[1]), first_of_pairs(a[2], a[3])};
                const Floats odd[] = {second_of_pairs(a[0], a[1]), second_of_pairs(a[2], a[3])};
                const Floats d[] = {
                    first_of_pairs(even[0], even[1]),
                    first_of_pairs(odd[0], odd[1]),
                    second_of_pairs(even[0], even[1]),
                    second_of_pairs(odd[0], odd[1]),
                    first_of_pairs(first_of_pairs(b[0], b[1]), first_of_pairs(b[2], b[3])),
                    first_of_pairs(second_of_pairs(b[0], b[1]), second_of_pairs(b[2], b[3])),
                };
                Floats transformed[kPatchSize];
                transform_patch(d, transformed);
                for (int j = 0; j < kPatchSize; ++j)
                    store(scratch.patches + ((i * kPatchSize + j) * tile.channels + channel) * scratch.tiles + t,
                          transformed[j]);
            }
    }
}

// products [kRows][tiles] = filters [C][kRows] transposed, times patches [C][tiles]; Vectors of tiles
template <int Vectors>
void multiply(const float* filters, const float* patches, int64_t channels, int64_t tiles, float* products) {
    Floats sum[kRows][Vectors] = {};
    for (int64_t channel = 0; channel < channels; ++channel) {
        Floats patch[Vectors];
        for (int v = 0; v < Vectors; ++v) patch[v] = load(patches + channel * tiles + v * kWidth);
        for (int row = 0; row < kRows; ++row) {
            const Floats filter = broadcast(filters[channel * kRows + row]);
            for (int v = 0; v < Vectors; ++v) sum[row][v] += filter * patch[v];
        }
    }
    for (int row = 0; row < kRows; ++row)
        for (int v = 0; v < Vectors; ++v) store(products + row * tiles + v * kWidth, sum[row][v]);
}

void multiply_position(const Convolution3x3Tile& tile, const Scratch& scratch, int64_t first_filter, int64_t filters,
                       int position) {
    const float* patches = scratch.patches + position * tile.channels * scratch.tiles;
    const auto by_filters = [&](int64_t t,
                                const auto& multiply_rows) {  // one vector of patches stays in the first cache
        for (int64_t filter = 0; filter < filters; filter += kRows)
            multiply_rows(
                tile.transformed + ((first_filter + filter) / kRows * kPositions + position) * tile.channels * kRows,
                patches + t, tile.channels, scratch.tiles,
                scratch.products + (position * kFilterBlock + filter) * scratch.tiles + t);
    };
    int64_t t = 0;
    for (; t + kVectors * kWidth <= scratch.tiles; t += kVectors * kWidth) by_filters(t, multiply<kVectors>);
    for (; t < scratch.tiles; t += kWidth) by_filters(t, multiply<1>);
}

// `index`: of the filter in its block
void write_output(const Convolution3x3Tile& tile, const Scratch& scratch, int64_t filter, int64_t index) {
    const Floats bias = broadcast(tile.bias[filter]);
    const float lowest = tile.relu ? 0.0f : -__builtin_inff();
    for (int64_t t = 0; t < scratch.tiles; t += kWidth) {
        Floats columns[kTileSize][kPatchSize];
        for (int j = 0; j < kPatchSize; ++j) {
            Floats m[kPatchSize], y[kTileSize];
            for (int i = 0; i < kPatchSize; ++i)
                m[i] = load(scratch.products + ((i * kPatchSize + j) * kFilterBlock + index) * scratch.tiles + t);
            transform_products(m, y);
            for (int i = 0; i < kTileSize; ++i) columns[i][j] = y[i];
        }
        for (int i = 0; i < kTileSize; ++i) {
            Floats y[kTileSize];
            transform_products(columns[i], y);
            for (Floats& value : y) {
                value += bias;
                value = value < lowest ? broadcast(lowest) : value;  // NaN stays
            }
            const Floats low[] = {zip_low(y[0], y[2]), zip_low(y[1], y[3])};
            const Floats high[] = {zip_high(y[0], y[2]), zip_high(y[1], y[3])};
            float* line = scratch.output + i * scratch.line + kTileSize * t;
            store(line, zip_low(low[0], low[1]));
            store(line + kWidth, zip_high(low[0], low[1]));
            store(line + 2 * kWidth, zip_low(high[0], high[1]));
            store(line + 3 * kWidth, zip_high(high[0], high[1]));
        }
    }
    float* map = tile.output + filter * tile.height * tile.width;
    const int64_t row_size = kTileSize * columns_of(tile.width);
    for (int64_t row = 0; row < tile.rows; ++row)
        for (int i = 0; i < kTileSize; ++i) {
            const int64_t y = kTileSize * (tile.first_row + row) + i;
            if (y >= tile.height) break;
            __builtin_memcpy(map + y * tile.width, scratch.output + i * scratch.line + row * row_size,
                             static_cast<std::size_t>(tile.width) * sizeof(float));
        }
}

}  // namespace

int convolution_3x3_filter_rows() { return kRows; }

int64_t convolution_3x3_scratch(int64_t channels, int64_t width, int64_t rows) {
    return Scratch::size(channels, width, rows);
}

void convolution_3x3_tile(const Convolution3x3Tile& tile) {
    const Scratch scratch(tile.scratch, tile.channels, tile.width, tile.rows);
    // What is around a map is zero; and what is beyond the last tile must not be slow numbers.
    __builtin_memset(scratch.input, 0, static_cast<std::size_t>(Scratch::lines_of(scratch.line)) * sizeof(float));
    transform_patches(tile, scratch);
    for (int64_t first = 0; first < tile.filters; first += kFilterBlock) {
        const int64_t left = (tile.filters - first + kRows - 1) / kRows * kRows;
        const int64_t filters = left < kFilterBlock ? left : kFilterBlock;
        for (int position = 0; position < kPositions; ++position)
            multiply_position(tile, scratch, first, filters, position);
        for (int64_t index = 0; index < filters && first + index < tile.filters; ++index)
            write_output(tile, scratch, first + index, index);
    }
}

}  // namespace mask2edge::MASK2EDGE_SIMD
