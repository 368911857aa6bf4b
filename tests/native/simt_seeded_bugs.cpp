// Kernels with one mistake each, and without it: tests/native/simt has to catch every one, or this program fails.
//
//     simt_seeded_bugs                  all; out-of-bounds ones in a build with MASK2EDGE_SANITIZE=ON alone
//     simt_seeded_bugs read-global      that one, in this process: AddressSanitizer has to end it
#include <sys/wait.h>

#include "common/launch.cuh"
#include "simt/testing.h"

using namespace mask2edge;
using namespace simt;

namespace {

enum class Bug {
    none,
    missing_barrier,         // a tile is read before all have written it
    missing_second_barrier,  // a tile is written before all have read it
    missing_warp_barrier,
    missing_copy_wait,
    missing_initialisation,
    divergent_barrier,  // for half of the threads
    barrier_on_two_lines,
    exited_thread,
    divergent_shuffle,
    missing_lane,  // a mask without the caller
    misaligned,
};

constexpr int kThreads = 64;

// Each round, every thread adds what a thread of another warp, and a lane of its own, brought along.
template <Bug bug>
__global__ void exchange_kernel(const float* input, float* output) {
    MASK2EDGE_SHARED(float, tile, kThreads);
    MASK2EDGE_SHARED(float, of_warp, kThreads);
    MASK2EDGE_SHARED(float, copied, kThreads * 4);
    const int thread = static_cast<int>(threadIdx.x);
    float sum = 0;
    if (bug == Bug::exited_thread && thread == 5) return;
    for (int round = 0; round < 3; ++round) {
        const float x = input[round * kThreads + thread];
        if (bug != Bug::missing_initialisation || thread != 7) tile[thread] = x;
        if (bug == Bug::divergent_barrier) {
            if (thread % 2 == 0) __syncthreads();
        } else if (bug == Bug::barrier_on_two_lines) {
            if (thread < 32)
                __syncthreads();
            else
                __syncthreads();
        } else if (bug != Bug::missing_barrier) {
            __syncthreads();
        }
        sum += tile[kThreads - 1 - thread];
        if (bug != Bug::missing_second_barrier) __syncthreads();

        of_warp[thread] = x;
        if (bug != Bug::missing_warp_barrier) __syncwarp();
        sum += of_warp[thread ^ 1];
        __syncwarp();

        cp_async16(copied + thread * 4, input + (bug == Bug::misaligned && thread == 9 ? 1 : thread * 4));
        cp_async_commit();
        if (bug != Bug::missing_copy_wait) cp_async_wait<0>();
        sum += copied[thread * 4 + round];  // a thread sees its own copies without a barrier

        const unsigned mask = bug == Bug::missing_lane ? 0x7fffffffu : 0xffffffffu;
        if (bug != Bug::divergent_shuffle || thread % 4 != 0) sum += __shfl_xor_sync(mask, x, 2);
    }
    output[thread] = sum;
}

std::vector<double> exchanged(const Buffer<float>& input) {
    std::vector<double> expected(kThreads);
    for (int thread = 0; thread < kThreads; ++thread)
        for (int round = 0; round < 3; ++round)
            expected[thread] += double{input[round * kThreads + kThreads - 1 - thread]} +
                                input[round * kThreads + (thread ^ 1)] + input[thread * 4 + round] +
                                input[round * kThreads + (thread ^ 2)];
    return expected;
}

struct Outcome {
    int wrong = 0, reported = 0, schedules = 0;
    std::string report;
};

template <Bug bug>
Outcome run() {
    const Buffer<float> input = normals<float>(kThreads * 4);
    const std::vector<double> expected = exchanged(input);
    Outcome outcome;
    for (const Options& schedule : all_schedules(1)) {
        use(schedule);
        Buffer<float> output(kThreads);
        output.fill_bytes(0xff);
        const cudaError_t status =
            launch_kernel(exchange_kernel<bug>, dim3(1), dim3(kThreads), 0, nullptr, input.data(), output.data());
        bool right = true;
        for (int i = 0; i < kThreads; ++i) right &= std::abs(output[i] - expected[i]) < 1e-5;
        ++outcome.schedules;
        outcome.reported += status == cudaErrorLaunchFailure;
        outcome.wrong += status == cudaSuccess && !right;
        if (status != cudaSuccess) outcome.report = last_report();
    }
    return outcome;
}

template <Bug bug>
void must_give_wrong_results(const char* name) {
    expect(run<bug>().wrong > 0, std::string(name) + ": no order of threads gave a wrong result");
}

template <Bug bug>
void must_be_reported(const char* name, const std::string& words) {
    const Outcome outcome = run<bug>();
    expect(outcome.reported == outcome.schedules, std::string(name) + ": not reported in every order of threads");
    expect(outcome.report.find(words) != std::string::npos,
           std::string(name) + ": the report must say '" + words + "', got: " + outcome.report);
}

void test_synchronisation() {
    const Outcome correct = run<Bug::none>();
    expect(correct.wrong + correct.reported == 0, "the kernel without a mistake must pass");
    must_give_wrong_results<Bug::missing_barrier>("missing barrier");
    must_give_wrong_results<Bug::missing_second_barrier>("missing second barrier");
    must_give_wrong_results<Bug::missing_warp_barrier>("missing warp barrier");
    must_give_wrong_results<Bug::missing_copy_wait>("missing wait for a copy");
    must_give_wrong_results<Bug::missing_initialisation>("shared memory that nobody wrote");
    must_be_reported<Bug::divergent_barrier>("divergent barrier", "divergent barrier");
    must_be_reported<Bug::barrier_on_two_lines>("barrier on two lines", "divergent barrier");
    must_be_reported<Bug::exited_thread>("exited thread", "has exited");
    must_be_reported<Bug::divergent_shuffle>("divergent shuffle", "divergent warp operation");
    must_be_reported<Bug::missing_lane>("missing lane", "leaves out the calling lane");
    must_be_reported<Bug::misaligned>("misaligned copy", "not a multiple of 16");
}

// ---- Out of bounds: AddressSanitizer ends the process, so each runs in one of its own -------------------------------
struct Access {
    const char* name;
    bool global, dynamic, write;
};
constexpr Access kAccesses[] = {{"read-global", true, false, false},   {"write-global", true, false, true},
                                {"read-dynamic", false, true, false},  {"write-dynamic", false, true, true},
                                {"read-static", false, false, false},  {"write-static", false, false, true},
                                {"load16-global", true, false, false}, {"copy-global", true, false, false}};

__global__ void reaching_kernel(float* global, Access access, bool load16_wide, bool copy, int index) {
    MASK2EDGE_SHARED(float, tile, kThreads);
    float* const memory = access.global ? global : access.dynamic ? dynamic_shared<float>() : tile;
    if (threadIdx.x != 0) return;
    if (load16_wide)
        global[0] = __uint_as_float(load16(memory + index).x);
    else if (copy)
        cp_async16(dynamic_shared<float>(), memory + index, 16);
    else if (access.write)
        memory[index] = 1;
    else
        global[0] = memory[index];
    cp_async_commit();
    cp_async_wait<0>();
}

// One beyond the end, and nothing more: not on another page.
int reach(const std::string& name) {
    for (const Access& access : kAccesses) {
        if (name != access.name) continue;
        const bool wide = name == "load16-global", copy = name == "copy-global";
        Buffer<float> global(kThreads - (wide || copy ? 1 : 0));
        const int index = wide || copy ? kThreads - 4 : kThreads;
        const cudaError_t status = launch_kernel(reaching_kernel, dim3(1), dim3(32), kThreads * sizeof(float), nullptr,
                                                 global.data(), access, wide, copy, index);
        return status == cudaSuccess ? 0 : 1;
    }
    std::printf("expected the name of an access, got '%s'\n", name.c_str());
    return 2;
}

[[maybe_unused]] void test_bounds(const std::string& program) {
    for (const Access& access : kAccesses) {
        std::FILE* const child = popen((program + " " + access.name + " 2>&1").c_str(), "r");
        std::string said;
        for (char text[512]; child != nullptr && std::fgets(text, sizeof text, child) != nullptr;) said += text;
        const int status = child != nullptr ? pclose(child) : 0;
        const bool ended = WIFEXITED(status) && WEXITSTATUS(status) != 0;
        expect(ended && said.find("AddressSanitizer: heap-buffer-overflow") != std::string::npos,
               std::string(access.name) + ": AddressSanitizer did not end the process; it said: " + said);
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc > 1) return reach(argv[1]);
    test_synchronisation();
#ifdef MASK2EDGE_SANITIZED
    test_bounds(argv[0]);
#endif
    return finish();
}
