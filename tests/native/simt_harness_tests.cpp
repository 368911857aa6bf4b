// The harness itself: each operation that tests/native/simt provides gives what CUDA's documentation says, in every
// order. What it has to catch is in simt_seeded_bugs.cpp.
//
//     simt_harness
#include "common/launch.cuh"
#include "simt/testing.h"

using namespace mask2edge;
using namespace simt;

namespace {

constexpr unsigned kAll = 0xffffffffu;

// ---- A block turns its slice around: barrier and shared memory ------------------------------------------------------
template <int threads>
__global__ void reverse_kernel(const float* input, float* output, int count) {
    MASK2EDGE_SHARED(float, tile, threads);
    float* const copy = dynamic_shared<float>();
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    tile[threadIdx.x] = i < count ? input[i] : 0;
    __syncthreads();
    copy[threadIdx.x] = tile[threads - 1 - threadIdx.x];
    __syncthreads();
    const int other = static_cast<int>(threadIdx.x ^ 1u);
    if (i < count) output[i] = copy[other];
}

void test_barriers() {
    constexpr int kThreads = 96, kBlocks = 5;
    const Buffer<float> input = normals<float>(kThreads * kBlocks);
    std::vector<double> expected;
    for (int i = 0; i < kThreads * kBlocks; ++i)
        expected.push_back(input[i / kThreads * kThreads + kThreads - 1 - (i % kThreads ^ 1)]);
    Buffer<float> output(input.size());
    output.fill_bytes(0xff);
    expect_success("barriers",
                   launch_kernel(reverse_kernel<kThreads>, dim3(kBlocks), dim3(kThreads), kThreads * sizeof(float),
                                 nullptr, input.data(), output.data(), static_cast<int>(input.size())));
    expect_close("barriers", output, expected, 0);
}

// ---- Shuffles and votes ---------------------------------------------------------------------------------------------
__global__ void warp_kernel(int* result) {
    const int lane = static_cast<int>(threadIdx.x);
    int sum = lane;
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAll, sum, step);
    int* const mine = result + lane * 8;
    mine[0] = sum;                                // 496
    mine[1] = __shfl_sync(kAll, lane, 5, 8);      // lane 5 of the group of eight
    mine[2] = __shfl_down_sync(kAll, lane, 4);    // its own from lane 28 on
    mine[3] = __shfl_up_sync(kAll, lane, 3, 16);  // its own in the first three of 16
    mine[4] = static_cast<int>(__ballot_sync(kAll, lane % 3 == 0));
    mine[5] = __any_sync(kAll, lane == 31) + 2 * __all_sync(kAll, lane < 31);
    if (lane % 2 == 0)  // half a warp by itself, while the other half goes on
        mine[6] = __shfl_xor_sync(0x55555555u, 100 + lane, 2);
    else
        mine[6] = -1;
    __syncwarp();
    mine[7] = static_cast<int>(__shfl_xor_sync(kAll, static_cast<long long>(lane) << 32, 1) >> 32);
}

void test_warp_operations() {
    Buffer<int> result(32 * 8);
    expect_success("warp operations", launch_kernel(warp_kernel, dim3(1), dim3(32), 0, nullptr, result.data()));
    unsigned thirds = 0;
    for (int lane = 0; lane < 32; lane += 3) thirds |= 1u << lane;
    for (int lane = 0; lane < 32; ++lane) {
        const int expected[8] = {496,
                                 lane / 8 * 8 + 5,
                                 lane + 4 < 32 ? lane + 4 : lane,
                                 lane % 16 >= 3 ? lane - 3 : lane,
                                 static_cast<int>(thirds),
                                 1,
                                 lane % 2 == 0 ? 100 + (lane ^ 2) : -1,
                                 lane ^ 1};
        for (int i = 0; i < 8; ++i)
            expect(result[lane * 8 + i] == expected[i],
                   "warp operation " + std::to_string(i) + ", lane " + std::to_string(lane));
    }
}

