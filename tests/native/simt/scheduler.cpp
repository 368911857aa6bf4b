#include "simt/scheduler.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>

#include "simt/fiber.h"

namespace simt {

namespace {

enum class State { ready, at_warp_operation, at_barrier, exited };

struct Thread : ThreadContext {
    Fiber fiber;
    State state;
    Site site;  // where it waits
    uint32_t mask;
    void* operand;
    Combine combine;
    int predicate, predicate_count;
};

// Exactly `bytes` long, so that AddressSanitizer sees what goes beyond.
struct SharedMemory {
    void* data = nullptr;
    std::size_t bytes = 0;
    SharedMemory(std::size_t bytes_, std::size_t alignment) : bytes(bytes_) {
        if (posix_memalign(&data, std::max(alignment, sizeof(void*)), std::max<std::size_t>(bytes, 1)) != 0)
            std::abort();
        poison();
    }
    ~SharedMemory() { std::free(data); }
    SharedMemory(const SharedMemory&) = delete;
    SharedMemory& operator=(const SharedMemory&) = delete;
    void poison() { std::memset(data, 0xff, bytes); }
};

struct Launch {
    dim3 grid, block;
    uint3 block_index;
    const std::function<void()>* body;
    int threads;
    bool failed;
};

// Stacks and static shared memory stay for the next launch.
std::vector<std::unique_ptr<Thread>> g_threads;
std::vector<std::unique_ptr<SharedMemory>> g_static_shared;
std::unique_ptr<SharedMemory> g_dynamic_shared;
Launch g_launch;
Thread* g_current = nullptr;
std::string g_report;
std::mt19937_64 g_random;

Options from_environment() {
    Options result;
    if (const char* text = std::getenv("MASK2EDGE_SIMT_ORDER")) {
        const std::string order = text;
        const std::size_t colon = order.find(':');
        if (order == "reverse") result.order = Order::reverse;
        if (order.substr(0, colon) == "shuffled") result.order = Order::shuffled;
        if (colon != std::string::npos) result.seed = std::strtoull(text + colon + 1, nullptr, 10);
    }
    if (const char* text = std::getenv("MASK2EDGE_SIMT_COPIES")) result.lazy_copies = std::string(text) == "lazy";
    return result;
}

// 0 … count - 1 in the order of the launch.
void arrange(std::vector<int>& order, int count) {
    order.resize(static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i) order[i] = options().order == Order::reverse ? count - 1 - i : i;
    if (options().order == Order::shuffled) std::shuffle(order.begin(), order.end(), g_random);
}

std::string to_text(const Site& site) {
    const std::string file = site.file;
    return std::string(site.operation) + " (" + file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line) +
           ")";
}

std::string to_text(const uint3& index) {
    return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
}

std::string where(const Thread& thread) {
    const std::string name = "thread " + to_text(thread.index);
    if (thread.state == State::exited) return name + " has exited";
    return name + " is at " + to_text(thread.site);
}

void report(const std::string& what) {
    if (g_launch.failed) return;
    g_launch.failed = true;
    g_report = "block " + to_text(g_launch.block_index) + ": " + what + " [" + simt::to_text(options()) + "]";
    std::fprintf(stderr, "simt: %s\n", g_report.c_str());
}

struct Stopped {};  // thrown through a thread that did what is not allowed

void run_thread(void* argument) {
    try {
        (*g_launch.body)();
    } catch (const Stopped&) {
    }
    static_cast<Thread*>(argument)->state = State::exited;
}

void resume(Thread& thread) {
    g_current = &thread;
    thread.fiber.resume();
}

// Until all its threads wait for the block, wait for lanes that do not come, or have exited.
void run_warp(int warp) {
    static std::vector<int> order;
    const int first = warp * kWarpSize, lanes = std::min(kWarpSize, g_launch.threads - first);
    for (bool progress = true; progress && !g_launch.failed;) {
        progress = false;
        arrange(order, lanes);
        for (const int lane : order) {
            Thread& thread = *g_threads[first + lane];
            if (thread.state != State::ready) continue;
            resume(thread);
            progress = true;
            if (g_launch.failed) return;
        }
    }
}

// All threads have stopped: either all have exited, or all wait at the same barrier, or something is wrong.
bool release_block() {
    const auto begin = g_threads.begin(), end = begin + g_launch.threads;
    const auto in = [](State state) { return [state](const auto& thread) { return thread->state == state; }; };
    if (std::all_of(begin, end, in(State::exited))) return false;
    const auto stuck = std::find_if(begin, end, in(State::at_warp_operation));
    if (stuck != end) {
        const Thread& thread = **stuck;
        for (int lane = 0; lane < kWarpSize; ++lane) {
            if ((thread.mask >> lane & 1) == 0) continue;
            const Thread& other = *g_threads[thread.warp * kWarpSize + lane];
            if (other.state == State::at_warp_operation && other.combine == thread.combine && other.mask == thread.mask)
                continue;
            report("divergent warp operation: " + where(thread) + " and waits for lane " + std::to_string(lane) +
                   ", but " + where(other));
            return false;
        }
    }
    const auto waiting = std::find_if(begin, end, in(State::at_barrier));
    for (auto it = begin; it != end; ++it)
        if ((*it)->state != State::at_barrier || (*it)->site.line != (*waiting)->site.line ||
            std::strcmp((*it)->site.file, (*waiting)->site.file) != 0) {
            report("divergent barrier: " + where(**waiting) + ", but " + where(**it));
            return false;
        }
    int count = 0;
    for (auto it = begin; it != end; ++it) count += (*it)->predicate != 0;
    for (auto it = begin; it != end; ++it) {
        (*it)->predicate_count = count;
        (*it)->state = State::ready;
    }
    return true;
}

void run_block() {
    g_dynamic_shared->poison();
    for (const auto& shared : g_static_shared) shared->poison();
    for (int i = 0; i < g_launch.threads; ++i) {
        Thread& thread = *g_threads[i];
        const unsigned flat = static_cast<unsigned>(i), x = g_launch.block.x, y = g_launch.block.y;
        thread.index = {flat % x, flat / x % y, flat / (x * y)};
        thread.warp = i / kWarpSize;
        thread.lane = i % kWarpSize;
        thread.next_copy_group = 0;
        thread.copies.clear();
        thread.state = State::ready;
        thread.fiber.start(run_thread, &thread);
    }
    std::vector<int> warps;
    do {
        arrange(warps, (g_launch.threads + kWarpSize - 1) / kWarpSize);
        for (const int warp : warps) {
            run_warp(warp);
            if (g_launch.failed) return;
        }
    } while (release_block());
}

}  // namespace

