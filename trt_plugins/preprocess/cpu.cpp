#include "preprocess/cpu.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "common/threads.h"
#include "preprocess/opencv_resize.cuh"

namespace mask2edge {

namespace {

constexpr int32_t kBandRows = 32;  // of the network's input: what a thread takes at a time

typedef float Pixel __attribute__((vector_size(16)));  // B, G, R and nothing

// The three planes of the network's input.
struct Planes {
    float* plane[3];
    int32_t width;

    Planes(float* pixels, const PreprocessShape& shape) : width(shape.padded_width) {
        for (int c = 0; c < 3; ++c) plane[c] = pixels + int64_t{c} * shape.padded_height * shape.padded_width;
    }
    void clear(int32_t row, int32_t from) const {
        for (float* one : plane) std::fill(one + int64_t{row} * width + from, one + int64_t{row + 1} * width, 0.0f);
    }
};

// Bands of the padded rows on threads; `do_row` gets those of the content, `start` what a band needs of its own.
template <typename Start>
void for_each_row(const PreprocessShape& shape, const Planes& planes, int threads, const Start& start) {
    const std::size_t bands = static_cast<std::size_t>((shape.padded_height + kBandRows - 1) / kBandRows);
    run_on_threads(bands, thread_count(threads), [&](std::size_t band) {
        auto do_row = start();
        const int32_t top = static_cast<int32_t>(band) * kBandRows;
        for (int32_t row = top; row < std::min(top + kBandRows, shape.padded_height); ++row) {
            const bool is_there = row < shape.content_height;
            if (is_there) do_row(row);
            planes.clear(row, is_there ? shape.content_width : 0);
        }
    });
}

inline Pixel pixel_at(const uint8_t* bytes) {
    return Pixel{static_cast<float>(bytes[0]), static_cast<float>(bytes[1]), static_cast<float>(bytes[2]), 0.0f};
}

// The same from four bytes, the last of them another pixel's, as B, 2^8 G, 2^16 R: multiplied with weights that are as
// much smaller, the products are the same to the bit.
inline Pixel scaled_pixel_at(const uint8_t* bytes) {
    typedef int32_t Words __attribute__((vector_size(16)));
    int32_t word;
    std::memcpy(&word, bytes, sizeof word);
    return __builtin_convertvector((Words{} + word) & Words{0xff, 0xff00, 0xff0000, 0}, Pixel);
}
constexpr Pixel kScales = {1.0f, 1.0f / (1 << 8), 1.0f / (1 << 16), 0.0f};

// Columns of one line of the image, summed for each column of the content.
void shrink_line(const uint8_t* line, const std::vector<LineSpan>& columns, int32_t image_width, Pixel* output) {
    for (std::size_t i = 0; i < columns.size(); ++i) {
        const LineSpan& span = columns[i];
        const uint8_t* bytes = line + int64_t{span.first} * 3;
        const int32_t last = span.count - 1;
        Pixel sum{};
        if (span.first + span.count < image_width) {
            const Pixel inner = kScales * span.inner;
            sum += scaled_pixel_at(bytes) * (kScales * span.first_weight);
            for (int32_t x = 1; x < last; ++x) sum += scaled_pixel_at(bytes + 3 * x) * inner;
            if (last > 0) sum += scaled_pixel_at(bytes + 3 * last) * (kScales * span.last_weight);
        } else {
            for (int32_t x = 0; x <= last; ++x) sum += pixel_at(bytes + 3 * x) * span.weight(x);
        }
        output[i] = sum;
    }
}

}  // namespace

bool cpu_shrinks_by_area(const PreprocessShape& s) {
    const bool grows = s.content_height > s.image_height || s.content_width > s.image_width;
    const bool is_whole = s.image_height % s.content_height == 0 && s.image_width % s.content_width == 0;
    return !grows && !is_whole;
}

void cpu_shrink(const uint8_t* image, int64_t row_bytes, const PreprocessShape& shape, const float* tables,
                float* pixels, int threads) {
    const LineAxis rows = line_axis(shape.image_height, shape.content_height);
    const LineAxis column_axis = line_axis(shape.image_width, shape.content_width);
    const std::size_t width = static_cast<std::size_t>(shape.content_width);
    std::vector<LineSpan> columns;
    for (int32_t x = 0; x < shape.content_width; ++x) columns.push_back(line_span(x, column_axis));
    const Planes planes(pixels, shape);
    for_each_row(shape, planes, threads, [&] {
        std::vector<Pixel> line(width), sum(width);
        int32_t kept = -1;  // the line of the image that `line` has: two rows share one
        return [&, line, sum, kept](int32_t row) mutable {
            const LineSpan span = line_span(row, rows);
            for (int32_t y = 0; y < span.count; ++y) {
                if (kept != span.first + y) {
                    kept = span.first + y;
                    shrink_line(image + kept * row_bytes, columns, shape.image_width, line.data());
                }
                const float weight = span.weight(y);
                if (y == 0)
                    for (std::size_t x = 0; x < width; ++x) sum[x] = line[x] * weight;
                else
                    for (std::size_t x = 0; x < width; ++x) sum[x] += line[x] * weight;
            }
            for (std::size_t x = 0; x < width; ++x)
                for (int c = 0; c < 3; ++c) {
                    const long level = std::min(std::lrint(sum[x][2 - c]), 255L);
                    planes.plane[c][int64_t{row} * planes.width + static_cast<int64_t>(x)] = tables[256 * c + level];
                }
        };
    });
}

void cpu_normalise(const uint8_t* content, int64_t row_bytes, const PreprocessShape& shape, const float* tables,
                   float* pixels, int threads) {
    const Planes planes(pixels, shape);
    for_each_row(shape, planes, threads, [&] {
        return [&](int32_t row) {
            const uint8_t* bytes = content + row * row_bytes;
            const int64_t first = int64_t{row} * planes.width;
            float *red = planes.plane[0] + first, *green = planes.plane[1] + first, *blue = planes.plane[2] + first;
            for (int32_t x = 0; x < shape.content_width; ++x, bytes += 3) {
                blue[x] = tables[512 + bytes[0]];
                green[x] = tables[256 + bytes[1]];
                red[x] = tables[bytes[2]];
            }
        };
    });
}

}  // namespace mask2edge
