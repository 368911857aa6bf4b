// How a kernel asks whoever calls it for threads: ONNX Runtime's pool in a session, a plain loop in a test.
//
//     parallel_for(tiles, [&](std::size_t tile) { ... });
#pragma once

#include <cstddef>
#include <functional>

namespace mask2edge {

// Runs task(0) … task(count - 1), in any order, some at the same time, and returns when all are done.
using ParallelFor = std::function<void(std::size_t count, const std::function<void(std::size_t)>& task)>;

}  // namespace mask2edge