// ---- ldmatrix and mma: a 16x16 by 16x8 product, b as it lies ([n][k]) and transposed ([k][n]) -----------------------
template <typename T>
__global__ void product_kernel(const T* a, const T* b, const T* b_transposed, float* d) {
    MASK2EDGE_SHARED(T, tile, 3 * 256);
    const int lane = static_cast<int>(threadIdx.x);
    for (int i = lane; i < 256; i += 32) tile[i] = a[i];
    for (int i = lane; i < 128; i += 32) tile[256 + i] = b[i];
    for (int i = lane; i < 128; i += 32) tile[512 + i] = b_transposed[i];
    __syncwarp();
    uint32_t left[4], right[4], transposed[4];
    ldmatrix_x4(left, tile + lane % 16 * 16 + lane / 16 * 8);           // a: [16][16]
    ldmatrix_x4(right, tile + 256 + lane % 8 * 16 + lane / 8 % 2 * 8);  // b: [8][16], given twice
    ldmatrix_x4_trans(transposed, tile + 512 + lane % 16 * 8);          // b: [16][8], given twice
    float sum[4] = {1, 1, 1, 1};
    mma_m16n8k16<T>(sum, left, {right[0], right[1]});
    mma_m16n8k16<T>(sum, left, {transposed[0], transposed[1]});
    const int row = lane / 4, column = lane % 4 * 2;
    for (int i = 0; i < 4; ++i) d[(row + i / 2 * 8) * 8 + column + i % 2] = sum[i];
}

template <typename T>
void test_matrices() {
    const Buffer<T> a = normals<T>(256), b = normals<T>(128), other = normals<T>(128);
    Buffer<float> d(128);
    std::vector<double> expected;
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 8; ++j) {
            double sum = 1;
            for (int k = 0; k < 16; ++k)
                sum += double{to_float(a[i * 16 + k])} * (double{to_float(b[j * 16 + k])} + to_float(other[k * 8 + j]));
            expected.push_back(sum);
        }
    expect_success("matrices", launch_kernel(product_kernel<T>, dim3(1), dim3(32), 0, nullptr, a.data(), b.data(),
                                             other.data(), d.data()));
    expect_close("matrices", d, expected, 2e-5);
}

// ---- cp.async: two tiles in flight ----------------------------------------------------------------------------------
__global__ void copy_kernel(const float* input, float* output, int tiles, int valid_bytes) {
    float* const stage = dynamic_shared<float>();  // [2][128]
    const int thread = static_cast<int>(threadIdx.x);
    const auto fetch = [&](int tile) {
        if (tile < tiles) cp_async16(stage + tile % 2 * 128 + thread * 4, input + tile * 128 + thread * 4, valid_bytes);
        cp_async_commit();
    };
    fetch(0);
    for (int tile = 0; tile < tiles; ++tile) {
        fetch(tile + 1);
        cp_async_wait<1>();
        __syncthreads();
        for (int i = thread; i < 128; i += 32) output[tile * 128 + i] = stage[tile % 2 * 128 + 127 - i];
        __syncthreads();
    }
}

void test_copies() {
    constexpr int kTiles = 5;
    const Buffer<float> input = normals<float>(kTiles * 128);
    for (const int valid : {16, 8, 0}) {
        Buffer<float> output(input.size());
        std::vector<double> expected;
        for (int i = 0; i < kTiles * 128; ++i) {
            const int from = i / 128 * 128 + 127 - i % 128;
            expected.push_back(from % 4 < valid / 4 ? input[from] : 0);
        }
        expect_success("copies", launch_kernel(copy_kernel, dim3(1), dim3(32), 1024, nullptr, input.data(),
                                               output.data(), kTiles, valid));
        expect_close("copies", output, expected, 0);
    }
}

