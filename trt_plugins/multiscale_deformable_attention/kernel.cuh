// Deformable DETR, eq. 3, on a GPU: a few lanes of a warp treat one query and head ("item"), each lane 16 bytes of the
// head's channels. In turns of up to kPointsAtOnce points, first the lanes share out the points and make of each one
// four weighted rows of `value` (softmax and coordinates in fp32, once for all lanes); then every lane sums all rows.
//
//     launch_kernel(sampling_kernel<half_t, float>, blocks, threads, sampling_shared_bytes(p, threads), stream, p);
//
// Warps share nothing but the table of levels: one barrier in a block.
#pragma once

#include "common/cuda.cuh"

namespace mask2edge {

struct SamplingParameters {
    const void* value;              // [N, S, M, D] of T
    const void* offsets;            // [N, Lq, M, K, 2] of O, K = L * P
    const void* logits;             // [N, Lq, M, K] of O
    const float* reference_points;  // [1 or N, Lq, 2]
    const int32_t* spatial_shapes;  // [L, 2]: height, width
    void* output;                   // [N, Lq, M, D] of T
    int32_t items;                  // N * Lq * M
    int32_t queries, heads, head_dim, levels, points;
    int32_t value_rows;      // S
    int32_t lane_bits;       // 2^lane_bits lanes an item: one for each 16 bytes of a head, 32 at most
    int32_t points_at_once;  // kPointsAtOnce, or K where that is less
    bool shared_reference_points;
};

constexpr int kSamplingThreads = 256;  // at most
constexpr int kPointsAtOnce = 16;
constexpr int kLargestMap = 1 << 24;  // pixels along an edge: up to here a float holds each of them

struct SamplingLevel {
    int32_t height, width, first_row;  // height 0: it does not fit value
};

// Of a point at each of its four pixels: what it counts (bilinear share times softmax, 0 outside of the map).
// `rows`: the upper left pixel's row of value, and the way to the others: 2 * (rows to the one below) + (to the right).
struct Corners {
    float4 weights;
    int2 rows;
};

// Points in turn of all items of a block; the odd number of items keeps a turn's stores in different banks.
__host__ __device__ constexpr int corner_slots(const SamplingParameters& p, int threads) {
    return p.points_at_once * ((threads >> p.lane_bits) | 1);
}

constexpr std::size_t sampling_shared_bytes(const SamplingParameters& p, int threads) {
    return static_cast<std::size_t>(corner_slots(p, threads)) * (sizeof(float4) + sizeof(int2)) +
           static_cast<std::size_t>(p.levels) * sizeof(SamplingLevel);
}

// Where a level lies in value. Whatever spatial_shapes holds, rows beyond S are in no level.
__device__ __forceinline__ SamplingLevel find_level(const SamplingParameters& p, int level) {
    int first_row = 0;
    for (int l = 0;; ++l) {
        const int height = __ldg(p.spatial_shapes + 2 * l), width = __ldg(p.spatial_shapes + 2 * l + 1);
        const bool fits = height > 0 && width > 0 && height <= kLargestMap && width <= kLargestMap &&
                          static_cast<int64_t>(height) * width <= p.value_rows - first_row;
        if (!fits) return {0, 0, 0};
        if (l == level) return {height, width, first_row};
        first_row += height * width;
    }
}

// Along one axis: the lower of the two pixels that a point lies between, and the share of the upper one.
// Product and offset are taken apart into whole pixels and rests (the product's by fma, without its rounding): their
// plain sum would be off by up to 6e-5 pixel at 1344 pixels.
struct AxisPosition {
    float pixel, share;
};
__device__ __forceinline__ AxisPosition locate(float reference, float offset, float size) {
    const float whole = floorf(reference * size), whole_offset = floorf(offset);
    const float rest = fmaf(reference, size, -whole) + (offset - whole_offset) - 0.5f;
    const float step = floorf(rest);
    return {whole + whole_offset + step, rest - step};
}

__device__ __forceinline__ Corners find_corners(const SamplingLevel& level, float2 reference, float2 offset,
                                                float weight) {
    if (level.height == 0) {  // whoever reads there gets NaN
        const float nan = __int_as_float(0x7fffffff);
        return {make_float4(nan, nan, nan, nan), make_int2(0, 0)};
    }
    const float width = static_cast<float>(level.width), height = static_cast<float>(level.height);
    const AxisPosition x = locate(reference.x, offset.x, width), y = locate(reference.y, offset.y, height);
    // False for NaN too, and for what no integer holds.
    const bool touches = x.pixel >= -1 && x.pixel <= width - 1 && y.pixel >= -1 && y.pixel <= height - 1;
    if (!touches) return {make_float4(0, 0, 0, 0), make_int2(0, 0)};
    const int left = static_cast<int>(x.pixel), top = static_cast<int>(y.pixel);
    const bool has_left = left >= 0, has_right = left < level.width - 1;
    const bool has_top = top >= 0, has_bottom = top < level.height - 1;
    const float left_share = has_left ? 1 - x.share : 0, right_share = has_right ? x.share : 0;
    const float top_share = has_top ? (1 - y.share) * weight : 0, bottom_share = has_bottom ? y.share * weight : 0;
    // A pixel outside of the map stands on its neighbour: it counts nothing, but reading it is harmless.
    const int row = level.first_row + (has_top ? top : 0) * level.width + (has_left ? left : 0);
    const int below = has_top && has_bottom ? level.width : 0, right = has_left && has_right ? 1 : 0;
    return {make_float4(top_share * left_share, top_share * right_share, bottom_share * left_share,
                        bottom_share * right_share),
            make_int2(row, 2 * below + right)};
}

// e^(logit - largest), the softmax before its division. A NaN counts as absent, as do -infinity and what is next to it.
__device__ __forceinline__ float exponential(float logit, float largest) {
    return logit > -3.4e38f ? __expf(logit - largest) : 0;
}

struct Softmax {
    float largest, scale;  // scale: one divided by the sum of the exponentials
};
// Of an item's logits, in each of its lanes.
template <typename O>
__device__ __forceinline__ Softmax measure_softmax(const O* logits, int count, int lane, int lanes) {
    float largest = -3.4e38f, sum = 0;
    for (int i = lane; i < count; i += lanes) largest = fmaxf(largest, to_float(logits[i]));
    for (int step = lanes >> 1; step > 0; step >>= 1)
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, step));
    for (int i = lane; i < count; i += lanes) sum += exponential(to_float(logits[i]), largest);
    for (int step = lanes >> 1; step > 0; step >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    return {largest, 1 / sum};
}

