#include "common/threads.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace mask2edge {

int thread_count(int asked_for) {
    if (asked_for > 0) return asked_for;
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

void run_on_threads(std::size_t count, int threads, const std::function<void(std::size_t)>& task) {
    std::atomic<std::size_t> next{0};
    std::exception_ptr error;
    std::mutex error_lock;
    const auto work = [&] {
        try {
            for (std::size_t i = next++; i < count; i = next++) task(i);
        } catch (...) {
            next = count;
            const std::lock_guard<std::mutex> lock(error_lock);
            if (!error) error = std::current_exception();
        }
    };
    std::vector<std::thread> others;
    const std::size_t helpers = std::min<std::size_t>(count, static_cast<std::size_t>(std::max(threads, 1)));
    others.reserve(helpers);
    try {
        while (others.size() + 1 < helpers) others.emplace_back(work);
    } catch (const std::system_error&) {
        // No more threads to be had: those that are there do it.
    }
    work();
    for (std::thread& other : others) other.join();
    if (error) std::rethrow_exception(error);
}

}  // namespace mask2edge