// ---- A grid of three axes, atomics, votes of a block ----------------------------------------------------------------
__global__ void count_kernel(int* cells, unsigned* largest, int* voters) {
    const unsigned cell = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    atomicAdd(&cells[cell],
              1 + static_cast<int>(threadIdx.z * blockDim.y * blockDim.x + threadIdx.y * blockDim.x + threadIdx.x));
    atomicMax(largest, cell);
    const int count = __syncthreads_count(threadIdx.x == 0), some = __syncthreads_or(threadIdx.y == 2);
    if (threadIdx.x + threadIdx.y + threadIdx.z == 0) voters[cell] = count + 100 * some + 1000 * __popc(cell);
}

void test_grids() {
    Buffer<int> cells(3 * 4 * 2), voters(cells.size());
    Buffer<unsigned> largest(1);
    expect_success("grids", launch_kernel(count_kernel, dim3(3, 4, 2), dim3(5, 3, 2), 0, nullptr, cells.data(),
                                          largest.data(), voters.data()));
    expect(largest[0] == 23, "atomicMax over the grid");
    for (unsigned i = 0; i < cells.size(); ++i) {
        expect(cells[i] == 30 * 31 / 2, "each thread of each block ran once");
        expect(voters[i] == 106 + 1000 * __builtin_popcount(i), "block votes");
    }
}

void test_refused_launches() {
    int* const none = nullptr;
    const auto launch = [&](dim3 grid, dim3 block, std::size_t shared) {
        return launch_kernel(warp_kernel, grid, block, shared, nullptr, none);
    };
    expect(launch(dim3(1), dim3(1025), 0) == cudaErrorInvalidConfiguration, "1025 threads are too many");
    expect(launch(dim3(0), dim3(32), 0) == cudaErrorInvalidConfiguration, "an empty grid");
    expect(launch(dim3(1, 65536), dim3(32), 0) == cudaErrorInvalidConfiguration, "65536 blocks in y");
    expect(launch(dim3(1), dim3(32), kMaximumDynamicShared + 1) == cudaErrorInvalidValue, "too much shared memory");
}

// ---- half_t and bfloat16_t ------------------------------------------------------------------------------------------
// Every number of the type survives, and what lies between two of them goes to the nearer one, or to the even one.
template <typename T>
void test_numbers(const char* type) {
    int wrong = 0;
    const auto bits_of = [](float x) { return int{from_float<T>(x).bits}; };
    for (int bits = 0; bits < 0x8000; ++bits) {
        const float x = to_float(T{static_cast<uint16_t>(bits)});
        if (std::isnan(x)) {
            wrong += !std::isnan(to_float(from_float<T>(x)));
            continue;
        }
        wrong += bits_of(x) != bits || bits_of(-x) != (bits | 0x8000);
        const float next = to_float(T{static_cast<uint16_t>(bits + 1)});
        if (!std::isfinite(next)) continue;
        const float middle = x + (next - x) / 2;  // exact: a float holds one more digit
        wrong += bits_of(middle) != bits + (bits & 1);
        wrong += bits_of(std::nextafter(middle, x)) != bits || bits_of(std::nextafter(middle, next)) != bits + 1;
    }
    wrong += !std::isinf(to_float(from_float<T>(std::numeric_limits<float>::max())));
    expect(wrong == 0, std::string(type) + ": " + std::to_string(wrong) + " numbers are converted wrongly");
    const float2 pair = unpack2<T>(pack2<T>(1.5f, -0.25f));
    expect(pair.x == 1.5f && pair.y == -0.25f, std::string(type) + ": pairs");
}

}  // namespace

int main() {
    test_numbers<half_t>("half_t");
    test_numbers<bfloat16_t>("bfloat16_t");
    expect(to_float(from_float<half_t>(65519.0f)) == 65504 && std::isinf(to_float(from_float<half_t>(65520.0f))),
           "half_t's largest number");
    for (uint64_t seed = 0; seed < 3; ++seed)
        for (const Options& schedule : all_schedules(seed)) {
            use(schedule);
            test_barriers();
            test_warp_operations();
            test_matrices<half_t>();
            test_matrices<bfloat16_t>();
            test_copies();
            test_grids();
        }
    test_refused_launches();
    return finish();
}