Options& options() {
    static Options current = from_environment();
    return current;
}

std::vector<Options> all_schedules(uint64_t seed) {
    std::vector<Options> result;
    for (const Order order : {Order::forward, Order::reverse, Order::shuffled})
        for (const bool lazy : {false, true}) result.push_back({order, seed, lazy});
    return result;
}

std::string to_text(const Options& o) {
    const std::string order = o.order == Order::forward   ? "forward"
                              : o.order == Order::reverse ? "reverse"
                                                          : "shuffled:" + std::to_string(o.seed);
    return order + (o.lazy_copies ? ", lazy copies" : ", eager copies");
}

const std::string& last_report() { return g_report; }

cudaError_t run_grid(dim3 grid, dim3 block, std::size_t dynamic_shared_bytes, const std::function<void()>& body) {
    const uint64_t threads = uint64_t{block.x} * block.y * block.z;
    if (threads < 1 || threads > 1024 || block.z > 64 || grid.x < 1 || grid.x > 0x7fffffffu || grid.y < 1 ||
        grid.y > 65535 || grid.z < 1 || grid.z > 65535)
        return cudaErrorInvalidConfiguration;
    if (dynamic_shared_bytes > kMaximumDynamicShared) return cudaErrorInvalidValue;
    g_launch = {grid, block, {0, 0, 0}, &body, static_cast<int>(threads), false};
    g_dynamic_shared = std::make_unique<SharedMemory>(dynamic_shared_bytes, 128);
    while (g_threads.size() < threads) g_threads.push_back(std::make_unique<Thread>());
    g_random.seed(options().seed);

    const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
    // A shuffled grid: a stride that shares no factor with the number of blocks visits each one once.
    uint64_t start = 0, stride = 1;
    if (options().order == Order::reverse) start = stride = blocks - 1;
    if (options().order == Order::shuffled) {
        start = g_random() % blocks;
        do stride = 1 + g_random() % blocks;
        while (std::gcd(stride, blocks) != 1);
    }
    uint64_t flat = start;
    for (uint64_t i = 0; i < blocks && !g_launch.failed; ++i, flat = (flat + std::max<uint64_t>(stride, 1)) % blocks) {
        g_launch.block_index = {static_cast<unsigned>(flat % grid.x), static_cast<unsigned>(flat / grid.x % grid.y),
                                static_cast<unsigned>(flat / grid.x / grid.y)};
        run_block();
    }
    g_current = nullptr;
    return g_launch.failed ? cudaErrorLaunchFailure : cudaSuccess;
}

ThreadContext& this_thread() { return *g_current; }
const uint3& block_index() { return g_launch.block_index; }
const dim3& block_size() { return g_launch.block; }
const dim3& grid_size() { return g_launch.grid; }

void fail(const std::string& what) {
    report("thread " + to_text(g_current->index) + ": " + what);
    throw Stopped{};
}

void warp_operation(const Site& site, uint32_t mask, void* operand, Combine combine) {
    Thread& self = *g_current;
    const int first = self.warp * kWarpSize, lanes = std::min(kWarpSize, g_launch.threads - first);
    if ((mask >> self.lane & 1) == 0) fail(to_text(site) + " with a mask that leaves out the calling lane");
    if (lanes < kWarpSize && mask >> lanes != 0)
        fail(to_text(site) + " with lanes in its mask that the block has not got");
    self.site = site;
    self.mask = mask;
    self.operand = operand;
    self.combine = combine;
    self.state = State::at_warp_operation;
    void* operands[kWarpSize] = {};
    bool complete = true;
    for (int lane = 0; lane < lanes; ++lane) {
        if ((mask >> lane & 1) == 0) continue;
        const Thread& other = *g_threads[first + lane];
        complete &= other.state == State::at_warp_operation && other.combine == combine && other.mask == mask;
        operands[lane] = other.operand;
    }
    if (complete) {
        combine(operands, mask);
        for (int lane = 0; lane < lanes; ++lane)
            if (mask >> lane & 1) g_threads[first + lane]->state = State::ready;
    }
    Fiber::pause();
}

int block_barrier(const Site& site, int predicate) {
    Thread& self = *g_current;
    self.site = site;
    self.predicate = predicate;
    self.state = State::at_barrier;
    Fiber::pause();
    return self.predicate_count;
}

void* dynamic_shared_memory() { return g_dynamic_shared->data; }

void* static_shared_memory(void** slot, std::size_t bytes, std::size_t alignment) {
    if (*slot == nullptr) {
        g_static_shared.push_back(std::make_unique<SharedMemory>(bytes, alignment));
        *slot = g_static_shared.back()->data;
    }
    return *slot;
}

}  // namespace simt