// An offset's (x, y) at once.
__device__ __forceinline__ float2 load_offset(const float* offset) { return *reinterpret_cast<const float2*>(offset); }
template <typename O>
__device__ __forceinline__ float2 load_offset(const O* offset) {
    return unpack2<O>(*reinterpret_cast<const uint32_t*>(offset));
}

template <typename T>
__device__ __forceinline__ void add_weighted(float (&sum)[kVectorLength<T>], uint4 vector, float weight) {
    float x[kVectorLength<T>];
    unpack16<T>(vector, x);
#pragma unroll
    for (int i = 0; i < kVectorLength<T>; ++i) sum[i] = fmaf(weight, x[i], sum[i]);
}

// sum += the rows around each of `count` points. `value`: this lane's 16 bytes of row 0.
template <typename T>
__device__ __forceinline__ void add_points(float (&sum)[kVectorLength<T>], const char* value, int64_t row_bytes,
                                           const float4* weights, const int2* rows, int slot_stride, int count) {
#pragma unroll 2
    for (int i = 0; i < count; ++i) {
        const float4 weight = weights[i * slot_stride];
        const int2 row = rows[i * slot_stride];
        const char* const upper = value + row.x * row_bytes;
        const char* const lower = upper + (row.y >> 1) * row_bytes;
        const int64_t right = (row.y & 1) * row_bytes;
        const uint4 corner[4] = {load16_read_only(upper), load16_read_only(upper + right), load16_read_only(lower),
                                 load16_read_only(lower + right)};
        add_weighted<T>(sum, corner[0], weight.x);
        add_weighted<T>(sum, corner[1], weight.y);
        add_weighted<T>(sum, corner[2], weight.z);
        add_weighted<T>(sum, corner[3], weight.w);
    }
}

