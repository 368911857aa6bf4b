// Threads for kernels that no session lends any: started for one loop, gone after it.
//
//     run_on_threads(bands, 2, [&](std::size_t band) { ... });
#pragma once

#include <cstddef>
#include <functional>

namespace mask2edge {

// 0 or less: as many as the process may use.
int thread_count(int asked_for);

// Runs task(0) … task(count - 1), the caller and `threads` - 1 others taking the next one each; returns when all are
// done. What a task throws is thrown here, once the others are done.
void run_on_threads(std::size_t count, int threads, const std::function<void(std::size_t)>& task);

}  // namespace mask2edge
