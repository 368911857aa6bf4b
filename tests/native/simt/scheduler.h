// Executes a grid as a GPU might, on one thread of the CPU: blocks one after another, each CUDA thread a fiber.
//
//     simt::options() = {simt::Order::shuffled, /*seed=*/7, /*lazy_copies=*/true};
//     cudaError_t status = simt::run_grid(grid, block, shared_bytes, [&] { kernel(arguments...); });
//     if (status != cudaSuccess) puts(simt::last_report().c_str());
//
// A warp runs as far as it can before the next one starts, and within it a lane runs to its next warp operation before
// the next lane starts. Which warp and which lane come first is the order: what one thread writes and another reads
// without a barrier between them comes too late in one order or another. (Taking turns instruction by instruction, as
// hardware looks from afar, hides most such mistakes.) What hardware leaves undefined or hangs on is reported: a
// barrier that not every thread of the block reaches, one that they reach in different lines of the source, a warp
// operation that waits for a lane that has exited or waits elsewhere. After a report the launch returns
// cudaErrorLaunchFailure.
//
// Not modelled: blocks that wait for one another, and waiting in a loop for a value that another thread writes.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "simt/cuda_runtime_api.h"

namespace simt {

enum class Order { forward, reverse, shuffled };

struct Options {
    Order order = Order::forward;
    uint64_t seed = 0;         // of the shuffled order, which is another one at each step
    bool lazy_copies = false;  // cp_async16 moves its bytes at cp_async_wait and not before; else at once
};

// The environment's at first: MASK2EDGE_SIMT_ORDER=forward|reverse|shuffled[:seed], MASK2EDGE_SIMT_COPIES=eager|lazy.
Options& options();

// Every order, with eager and with lazy copies: what a kernel has to give the same results under.
std::vector<Options> all_schedules(uint64_t seed = 0);
std::string to_text(const Options&);  // shuffled:7, lazy copies

// What the last launch that failed did wrong.
const std::string& last_report();

cudaError_t run_grid(dim3 grid, dim3 block, std::size_t dynamic_shared_bytes, const std::function<void()>& thread_body);

// ---- For a thread's own use (warp.h, block.h) -----------------------------------------------------------------------

constexpr int kWarpSize = 32;
// What every architecture that is built for gives to a block that asks for it (sm_86, 89, 120: 99 KB; others more).
constexpr std::size_t kMaximumDynamicShared = 99 * 1024;

// A line of a kernel's source.
struct Site {
    const char* file;
    int line;
    const char* operation;
};

struct PendingCopy {
    void* destination;
    const void* source;
    int valid_bytes;
    uint32_t group;
};

// The running thread.
struct ThreadContext {
    uint3 index;
    int warp, lane;
    uint32_t next_copy_group = 0;
    std::vector<PendingCopy> copies;
};
ThreadContext& this_thread();

const uint3& block_index();
const dim3& block_size();
const dim3& grid_size();

// Ends the launch with a report. Does not return.
[[noreturn]] void fail(const std::string& what);

// Waits until all lanes of `mask` are here with the same operation and mask; the last one to come calls
// combine(operands, mask), where operands[lane] is what that lane passed in. Operands live on the lanes' stacks.
using Combine = void (*)(void* const* operands, uint32_t mask);
void warp_operation(const Site&, uint32_t mask, void* operand, Combine combine);

// Waits for all threads of the block. Every thread gets how many passed a predicate that is not 0.
int block_barrier(const Site&, int predicate);

// The block's dynamic shared memory, all bits set (NaN) when the block starts.
void* dynamic_shared_memory();
// The block's static shared memory for one declaration in the source, likewise. `slot` belongs to the declaration.
void* static_shared_memory(void** slot, std::size_t bytes, std::size_t alignment);

}  // namespace simt