template <typename T, typename O>
__global__ void __launch_bounds__(kSamplingThreads, 4) sampling_kernel(const SamplingParameters p) {
    const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    float4* const weights = dynamic_shared<float4>();                                // [points, items of the block]
    int2* const rows = reinterpret_cast<int2*>(weights + corner_slots(p, threads));  // likewise
    SamplingLevel* const levels = reinterpret_cast<SamplingLevel*>(rows + corner_slots(p, threads));  // [L]
    for (int l = thread; l < p.levels; l += threads) levels[l] = find_level(p, l);

    const int lanes = 1 << p.lane_bits, lane = thread & (lanes - 1);
    const int slot = thread >> p.lane_bits, slot_stride = (threads >> p.lane_bits) | 1;
    // The last block's spare lanes do the last item's work once more and keep it to themselves.
    const int wanted = static_cast<int>(blockIdx.x) * (threads >> p.lane_bits) + slot;
    const int item = min(wanted, p.items - 1), row = item / p.heads, head = item - row * p.heads;
    const int image = row / p.queries, query = row - image * p.queries;
    const int count = p.levels * p.points;  // K
    const O* const logits = static_cast<const O*>(p.logits) + static_cast<int64_t>(item) * count;
    const O* const offsets = static_cast<const O*>(p.offsets) + static_cast<int64_t>(item) * count * 2;
    const float2 reference =
        *reinterpret_cast<const float2*>(p.reference_points + (p.shared_reference_points ? query : row) * int64_t{2});
    const Softmax softmax = measure_softmax(logits, count, lane, lanes);
    const float points_inverse = 1.0f / static_cast<float>(p.points);
    __syncthreads();  // the table of levels

    const int64_t row_bytes = static_cast<int64_t>(p.heads) * p.head_dim * static_cast<int64_t>(sizeof(T));
    const char* const value = static_cast<const char*>(p.value) + image * p.value_rows * row_bytes;
    char* const output = static_cast<char*>(p.output) + row * row_bytes;
    const int vectors = p.head_dim / kVectorLength<T>;  // 16 bytes each; lanes without one follow lane 0
    for (int first_vector = 0; first_vector < vectors; first_vector += lanes) {  // once, if head_dim is not huge
        const bool has_vector = first_vector + lane < vectors;
        const int64_t column = (int64_t{head} * vectors + first_vector + (has_vector ? lane : 0)) * 16;
        float sum[kVectorLength<T>] = {};
        for (int first = 0; first < count; first += p.points_at_once) {
            const int points = min(p.points_at_once, count - first);
            __syncwarp();  // all have summed the points of the turn before
            for (int i = lane; i < points; i += lanes) {
                const int point = first + i;
                // Division by P: exact for less than 2^22 points.
                const int level = static_cast<int>((static_cast<float>(point) + 0.5f) * points_inverse);
                const float weight = exponential(to_float(logits[point]), softmax.largest) * softmax.scale;
                const Corners corners =
                    find_corners(levels[level], reference, load_offset(offsets + 2 * point), weight);
                weights[i * slot_stride + slot] = corners.weights;
                rows[i * slot_stride + slot] = corners.rows;
            }
            __syncwarp();
            add_points<T>(sum, value + column, row_bytes, weights + slot, rows + slot, slot_stride, points);
        }
        if (has_vector && wanted < p.items) store16(output + column, pack16<T>(sum));
    }
}

}  // namespace mask2edge
